//! The live machine: what runs, how it is stopped, saved and set. It is made by
//! [`crate::builder`].

mod description;
mod laps;
mod platform;
mod state;
mod watch;

use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use godwit_devices::pci::{Bdf, PciRoot};
use godwit_devices::virtio::Kind;
use godwit_devices::virtio::pci::VirtioPci;
use godwit_migration::store::{Fill, Unfilled};
use kvm_bindings::kvm_cpuid_entry2;

use crate::host::HostResources;
use crate::kvm::Vm;
use crate::kvm::stats::KvmStats;
use crate::spec::MachineSpec;
use crate::vcpu::VcpuHandle;

pub use description::{
    Description, DescriptionError, FunctionDoorbells, FunctionPlace, NotDescribed,
};
pub(crate) use laps::Laps;
pub use platform::{AddError, Platform, RemoveError};
pub(crate) use platform::{EjectWatch, Watch};
pub use state::{MachineV1, RestoreError, SaveError, StateError};
pub use watch::DeviceWatch;

/// A built machine. Fields are dropped in their order: vCPUs first, so that
/// nothing runs while the rest goes.
#[derive(Debug)]
pub struct Machine {
    pub(crate) spec: Arc<MachineSpec>,
    pub(crate) vcpus: Vec<VcpuHandle>,
    pub(crate) functions: Vec<Function>,
    pub(crate) platform: Platform,
    pub(crate) root: Arc<PciRoot>,
    pub(crate) vm: Vm,
    /// Read by whoever shows metrics, also while a worker has the machine.
    pub(crate) stats: Arc<KvmStats>,
    /// The same for what devices count.
    pub(crate) watch: Arc<DeviceWatch>,
    pub(crate) processors: ProcessorFacts,
    /// Without its devices: those are in `functions` while the machine lives.
    pub(crate) host: HostResources,
    /// What fills memory while the guest runs, after a restore. Last: whoever
    /// waits for a page gets it until nobody is left to want one.
    pub(crate) fill: Option<Fill>,
}

/// How often a vCPU that does not stop is looked after.
const GLANCE: Duration = Duration::from_millis(100);

/// A device behind PCI.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) id: String,
    pub(crate) at: Bdf,
    pub(crate) device: Arc<VirtioPci>,
}

/// What the guest's processors are, and cannot cease to be while it runs.
#[derive(Clone, Debug)]
pub struct ProcessorFacts {
    /// The CPUID of each vCPU.
    pub cpuid: Vec<Vec<kvm_cpuid_entry2>>,
    /// The model-specific registers that make up a vCPU's state.
    pub msrs: Arc<[u32]>,
    /// How fast the time-stamp counter counts, in kHz; 0: unknown.
    pub tsc_khz: u32,
}

impl Machine {
    /// Lets devices and vCPUs run: first what carries packets, since the wire does
    /// not wait; then the vCPUs; then the other devices, whose requests wait in their
    /// eventfds, or in their registers, for the moment until they run too.
    pub fn resume(&self) {
        let (first, rest): (Vec<_>, Vec<_>) = self
            .functions
            .iter()
            .partition(|function| function.device.kind() == Kind::Net);
        for function in first {
            function.device.resume();
        }
        // One that ended has told so, and stays where it is.
        for vcpu in self.vcpus.iter().filter(|vcpu| !vcpu.has_stopped()) {
            vcpu.resume();
        }
        for function in rest {
            function.device.resume();
        }
        self.claim_serial();
    }

    /// The serial port is served here, whoever else was about to.
    pub(crate) fn claim_serial(&self) {
        if let Some(serial) = &self.host.serial {
            serial.handle.go_on();
        }
    }

    /// As [`resume`](Self::resume), and tells the guest that it stood still.
    pub fn resume_after_pause(&self) {
        self.tell_stop();
        self.resume();
    }

    /// Begins to give memory that came with the guest all its pages.
    pub(crate) fn settle(&mut self) {
        let cpus = self.spec.platform.emulator_cpus.clone();
        let cpus = cpus.unwrap_or_else(|| self.host.allowed.clone());
        self.host.memory.settle(&self.spec.memory, cpus);
    }

    /// Tells the paused guest that it stands still.
    pub(crate) fn tell_stop(&self) {
        let told: Vec<_> = self.vcpus.iter().map(VcpuHandle::tell_stop).collect();
        for answer in told {
            if let Err(error) = answer.wait() {
                tracing::warn!("{error}");
            }
        }
    }

    /// Stops vCPUs and devices: when this returns, no vCPU is in the guest and
    /// no device touches its memory.
    pub fn pause(&self) {
        self.stop_vcpus();
        self.stop_devices();
    }

    /// Stops all vCPUs, together.
    pub(crate) fn stop_vcpus(&self) {
        let answers: Vec<_> = self.vcpus.iter().map(VcpuHandle::pause).collect();
        for answer in answers {
            // No answer means that the thread has ended: it is not in the guest.
            while let Err(RecvTimeoutError::Timeout) = answer.recv_timeout(GLANCE) {
                if let Some(fill) = self.fill.as_ref().filter(|fill| fill.is_lost()) {
                    // It waits for memory that never comes. All vCPUs were told to
                    // stop: what it gets instead is not acted upon.
                    fill.condemn();
                }
            }
        }
    }

    /// Stops the guest for good, so that nothing of it holds up the end of the
    /// machine.
    pub(crate) fn retire(&self) {
        if let Some(fill) = &self.fill {
            self.stop_vcpus();
            fill.condemn();
        }
    }

    /// Waits until all of memory is there; `cancelled` is asked now and then.
    ///
    /// # Errors
    /// Part of it is lost, or the wait was cancelled.
    pub fn wait_filled(&self, cancelled: impl Fn() -> bool) -> Result<(), Unfilled> {
        let fill = self.fill.as_ref();
        fill.map_or(Ok(()), |fill| fill.wait(cancelled))
    }

    pub(crate) fn stop_devices(&self) {
        for function in &self.functions {
            // Its driver sees DEVICE_NEEDS_RESET when it runs again.
            if let Err(error) = function.device.pause() {
                tracing::error!("{error}: {}", error.source);
            }
        }
    }

    /// When the first vCPU began to run after the last resume, by
    /// `CLOCK_MONOTONIC` in nanoseconds; `None`: not yet.
    #[must_use]
    pub fn entered_ns(&self) -> Option<u64> {
        let entered = self.vcpus.iter().map(VcpuHandle::entered_ns);
        entered.filter(|&ns| ns != 0).min()
    }

    /// Takes the machine apart, for a reset: the vCPUs and the virtual machine
    /// go, the host's resources stay open.
    #[must_use]
    pub fn dismantle(self) -> HostResources {
        self.retire();
        let Self {
            spec: _,
            vcpus,
            functions,
            platform,
            root,
            vm,
            stats,
            watch,
            processors: _,
            mut host,
            fill,
        } = self;
        for vcpu in &vcpus {
            // All are told first, so that they end together.
            drop(vcpu.pause());
        }
        drop(vcpus);
        drop(platform);
        drop(root);
        // The buses went with the vCPU threads, and nobody watches any more, so these are
        // the last owners.
        watch.end();
        host.devices = functions
            .into_iter()
            .filter_map(|function| Arc::into_inner(function.device))
            .map(VirtioPci::into_device)
            .collect();
        // What the old guest would have found in its memory is nobody's business.
        drop(fill);
        // They keep KVM's virtual machine alive.
        drop(stats);
        drop(vm);
        host
    }
}

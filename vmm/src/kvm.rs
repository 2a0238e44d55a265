//! KVM: the system, the virtual machine, and what devices need of both.

mod cap;
mod dirty;
mod doorbell;
mod irq;
mod state;
pub mod stats;

use std::io;
use std::path::Path;
use std::sync::Arc;

use godwit_devices::GuestRam;
use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Cap, Kvm, VmFd};

use crate::arch::layout;

pub use dirty::LogKind;
pub use doorbell::KvmDoorbells;
pub use irq::{EventLine, Interrupts};
pub use state::{ClockV1, Elapsed, IrqchipV1};

/// Where KVM is.
const DEVICE: &str = "/dev/kvm";
/// The only version of the API there is (kernel: Documentation/virt/kvm/api.rst, 4.1).
const API_VERSION: i32 = 12;

/// What godwit cannot do without, and what for.
const REQUIRED: [(Cap, &str); 9] = [
    (Cap::Irqchip, "interrupt controllers in the kernel"),
    (Cap::UserMemory, "guest memory from this process"),
    (Cap::SetTssAddr, "a place for the task state segment"),
    (Cap::Irqfd, "interrupts by eventfd"),
    (Cap::Ioeventfd, "doorbells by eventfd"),
    (Cap::IoeventfdNoLength, "doorbells of any width"),
    (Cap::ExtCpuid, "CPUID as the host has it"),
    (Cap::ImmediateExit, "stopping a vCPU without a race"),
    (Cap::SignalMsi, "message-signalled interrupts"),
];

/// KVM could not give us a virtual machine.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// No `/dev/kvm`.
    #[error(
        "There is no {DEVICE}: load the module (`modprobe kvm_intel` or `modprobe kvm_amd`), \
         and switch virtualization on in the firmware, or nesting on in the outer hypervisor"
    )]
    Missing,
    /// `/dev/kvm` is there, but not for us.
    #[error(
        "No permission to open {DEVICE}: run as a member of its group (`usermod -aG kvm USER`), or as root"
    )]
    Permission(#[source] io::Error),
    /// `/dev/kvm` could not be opened for another reason.
    #[error("Could not open {DEVICE}")]
    Open(#[source] io::Error),
    /// Not the KVM API we know.
    #[error("{DEVICE} speaks version {found} of the KVM API, godwit knows version {API_VERSION}")]
    Version {
        /// The version that KVM answered.
        found: i32,
    },
    /// A capability is missing.
    #[error("This host's KVM lacks {capability:?} ({purpose}): a newer kernel has it")]
    Capability {
        /// The missing one.
        capability: Cap,
        /// What it is for.
        purpose: &'static str,
    },
    /// An ioctl failed.
    #[error("KVM could not {attempt}")]
    Ioctl {
        /// What was attempted.
        attempt: &'static str,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// A guest of this many vCPUs is more than KVM has.
    #[error("This host's KVM runs at most {max} vCPUs in a guest, {asked} are asked for")]
    TooManyVcpus {
        /// What the config asks for.
        asked: u32,
        /// What KVM runs.
        max: usize,
    },
}

/// Names the attempt in an error of KVM's.
pub(crate) fn attempt(attempt: &'static str) -> impl Fn(kvm_ioctls::Error) -> KvmError {
    move |source| KvmError::Ioctl {
        attempt,
        source: source.into(),
    }
}

/// The host's KVM.
#[derive(Debug)]
pub struct Hypervisor {
    kvm: Kvm,
}

impl Hypervisor {
    /// Opens `/dev/kvm` and checks that it can do what godwit needs.
    ///
    /// # Errors
    /// See [`KvmError`].
    pub fn open() -> Result<Self, KvmError> {
        let kvm = Kvm::new().map_err(|e| match io::Error::from(e) {
            e if e.kind() == io::ErrorKind::PermissionDenied => KvmError::Permission(e),
            _ if !Path::new(DEVICE).exists() => KvmError::Missing,
            // The node is there, the driver is not.
            e if matches!(e.raw_os_error(), Some(libc::ENXIO | libc::ENODEV)) => KvmError::Missing,
            e => KvmError::Open(e),
        })?;
        let found = kvm.get_api_version();
        if found != API_VERSION {
            return Err(KvmError::Version { found });
        }
        for (capability, purpose) in REQUIRED {
            if !kvm.check_extension(capability) {
                return Err(KvmError::Capability {
                    capability,
                    purpose,
                });
            }
        }
        Ok(Self { kvm })
    }

    /// The CPUID that this KVM can give a guest.
    ///
    /// # Errors
    /// The ioctl's.
    pub fn supported_cpuid(&self) -> Result<CpuId, KvmError> {
        self.kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(attempt("list the CPUID leaves it supports"))
    }

    /// Whether the local APIC's timer has the TSC-deadline mode.
    #[must_use]
    pub fn has_tsc_deadline(&self) -> bool {
        self.kvm.check_extension(Cap::TscDeadlineTimer)
    }

    /// The model-specific registers that this KVM saves and sets.
    ///
    /// # Errors
    /// The ioctl's.
    pub fn msr_indices(&self) -> Result<Vec<u32>, KvmError> {
        let list = self
            .kvm
            .get_msr_index_list()
            .map_err(attempt("list the model-specific registers it knows"))?;
        Ok(list.as_slice().to_vec())
    }

    /// Creates a virtual machine with the guest's RAM, one slot a region, and with
    /// interrupt controllers, before any vCPU.
    ///
    /// # Errors
    /// Too many vCPUs, or an ioctl's.
    pub fn create_vm(&self, vcpus: u32, ram: &GuestRam) -> Result<Vm, KvmError> {
        let max = self.kvm.get_max_vcpus();
        if vcpus as usize > max {
            return Err(KvmError::TooManyVcpus { asked: vcpus, max });
        }
        let fd = self
            .kvm
            .create_vm()
            .map_err(attempt("create a virtual machine"))?;
        fd.set_identity_map_address(layout::IDENTITY_MAP)
            .map_err(attempt("place the identity map page"))?;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the address lies below 4 GiB"
        )]
        fd.set_tss_address(layout::TSS as usize)
            .map_err(attempt("place the task state segment"))?;
        let mut vm = Vm {
            fd: Arc::new(fd),
            log: LogKind::ReadClears,
        };
        vm.log = vm.choose_log()?;
        // Before the interrupt controllers. A new slot waits until nobody reads the
        // old table (SRCU). That is at once in a machine where nothing else waits;
        // but the controllers put themselves on KVM's buses, and Linux 6.18 frees the
        // old buses by a callback: a slot would wait for that, for a tick or two of
        // the host's clock (4 to 12 ms at 250 Hz, against 0.1 to 1.3).
        vm.set_slots(ram, 0)?;
        vm.fd
            .create_irq_chip()
            .map_err(attempt("create the interrupt controllers"))?;
        Ok(vm)
    }
}

/// One virtual machine of KVM's.
#[derive(Clone, Debug)]
pub struct Vm {
    fd: Arc<VmFd>,
    log: LogKind,
}

impl Vm {
    /// KVM's descriptor.
    #[must_use]
    pub fn fd(&self) -> &Arc<VmFd> {
        &self.fd
    }
}

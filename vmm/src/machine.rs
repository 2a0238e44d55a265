//! The live machine: what runs, and how it is stopped. It is made by
//! [`crate::builder`].

use std::sync::Arc;

use godwit_devices::virtio::pci::VirtioPci;

use crate::host::HostResources;
use crate::kvm::Vm;
use crate::vcpu::VcpuHandle;

/// A built machine. Fields are dropped in their order: vCPUs first, so that
/// nothing runs while the rest goes.
#[derive(Debug)]
pub struct Machine {
    pub(crate) vcpus: Vec<VcpuHandle>,
    pub(crate) functions: Vec<Arc<VirtioPci>>,
    pub(crate) vm: Vm,
    /// Without its devices: those are in `functions` while the machine lives.
    pub(crate) host: HostResources,
}

impl Machine {
    /// Lets all vCPUs run.
    pub fn resume(&self) {
        for vcpu in &self.vcpus {
            vcpu.resume();
        }
    }

    /// Stops all vCPUs: when this returns, none of them is in the guest.
    pub fn pause(&self) {
        let answers: Vec<_> = self.vcpus.iter().map(VcpuHandle::pause).collect();
        for answer in answers {
            // No answer means that the thread has ended: it is not in the guest.
            let _ = answer.recv();
        }
    }

    /// Takes the machine apart, for a reset: the vCPUs and the virtual machine
    /// go, the host's resources stay open.
    #[must_use]
    pub fn dismantle(self) -> HostResources {
        let Self {
            vcpus,
            functions,
            vm,
            mut host,
        } = self;
        for vcpu in &vcpus {
            // All are told first, so that they end together.
            drop(vcpu.pause());
        }
        drop(vcpus);
        // The buses went with the vCPU threads, so these are the last owners.
        host.devices = functions
            .into_iter()
            .filter_map(Arc::into_inner)
            .map(VirtioPci::into_device)
            .collect();
        drop(vm);
        host
    }
}

//! The time-stamp counter of a vCPU as an offset to the host's.
//!
//! Setting the offset (`KVM_VCPU_TSC_OFFSET`; kernel:
//! Documentation/virt/kvm/devices/vcpu.rst, 4) keeps the vCPUs' counters
//! together exactly, where writing the counters would set each at another time.

use kvm_bindings::{KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, KVMIO, kvm_device_attr};
use kvm_ioctls::VcpuFd;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

ioctl_iow_nr!(KVM_SET_DEVICE_ATTR, KVMIO, 0xe1, kvm_device_attr);
ioctl_iow_nr!(KVM_GET_DEVICE_ATTR, KVMIO, 0xe2, kvm_device_attr);

/// What to add to a saved offset so that the guest's counter goes on here, in
/// ticks modulo 2^64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TscShift(pub u64);

impl TscShift {
    /// A saved offset, as it is here.
    #[must_use]
    pub const fn apply(self, offset: u64) -> u64 {
        offset.wrapping_add(self.0)
    }
}

fn attribute(value: &mut u64) -> kvm_device_attr {
    kvm_device_attr {
        group: KVM_VCPU_TSC_CTRL,
        attr: KVM_VCPU_TSC_OFFSET.into(),
        addr: std::ptr::from_mut(value) as u64,
        flags: 0,
    }
}

/// The offset of a vCPU; `None` where KVM does not tell (before Linux 5.16).
pub(super) fn offset(fd: &VcpuFd) -> Option<u64> {
    let mut offset = 0;
    let attribute = attribute(&mut offset);
    // SAFETY: the descriptor is a vCPU's, and the address in the attribute is
    // that of eight bytes of ours, which live through the call.
    let rc = unsafe { ioctl_with_ref(fd, KVM_GET_DEVICE_ATTR(), &attribute) };
    (rc == 0).then_some(offset)
}

/// Sets the offset of a vCPU; `false` where KVM cannot.
pub(super) fn set_offset(fd: &VcpuFd, mut offset: u64) -> bool {
    let attribute = attribute(&mut offset);
    // SAFETY: as in `offset`; KVM only reads.
    unsafe { ioctl_with_ref(fd, KVM_SET_DEVICE_ATTR(), &attribute) == 0 }
}

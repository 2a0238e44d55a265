//! Capabilities of a virtual machine that are switched on by request.

use kvm_bindings::{
    KVM_CAP_HALT_POLL, KVM_CAP_TSC_DEADLINE_TIMER, KVM_CAP_X86_DISABLE_EXITS,
    KVM_X86_DISABLE_EXITS_HLT, KVM_X86_DISABLE_EXITS_MWAIT, KVM_X86_DISABLE_EXITS_PAUSE,
    kvm_enable_cap,
};

use super::{KvmError, Vm, attempt};
use crate::spec::DisabledExits;

fn bits(exits: DisabledExits) -> u32 {
    [
        (exits.hlt, KVM_X86_DISABLE_EXITS_HLT),
        (exits.pause, KVM_X86_DISABLE_EXITS_PAUSE),
        (exits.mwait, KVM_X86_DISABLE_EXITS_MWAIT),
    ]
    .iter()
    .filter(|(on, _)| *on)
    .fold(0, |bits, (_, bit)| bits | bit)
}

impl Vm {
    /// Keeps the vCPUs in the guest at these instructions, and answers those
    /// that KVM cannot keep there: the guest runs all the same. A core that is
    /// the guest's alone need not tell the host that it idles, and no exit
    /// delays its wake-up (kernel: Documentation/virt/kvm/api.rst,
    /// `KVM_CAP_X86_DISABLE_EXITS`). Before the first vCPU exists.
    ///
    /// # Errors
    /// The ioctl's.
    pub fn disable_exits(&self, wanted: DisabledExits) -> Result<DisabledExits, KvmError> {
        let known = self
            .fd
            .check_extension_raw(KVM_CAP_X86_DISABLE_EXITS.into());
        let known = u32::try_from(known).unwrap_or(0);
        let bits = bits(wanted) & known;
        if bits != 0 {
            self.enable(KVM_CAP_X86_DISABLE_EXITS, bits.into())
                .map_err(attempt("disable exits"))?;
        }
        let lacks = |on: bool, bit: u32| on && known & bit == 0;
        Ok(DisabledExits {
            hlt: lacks(wanted.hlt, KVM_X86_DISABLE_EXITS_HLT),
            pause: lacks(wanted.pause, KVM_X86_DISABLE_EXITS_PAUSE),
            mwait: lacks(wanted.mwait, KVM_X86_DISABLE_EXITS_MWAIT),
        })
    }

    /// Sets how long KVM polls for a halted vCPU's wake-up before it sleeps, in
    /// nanoseconds; 0 switches polling off (`KVM_CAP_HALT_POLL`).
    ///
    /// # Errors
    /// The ioctl's; `EINVAL` before Linux 5.7.
    pub fn set_halt_poll(&self, nanoseconds: u32) -> Result<(), KvmError> {
        self.enable(KVM_CAP_HALT_POLL, nanoseconds.into())
            .map_err(attempt("set the halt-polling time"))
    }

    /// Whether the local APIC's timer has the TSC-deadline mode.
    #[must_use]
    pub fn has_tsc_deadline(&self) -> bool {
        self.fd
            .check_extension_raw(KVM_CAP_TSC_DEADLINE_TIMER.into())
            > 0
    }

    pub(super) fn enable(&self, cap: u32, argument: u64) -> Result<(), kvm_ioctls::Error> {
        let mut cap = kvm_enable_cap {
            cap,
            ..Default::default()
        };
        cap.args[0] = argument;
        self.fd.enable_cap(&cap)
    }
}

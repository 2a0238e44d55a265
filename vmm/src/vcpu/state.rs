//! All that KVM keeps of one vCPU.
//!
//! ```text
//!  save:     mp_state -> registers -> ... -> lapic -> msrs -> events
//!  restore:  mp_state -> registers -> ... -> lapic -> msrs (TSC first) -> events
//! ```
//!
//! The order matters to KVM: reading the multi-processing state takes in what
//! was signalled to the local APIC; the TSC-deadline MSR is kept only when the
//! local APIC's timer is already in that mode; and pending events come last,
//! because setting registers may clear them (kernel:
//! Documentation/virt/kvm/api.rst, 4.31, 4.38, 4.57).
//!
//! The vCPU's thread does both, so that the vCPUs of a machine are read and set
//! in parallel.

use std::fmt;

use kvm_bindings::nested::KvmNestedStateBuffer;
use kvm_bindings::{
    Msrs, kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs,
    kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::VcpuFd;
use serde::{Deserialize, Serialize};

use super::tsc::{self, TscShift};
use crate::arch::msr;
use crate::kvm::{KvmError, attempt};

/// One vCPU, first version.
#[derive(Serialize, Deserialize)]
pub struct VcpuV1 {
    mp_state: kvm_mp_state,
    regs: kvm_regs,
    sregs: kvm_sregs,
    xsave: Box<kvm_xsave>,
    xcrs: kvm_xcrs,
    debug_regs: kvm_debugregs,
    lapic: kvm_lapic_state,
    /// Index and value, the TSC first.
    msrs: Vec<(u32, u64)>,
    events: kvm_vcpu_events,
    /// What the guest's TSC is ahead of the host's; `None` where KVM cannot tell.
    tsc_offset: Option<u64>,
    /// Only of a guest that runs guests of its own.
    nested: Option<KvmNestedStateBuffer>,
}

impl fmt::Debug for VcpuV1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VcpuV1")
            .field("rip", &format_args!("{:#x}", self.regs.rip))
            .field("msrs", &self.msrs.len())
            .finish_non_exhaustive()
    }
}

/// A vCPU's state could not be read or set.
#[derive(Debug, thiserror::Error)]
pub enum VcpuStateError {
    /// An ioctl failed.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// KVM refused a register's value.
    #[error("KVM refused the value {value:#x} of model-specific register {index:#x}")]
    Msr {
        /// Which register.
        index: u32,
        /// The value.
        value: u64,
    },
    /// More registers than one call takes.
    #[error("{0} model-specific registers are more than KVM takes at once")]
    TooManyMsrs(usize),
    /// The thread did not answer.
    #[error("The thread of vCPU {0} does not answer")]
    NoAnswer(u8),
}

impl VcpuV1 {
    /// Reads a vCPU that is not in the guest. `msrs` are registers that
    /// [`readable_msrs`] found.
    ///
    /// # Errors
    /// The ioctl's.
    pub(super) fn save(fd: &VcpuFd, msrs: &[u32]) -> Result<Self, VcpuStateError> {
        let mp_state = fd
            .get_mp_state()
            .map_err(attempt("read a vCPU's multi-processing state"))?;
        Ok(Self {
            mp_state,
            regs: fd
                .get_regs()
                .map_err(attempt("read a vCPU's general registers"))?,
            sregs: fd
                .get_sregs()
                .map_err(attempt("read a vCPU's special registers"))?,
            xsave: Box::new(
                fd.get_xsave()
                    .map_err(attempt("read a vCPU's extended state"))?,
            ),
            xcrs: fd
                .get_xcrs()
                .map_err(attempt("read a vCPU's extended control registers"))?,
            debug_regs: fd
                .get_debug_regs()
                .map_err(attempt("read a vCPU's debug registers"))?,
            lapic: fd
                .get_lapic()
                .map_err(attempt("read a vCPU's local APIC"))?,
            msrs: read_msrs(fd, msrs)?,
            nested: read_nested(fd),
            events: fd
                .get_vcpu_events()
                .map_err(attempt("read a vCPU's pending events"))?,
            tsc_offset: tsc::offset(fd),
        })
    }

    /// Sets all of a vCPU that has its CPUID already. `shift` is what the TSC's
    /// offset differs by from where it was saved; without it the counter goes on
    /// from its value.
    ///
    /// # Errors
    /// The ioctl's, or a register that KVM refuses.
    pub(super) fn restore(
        &self,
        fd: &VcpuFd,
        shift: Option<TscShift>,
    ) -> Result<(), VcpuStateError> {
        fd.set_mp_state(self.mp_state)
            .map_err(attempt("set a vCPU's multi-processing state"))?;
        fd.set_regs(&self.regs)
            .map_err(attempt("set a vCPU's general registers"))?;
        fd.set_sregs(&self.sregs)
            .map_err(attempt("set a vCPU's special registers"))?;
        // SAFETY: no dynamic feature is enabled (AMX asks for a permission that
        // this process never requests), so the state is no longer than the struct.
        unsafe { fd.set_xsave(&self.xsave) }.map_err(attempt("set a vCPU's extended state"))?;
        fd.set_xcrs(&self.xcrs)
            .map_err(attempt("set a vCPU's extended control registers"))?;
        fd.set_debug_regs(&self.debug_regs)
            .map_err(attempt("set a vCPU's debug registers"))?;
        fd.set_lapic(&self.lapic)
            .map_err(attempt("set a vCPU's local APIC"))?;
        let by_offset = self
            .tsc_offset
            .zip(shift)
            .is_some_and(|(offset, shift)| tsc::set_offset(fd, shift.apply(offset)));
        write_msrs(fd, &self.msrs, by_offset)?;
        if let Some(nested) = &self.nested {
            fd.set_nested_state(nested)
                .map_err(attempt("set a vCPU's nested state"))?;
        }
        fd.set_vcpu_events(&self.events)
            .map_err(attempt("set a vCPU's pending events"))?;
        Ok(())
    }
}

/// Those of `listed` and of the registers that KVM keeps without listing them
/// which this vCPU lets us read: the TSC first, the rest in order.
///
/// A virtual machine lists some that its vCPU does not have (a CPUID feature is
/// missing), so each is tried once, ahead of any migration.
pub(crate) fn readable_msrs(fd: &VcpuFd, listed: &[u32]) -> Vec<u32> {
    let mut candidates: Vec<u32> = listed.to_vec();
    candidates.extend(msr::unlisted());
    candidates.sort_unstable();
    candidates.dedup();
    candidates.retain(|&index| index != msr::TSC);
    candidates.insert(0, msr::TSC);
    let mut readable = Vec::with_capacity(candidates.len());
    let mut rest = candidates.as_slice();
    while !rest.is_empty() {
        let (now, _) = rest.split_at(rest.len().min(MSRS_AT_ONCE));
        let entries: Vec<_> = now.iter().map(|&index| entry(index, 0)).collect();
        let read = Msrs::from_entries(&entries)
            .ok()
            .and_then(|mut msrs| fd.get_msrs(&mut msrs).ok())
            .unwrap_or(0)
            .min(now.len());
        readable.extend(now.iter().take(read));
        // The one after the last that was read is refused.
        let skip = if read == now.len() { read } else { read + 1 };
        rest = rest.get(skip..).unwrap_or(&[]);
    }
    readable
}

/// `KVM_MAX_MSR_ENTRIES` is 256.
const MSRS_AT_ONCE: usize = 256;

fn entry(index: u32, data: u64) -> kvm_msr_entry {
    kvm_msr_entry {
        index,
        data,
        ..kvm_msr_entry::default()
    }
}

fn read_msrs(fd: &VcpuFd, indices: &[u32]) -> Result<Vec<(u32, u64)>, VcpuStateError> {
    let mut values = Vec::with_capacity(indices.len());
    for chunk in indices.chunks(MSRS_AT_ONCE) {
        let entries: Vec<_> = chunk.iter().map(|&index| entry(index, 0)).collect();
        let mut msrs =
            Msrs::from_entries(&entries).map_err(|_| VcpuStateError::TooManyMsrs(indices.len()))?;
        let read = fd
            .get_msrs(&mut msrs)
            .map_err(attempt("read a vCPU's model-specific registers"))?;
        // What could be read before and not now is not there any more.
        let found = msrs.as_slice().iter().take(read);
        values.extend(found.map(|entry| (entry.index, entry.data)));
        if let Some(&index) = chunk.get(read) {
            tracing::warn!("Model-specific register {index:#x} cannot be read any more");
        }
    }
    Ok(values)
}

/// Registers that a host has with one value only are refused even when that
/// value is written; such a one is passed over.
fn write_msrs(fd: &VcpuFd, values: &[(u32, u64)], tsc_is_set: bool) -> Result<(), VcpuStateError> {
    let mut rest: Vec<_> = values
        .iter()
        .filter(|(index, _)| !(tsc_is_set && *index == msr::TSC))
        .map(|&(index, value)| entry(index, value))
        .collect();
    while !rest.is_empty() {
        let now = rest.len().min(MSRS_AT_ONCE);
        let msrs = Msrs::from_entries(rest.get(..now).unwrap_or(&rest))
            .map_err(|_| VcpuStateError::TooManyMsrs(rest.len()))?;
        let set = fd
            .set_msrs(&msrs)
            .map_err(attempt("set a vCPU's model-specific registers"))?
            .min(now);
        let refused = rest.drain(..set).count() < now;
        if refused && let Some(first) = rest.first() {
            let (index, value) = (first.index, first.data);
            if read_msrs(fd, &[index])?.first() != Some(&(index, value)) {
                return Err(VcpuStateError::Msr { index, value });
            }
            rest.remove(0);
        }
    }
    Ok(())
}

/// The state of a guest's own guests. KVM has it even where nesting is off, and
/// some do not have it at all.
fn read_nested(fd: &VcpuFd) -> Option<KvmNestedStateBuffer> {
    let mut buffer = KvmNestedStateBuffer::empty();
    match fd.nested_state(&mut buffer) {
        Ok(Some(_)) => Some(buffer),
        Ok(None) | Err(_) => None,
    }
}

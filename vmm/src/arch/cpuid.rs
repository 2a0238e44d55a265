//! The CPUID of each vCPU: what KVM supports, with the guest's topology in it.
//!
//! Processor vendors tell topology in different leaves, and operating systems read them
//! in different order; all that a vendor's processors have are filled, and agree:
//!
//! | leaf | Intel | AMD |
//! |---|---|---|
//! | 1 | threads in the package, APIC id | the same |
//! | 4 | cores in the package, threads sharing each cache | - |
//! | 0xb | x2APIC id, threads in core and package | the same |
//! | 0x1f | as 0xb, with dies | - |
//! | 0x8000_0008 | - | threads in the package, width of the id |
//! | 0x8000_001d | - | threads sharing each cache |
//! | 0x8000_001e | - | core and node (die) of this thread |
//!
//! Sources: Intel SDM volume 2A, CPUID; AMD APM volume 3, appendix E; kernel document
//! `virt/kvm/x86/cpuid.rst`.

use std::arch::x86_64::{__cpuid, CpuidResult};

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

use super::Topology;

mod leaves;
mod missing;
mod topology;

#[cfg(test)]
mod tests;

pub use missing::{Feature, missing};

use leaves::Leaves;

/// Leaf 1 ECX: MONITOR/MWAIT.
const MONITOR: u32 = 1 << 3;
/// Leaf 1 ECX: VMX.
const VMX: u32 = 1 << 5;
/// Leaf 1 ECX: x2APIC.
const X2APIC: u32 = 1 << 21;
/// Leaf 1 ECX: the local APIC's timer can fire at a TSC value.
const TSC_DEADLINE: u32 = 1 << 24;
/// Leaf 1 ECX: a hypervisor is present.
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1 EDX: memory type range registers.
const MTRR: u32 = 1 << 12;
/// Leaf 5 ECX: MWAIT extensions are listed, and interrupts end MWAIT even when masked.
const MWAIT_EXTENSIONS: u32 = 0b11;
/// Leaf 0x8000_0001 ECX: SVM.
const SVM: u32 = 1 << 2;

const KVM_FEATURES: u32 = 0x4000_0001;
/// Leaf 0x4000_0001 EDX: vCPUs are never preempted for long.
const KVM_HINTS_REALTIME: u32 = 1 << 0;

/// What the CPUID is made for.
#[derive(Clone, Copy, Debug)]
pub struct CpuidSpec {
    /// Shape of the guest's processor.
    pub topology: Topology,
    /// Whether the guest may run guests of its own.
    pub nested: bool,
    /// Whether to tell the guest that its vCPUs have physical CPUs to themselves. A guest
    /// then spins where it would otherwise yield: set it only where that is true.
    pub realtime_hint: bool,
    /// Width of guest-physical addresses at most, in bits.
    pub max_phys_bits: u8,
    /// Whether KVM has `KVM_CAP_TSC_DEADLINE_TIMER` (`KVM_GET_SUPPORTED_CPUID` says so
    /// only on newer kernels).
    pub tsc_deadline: bool,
    /// The host's leaf 5 from [`host_mwait`], where exits on MWAIT are disabled.
    pub mwait: Option<MwaitLeaf>,
}

/// Leaf 5, MONITOR and MWAIT parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MwaitLeaf {
    /// Smallest monitor line, in bytes.
    pub eax: u32,
    /// Largest monitor line, in bytes.
    pub ebx: u32,
    /// Extensions.
    pub ecx: u32,
    /// Numbers of sub C-states.
    pub edx: u32,
}

/// Leaf 5 of this host, `None` where it has no MWAIT.
#[must_use]
pub fn host_mwait() -> Option<MwaitLeaf> {
    if host(0).eax < 5 || host(1).ecx & MONITOR == 0 {
        return None;
    }
    let leaf = host(5);
    Some(MwaitLeaf {
        eax: leaf.eax,
        ebx: leaf.ebx,
        ecx: leaf.ecx,
        edx: leaf.edx,
    })
}

#[allow(
    unused_unsafe,
    reason = "the intrinsic is unsafe in the oldest compiler that is supported"
)]
fn host(leaf: u32) -> CpuidResult {
    // SAFETY: every x86-64 processor has the instruction, and it changes nothing but
    // the registers that it returns.
    unsafe { __cpuid(leaf) }
}

/// The CPUID of vCPU `vcpu`, counted from 0, for `KVM_SET_CPUID2`.
///
/// `supported` is what `KVM_GET_SUPPORTED_CPUID` gave.
#[must_use]
pub fn for_vcpu(
    supported: &[kvm_cpuid_entry2],
    spec: &CpuidSpec,
    vcpu: u32,
) -> Vec<kvm_cpuid_entry2> {
    let mut leaves = Leaves::new(supported);
    let vendor = leaves.vendor();
    leaves.change(1, |leaf| {
        leaf.ecx |= X2APIC | HYPERVISOR;
        set(&mut leaf.ecx, TSC_DEADLINE, spec.tsc_deadline);
        set(&mut leaf.ecx, MONITOR, spec.mwait.is_some());
        if !spec.nested {
            leaf.ecx &= !VMX;
        }
    });
    if let Some(mwait) = spec.mwait {
        leaves.put(
            5,
            None,
            [
                mwait.eax,
                mwait.ebx,
                mwait.ecx | MWAIT_EXTENSIONS,
                mwait.edx,
            ],
        );
    }
    if !spec.nested {
        leaves.change(0x8000_0001, |leaf| leaf.ecx &= !SVM);
        leaves.remove(0x8000_000a);
    }
    leaves.change(KVM_FEATURES, |leaf| {
        set(&mut leaf.edx, KVM_HINTS_REALTIME, spec.realtime_hint);
    });
    leaves.change(0x8000_0008, |leaf| {
        let [physical, linear, guest, rest] = leaf.eax.to_le_bytes();
        let limit = |bits: u8| bits.min(spec.max_phys_bits);
        leaf.eax = u32::from_le_bytes([limit(physical), linear, limit(guest), rest]);
    });
    topology::apply(&mut leaves, vendor, &spec.topology, vcpu);
    leaves.into_entries()
}

/// Guest-physical address bits (leaf 0x8000_0008 EAX), 36 where the leaf is missing.
///
/// Bits 23:16, where set, say how many of them nested paging can map.
#[must_use]
pub fn phys_bits(entries: &[kvm_cpuid_entry2]) -> u8 {
    entries
        .iter()
        .find(|entry| entry.function == 0x8000_0008)
        .map(|entry| {
            let [physical, _, guest, _] = entry.eax.to_le_bytes();
            if guest == 0 {
                physical
            } else {
                guest.min(physical)
            }
        })
        .filter(|&bits| bits != 0)
        .unwrap_or(36)
}

/// Whether the CPUID lists memory type range registers.
#[must_use]
pub fn has_mtrr(entries: &[kvm_cpuid_entry2]) -> bool {
    entries
        .iter()
        .any(|entry| entry.function == 1 && entry.edx & MTRR != 0)
}

fn set(register: &mut u32, bits: u32, on: bool) {
    if on {
        *register |= bits;
    } else {
        *register &= !bits;
    }
}

/// An entry whose index matters, or not.
fn entry(function: u32, index: Option<u32>, registers: [u32; 4]) -> kvm_cpuid_entry2 {
    let [eax, ebx, ecx, edx] = registers;
    kvm_cpuid_entry2 {
        function,
        index: index.unwrap_or(0),
        flags: index.map_or(0, |_| KVM_CPUID_FLAG_SIGNIFCANT_INDEX),
        eax,
        ebx,
        ecx,
        edx,
        ..kvm_cpuid_entry2::default()
    }
}

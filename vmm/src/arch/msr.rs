//! Model-specific registers that every vCPU starts with.

use kvm_bindings::kvm_msr_entry;

/// Time stamp counter.
pub const TSC: u32 = 0x10;
/// Code segment for SYSENTER.
pub const SYSENTER_CS: u32 = 0x174;
/// Stack for SYSENTER.
pub const SYSENTER_ESP: u32 = 0x175;
/// Entry for SYSENTER.
pub const SYSENTER_EIP: u32 = 0x176;
/// Miscellaneous features.
pub const MISC_ENABLE: u32 = 0x1a0;
/// Default memory type.
pub const MTRR_DEF_TYPE: u32 = 0x2ff;
/// Segments for SYSCALL.
pub const STAR: u32 = 0xc000_0081;
/// Entry for SYSCALL from 64-bit code.
pub const LSTAR: u32 = 0xc000_0082;
/// Entry for SYSCALL from compatibility mode.
pub const CSTAR: u32 = 0xc000_0083;
/// Flags that SYSCALL clears.
pub const SYSCALL_MASK: u32 = 0xc000_0084;
/// What SWAPGS swaps in.
pub const KERNEL_GS_BASE: u32 = 0xc000_0102;

/// MISC_ENABLE: fast string operations, on after reset (Intel SDM volume 4).
const FAST_STRINGS: u64 = 1 << 0;
/// MTRRdefType: range registers are on (E), everything is write-back.
///
/// The fixed ranges stay off (FE clear), or the first MiB would be uncacheable: they
/// are zero after reset. Device memory is made uncacheable by the guest's page tables.
const MTRR_ON_WRITE_BACK: u64 = 1 << 11 | 6;

/// The registers as a guest kernel expects to find them, in this order.
const BOOT: [(u32, u64); 10] = [
    (SYSENTER_CS, 0),
    (SYSENTER_ESP, 0),
    (SYSENTER_EIP, 0),
    (STAR, 0),
    (LSTAR, 0),
    (CSTAR, 0),
    (SYSCALL_MASK, 0),
    (KERNEL_GS_BASE, 0),
    (TSC, 0),
    (MISC_ENABLE, FAST_STRINGS),
];

/// What to set with `KVM_SET_MSRS` before the first instruction.
///
/// `listed` is what `KVM_GET_MSR_INDEX_LIST` gave: nothing else is set, but for the
/// default memory type where CPUID lists it (`mtrr`, see [`super::cpuid::has_mtrr`]).
/// KVM takes that register and lists it only on some versions. It comes last, so that
/// a KVM which stops there has set all others.
#[must_use]
pub fn boot(listed: &[u32], mtrr: bool) -> Vec<kvm_msr_entry> {
    BOOT.into_iter()
        .filter(|(index, _)| listed.contains(index))
        .chain(
            (mtrr || listed.contains(&MTRR_DEF_TYPE))
                .then_some((MTRR_DEF_TYPE, MTRR_ON_WRITE_BACK)),
        )
        .map(|(index, data)| kvm_msr_entry {
            index,
            data,
            ..kvm_msr_entry::default()
        })
        .collect()
}

/// Registers that KVM keeps and that belong to a vCPU's state, but that only some
/// versions of it list: those of memory types (Intel SDM volume 4).
pub fn unlisted() -> impl Iterator<Item = u32> {
    const MTRR_VARIABLE: std::ops::Range<u32> = 0x200..0x210;
    const MTRR_FIXED: [u32; 11] = [
        0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f,
    ];
    const PAT: u32 = 0x277;
    MTRR_VARIABLE.chain(MTRR_FIXED).chain([PAT, MTRR_DEF_TYPE])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_registers_are_set() {
        assert!(boot(&[], false).is_empty());
        let entries = boot(&[TSC, MISC_ENABLE, 0x4b56_4d00], true);
        let set: Vec<_> = entries
            .iter()
            .map(|entry| (entry.index, entry.data))
            .collect();
        assert_eq!(set, [(TSC, 0), (MISC_ENABLE, 1), (MTRR_DEF_TYPE, 0x806)]);
    }
}

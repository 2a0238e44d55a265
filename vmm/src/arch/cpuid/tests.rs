//! CPUID of whole guests, from the leaves that processors have.

use super::*;

fn leaf(entries: &[kvm_cpuid_entry2], function: u32, index: u32) -> Option<&kvm_cpuid_entry2> {
    entries
        .iter()
        .find(|entry| entry.function == function && entry.index == index)
}

fn registers(entries: &[kvm_cpuid_entry2], function: u32, index: u32) -> [u32; 4] {
    leaf(entries, function, index)
        .map(|leaf| [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx])
        .expect("the leaf is there")
}

fn vendor(name: &[u8; 12], highest: u32) -> kvm_cpuid_entry2 {
    let word = |at: usize| {
        let bytes = name.get(at..at + 4).expect("three words");
        u32::from_le_bytes(bytes.try_into().expect("four bytes"))
    };
    entry(0, None, [highest, word(0), word(8), word(4)])
}

/// Caches as leaf 4 has them: type, level, and a host's sharing in the upper bits.
fn cache(function: u32, index: u32, kind: u32, level: u32) -> kvm_cpuid_entry2 {
    let eax = kind | level << 5 | 0xfffc_0000;
    entry(function, Some(index), [eax, 0x1c0_003f, 63, 0])
}

fn intel() -> Vec<kvm_cpuid_entry2> {
    vec![
        vendor(b"GenuineIntel", 0x1f),
        entry(1, None, [0x806f8, 0x7f40_0800, VMX, MTRR]),
        cache(4, 0, 1, 1),
        cache(4, 1, 2, 1),
        cache(4, 2, 3, 2),
        cache(4, 3, 3, 3),
        entry(4, Some(4), [0; 4]),
        entry(0xb, Some(0), [9, 9, 9, 9]),
        entry(0x1f, Some(0), [9, 9, 9, 9]),
        entry(KVM_FEATURES, None, [0x0100_7efb, 0, 0, 0]),
        entry(0x8000_0008, None, [0x3030, 0, 0, 0]),
    ]
}

fn amd() -> Vec<kvm_cpuid_entry2> {
    vec![
        vendor(b"AuthenticAMD", 0xd),
        entry(1, None, [0xa20f12, 0x800, 0, MTRR]),
        entry(0x8000_0000, None, [0x8000_001f, 0, 0, 0]),
        entry(0x8000_0001, None, [0, 0, SVM, 0]),
        entry(0x8000_0008, None, [0x30_3030, 0, 0x7777, 0]),
        entry(0x8000_000a, None, [1, 8, 0, 0]),
        cache(0x8000_001d, 0, 1, 1),
        cache(0x8000_001d, 3, 3, 3),
        entry(0x8000_0026, Some(0), [9, 9, 9, 9]),
    ]
}

const fn spec(topology: Topology) -> CpuidSpec {
    CpuidSpec {
        topology,
        nested: false,
        realtime_hint: false,
        max_phys_bits: 46,
        tsc_deadline: true,
        mwait: None,
    }
}

const TWO_DIES: Topology = Topology {
    threads_per_core: 2,
    cores_per_die: 3,
    dies_per_package: 2,
    packages: 2,
};

#[test]
fn intel_topology() {
    // The last vCPU: package 1, die 1, core 2, thread 1 is id 0b1_1_10_1.
    let entries = for_vcpu(&intel(), &spec(TWO_DIES), 23);
    let [_, ebx, ecx, edx] = registers(&entries, 1, 0);
    assert_eq!(ebx, 0x1d10_0800);
    assert_eq!(ecx, X2APIC | TSC_DEADLINE | HYPERVISOR);
    assert_eq!(edx >> 28 & 1, 1);
    assert_eq!(registers(&entries, 0xb, 0), [1, 2, 0x100, 0x1d]);
    assert_eq!(registers(&entries, 0xb, 1), [4, 12, 0x201, 0x1d]);
    assert_eq!(registers(&entries, 0xb, 2), [0, 0, 2, 0x1d]);
    assert_eq!(registers(&entries, 0x1f, 0), [1, 2, 0x100, 0x1d]);
    assert_eq!(registers(&entries, 0x1f, 1), [3, 6, 0x201, 0x1d]);
    assert_eq!(registers(&entries, 0x1f, 2), [4, 12, 0x502, 0x1d]);
    assert_eq!(registers(&entries, 0x1f, 3), [0, 0, 3, 0x1d]);
    // Threads share levels 1 and 2, the die level 3; eight core ids in the package.
    let sharing = |index| registers(&entries, 4, index)[0] >> 14;
    assert_eq!(sharing(0), 1 | 7 << 12);
    assert_eq!(sharing(2), 1 | 7 << 12);
    assert_eq!(sharing(3), 7 | 7 << 12);
    assert_eq!(registers(&entries, 4, 4)[0], 0);
}

#[test]
fn amd_topology() {
    let entries = for_vcpu(&amd(), &spec(TWO_DIES), 23);
    assert_eq!(registers(&entries, 0, 0)[0], 0xd);
    assert_eq!(registers(&entries, 1, 0)[1], 0x1d0c_0800);
    assert_eq!(registers(&entries, 0xb, 1), [4, 12, 0x201, 0x1d]);
    assert_eq!(registers(&entries, 0x8000_0008, 0)[2], 0x400b);
    assert_eq!(registers(&entries, 0x8000_001e, 0), [0x1d, 0x106, 0x103, 0]);
    assert_eq!(registers(&entries, 0x8000_001d, 0)[0] >> 14, 1);
    assert_eq!(registers(&entries, 0x8000_001d, 3)[0] >> 14, 7);
    let extended = registers(&entries, 0x8000_0001, 0)[2];
    assert_eq!(extended, 1 << 22 | 1 << 1);
    assert_eq!(leaf(&entries, 0x8000_000a, 0), None);
    assert_eq!(leaf(&entries, 0x8000_0026, 0), None);
}

#[test]
fn one_vcpu_is_one_thread() {
    for supported in [intel(), amd()] {
        let entries = for_vcpu(&supported, &spec(Topology::flat(1)), 0);
        let [_, ebx, _, edx] = registers(&entries, 1, 0);
        assert_eq!((ebx >> 16, edx >> 28 & 1), (1, 0));
        assert_eq!(registers(&entries, 0xb, 0), [0, 1, 0x100, 0]);
        assert_eq!(registers(&entries, 0xb, 1), [0, 1, 0x201, 0]);
    }
}

#[test]
fn short_leaf_lists_are_raised_where_needed() {
    let mut supported = intel();
    supported[0].eax = 7;
    let entries = for_vcpu(&supported, &spec(Topology::flat(4)), 3);
    assert_eq!(registers(&entries, 0, 0)[0], 0xb);
    assert_eq!(leaf(&entries, 0x1f, 0), None);
    let entries = for_vcpu(&supported, &spec(TWO_DIES), 3);
    assert_eq!(registers(&entries, 0, 0)[0], 0x1f);
    assert!(leaf(&entries, 0x1f, 2).is_some());
}

#[test]
fn options_show() {
    let mwait = MwaitLeaf {
        eax: 64,
        ebx: 64,
        ecx: 0,
        edx: 0x20,
    };
    let all = CpuidSpec {
        nested: true,
        realtime_hint: true,
        tsc_deadline: false,
        mwait: Some(mwait),
        ..spec(Topology::flat(2))
    };
    let entries = for_vcpu(&intel(), &all, 1);
    let ecx = registers(&entries, 1, 0)[2];
    assert_eq!(ecx & (VMX | MONITOR | TSC_DEADLINE), VMX | MONITOR);
    assert_eq!(registers(&entries, 5, 0), [64, 64, 3, 0x20]);
    assert_eq!(registers(&entries, KVM_FEATURES, 0)[3], 1);
    let entries = for_vcpu(&amd(), &all, 1);
    assert_ne!(registers(&entries, 0x8000_0001, 0)[2] & SVM, 0);
    assert!(leaf(&entries, 0x8000_000a, 0).is_some());
}

#[test]
fn address_bits_and_mtrr() {
    assert_eq!(phys_bits(&intel()), 0x30);
    assert_eq!(
        phys_bits(&[entry(0x8000_0008, None, [0x2f_3034, 0, 0, 0])]),
        0x2f
    );
    assert_eq!(phys_bits(&[]), 36);
    let guest = for_vcpu(&intel(), &spec(Topology::flat(1)), 0);
    assert_eq!(phys_bits(&guest), 46);
    assert_eq!(registers(&guest, 0x8000_0008, 0)[0], 0x302e);
    assert!(has_mtrr(&amd()));
    assert!(!has_mtrr(&[]));
}

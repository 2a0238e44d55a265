//! What a guest was promised and this host does not have.

use std::fmt;

use kvm_bindings::kvm_cpuid_entry2;

/// A register of a CPUID leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

use Register::{Eax, Ebx, Ecx, Edx};

/// Registers that are features, one a bit: leaf, subleaf, register, and the bits
/// that are (the others count something, or change while the guest runs).
const FEATURES: [(u32, u32, Register, u32); 17] = [
    // OSXSAVE (bit 27) mirrors CR4; bit 31 is the hypervisor's.
    (1, 0, Ecx, !(1 << 27 | 1 << 31)),
    (1, 0, Edx, u32::MAX),
    (7, 0, Ebx, u32::MAX),
    // OSPKE (bit 4) mirrors CR4.
    (7, 0, Ecx, !(1 << 4)),
    (7, 0, Edx, u32::MAX),
    (7, 1, Eax, u32::MAX),
    (7, 1, Ebx, u32::MAX),
    (7, 1, Edx, u32::MAX),
    (7, 2, Edx, u32::MAX),
    (0xd, 0, Eax, u32::MAX),
    (0xd, 1, Eax, u32::MAX),
    (0x4000_0001, 0, Eax, u32::MAX),
    (0x8000_0001, 0, Ecx, u32::MAX),
    (0x8000_0001, 0, Edx, u32::MAX),
    (0x8000_0007, 0, Edx, u32::MAX),
    (0x8000_0008, 0, Ebx, u32::MAX),
    (0x8000_0021, 0, Eax, u32::MAX),
];

/// Names of the features that one asks about first: leaf, register, bit.
const NAMES: [(u32, Register, u32, &str); 18] = [
    (1, Ecx, 0, "sse3"),
    (1, Ecx, 12, "fma"),
    (1, Ecx, 19, "sse4_1"),
    (1, Ecx, 20, "sse4_2"),
    (1, Ecx, 21, "x2apic"),
    (1, Ecx, 24, "tsc_deadline_timer"),
    (1, Ecx, 25, "aes"),
    (1, Ecx, 26, "xsave"),
    (1, Ecx, 28, "avx"),
    (1, Ecx, 30, "rdrand"),
    (7, Ebx, 5, "avx2"),
    (7, Ebx, 8, "bmi2"),
    (7, Ebx, 16, "avx512f"),
    (7, Ebx, 30, "avx512bw"),
    (0x8000_0001, Edx, 26, "pdpe1gb"),
    (0x8000_0001, Edx, 27, "rdtscp"),
    (0x8000_0007, Edx, 8, "constant_tsc"),
    (0x4000_0001, Eax, 3, "kvmclock"),
];

/// A feature that is not here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    leaf: u32,
    subleaf: u32,
    register: Register,
    bit: u32,
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = NAMES.iter().find(|(leaf, register, bit, _)| {
            self.subleaf == 0 && (*leaf, *register, *bit) == (self.leaf, self.register, self.bit)
        });
        if let Some((.., name)) = name {
            write!(f, "{name} (")?;
        }
        write!(
            f,
            "CPUID {:#x}.{} {:?} bit {}",
            self.leaf, self.subleaf, self.register, self.bit
        )?;
        if name.is_some() {
            f.write_str(")")?;
        }
        Ok(())
    }
}

/// Features that `promised` has and `here` has not.
#[must_use]
pub fn missing(promised: &[kvm_cpuid_entry2], here: &[kvm_cpuid_entry2]) -> Vec<Feature> {
    let mut found = Vec::new();
    for (leaf, subleaf, register, mask) in FEATURES {
        let lost =
            value(promised, leaf, subleaf, register) & mask & !value(here, leaf, subleaf, register);
        found.extend(
            (0..32)
                .filter(|bit| lost >> bit & 1 == 1)
                .map(|bit| Feature {
                    leaf,
                    subleaf,
                    register,
                    bit,
                }),
        );
    }
    found
}

fn value(entries: &[kvm_cpuid_entry2], leaf: u32, subleaf: u32, register: Register) -> u32 {
    let entry = entries
        .iter()
        .find(|entry| entry.function == leaf && entry.index == subleaf);
    entry.map_or(0, |entry| match register {
        Eax => entry.eax,
        Ebx => entry.ebx,
        Ecx => entry.ecx,
        Edx => entry.edx,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32, ebx: u32, ecx: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function,
            ebx,
            ecx,
            ..kvm_cpuid_entry2::default()
        }
    }

    #[test]
    fn a_feature_that_is_not_here_is_named() {
        let promised = [leaf(1, 0, 1 << 28), leaf(7, 1 << 5 | 1 << 6, 0)];
        let here = [leaf(1, 0, 1 << 28), leaf(7, 0, 0)];
        let names: Vec<_> = missing(&promised, &here)
            .iter()
            .map(Feature::to_string)
            .collect();
        assert_eq!(
            names,
            ["avx2 (CPUID 0x7.0 Ebx bit 5)", "CPUID 0x7.0 Ebx bit 6"]
        );
    }

    #[test]
    fn more_here_and_mirrored_bits_do_no_harm() {
        let promised = [leaf(1, 0x0100_0800, 1 << 27)];
        assert_eq!(missing(&promised, &[leaf(1, 0x0200_0800, 1)]), []);
        // The count of a leaf that is no feature is not looked at.
        assert_eq!(missing(&[leaf(0xb, 4, 4)], &[]), []);
    }
}

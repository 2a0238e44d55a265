//! A list of CPUID leaves that can be changed by number.

use kvm_bindings::kvm_cpuid_entry2;

use super::entry;

/// Who made the processor, as far as leaves differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vendor {
    Intel,
    /// AMD or Hygon.
    Amd,
    Other,
}

/// CPUID leaves.
#[derive(Debug)]
pub(super) struct Leaves(Vec<kvm_cpuid_entry2>);

impl Leaves {
    pub(super) fn new(entries: &[kvm_cpuid_entry2]) -> Self {
        Self(entries.to_vec())
    }

    pub(super) fn vendor(&self) -> Vendor {
        let name = self.0.iter().find(|entry| entry.function == 0).map(|leaf| {
            let mut name = [0; 12];
            for (slot, byte) in name.iter_mut().zip(
                [leaf.ebx, leaf.edx, leaf.ecx]
                    .into_iter()
                    .flat_map(u32::to_le_bytes),
            ) {
                *slot = byte;
            }
            name
        });
        match name.as_ref() {
            Some(b"GenuineIntel") => Vendor::Intel,
            Some(b"AuthenticAMD" | b"HygonGenuine") => Vendor::Amd,
            _ => Vendor::Other,
        }
    }

    /// Changes every entry of leaf `function`.
    pub(super) fn change(&mut self, function: u32, change: impl FnMut(&mut kvm_cpuid_entry2)) {
        self.0
            .iter_mut()
            .filter(|entry| entry.function == function)
            .for_each(change);
    }

    /// Changes leaf `function`, made of zeros if it is missing.
    pub(super) fn require(&mut self, function: u32, change: impl FnMut(&mut kvm_cpuid_entry2)) {
        if !self.0.iter().any(|entry| entry.function == function) {
            self.0.push(entry(function, None, [0; 4]));
        }
        self.change(function, change);
    }

    /// Replaces all of leaf `function` by one entry.
    pub(super) fn put(&mut self, function: u32, index: Option<u32>, registers: [u32; 4]) {
        self.remove(function);
        self.0.push(entry(function, index, registers));
    }

    /// Replaces all of leaf `function` by entries with indices from 0.
    pub(super) fn put_indexed(&mut self, function: u32, entries: &[[u32; 4]]) {
        self.remove(function);
        for (index, registers) in (0..).zip(entries) {
            self.0.push(entry(function, Some(index), *registers));
        }
    }

    pub(super) fn remove(&mut self, function: u32) {
        self.0.retain(|entry| entry.function != function);
    }

    /// Raises the highest leaf that `base` (0 or 0x8000_0000) states to `function`.
    pub(super) fn reach(&mut self, base: u32, function: u32) {
        self.require(base, |leaf| leaf.eax = leaf.eax.max(function));
    }

    /// The highest leaf that `base` states.
    pub(super) fn highest(&self, base: u32) -> u32 {
        self.0
            .iter()
            .find(|entry| entry.function == base)
            .map_or(0, |entry| entry.eax)
    }

    pub(super) fn into_entries(self) -> Vec<kvm_cpuid_entry2> {
        self.0
    }
}

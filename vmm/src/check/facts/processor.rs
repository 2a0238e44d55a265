//! What kind of CPU it is, from `/proc/cpuinfo`.

use std::collections::BTreeSet;

/// Who made the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// Intel.
    Intel,
    /// AMD, or Hygon, whose processors are theirs.
    Amd,
    /// Somebody else.
    Other,
}

/// The first CPU: the kernel refuses others that differ in what matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Processor {
    /// Who made it.
    pub vendor: Vendor,
    /// `model name`.
    pub model: String,
    /// CPU packages.
    pub packages: usize,
    flags: BTreeSet<String>,
    vmx_flags: BTreeSet<String>,
}

impl Processor {
    pub(super) fn parse(text: &str) -> Self {
        let first = text.split("\n\n").next().unwrap_or_default();
        let entry = |key: &str| {
            let mut lines = first.lines().filter_map(|line| line.split_once(':'));
            lines
                .find_map(|(name, value)| (name.trim() == key).then_some(value.trim()))
                .unwrap_or_default()
        };
        let words = |key: &str| entry(key).split_whitespace().map(str::to_owned).collect();
        let packages: BTreeSet<_> = text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .filter_map(|(name, value)| (name.trim() == "physical id").then_some(value.trim()))
            .collect();
        Self {
            vendor: match entry("vendor_id") {
                "GenuineIntel" => Vendor::Intel,
                "AuthenticAMD" | "HygonGenuine" => Vendor::Amd,
                _ => Vendor::Other,
            },
            model: entry("model name").to_owned(),
            packages: packages.len().max(1),
            flags: words("flags"),
            vmx_flags: words("vmx flags"),
        }
    }

    /// Whether a flag is there.
    #[must_use]
    pub fn has(&self, flag: &str) -> bool {
        self.flags.contains(flag)
    }

    /// Whether a flag of Intel's virtualization is there; `None`: the kernel shows
    /// none of them.
    #[must_use]
    pub fn has_vmx(&self, flag: &str) -> Option<bool> {
        (!self.vmx_flags.is_empty()).then(|| self.vmx_flags.contains(flag))
    }

    /// Whether this is a virtual machine itself.
    #[must_use]
    pub fn is_virtual(&self) -> bool {
        self.has("hypervisor")
    }
}

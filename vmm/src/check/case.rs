//! What is judged: a host, and the guest that it is for.

use super::facts::{Facts, Unread, Vendor};
use super::guest::Guest;
use super::item::{Mend, State, Verdict};
use super::words::{count, mask};
use crate::spec::{CpuSet, HostCpu, format_cpu_list};

/// A host, and the guest that it is for.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// The host.
    pub facts: &'a Facts,
    /// The guest.
    pub guest: &'a Guest,
}

impl<'a> Case<'a> {
    /// The CPUs of vCPUs, if any are known.
    pub(super) fn cpus(&self) -> Option<&'a CpuSet> {
        Some(&self.guest.cpus).filter(|cpus| !cpus.is_empty())
    }

    /// The same; without them, every CPU that is online.
    pub(super) fn scope(&self) -> Result<&'a CpuSet, Unread> {
        match self.cpus() {
            Some(cpus) => Ok(cpus),
            None => self.facts.online(),
        }
    }

    /// CPUs for everything else: all others that are online, but for those that are
    /// isolated for somebody else.
    pub(super) fn others(&self) -> CpuSet {
        let online = self.facts.online().cloned().unwrap_or_default();
        let others: CpuSet = online.difference(&self.guest.cpus).copied().collect();
        let isolated = self.facts.isolated.clone().unwrap_or_default();
        let shared: CpuSet = others.difference(&isolated).copied().collect();
        if shared.is_empty() { others } else { shared }
    }

    /// The list of a parameter that is for the CPUs of vCPUs, and stays for others
    /// that have it.
    pub(super) fn with_cpus(&self, others: &CpuSet) -> String {
        format_cpu_list(&self.guest.cpus.union(others).copied().collect())
    }

    /// Whether a way to mend something is for this maker's CPUs.
    pub(super) fn concerns(&self, mend: &Mend) -> bool {
        let vendor = self.facts.processor.as_ref().map(|cpu| cpu.vendor);
        !match vendor {
            Ok(Vendor::Intel) => mend.text.contains("kvm_amd"),
            Ok(Vendor::Amd) => mend.text.contains("kvm_intel"),
            _ => false,
        }
    }

    /// What disturbs CPUs that are known to be a guest's is bad; as long as none
    /// are, it is a warning.
    pub(super) fn disturbed(&self, found: impl Into<String>) -> Verdict {
        let state = match self.cpus() {
            Some(_) => State::Bad,
            None => State::Warning,
        };
        Verdict::new(state, found)
    }

    /// `text` with what its placeholders stand for.
    pub(super) fn fill(&self, text: &str) -> String {
        let list = |cpus: &CpuSet, name: &str| match format_cpu_list(cpus) {
            list if list.is_empty() => name.to_owned(),
            list => list,
        };
        let known = self.cpus().is_some();
        let others = if known { self.others() } else { CpuSet::new() };
        let node = self.node().map(|node| node.to_string());
        text.replace("{cpus}", &list(&self.guest.cpus, "CPUS"))
            .replace("{others}", &list(&others, "OTHERS"))
            .replace(
                "{mask}",
                &if others.is_empty() {
                    "MASK".to_owned()
                } else {
                    mask(&others)
                },
            )
            .replace("{node}", node.as_deref().unwrap_or("NODE"))
    }

    /// The NUMA node of a CPU.
    pub(super) fn node_of(&self, cpu: HostCpu) -> Option<u32> {
        let host = self.facts.host.as_ref().ok()?;
        let mut nodes = host.nodes.iter();
        nodes.find_map(|(number, node)| node.cpus.contains(&cpu).then_some(*number))
    }

    /// The NUMA node of the vCPUs, if they are all on one.
    pub(super) fn node(&self) -> Option<u32> {
        let mut nodes = self.guest.cpus.iter().map(|cpu| self.node_of(*cpu));
        let first = nodes.next()??;
        nodes.all(|node| node == Some(first)).then_some(first)
    }

    /// Whether the kernel keeps its load balancer away from all of `cpus`.
    pub(super) fn isolated(&self, cpus: &CpuSet) -> bool {
        let isolated = self.facts.isolated.as_ref();
        isolated.is_ok_and(|isolated| cpus.is_subset(isolated))
    }
}

/// The verdict of what concerns CPUs of vCPUs where none are known.
pub(super) fn unnamed() -> Verdict {
    Verdict::not_applicable(
        "no CPU is known to be a vCPU's: name a config with cpus.affinity, or --cpus",
    )
}

/// `CPU 3`, `CPUs 2-3`.
pub(super) fn cpus_text(cpus: &CpuSet) -> String {
    count(cpus.len(), "CPU", "CPUs") + " " + &format_cpu_list(cpus)
}

//! What is migrated: memory, workload, shape.

use std::fmt;

use serde::Serialize;

/// What the guest's memory is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Memory {
    /// Private anonymous memory: what QEMU gives unless told; godwit's is always shared.
    Private,
    /// A shared memfd of 4 KiB pages.
    Shared,
    /// A shared memfd of 2 MiB pages, each made when it is touched.
    Huge,
    /// A shared memfd of 2 MiB pages, all made at the start.
    Prefaulted,
}

impl Memory {
    /// Whether it takes pages from the pool of 2 MiB pages.
    pub fn is_huge(self) -> bool {
        matches!(self, Self::Huge | Self::Prefaulted)
    }
}

/// What the guest does meanwhile; it always beats on COM1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Workload {
    /// 64 MiB were written before.
    Idle,
    /// So many MiB were written before.
    Written(u64),
    /// 512 MiB were written before, and at most so many pages a second are written again, within
    /// 64 MiB.
    Dirtying(u64),
}

/// How a guest's memory gets to the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// Over so many TCP connections on the loopback interface.
    Streams(u32),
    /// As file descriptors, over a Unix socket.
    Handover,
}

/// One case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Case {
    /// Memory.
    pub memory: Memory,
    /// Workload.
    pub workload: Workload,
    /// vCPUs.
    pub vcpus: u32,
    /// Connections, or a handover.
    pub way: Way,
    /// Guest memory in MiB.
    pub size_mib: u64,
}

impl fmt::Display for Case {
    /// The name by which `--case` finds it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let memory = match self.memory {
            Memory::Private => "private",
            Memory::Shared => "shared",
            Memory::Huge => "huge",
            Memory::Prefaulted => "prefaulted",
        };
        write!(f, "{memory}/")?;
        match self.workload {
            Workload::Idle => write!(f, "idle")?,
            Workload::Written(mib) => write!(f, "written-{mib}M")?,
            Workload::Dirtying(rate) => write!(f, "dirty-{rate}")?,
        }
        write!(f, "/{}vcpu", self.vcpus)?;
        match self.way {
            Way::Streams(streams) => write!(f, "/{streams}tcp")?,
            Way::Handover => write!(f, "/handover")?,
        }
        write!(f, "/{}M", self.size_mib)
    }
}

impl Case {
    fn new(memory: Memory, workload: Workload, size_mib: u64) -> Self {
        Self {
            memory,
            workload,
            vcpus: 1,
            way: Way::Streams(1),
            size_mib,
        }
    }

    /// The payload's command line.
    ///
    /// A page gets one line of its 64: an interpreted guest writes no more in useful time, and a
    /// VMM that skips zero pages sends the page whole.
    pub fn command_line(&self) -> String {
        let (fill, rest) = match self.workload {
            Workload::Idle => (64, String::new()),
            Workload::Written(mib) => (mib, String::new()),
            Workload::Dirtying(rate) => (
                512,
                format!(" sweep dirty=64 over=64M rate={rate} report=500"),
            ),
        };
        let fill = fill.min(self.size_mib.saturating_sub(64) / 2);
        let smp = match self.vcpus {
            1 => String::new(),
            vcpus => format!("smp={vcpus} "),
        };
        format!("{smp}fill={fill}M lines=1 sparse{rest}")
    }

    /// Memory in MiB that the machine must have for it, for both sides and the VMMs themselves.
    /// Who touches everything while it looks for zeros needs all of the guest's; who does not,
    /// what the guest has written.
    pub fn needs_mib(&self, touches_all: bool) -> u64 {
        let written = match self.workload {
            Workload::Idle => 64,
            Workload::Written(mib) => mib,
            Workload::Dirtying(_) => 512,
        };
        let each = if touches_all || self.memory.is_huge() {
            self.size_mib
        } else {
            written.min(self.size_mib)
        };
        // KVM's own tables for the guest's memory are about two thousandths of it.
        2 * (each + self.size_mib / 400) + 512
    }

    /// Whether only who leaves absent memory alone can do it in useful time.
    pub fn is_vast(&self) -> bool {
        self.size_mib > 16 << 10
    }

    /// Huge pages of 2 MiB for both sides: each reserves all of its memory.
    pub fn huge_pages(&self) -> u64 {
        if self.memory.is_huge() {
            self.size_mib
        } else {
            0
        }
    }
}

/// Every case, for guests of `size_mib` where size is not what varies.
pub fn all(size_mib: u64) -> Vec<Case> {
    use Memory::{Huge, Prefaulted, Private, Shared};
    use Workload::{Dirtying, Idle, Written};
    const RATE: u64 = 120_000;
    let mut cases = Vec::new();
    for memory in [Private, Shared, Huge, Prefaulted] {
        for workload in [Idle, Written(1024), Dirtying(RATE)] {
            cases.push(Case::new(memory, workload, size_mib));
        }
    }
    for rate in [10_000, 40_000] {
        cases.push(Case::new(Shared, Dirtying(rate), size_mib));
    }
    for vcpus in [2, 4] {
        let base = Case::new(Shared, Idle, size_mib);
        cases.push(Case { vcpus, ..base });
    }
    for streams in [2, 4] {
        for memory in [Shared, Huge] {
            let base = Case::new(memory, Written(1024), size_mib);
            cases.push(Case {
                way: Way::Streams(streams),
                ..base
            });
        }
    }
    for memory in [Shared, Huge] {
        let base = Case::new(memory, Idle, size_mib);
        cases.push(Case {
            way: Way::Handover,
            ..base
        });
    }
    for size in [1024, 2048, 4096, 8192, 16384] {
        for memory in [Shared, Prefaulted] {
            let case = Case::new(memory, Idle, size);
            if !cases.contains(&case) {
                cases.push(case);
            }
        }
    }
    // What is absent costs next to nothing, however much it is.
    for size in [64 << 10, 256 << 10, 1 << 20] {
        cases.push(Case::new(Shared, Idle, size));
    }
    cases
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_case_has_a_name_of_its_own() {
        let cases = all(8192);
        let names: BTreeSet<_> = cases.iter().map(Case::to_string).collect();
        assert_eq!(names.len(), cases.len());
        assert!(names.contains("prefaulted/dirty-120000/1vcpu/1tcp/8192M"));
        assert!(names.contains("shared/idle/1vcpu/handover/8192M"));
        assert!(names.contains("shared/idle/1vcpu/1tcp/16384M"));
        assert!(names.contains("shared/idle/1vcpu/1tcp/1048576M"));
    }

    #[test]
    fn a_small_guest_is_not_asked_to_write_more_than_it_has() {
        let case = Case::new(Memory::Shared, Workload::Written(1024), 512);
        assert!(case.command_line().starts_with("fill=224M "));
    }
}

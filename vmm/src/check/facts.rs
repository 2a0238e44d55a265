//! What a host shows of itself: read once, judged later.
//!
//! Every fact is there, or a reason why it is not. Nothing that a file holds is
//! trusted: what is not understood is a reason as well.

mod cgroup;
mod command_line;
mod cpus;
mod interrupts;
mod links;
mod list;
mod processor;
mod steering;
mod threads;
mod tree;

use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use crate::spec::{CpuSet, HostCpu, HostFacts, Wanted};

pub use cgroup::{Cgroup, Limit};
pub use command_line::CommandLine;
pub use cpus::{CpuFacts, IdleState};
pub use interrupts::{Count, Interrupts, Irq};
pub(super) use links::uplinks;
pub use links::{Link, Uplink};
pub use list::{parse_list, parse_mask};
pub use processor::{Processor, Vendor};
pub use steering::Queue;
pub use threads::Thread;
pub use tree::{Fact, Unread};

use tree::Tree;

/// Counts System Management Interrupts on Intel's processors (`MSR_SMI_COUNT`).
const MSR_SMI_COUNT: u64 = 0x34;

/// What a host shows of itself.
#[derive(Debug)]
pub struct Facts {
    files: BTreeMap<&'static str, Fact<String>>,
    devices: BTreeMap<&'static str, Fact<()>>,
    release: Fact<String>,
    /// How long counters were watched.
    pub interval: Duration,
    /// CPUs, nodes and huge pages as a config is judged by.
    pub host: Fact<HostFacts>,
    /// CPUs that the load balancer leaves alone.
    pub isolated: Fact<CpuSet>,
    /// The kernel's command line.
    pub command_line: Fact<CommandLine>,
    /// What kind of CPU it is.
    pub processor: Fact<Processor>,
    /// Each CPU that is online.
    pub cpus: BTreeMap<HostCpu, CpuFacts>,
    /// How long waking up may take at most, in microseconds, by
    /// `/dev/cpu_dma_latency`.
    pub wake_up_us: Fact<i32>,
    /// System Management Interrupts before and after the interval.
    pub smis: Fact<(u64, u64)>,
    /// What slows the kernel down to be safe, by the name of the flaw.
    pub vulnerabilities: Fact<BTreeMap<String, String>>,
    /// Interrupts that devices raise, and their counts.
    pub interrupts: Fact<Interrupts>,
    /// All threads but our own.
    pub threads: Fact<Vec<Thread>>,
    /// The limits that we run under.
    pub cgroup: Cgroup,
    /// Network interfaces by name.
    pub links: Fact<BTreeMap<String, Link>>,
    /// Queues of network devices that have CPUs of their choice.
    pub steering: Fact<Vec<Queue>>,
    /// Kinds of domains of the IOMMU's groups; empty: there is none.
    pub iommu_domains: Fact<Vec<String>>,
}

impl Facts {
    /// Reads them below `root`, and the files at `paths` as they are.
    #[must_use]
    pub fn read(
        root: &Path,
        paths: impl Iterator<Item = &'static str>,
        interval: Duration,
    ) -> Self {
        let tree = Tree::new(root);
        let mut files = BTreeMap::new();
        let mut devices = BTreeMap::new();
        for path in paths.filter(|path| !path.contains('*')) {
            match path.strip_prefix("dev/") {
                Some(_) => {
                    devices.insert(path, tree.usable(path));
                }
                None => {
                    files.insert(path, tree.text(path));
                }
            }
        }
        let host = HostFacts::read_from(root, Wanted::ALL).map_err(|error| Unread::Odd {
            path: "sys/devices/system".to_owned(),
            reason: error.to_string(),
        });
        let online = host.as_ref().map(|host| host.online_cpus.clone());
        let online = online.unwrap_or_default();
        let smi_count = || match online.first() {
            Some(cpu) => tree.number_at(&format!("dev/cpu/{cpu}/msr"), MSR_SMI_COUNT),
            None => Err(Unread::missing("dev/cpu/0/msr")),
        };

        let before = (smi_count(), interrupts::counts(&tree));
        if !interval.is_zero() {
            std::thread::sleep(interval);
        }
        let smis = before.0.and_then(|before| Ok((before, smi_count()?)));
        let interrupts = before.1.and_then(|before| interrupts::read(&tree, before));

        Self {
            files,
            devices,
            release: tree.text("proc/sys/kernel/osrelease"),
            interval,
            isolated: tree
                .text("sys/devices/system/cpu/isolated")
                .and_then(|text| list::understood("sys/devices/system/cpu/isolated", &text)),
            command_line: tree
                .text("proc/cmdline")
                .map(|text| CommandLine::parse(&text)),
            processor: tree
                .text("proc/cpuinfo")
                .map(|text| Processor::parse(&text)),
            cpus: online
                .iter()
                .map(|cpu| (*cpu, CpuFacts::read(&tree, *cpu)))
                .collect(),
            wake_up_us: cpus::wake_up_us(&tree),
            smis,
            vulnerabilities: vulnerabilities(&tree),
            interrupts,
            threads: threads::read(&tree),
            cgroup: Cgroup::read(&tree),
            links: links::read(&tree),
            steering: steering::read(&tree),
            iommu_domains: iommu_domains(&tree),
            host,
        }
    }

    /// The kernel's release.
    #[must_use]
    pub fn release(&self) -> Option<&str> {
        self.release.as_deref().ok()
    }

    /// What a file of the table holds, without blanks around it.
    ///
    /// # Errors
    /// It is not there, may not be read, or is not one that was read.
    pub fn file(&self, path: &str) -> Fact<&str> {
        debug_assert!(self.files.contains_key(path), "no row reads {path}");
        match self.files.get(path) {
            Some(fact) => seen(fact).map(String::as_str),
            None => Err(Unread::missing(path)),
        }
    }

    /// The same; `None` if it is not there.
    ///
    /// # Errors
    /// It may not be read.
    pub fn optional(&self, path: &str) -> Fact<Option<&str>> {
        match self.file(path) {
            Ok(text) => Ok(Some(text)),
            Err(Unread::Missing { .. }) => Ok(None),
            Err(unread) => Err(unread),
        }
    }

    /// The number that a file of the table holds.
    ///
    /// # Errors
    /// As [`Self::file`], or it is no number.
    pub fn number<T: FromStr>(&self, path: &str) -> Fact<T> {
        let text = self.file(path)?;
        text.parse()
            .map_err(|_| Unread::odd(path, text, "a number"))
    }

    /// The switch that a file of the table holds: `Y` or `N`, 1 or 0.
    ///
    /// # Errors
    /// As [`Self::file`], or it is no switch.
    pub fn switch(&self, path: &str) -> Fact<bool> {
        match self.file(path)? {
            "Y" | "y" | "1" => Ok(true),
            "N" | "n" | "0" => Ok(false),
            text => Err(Unread::odd(path, text, "Y or N")),
        }
    }

    /// What is chosen of the words in a file of the table: `always [madvise] never`.
    ///
    /// # Errors
    /// As [`Self::file`], or no word is chosen.
    pub fn choice(&self, path: &str) -> Fact<&str> {
        let text = self.file(path)?;
        chosen(text).ok_or_else(|| Unread::odd(path, text, "words, one of them in brackets"))
    }

    /// The CPU list that a file of the table holds.
    ///
    /// # Errors
    /// As [`Self::file`], or it is no list.
    pub fn list(&self, path: &str) -> Fact<CpuSet> {
        list::understood(path, self.file(path)?)
    }

    /// The CPU mask that a file of the table holds.
    ///
    /// # Errors
    /// As [`Self::file`], or it is no mask.
    pub fn mask(&self, path: &str) -> Fact<CpuSet> {
        let text = self.file(path)?;
        parse_mask(text).ok_or_else(|| Unread::odd(path, text, "a CPU mask"))
    }

    /// Whether a device of the table may be used.
    ///
    /// # Errors
    /// Why not.
    pub fn device(&self, path: &str) -> Fact<()> {
        debug_assert!(self.devices.contains_key(path), "no row reads {path}");
        match self.devices.get(path) {
            Some(fact) => fact.clone(),
            None => Err(Unread::missing(path)),
        }
    }

    /// What is known of a CPU.
    ///
    /// # Errors
    /// It is not online, or not known to be.
    pub fn cpu(&self, cpu: HostCpu) -> Fact<&CpuFacts> {
        let missing = || Unread::missing(&format!("sys/devices/system/cpu/cpu{cpu}"));
        self.cpus.get(&cpu).ok_or_else(missing)
    }

    /// CPUs that are online.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn online(&self) -> Fact<&CpuSet> {
        seen(&self.host).map(|host| &host.online_cpus)
    }
}

/// A fact that is there, or why not.
pub(super) fn seen<T>(fact: &Fact<T>) -> Fact<&T> {
    fact.as_ref().map_err(Unread::clone)
}

/// The word in brackets.
pub(super) fn chosen(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once('[')?;
    rest.split_once(']').map(|(word, _)| word)
}

fn vulnerabilities(tree: &Tree) -> Fact<BTreeMap<String, String>> {
    let folder = "sys/devices/system/cpu/vulnerabilities";
    let names = tree.names(folder)?;
    Ok(names
        .into_iter()
        .filter_map(|name| {
            let text = tree.text(&format!("{folder}/{name}")).ok()?;
            Some((name, text))
        })
        .collect())
}

fn iommu_domains(tree: &Tree) -> Fact<Vec<String>> {
    let folder = "sys/kernel/iommu_groups";
    let groups = match tree.names(folder) {
        Err(Unread::Missing { .. }) => return Ok(Vec::new()),
        groups => groups?,
    };
    let kinds = groups
        .iter()
        .map(|group| tree.text(&format!("{folder}/{group}/type")));
    kinds.collect()
}

#[cfg(test)]
mod tests;

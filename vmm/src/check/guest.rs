//! What a guest needs of the host: its config, read leniently.
//!
//! A config that contradicts itself is still judged, so nothing here is a
//! [`MachineSpec`]: that is asked only for what is wrong.

use std::collections::{BTreeMap, BTreeSet};

use godwit_api::config::{ExitName, SchedPolicy, VmConfig};

use super::facts::Facts;
use crate::spec::{CpuSet, HostCpu, MachineSpec, PageSize, Problem};

/// Where files of a config are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Files {
    /// Here.
    Here,
    /// On the host that is looked at from elsewhere: they are not judged.
    Elsewhere,
}

/// A guest, as far as it is known.
#[derive(Clone, Debug, Default)]
pub struct Guest {
    /// CPUs of its vCPUs that are online.
    pub cpus: CpuSet,
    /// Its config.
    pub config: Option<VmConfig>,
    /// What is wrong with the config on this host.
    pub problems: Vec<Problem>,
}

/// Huge pages that a guest needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pool {
    /// How large they are.
    pub size: PageSize,
    /// The NUMA node that they must come from.
    pub node: Option<u32>,
}

impl Guest {
    /// The guest of a config.
    #[must_use]
    pub fn of(config: VmConfig, facts: &Facts, files: Files) -> Self {
        let mut problems = match &facts.host {
            Ok(host) => match MachineSpec::from_config(&config, host) {
                Ok(_) => Vec::new(),
                Err(error) => error.problems().to_vec(),
            },
            Err(_) => Vec::new(),
        };
        if files == Files::Elsewhere {
            let of_files = ["payload.", "disks[", "rng.", "serial.", "console."];
            problems.retain(|problem| !of_files.iter().any(|of| problem.field.starts_with(of)));
        }
        let pinned = config.cpus.affinity.iter();
        let cpus = set(pinned.flat_map(|entry| &entry.host_cpus));
        Self {
            cpus: online(&cpus, facts),
            config: Some(config),
            problems,
        }
    }

    /// A guest of which no more is known than where its vCPUs run.
    #[must_use]
    pub fn on(cpus: &CpuSet, facts: &Facts) -> Self {
        Self {
            cpus: online(cpus, facts),
            ..Self::default()
        }
    }

    /// A guest of which nothing is known: isolated CPUs are there for one.
    #[must_use]
    pub fn unnamed(facts: &Facts) -> Self {
        let isolated = facts.isolated.clone().unwrap_or_default();
        Self::on(&isolated, facts)
    }

    /// Where each vCPU may run.
    #[must_use]
    pub fn pinned(&self) -> BTreeMap<u32, CpuSet> {
        let mut pinned: BTreeMap<u32, CpuSet> = BTreeMap::new();
        for entry in self.config.iter().flat_map(|config| &config.cpus.affinity) {
            let cpus = pinned.entry(entry.vcpu).or_default();
            cpus.extend(set(&entry.host_cpus));
        }
        pinned
    }

    /// CPUs that the config gives to threads that are no vCPU's, by field.
    #[must_use]
    pub fn other_cpus(&self) -> Vec<(String, CpuSet)> {
        let Some(config) = &self.config else {
            return Vec::new();
        };
        let platform = &config.platform;
        let lists = [
            ("platform.emulator_cpus", &platform.emulator_cpus),
            ("platform.migration_cpus", &platform.migration_cpus),
        ];
        let lists = lists.map(|(name, cpus)| (name.to_owned(), set(cpus)));
        let workers = config.net.iter().enumerate().map(|(at, net)| {
            (
                format!("net[{at}].worker_cpus"),
                set(net.worker_cpus.iter()),
            )
        });
        let all = lists.into_iter().chain(workers);
        all.filter(|(_, cpus)| !cpus.is_empty()).collect()
    }

    /// Whether the config asks for low latency in any way.
    #[must_use]
    pub fn wants_latency(&self) -> bool {
        self.config.as_ref().is_some_and(|config| {
            let cpus = &config.cpus;
            self.is_fifo() || cpus.realtime_hint || !cpus.disable_exits.is_empty()
        })
    }

    /// Whether vCPU threads are `SCHED_FIFO`.
    #[must_use]
    pub fn is_fifo(&self) -> bool {
        let sched = self
            .config
            .as_ref()
            .and_then(|config| config.cpus.sched.as_ref());
        sched.is_some_and(|sched| sched.policy == SchedPolicy::Fifo)
    }

    /// Whether an instruction does not leave the guest.
    #[must_use]
    pub fn keeps(&self, exit: ExitName) -> bool {
        let config = self.config.as_ref();
        config.is_some_and(|config| config.cpus.disable_exits.contains(&exit))
    }

    /// Memory that is locked or cannot be swapped: all of it.
    #[must_use]
    pub fn stays_in_memory(&self) -> bool {
        self.config
            .as_ref()
            .is_some_and(|config| config.memory.lock)
    }

    /// Memory on small pages, in bytes.
    #[must_use]
    pub fn small_bytes(&self) -> u64 {
        let pieces = self.pieces().into_iter();
        let small = pieces.filter(|piece| !piece.huge).map(|piece| piece.bytes);
        small.fold(0, u64::saturating_add)
    }

    /// All memory, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let pieces = self.pieces().into_iter();
        pieces.fold(0, |sum, piece| sum.saturating_add(piece.bytes))
    }

    /// Pages wanted of each pool. `default`: the size when none is asked for.
    #[must_use]
    pub fn pools(&self, default: PageSize) -> BTreeMap<Pool, u64> {
        let mut pools = BTreeMap::new();
        for piece in self.pieces().into_iter().filter(|piece| piece.huge) {
            let size = match piece.page {
                None => default,
                Some(bytes) => match PageSize::huge_from_bytes(bytes) {
                    Some(size) => size,
                    None => continue,
                },
            };
            let pool = Pool {
                size,
                node: piece.node,
            };
            let pages: &mut u64 = pools.entry(pool).or_default();
            *pages = pages.saturating_add(piece.bytes.div_ceil(size.bytes()));
        }
        pools
    }

    /// Host nodes that memory is bound to; `None` among them: a piece is not bound.
    #[must_use]
    pub fn memory_nodes(&self) -> BTreeSet<Option<u32>> {
        self.pieces().into_iter().map(|piece| piece.node).collect()
    }

    fn pieces(&self) -> Vec<Piece> {
        let Some(memory) = self.config.as_ref().map(|config| &config.memory) else {
            return Vec::new();
        };
        if memory.zones.is_empty() {
            return vec![Piece {
                bytes: memory.size.unwrap_or(512 << 20),
                huge: memory.hugepages,
                page: memory.hugepage_size,
                node: None,
            }];
        }
        let zones = memory.zones.iter().map(|zone| Piece {
            bytes: zone.size,
            huge: zone.hugepages,
            page: zone.hugepage_size,
            node: zone.host_numa_node,
        });
        zones.collect()
    }
}

/// A piece of guest memory.
struct Piece {
    bytes: u64,
    huge: bool,
    page: Option<u64>,
    node: Option<u32>,
}

/// Numbers as CPUs.
pub(super) fn set<'a>(numbers: impl IntoIterator<Item = &'a u32>) -> CpuSet {
    numbers.into_iter().copied().map(HostCpu).collect()
}

/// Those that run threads; others have problems of their own.
fn online(cpus: &CpuSet, facts: &Facts) -> CpuSet {
    match facts.online() {
        Ok(online) => cpus.intersection(online).copied().collect(),
        Err(_) => cpus.clone(),
    }
}

//! vCPUs, where they run and how.

use std::collections::BTreeMap;
use std::fmt;

use godwit_api::config::{
    AffinityConfig, CoreScheduling, CpusConfig, ExitName, SchedConfig, SchedPolicy, TopologyConfig,
};

use super::error::Problems;
use super::facts::HostFacts;
use super::host_cpu::{CpuSet, HostCpu, format_cpu_list};
use crate::arch::Topology;

/// The most vCPUs a machine has.
pub const MAX_VCPUS: u8 = 64;

/// Widths of guest physical addresses that are accepted, in bits: 1 TiB of
/// memory and the devices above it need 41; 52 is the most x86-64 has.
const PHYS_BITS: std::ops::RangeInclusive<u8> = 41..=52;

/// A vCPU, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VcpuId(pub u8);

impl fmt::Display for VcpuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A priority of `SCHED_FIFO`, 1 to 99 (sched(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FifoPriority(u8);

impl FifoPriority {
    /// The priority, if it is one.
    #[must_use]
    pub const fn new(priority: u8) -> Option<Self> {
        if priority >= 1 && priority <= 99 {
            Some(Self(priority))
        } else {
            None
        }
    }

    /// The number, 1 to 99.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
}

/// Instructions that do not leave the guest (`KVM_CAP_X86_DISABLE_EXITS`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DisabledExits {
    /// `HLT`.
    pub hlt: bool,
    /// `PAUSE`.
    pub pause: bool,
    /// `MWAIT`.
    pub mwait: bool,
}

impl DisabledExits {
    /// Whether every instruction leaves the guest as usual.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        !(self.hlt || self.pause || self.mwait)
    }
}

/// The guest's vCPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuSpec {
    /// How they are grouped; its product is their number, 1 to 64.
    pub topology: Topology,
    /// Where each runs: online CPUs, at least one. A vCPU that is not here
    /// runs anywhere.
    pub affinity: BTreeMap<VcpuId, CpuSet>,
    /// `SCHED_FIFO` with this priority; `None`: the default class.
    pub sched: Option<FifoPriority>,
    /// What may share a physical core with a vCPU.
    pub core_scheduling: CoreScheduling,
    /// Instructions that do not leave the guest.
    pub disable_exits: DisabledExits,
    /// How long KVM polls for a halted vCPU, in nanoseconds
    /// (`KVM_CAP_HALT_POLL`); `None`: the module's parameter decides.
    pub halt_poll_ns: Option<u32>,
    /// Whether the guest sees `KVM_HINTS_REALTIME`.
    pub realtime_hint: bool,
    /// Whether the guest may see `vmx` or `svm`.
    pub nested: bool,
    /// Width of guest physical addresses at most, in bits.
    pub max_phys_bits: u8,
}

impl CpuSpec {
    /// All vCPUs in order.
    pub fn vcpus(&self) -> impl Iterator<Item = VcpuId> + use<> {
        let count = u8::try_from(self.topology.vcpus()).unwrap_or(MAX_VCPUS);
        (0..count).map(VcpuId)
    }
}

pub(super) fn build(
    config: &CpusConfig,
    facts: &HostFacts,
    problems: &mut Problems,
) -> Option<CpuSpec> {
    let count = count(config, problems);
    let topology = match (&config.topology, count) {
        (Some(shape), Some(count)) => topology(shape, count, problems),
        (None, Some(count)) => Some(Topology::flat(count)),
        (_, None) => None,
    };
    let affinity = affinity(&config.affinity, count, facts, problems);
    let sched = config
        .sched
        .as_ref()
        .and_then(|sched| fifo(sched, problems));
    if sched.is_some() {
        check_fifo_alone(&affinity, problems);
    }
    if !PHYS_BITS.contains(&config.max_phys_bits) {
        problems.invalid(
            "cpus.max_phys_bits",
            format!(
                "{} is out of range; {} to {} bits are possible",
                config.max_phys_bits,
                PHYS_BITS.start(),
                PHYS_BITS.end()
            ),
        );
    }
    Some(CpuSpec {
        topology: topology?,
        affinity,
        sched,
        core_scheduling: config.core_scheduling.unwrap_or(CoreScheduling::Off),
        disable_exits: DisabledExits {
            hlt: config.disable_exits.contains(&ExitName::Hlt),
            pause: config.disable_exits.contains(&ExitName::Pause),
            mwait: config.disable_exits.contains(&ExitName::Mwait),
        },
        halt_poll_ns: config.halt_poll_ns,
        realtime_hint: config.realtime_hint,
        nested: config.nested,
        max_phys_bits: config.max_phys_bits,
    })
}

/// The number of vCPUs.
fn count(config: &CpusConfig, problems: &mut Problems) -> Option<u8> {
    let boot = config.boot_vcpus;
    let field = "cpus.boot_vcpus";
    let count = match u8::try_from(boot) {
        Ok(0) => {
            problems.invalid(
                field,
                format!("0 is too few; a machine has 1 to {MAX_VCPUS} vCPUs"),
            );
            None
        }
        Ok(count) if count <= MAX_VCPUS => Some(count),
        _ => {
            problems.invalid(
                field,
                format!("{boot} is too many; a machine has 1 to {MAX_VCPUS} vCPUs"),
            );
            None
        }
    };
    match config.max_vcpus {
        Some(max) if max > boot => problems.unsupported(
            "cpus.max_vcpus",
            format!(
                "{max} is more than boot_vcpus ({boot}), and vCPUs cannot be added later; \
                 set both to the number that is needed"
            ),
        ),
        Some(max) if max < boot => problems.invalid(
            "cpus.max_vcpus",
            format!("{max} is less than boot_vcpus ({boot}); set both to one number"),
        ),
        _ => {}
    }
    count
}

fn topology(shape: &TopologyConfig, count: u8, problems: &mut Problems) -> Option<Topology> {
    let levels = [
        ("threads_per_core", shape.threads_per_core, 2),
        ("cores_per_die", shape.cores_per_die, MAX_VCPUS),
        ("dies_per_package", shape.dies_per_package, MAX_VCPUS),
        ("packages", shape.packages, MAX_VCPUS),
    ];
    let mut checked = [0_u8; 4];
    let mut good = true;
    for ((name, value, most), slot) in levels.into_iter().zip(&mut checked) {
        match u8::try_from(value) {
            Ok(value) if (1..=most).contains(&value) => *slot = value,
            _ => {
                good = false;
                problems.invalid(
                    format!("cpus.topology.{name}"),
                    format!("{value} is out of range; 1 to {most} is possible"),
                );
            }
        }
    }
    if !good {
        return None;
    }
    let [threads_per_core, cores_per_die, dies_per_package, packages] = checked;
    let topology = Topology {
        threads_per_core,
        cores_per_die,
        dies_per_package,
        packages,
    };
    if topology.vcpus() != u32::from(count) {
        problems.invalid(
            "cpus.topology",
            format!(
                "{packages} packages × {dies_per_package} dies × {cores_per_die} cores × \
                 {threads_per_core} threads are {} vCPUs, but boot_vcpus is {count}; \
                 make them equal",
                topology.vcpus()
            ),
        );
        return None;
    }
    Some(topology)
}

fn affinity(
    entries: &[AffinityConfig],
    count: Option<u8>,
    facts: &HostFacts,
    problems: &mut Problems,
) -> BTreeMap<VcpuId, CpuSet> {
    let mut affinity = BTreeMap::new();
    for (i, entry) in entries.iter().enumerate() {
        let field = format!("cpus.affinity[{i}]");
        let vcpu = u8::try_from(entry.vcpu).ok().map(VcpuId);
        let vcpu = match (vcpu, count) {
            // The number of vCPUs itself is wrong, and that has been told.
            (vcpu, None) => vcpu,
            (Some(vcpu), Some(count)) if vcpu.0 < count => Some(vcpu),
            (_, Some(count)) => {
                problems.invalid(
                    format!("{field}.vcpu"),
                    format!(
                        "there is no vCPU {}; the machine has vCPUs 0 to {}",
                        entry.vcpu,
                        count.saturating_sub(1)
                    ),
                );
                None
            }
        };
        let field = format!("{field}.host_cpus");
        if entry.host_cpus.is_empty() {
            problems.invalid(
                field,
                format!(
                    "empty, so vCPU {} could run nowhere; name a CPU, or leave the \
                     entry out to let it run anywhere",
                    entry.vcpu
                ),
            );
            continue;
        }
        let Some(cpus) = host_cpus(&field, &entry.host_cpus, facts, problems) else {
            continue;
        };
        if let Some(vcpu) = vcpu
            && affinity.insert(vcpu, cpus).is_some()
        {
            problems.duplicate(
                format!("cpus.affinity[{i}].vcpu"),
                format!("vCPU {vcpu} has an entry already; join the two"),
            );
        }
    }
    affinity
}

/// Numbers of host CPUs that are online.
pub(super) fn host_cpus(
    field: &str,
    numbers: &[u32],
    facts: &HostFacts,
    problems: &mut Problems,
) -> Option<CpuSet> {
    let cpus: CpuSet = numbers.iter().copied().map(HostCpu).collect();
    let absent: CpuSet = cpus.difference(&facts.present_cpus).copied().collect();
    let offline: CpuSet = cpus
        .intersection(&facts.present_cpus)
        .filter(|cpu| !facts.online_cpus.contains(cpu))
        .copied()
        .collect();
    let online = format_cpu_list(&facts.online_cpus);
    if !absent.is_empty() {
        problems.host(
            field,
            format!(
                "this host has no CPU {}; online are {online}",
                format_cpu_list(&absent)
            ),
        );
    }
    if let Some(first) = offline.first() {
        problems.host(
            field,
            format!(
                "CPU {} is offline; online are {online}; to bring it up: \
                 echo 1 > /sys/devices/system/cpu/cpu{first}/online",
                format_cpu_list(&offline)
            ),
        );
    }
    (absent.is_empty() && offline.is_empty()).then_some(cpus)
}

fn fifo(sched: &SchedConfig, problems: &mut Problems) -> Option<FifoPriority> {
    let field = "cpus.sched.priority";
    match (sched.policy, sched.priority) {
        (SchedPolicy::Other, None | Some(0)) => None,
        (SchedPolicy::Other, Some(priority)) => {
            problems.invalid(
                field,
                format!(
                    "{priority} means nothing with policy \"other\"; leave it out, or set the \
                     policy to \"fifo\""
                ),
            );
            None
        }
        (SchedPolicy::Fifo, None) => {
            problems.invalid(
                field,
                "missing; policy \"fifo\" needs a priority of 1 to 99",
            );
            None
        }
        (SchedPolicy::Fifo, Some(priority)) => {
            let good = u8::try_from(priority).ok().and_then(FifoPriority::new);
            if good.is_none() {
                problems.invalid(
                    field,
                    format!("{priority} is out of range; SCHED_FIFO has priorities 1 to 99"),
                );
            }
            good
        }
    }
}

/// Under `SCHED_FIFO` a thread runs until it sleeps, so of two busy vCPUs on
/// one CPU the second never runs.
fn check_fifo_alone(affinity: &BTreeMap<VcpuId, CpuSet>, problems: &mut Problems) {
    let mut owners: BTreeMap<HostCpu, VcpuId> = BTreeMap::new();
    for (vcpu, cpus) in affinity {
        if let (1, Some(cpu)) = (cpus.len(), cpus.first())
            && let Some(other) = owners.insert(*cpu, *vcpu)
        {
            problems.invalid(
                "cpus.affinity",
                format!(
                    "vCPUs {other} and {vcpu} are both pinned to CPU {cpu}; under policy \"fifo\" \
                     one would starve the other; give each a CPU of its own"
                ),
            );
        }
    }
}

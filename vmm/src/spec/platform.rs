//! CPUs for the threads that are no vCPU's.

use std::collections::BTreeMap;

use godwit_api::config::{PlatformConfig, VmConfig};

use super::cpus::host_cpus;
use super::error::Problems;
use super::facts::HostFacts;
use super::host_cpu::CpuSet;

/// CPUs for the threads that are no vCPU's.
///
/// No CPU here is one that a vCPU is pinned to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlatformSpec {
    /// For every thread that is no vCPU's; `None`: where the process was
    /// started.
    pub emulator_cpus: Option<CpuSet>,
    /// For migration threads; `None`: as `emulator_cpus`.
    pub migration_cpus: Option<CpuSet>,
}

pub(super) fn build(
    config: &PlatformConfig,
    facts: &HostFacts,
    problems: &mut Problems,
) -> PlatformSpec {
    let mut set = |name: &str, cpus: &[u32]| match cpus {
        [] => None,
        cpus => host_cpus(&format!("platform.{name}"), cpus, facts, problems),
    };
    PlatformSpec {
        emulator_cpus: set("emulator_cpus", &config.emulator_cpus),
        migration_cpus: set("migration_cpus", &config.migration_cpus),
    }
}

/// Whoever names CPUs for other threads wants vCPUs left alone, so naming a
/// vCPU's own CPU there contradicts itself. Without such a list the kernel may
/// put other threads anywhere.
pub(super) fn check_isolation(config: &VmConfig, problems: &mut Problems) {
    let mut owners = BTreeMap::new();
    for entry in &config.cpus.affinity {
        for &cpu in &entry.host_cpus {
            owners.entry(cpu).or_insert(entry.vcpu);
        }
    }
    let workers = config
        .net
        .iter()
        .enumerate()
        .map(|(i, net)| (format!("net[{i}].worker_cpus"), &net.worker_cpus));
    let lists = [
        ("emulator_cpus", &config.platform.emulator_cpus),
        ("migration_cpus", &config.platform.migration_cpus),
    ];
    for (field, cpus) in lists
        .into_iter()
        .map(|(name, cpus)| (format!("platform.{name}"), cpus))
        .chain(workers)
    {
        for cpu in cpus {
            if let Some(vcpu) = owners.get(cpu) {
                problems.invalid(
                    &*field,
                    format!(
                        "CPU {cpu} is where vCPU {vcpu} is pinned, and other threads would \
                         disturb it; take it out of one of the two"
                    ),
                );
            }
        }
    }
}

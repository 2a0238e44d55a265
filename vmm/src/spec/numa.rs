//! NUMA nodes that the guest sees.

use std::collections::{BTreeMap, BTreeSet};

use godwit_api::config::{DistanceConfig, NumaConfig, VmConfig};

use super::cpus::{MAX_VCPUS, VcpuId};
use super::error::Problems;

/// Distance of a node from itself (ACPI 6.5, 5.2.17).
const LOCAL: u8 = 10;
/// Distance that means "not reachable".
const UNREACHABLE: u8 = 255;

/// One NUMA node of the guest.
///
/// Where any node is described, each vCPU and each memory zone is in exactly
/// one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NumaNodeSpec {
    /// Its number in the guest (the proximity domain).
    pub id: u32,
    /// Its vCPUs.
    pub vcpus: BTreeSet<VcpuId>,
    /// Its memory, as indices into the zones of the machine.
    pub zones: BTreeSet<usize>,
    /// Distances to other nodes, 11 to 254; one that is not here is the
    /// default, 20.
    pub distances: BTreeMap<u32, u8>,
}

pub(super) fn build(config: &VmConfig, problems: &mut Problems) -> Vec<NumaNodeSpec> {
    let nodes = &config.numa;
    if nodes.is_empty() {
        return Vec::new();
    }
    check_numbers(nodes, problems);
    let vcpus = vcpus_by_node(config, problems);
    let zones = zones_by_node(config, problems);
    let known: BTreeSet<u32> = nodes.iter().map(|node| node.guest_numa_id).collect();
    nodes
        .iter()
        .zip(vcpus)
        .zip(zones)
        .enumerate()
        .map(|(i, ((node, vcpus), zones))| NumaNodeSpec {
            id: node.guest_numa_id,
            vcpus,
            zones,
            distances: distances(i, node, &known, problems),
        })
        .collect()
}

fn check_numbers(nodes: &[NumaConfig], problems: &mut Problems) {
    let mut ids = BTreeSet::new();
    for (i, node) in nodes.iter().enumerate() {
        let field = format!("numa[{i}].guest_numa_id");
        let id = node.guest_numa_id;
        if !ids.insert(id) {
            problems.duplicate(
                field,
                format!("another node is number {id}; numbers must differ"),
            );
        } else if usize::try_from(id).is_ok_and(|id| id >= nodes.len()) {
            // A SLIT has a row for every number from 0 (ACPI 6.5, 5.2.17).
            problems.invalid(
                field,
                format!(
                    "{id} leaves a gap; {} nodes are numbered 0 to {}",
                    nodes.len(),
                    nodes.len().saturating_sub(1)
                ),
            );
        }
    }
}

fn vcpus_by_node(config: &VmConfig, problems: &mut Problems) -> Vec<BTreeSet<VcpuId>> {
    let count = config.cpus.boot_vcpus.min(MAX_VCPUS.into());
    let mut seen = BTreeSet::new();
    let by_node = config
        .numa
        .iter()
        .enumerate()
        .map(|(i, node)| {
            let mut vcpus = BTreeSet::new();
            for &number in &node.cpus {
                let field = format!("numa[{i}].cpus");
                match u8::try_from(number) {
                    Ok(vcpu) if number < count => {
                        if seen.insert(number) {
                            vcpus.insert(VcpuId(vcpu));
                        } else {
                            problems.duplicate(
                                field,
                                format!("vCPU {number} is named twice; it is in one node only"),
                            );
                        }
                    }
                    _ => problems.invalid(
                        field,
                        format!("there is no vCPU {number}; the machine has {count}"),
                    ),
                }
            }
            vcpus
        })
        .collect();
    let left = super::host_cpu::ranges((0..count).filter(|vcpu| !seen.contains(vcpu)));
    if !left.is_empty() {
        problems.invalid(
            "numa",
            format!("no node has vCPU {left}; name each vCPU in the \"cpus\" of one node"),
        );
    }
    by_node
}

fn zones_by_node(config: &VmConfig, problems: &mut Problems) -> Vec<BTreeSet<usize>> {
    let zones = &config.memory.zones;
    let mut seen = BTreeSet::new();
    let by_node = config
        .numa
        .iter()
        .enumerate()
        .map(|(i, node)| {
            let field = format!("numa[{i}].memory_zones");
            let mut indices = BTreeSet::new();
            for name in &node.memory_zones {
                match zones.iter().position(|zone| zone.id == *name) {
                    Some(index) if seen.insert(index) => {
                        indices.insert(index);
                    }
                    Some(_) => problems.duplicate(
                        &*field,
                        format!("zone {name:?} is named twice; it is in one node only"),
                    ),
                    None => {
                        let names: Vec<_> = zones.iter().map(|zone| zone.id.as_str()).collect();
                        let there = if names.is_empty() {
                            "\"memory.zones\" is empty".to_owned()
                        } else {
                            format!("there are {names:?}")
                        };
                        problems.invalid(&*field, format!("there is no zone {name:?}; {there}"));
                    }
                }
            }
            indices
        })
        .collect();
    if zones.is_empty() {
        problems.invalid(
            "numa",
            "nodes need memory of their own; describe it in \"memory.zones\" and name each \
             zone in the \"memory_zones\" of one node",
        );
    }
    for (index, zone) in zones.iter().enumerate() {
        if !seen.contains(&index) {
            problems.invalid(
                "numa",
                format!(
                    "no node has zone {:?}; name each zone in the \"memory_zones\" of one node",
                    zone.id
                ),
            );
        }
    }
    by_node
}

fn distances(
    i: usize,
    node: &NumaConfig,
    known: &BTreeSet<u32>,
    problems: &mut Problems,
) -> BTreeMap<u32, u8> {
    let mut distances = BTreeMap::new();
    for (j, entry) in node.distances.iter().enumerate() {
        let field = format!("numa[{i}].distances[{j}]");
        let DistanceConfig {
            destination,
            distance,
        } = *entry;
        if !known.contains(&destination) {
            problems.invalid(
                format!("{field}.destination"),
                format!("there is no node {destination}"),
            );
            continue;
        }
        let own = destination == node.guest_numa_id;
        let good = if own {
            distance == LOCAL
        } else {
            distance > LOCAL && distance < UNREACHABLE
        };
        if !good {
            let reason = if own {
                format!("{distance}, but a node is {LOCAL} from itself")
            } else {
                format!("{distance} is out of range; another node is 11 to 254 away")
            };
            problems.invalid(format!("{field}.distance"), reason);
        } else if !own && distances.insert(destination, distance).is_some() {
            problems.duplicate(field, format!("node {destination} is there twice"));
        }
    }
    distances
}

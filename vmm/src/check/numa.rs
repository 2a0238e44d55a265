//! Whether all of a guest is on one NUMA node.

use std::collections::{BTreeMap, BTreeSet};

use super::case::{Case, cpus_text, unnamed};
use super::facts::{Fact, seen, uplinks};

use super::item::{Group, How, Item, Mend, Verdict};
use super::words::some_of;
use crate::spec::{CpuSet, format_cpu_list};

pub(super) const ROWS: &[Item] = &[
    Item {
        id: "numa-cpus",
        group: Group::Numa,
        reads: &["sys/devices/system/node/node*/cpulist"],
        judge: cpus,
        why: "vCPUs on two nodes share no cache and half of their memory is far away",
        mend: &[Mend::config(
            "\"cpus\": { \"affinity\": […] } (with CPUs of one node)",
        )],
        fix: None,
    },
    Item {
        id: "numa-memory",
        group: Group::Numa,
        reads: &["sys/devices/system/node/online"],
        judge: memory,
        why: "each access to another node's memory takes half as long again",
        mend: &[Mend::config(
            "\"memory\": { \"zones\": [{ …, \"host_numa_node\": {node} }] }",
        )],
        fix: None,
    },
    Item {
        id: "numa-nic",
        group: Group::Numa,
        reads: &["sys/class/net/*/device/numa_node", "sys/class/net/*/master"],
        judge: nic,
        why: "packets of a NIC on another node cross the link between nodes twice",
        mend: &[Mend::config(
            "\"cpus\": { \"affinity\": […] } (with CPUs of the node of the tap's NIC)",
        )],
        fix: None,
    },
    Item {
        id: "numa-vhost",
        group: Group::Numa,
        reads: &["sys/devices/system/node/node*/cpulist"],
        judge: vhost,
        why: "vhost copies each packet: on another node, it does so through the link between them",
        mend: &[Mend::config(
            "\"net\": [{ …, \"worker_cpus\": […] }] (with CPUs of node {node})",
        )],
        fix: None,
    },
];

/// The verdict where there is nothing to be apart.
fn one_node(case: &Case<'_>) -> Fact<Option<Verdict>> {
    let host = seen(&case.facts.host)?;
    Ok(match host.nodes.len() {
        0 => Some(Verdict::not_applicable("this kernel has no NUMA nodes")),
        1 => Some(Verdict::not_applicable("the host has one node")),
        _ => None,
    })
}

fn nodes_of(case: &Case<'_>, cpus: &CpuSet) -> BTreeMap<u32, CpuSet> {
    let mut nodes: BTreeMap<u32, CpuSet> = BTreeMap::new();
    for cpu in cpus {
        if let Some(node) = case.node_of(*cpu) {
            nodes.entry(node).or_default().insert(*cpu);
        }
    }
    nodes
}

fn cpus(case: &Case<'_>) -> Fact<Verdict> {
    if let Some(verdict) = one_node(case)? {
        return Ok(verdict);
    }
    let Some(cpus) = case.cpus() else {
        return Ok(unnamed());
    };
    let nodes = nodes_of(case, cpus);
    let shown = nodes
        .iter()
        .map(|(node, cpus)| format!("{} on node {node}", cpus_text(cpus)));
    let found = some_of(shown);
    Ok(match nodes.len() {
        1 => Verdict::good(found),
        // Isolated CPUs of two nodes may be for two guests.
        _ if case.guest.config.is_none() => Verdict::not_applicable(found),
        _ => Verdict::warning(found),
    })
}

fn memory(case: &Case<'_>) -> Fact<Verdict> {
    if let Some(verdict) = one_node(case)? {
        return Ok(verdict);
    }
    if case.guest.config.is_none() {
        return Ok(Verdict::not_applicable("no config says where memory is"));
    }
    let bound = case.guest.memory_nodes();
    if bound.contains(&None) {
        return Ok(Verdict::warning(
            "memory is bound to no node, and comes from wherever it is had",
        ));
    }
    let bound: BTreeSet<u32> = bound.into_iter().flatten().collect();
    let Some(cpus) = case.cpus() else {
        return Ok(unnamed());
    };
    let near: BTreeSet<u32> = nodes_of(case, cpus).into_keys().collect();
    let far: Vec<_> = bound.difference(&near).collect();
    Ok(if far.is_empty() {
        Verdict::good(format!("node {}", some_of(&bound)))
    } else {
        Verdict::bad(format!(
            "memory on node {}, vCPUs on node {}",
            some_of(far),
            some_of(&near)
        ))
    })
}

/// The taps of a config that are named.
fn taps<'a>(case: &Case<'a>) -> Vec<&'a str> {
    let net = case.guest.config.iter().flat_map(|config| &config.net);
    net.filter_map(|net| net.tap.as_deref()).collect()
}

fn nic(case: &Case<'_>) -> Fact<Verdict> {
    let links = seen(&case.facts.links)?;
    if taps(case).is_empty() {
        return Ok(Verdict::not_applicable("no config names a tap"));
    }
    let Some(home) = case.node() else {
        return Ok(match one_node(case)? {
            Some(verdict) => verdict,
            None => Verdict::not_applicable("vCPUs are not on one node"),
        });
    };
    let mut shown = Vec::new();
    let mut far = BTreeSet::new();
    let mut found = false;
    for tap in taps(case) {
        for uplink in uplinks(links, tap) {
            found = true;
            match uplink.node {
                Some(node) => {
                    shown.push(format!("{tap} → {} on node {node}", uplink.name));
                    if node != home {
                        far.insert(node);
                    }
                }
                None => shown.push(format!("{tap} → {} on no node in particular", uplink.name)),
            }
        }
    }
    Ok(match (found, far.first()) {
        (false, _) => {
            Verdict::not_applicable("no tap leads to a NIC: none is on a bridge with one")
        }
        (true, None) => Verdict::good(some_of(shown)),
        (true, Some(node)) => Verdict::warning(format!("{}, vCPUs on node {home}", some_of(shown)))
            .mended(
                How::Config,
                format!("\"cpus\": {{ \"affinity\": […] }} (with CPUs of node {node})"),
            ),
    })
}

fn vhost(case: &Case<'_>) -> Fact<Verdict> {
    if let Some(verdict) = one_node(case)? {
        return Ok(verdict);
    }
    let config = case.guest.config.as_ref();
    let (Some(config), Some(home)) = (config.filter(|config| !config.net.is_empty()), case.node())
    else {
        return Ok(Verdict::not_applicable(
            "no config with a network device and vCPUs on one node",
        ));
    };
    let mut apart = Vec::new();
    for (at, net) in config.net.iter().enumerate() {
        let (field, cpus) = match (&net.worker_cpus, &config.platform.emulator_cpus) {
            (own, _) if !own.is_empty() => (format!("net[{at}].worker_cpus"), own),
            (_, all) if !all.is_empty() => ("platform.emulator_cpus".to_owned(), all),
            _ => {
                apart.push(format!("net[{at}] has no worker_cpus, and may be anywhere"));
                continue;
            }
        };
        let cpus = super::guest::set(cpus);
        let nodes = nodes_of(case, &cpus);
        if nodes.keys().any(|node| *node != home) {
            apart.push(format!(
                "{field} {} not all on node {home}",
                format_cpu_list(&cpus)
            ));
        }
    }
    Ok(if apart.is_empty() {
        Verdict::good(format!("on node {home}"))
    } else {
        Verdict::warning(some_of(apart))
    })
}

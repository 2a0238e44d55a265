//! Packets that the kernel hands to CPUs by software: RPS and XPS.

use std::collections::{BTreeMap, BTreeSet};

use super::case::{Case, cpus_text, unnamed};
use super::facts::{Fact, Queue, seen};
use super::item::{Group, How, Item, Mend, Verdict, Write};
use super::words::{mask, some_of};
use crate::spec::CpuSet;

pub(super) const RECEIVE: Item = Item {
    id: "receive-steering",
    group: Group::Runtime,
    reads: &["sys/class/net/*/queues/*/rps_cpus"],
    judge: receive,
    why: "RPS interrupts a CPU to make it process packets that another one has received",
    mend: &[Mend::write(
        "echo {mask} > /sys/class/net/NAME/queues/rx-N/rps_cpus (or 0)",
    )],
    fix: Some(fix_receive),
};

pub(super) const TRANSMIT: Item = Item {
    id: "transmit-steering",
    group: Group::Runtime,
    reads: &["sys/class/net/*/queues/*/xps_cpus"],
    judge: transmit,
    why: "vhost workers share the queues that XPS leaves them, or search for one for each packet",
    mend: &[Mend::write(
        "echo {mask} > /sys/class/net/NAME/queues/tx-N/xps_cpus (a part of it for each queue)",
    )],
    fix: None,
};

/// Receive queues that hand packets to CPUs of vCPUs, and the CPUs that they may
/// keep.
fn handing<'a>(queues: &'a [Queue], cpus: &CpuSet) -> Vec<(&'a Queue, CpuSet)> {
    queues
        .iter()
        .filter(|queue| queue.receives() && !queue.cpus.is_disjoint(cpus))
        .map(|queue| (queue, queue.cpus.difference(cpus).copied().collect()))
        .collect()
}

fn receive(case: &Case<'_>) -> Fact<Verdict> {
    let queues = seen(&case.facts.steering)?;
    let Some(cpus) = case.cpus() else {
        return Ok(unnamed());
    };
    let handing = handing(queues, cpus);
    if handing.is_empty() {
        return Ok(Verdict::good("no packet is handed to them"));
    }
    let names = |queue: &Queue| format!("{} {}", queue.interface, queue.name);
    let found = format!(
        "{} {} packets to {}",
        some_of(handing.iter().map(|(queue, _)| names(queue))),
        if handing.len() == 1 { "hands" } else { "hand" },
        cpus_text(cpus)
    );
    let mut kept: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (queue, left) in &handing {
        kept.entry(mask(left)).or_default().push(names(queue));
    }
    let mut verdict = case.disturbed(found);
    for (mask, names) in kept {
        let text = format!(
            "echo {mask} > /sys/class/net/NAME/queues/rx-N/rps_cpus ({})",
            some_of(names)
        );
        verdict = verdict.mended(How::Write, text);
    }
    Ok(verdict)
}

fn fix_receive(case: &Case<'_>) -> Vec<Write> {
    let Ok(queues) = &case.facts.steering else {
        return Vec::new();
    };
    handing(queues, &case.guest.cpus)
        .iter()
        .map(|(queue, left)| Write::new(&*queue.path, mask(left)))
        .collect()
}

fn transmit(case: &Case<'_>) -> Fact<Verdict> {
    let queues = seen(&case.facts.steering)?;
    if case.cpus().is_none() {
        return Ok(unnamed());
    }
    let mut chosen: BTreeMap<&str, CpuSet> = BTreeMap::new();
    for queue in queues.iter().filter(|queue| !queue.receives()) {
        let cpus = chosen.entry(&queue.interface).or_default();
        cpus.extend(&queue.cpus);
    }
    let others = case.others();
    let without: BTreeSet<_> = chosen
        .iter()
        .filter(|(_, cpus)| cpus.is_disjoint(&others))
        .map(|(interface, cpus)| format!("{interface} has queues for {} only", cpus_text(cpus)))
        .collect();
    Ok(if without.is_empty() {
        Verdict::good("other CPUs have queues to send by")
    } else {
        Verdict::warning(some_of(without))
    })
}

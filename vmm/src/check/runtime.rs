//! What is running.

use super::case::{Case, cpus_text};
use super::facts::{Fact, seen};
use super::item::{Group, How, Item, Mend, Verdict, Write};
use super::words::some_of;
use super::{interrupts, memory, steering, threads};
use crate::spec::CpuSet;

const STAT_INTERVAL: &str = "proc/sys/vm/stat_interval";

pub(super) const ROWS: &[Item] = &[
    interrupts::BALANCER,
    interrupts::DEVICES,
    interrupts::NEW,
    interrupts::OWN,
    steering::RECEIVE,
    steering::TRANSMIT,
    threads::ROW,
    memory::TRANSPARENT,
    memory::COLLAPSING,
    memory::MERGING,
    memory::BALANCING,
    memory::SWAP,
    Item {
        id: "vm-statistics",
        group: Group::Runtime,
        reads: &[STAT_INTERVAL],
        judge: vm_statistics,
        why: "each CPU folds its memory statistics this often",
        mend: &[Mend::write("echo 120 > /proc/sys/vm/stat_interval")],
        fix: Some(|_| vec![Write::new(STAT_INTERVAL, "120")]),
    },
    Item {
        id: "cgroup-cpus",
        group: Group::Runtime,
        reads: &["proc/self/cgroup", "sys/fs/cgroup/**/cpuset.cpus.effective"],
        judge: cgroup_cpus,
        why: "a thread cannot be pinned to a CPU that its cgroup does not have",
        mend: &[Mend::advice(
            "run godwit in a cgroup whose cpuset.cpus has {cpus} (systemd: AllowedCPUs=)",
        )],
        fix: None,
    },
    Item {
        id: "cgroup-quota",
        group: Group::Runtime,
        reads: &["proc/self/cgroup", "sys/fs/cgroup/**/cpu.max"],
        judge: cgroup_quota,
        why: "a vCPU that has used up its cgroup's CPU time is stopped until the next period",
        mend: &[Mend::advice(
            "run godwit in a cgroup with \"max\" in cpu.max (systemd: no CPUQuota=)",
        )],
        fix: None,
    },
    memory::LIMIT,
    memory::LOCKING,
    threads::PRIORITY,
    memory::POOLS,
];

fn vm_statistics(case: &Case<'_>) -> Fact<Verdict> {
    let seconds: u64 = case.facts.number(STAT_INTERVAL)?;
    let found = format!("every {seconds} s");
    Ok(if seconds >= 10 {
        Verdict::good(found)
    } else {
        Verdict::warning(found)
    })
}

fn cgroup_cpus(case: &Case<'_>) -> Fact<Verdict> {
    let Some(allowed) = seen(&case.facts.cgroup.cpus)? else {
        return Ok(Verdict::good("no limit"));
    };
    let mut wanted = vec![("vCPUs".to_owned(), case.guest.cpus.clone())];
    wanted.extend(case.guest.other_cpus());
    let mut beyond = CpuSet::new();
    let mut whose = Vec::new();
    for (name, cpus) in wanted {
        let outside: CpuSet = cpus.difference(allowed).copied().collect();
        if !outside.is_empty() {
            beyond.extend(outside);
            whose.push(name);
        }
    }
    Ok(if beyond.is_empty() {
        Verdict::good(format!("{} allowed", cpus_text(allowed)))
    } else {
        Verdict::bad(format!(
            "only {} allowed; {} for {} not",
            cpus_text(allowed),
            cpus_text(&beyond),
            some_of(whose)
        ))
    })
}

fn cgroup_quota(case: &Case<'_>) -> Fact<Verdict> {
    Ok(match seen(&case.facts.cgroup.quota)? {
        None => Verdict::good("no limit"),
        Some(limit) => Verdict::bad(format!("/{} is {}", limit.path, limit.value)).mended(
            How::Advice,
            format!(
                "lift it (systemd: no CPUQuota=), or run godwit elsewhere: /{}",
                limit.path
            ),
        ),
    })
}

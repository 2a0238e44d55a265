//! Threads on the CPUs of vCPUs, and what vCPU threads themselves may be.

use std::collections::BTreeSet;

use super::case::{Case, cpus_text, unnamed};
use super::facts::{Fact, Thread, seen};
use super::item::{Group, How, Item, Mend, Verdict};
use super::words::some_of;
use crate::spec::{CpuSet, format_cpu_list};

const STATUS: &str = "proc/self/status";
const LIMITS: &str = "proc/self/limits";

/// `CAP_IPC_LOCK` and `CAP_SYS_NICE` (linux/capability.h).
const IPC_LOCK: u32 = 14;
const SYS_NICE: u32 = 23;

pub(super) const ROW: Item = Item {
    id: "threads",
    group: Group::Runtime,
    reads: &["proc/*/task/*/stat", "proc/*/task/*/status"],
    judge,
    why: "a thread that runs on a vCPU's core takes it from the guest",
    mend: &[
        Mend::command("taskset -pc {others} TID"),
        Mend::command("systemctl set-property --runtime system.slice AllowedCPUs={others}"),
        Mend::command("systemctl set-property --runtime user.slice AllowedCPUs={others}"),
    ],
    fix: None,
};

pub(super) const PRIORITY: Item = Item {
    id: "rt-priority",
    group: Group::Runtime,
    reads: &[STATUS, LIMITS],
    judge: priority,
    why: "cpus.sched with policy fifo needs CAP_SYS_NICE or a limit that allows the priority",
    mend: &[Mend::advice(
        "run godwit as root, or with LimitRTPRIO=99 (systemd) or ulimit -r 99",
    )],
    fix: None,
};

/// Not a thread that the kernel needs on each CPU, nor a vCPU that is there already.
fn disturbs(thread: &Thread, cpus: &CpuSet) -> bool {
    let per_cpu = thread.kernel && (thread.bound || thread.allowed.len() == 1);
    let vcpu = thread.name.starts_with("vcpu") && thread.allowed.is_subset(cpus);
    !per_cpu && !vcpu && !thread.allowed.is_disjoint(cpus)
}

fn names<'a>(threads: &[&'a Thread]) -> String {
    let names: BTreeSet<&'a str> = threads.iter().map(|thread| &*thread.name).collect();
    some_of(names.iter().map(|name| {
        let name = name.chars().filter(|c| !c.is_control());
        name.collect::<String>()
    }))
}

fn judge(case: &Case<'_>) -> Fact<Verdict> {
    let threads = seen(&case.facts.threads)?;
    let Some(cpus) = case.cpus() else {
        return Ok(unnamed());
    };
    let able: Vec<_> = threads
        .iter()
        .filter(|thread| disturbs(thread, cpus))
        .collect();
    if able.is_empty() {
        return Ok(Verdict::good("none but the kernel's own of each CPU"));
    }
    // One that may run nowhere else will; without a load balancer, one that has
    // another place stays there.
    let pinned: Vec<_> = able
        .iter()
        .filter(|thread| thread.allowed.is_subset(cpus))
        .copied()
        .collect();
    if !pinned.is_empty() {
        let ids: Vec<_> = pinned.iter().map(|thread| thread.tid).collect();
        return Ok(Verdict::bad(format!(
            "{} pinned to {}: {}",
            pinned.len(),
            cpus_text(cpus),
            names(&pinned)
        ))
        .mended(
            How::Command,
            format!(
                "taskset -pc {} TID (TID: {})",
                format_cpu_list(&case.others()),
                some_of(ids)
            ),
        ));
    }
    let ran: Vec<_> = able
        .iter()
        .filter(|thread| cpus.contains(&thread.last))
        .copied()
        .collect();
    let found = match ran.as_slice() {
        [] => format!("{} may run there: {}", able.len(), names(&able)),
        ran => format!(
            "{} may run there, {} did last: {}",
            able.len(),
            ran.len(),
            names(ran)
        ),
    };
    Ok(if case.isolated(cpus) && ran.is_empty() {
        Verdict::warning(found)
    } else {
        Verdict::bad(found)
    })
}

/// Whether we have a capability.
pub(super) fn capable(case: &Case<'_>, capability: Capability) -> Fact<bool> {
    let status = case.facts.file(STATUS)?;
    let set = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    let bit = match capability {
        Capability::LockMemory => IPC_LOCK,
        Capability::SetPriority => SYS_NICE,
    };
    Ok(set.is_some_and(|set| set >> bit & 1 == 1))
}

/// A capability that a guest may need.
#[derive(Clone, Copy, Debug)]
pub(super) enum Capability {
    LockMemory,
    SetPriority,
}

/// A soft limit of ours; `None`: there is none.
pub(super) fn limit(case: &Case<'_>, name: &str) -> Fact<Option<u64>> {
    let limits = case.facts.file(LIMITS)?;
    let soft = limits
        .lines()
        .find_map(|line| line.strip_prefix(name)?.split_whitespace().next());
    Ok(match soft {
        Some("unlimited") | None => None,
        Some(number) => number.parse().ok(),
    })
}

fn priority(case: &Case<'_>) -> Fact<Verdict> {
    if !case.guest.is_fifo() {
        return Ok(Verdict::not_applicable("no config asks for policy fifo"));
    }
    if capable(case, Capability::SetPriority)? {
        return Ok(Verdict::good("CAP_SYS_NICE"));
    }
    let config = case.guest.config.as_ref();
    let sched = config.and_then(|config| config.cpus.sched.as_ref());
    let wanted = sched.and_then(|sched| sched.priority).unwrap_or(1);
    Ok(match limit(case, "Max realtime priority")? {
        Some(limit) if limit < u64::from(wanted) => Verdict::bad(format!(
            "priority {wanted} is asked for, and this user may have {limit} at most"
        )),
        _ => Verdict::good("the limit allows it"),
    })
}

//! CPUs that are kept for vCPUs.

use super::case::{Case, cpus_text, unnamed};
use super::facts::{Fact, Unread, seen};
use super::item::{Group, How, Item, Mend, Verdict, Write};
use super::words::mask;
use crate::spec::{CpuSet, HostCpu};

const ISOLATED: &str = "sys/devices/system/cpu/isolated";
const PARTITION: &str = "sys/fs/cgroup/cpuset.cpus.isolated";
const NOHZ_FULL: &str = "sys/devices/system/cpu/nohz_full";
const TIMER_MIGRATION: &str = "proc/sys/kernel/timer_migration";
const WORKQUEUE: &str = "sys/devices/virtual/workqueue/cpumask";

pub(super) const ROWS: &[Item] = &[
    Item {
        id: "isolcpus",
        group: Group::Kernel,
        reads: &[ISOLATED, PARTITION, "proc/cmdline"],
        judge: isolcpus,
        why: "the scheduler puts any thread on a CPU that is not isolated",
        mend: &[Mend::parameter("isolcpus=managed_irq,domain,{cpus}")],
        fix: None,
    },
    Item {
        id: "nohz-full",
        group: Group::Kernel,
        reads: &[NOHZ_FULL],
        judge: nohz_full,
        why: "a tick interrupts the vCPU 100 to 1000 times a second",
        mend: &[Mend::parameter("nohz_full={cpus}")],
        fix: None,
    },
    Item {
        id: "rcu-nocbs",
        group: Group::Kernel,
        reads: &["proc/cmdline", NOHZ_FULL],
        judge: rcu_nocbs,
        why: "RCU callbacks run on the CPU that made them unless they are offloaded",
        mend: &[Mend::parameter("rcu_nocbs={cpus}")],
        fix: None,
    },
    Item {
        id: "timer-migration",
        group: Group::Kernel,
        reads: &[TIMER_MIGRATION, NOHZ_FULL],
        judge: timer_migration,
        why: "timers move to CPUs that are busy: away from nohz_full CPUs, else onto the vCPUs'",
        mend: &[Mend::write(
            "echo 1 > /proc/sys/kernel/timer_migration (0 without nohz_full)",
        )],
        fix: Some(|case| {
            let value = if is_tickless(case) { "1" } else { "0" };
            vec![Write::new(TIMER_MIGRATION, value)]
        }),
    },
    Item {
        id: "workqueues",
        group: Group::Kernel,
        reads: &[WORKQUEUE],
        judge: workqueues,
        why: "the kernel's deferred work runs on any CPU of its mask",
        mend: &[Mend::write(
            "echo {mask} > /sys/devices/virtual/workqueue/cpumask",
        )],
        fix: Some(|case| vec![Write::new(WORKQUEUE, mask(&case.others()))]),
    },
];

fn isolcpus(case: &Case<'_>) -> Fact<Verdict> {
    let facts = case.facts;
    let mut isolated = seen(&facts.isolated)?.clone();
    if facts.optional(PARTITION)?.is_some() {
        isolated.extend(facts.list(PARTITION)?);
    }
    if isolated.is_empty() {
        return Ok(case.disturbed("no CPU is isolated"));
    }
    let Some(cpus) = case.cpus() else {
        return Ok(Verdict::warning(format!(
            "{} isolated, but no vCPU is pinned to any",
            cpus_text(&isolated)
        )));
    };
    let open: CpuSet = cpus.difference(&isolated).copied().collect();
    if !open.is_empty() {
        let all = case.with_cpus(&isolated);
        return Ok(
            Verdict::bad(format!("{} not isolated", cpus_text(&open))).mended(
                How::KernelParameter,
                format!("isolcpus=managed_irq,domain,{all}"),
            ),
        );
    }
    let line = seen(&facts.command_line)?;
    if line.has("isolcpus") && !line.sets("isolcpus", "managed_irq") {
        return Ok(Verdict::warning(format!(
            "{} isolated, but not from interrupts that drivers place themselves (managed_irq)",
            cpus_text(cpus)
        )));
    }
    Ok(Verdict::good(cpus_text(cpus)))
}

/// CPUs without a tick; `None`: the kernel cannot do it.
fn tickless(case: &Case<'_>) -> Fact<Option<CpuSet>> {
    match case.facts.list(NOHZ_FULL) {
        Err(Unread::Missing { .. }) => Ok(None),
        list => list.map(Some),
    }
}

fn is_tickless(case: &Case<'_>) -> bool {
    let tickless = tickless(case).ok().flatten().unwrap_or_default();
    case.cpus().is_some_and(|cpus| cpus.is_subset(&tickless))
}

fn nohz_full(case: &Case<'_>) -> Fact<Verdict> {
    let Some(tickless) = tickless(case)? else {
        return Ok(case
            .disturbed("this kernel cannot stop the tick: it is built without NO_HZ_FULL")
            .mended(How::Advice, "install a kernel with CONFIG_NO_HZ_FULL"));
    };
    let Some(cpus) = case.cpus() else {
        return Ok(Verdict::warning("no CPU runs without a tick"));
    };
    let ticking: CpuSet = cpus.difference(&tickless).copied().collect();
    Ok(if ticking.is_empty() {
        Verdict::good(cpus_text(cpus))
    } else {
        let all = case.with_cpus(&tickless);
        Verdict::bad(format!("{} not in nohz_full", cpus_text(&ticking)))
            .mended(How::KernelParameter, format!("nohz_full={all}"))
    })
}

fn rcu_nocbs(case: &Case<'_>) -> Fact<Verdict> {
    let Some(cpus) = case.cpus() else {
        return Ok(unnamed());
    };
    let line = seen(&case.facts.command_line)?;
    // A nohz_full CPU is offloaded in any case.
    let mut offloaded = tickless(case)?.unwrap_or_default();
    let host = seen(&case.facts.host)?;
    let last = host.present_cpus.last().copied().unwrap_or(HostCpu(0));
    match line.cpus("rcu_nocbs", last) {
        Some(cpus) => offloaded.extend(cpus),
        // Without a list it means all.
        None if line.has("rcu_nocbs") && line.value("rcu_nocbs").is_none() => {
            offloaded.extend(&host.present_cpus);
        }
        None => {}
    }
    let own: CpuSet = cpus.difference(&offloaded).copied().collect();
    Ok(if own.is_empty() {
        Verdict::good(cpus_text(cpus))
    } else {
        let all = case.with_cpus(&offloaded);
        Verdict::warning(format!("{} not in rcu_nocbs", cpus_text(&own)))
            .mended(How::KernelParameter, format!("rcu_nocbs={all}"))
    })
}

fn timer_migration(case: &Case<'_>) -> Fact<Verdict> {
    if case.cpus().is_none() {
        return Ok(unnamed());
    }
    let on = case.facts.switch(TIMER_MIGRATION)?;
    let wrong = |found, value| {
        Verdict::warning(found).mended(How::Write, format!("echo {value} > /{TIMER_MIGRATION}"))
    };
    Ok(match (is_tickless(case), on) {
        (true, true) => Verdict::good("timers leave nohz_full CPUs"),
        (false, false) => Verdict::good("timers stay where they were armed"),
        (true, false) => wrong("timers stay on nohz_full CPUs", 1),
        (false, true) => wrong("timers of idle CPUs move to busy ones, as a vCPU's is", 0),
    })
}

/// Masks of single workqueues are cut down to this one.
fn workqueues(case: &Case<'_>) -> Fact<Verdict> {
    let Some(cpus) = case.cpus() else {
        return Ok(unnamed());
    };
    let mask = case.facts.mask(WORKQUEUE)?;
    let both: CpuSet = mask.intersection(cpus).copied().collect();
    Ok(if both.is_empty() {
        Verdict::good("other CPUs only")
    } else {
        Verdict::bad(format!("run on {}, too", cpus_text(&both)))
    })
}

//! Interrupts on the CPUs of vCPUs.

use super::case::{Case, cpus_text, unnamed};
use super::facts::{Count, Fact, Irq, seen};
use super::item::{Group, How, Item, Mend, State, Verdict, Write};
use super::words::{mask, some_of};
use crate::spec::{CpuSet, HostCpu, format_cpu_list};

const DEFAULT: &str = "proc/irq/default_smp_affinity";

/// More of a CPU's own interrupts a second than a CPU without a tick has.
const FEW_A_SECOND: u64 = 10;

pub(super) const BALANCER: Item = Item {
    id: "irqbalance",
    group: Group::Runtime,
    reads: &["proc/*/task/*/stat"],
    judge: balancer,
    why: "it moves interrupts to any CPU that is not banned",
    mend: &[
        Mend::command("systemctl disable --now irqbalance"),
        Mend::command("IRQBALANCE_BANNED_CPULIST={cpus} (in /etc/default/irqbalance)"),
    ],
    fix: None,
};

pub(super) const DEVICES: Item = Item {
    id: "device-interrupts",
    group: Group::Runtime,
    reads: &[
        "proc/interrupts",
        "proc/irq/*/smp_affinity_list",
        "proc/irq/*/effective_affinity_list",
    ],
    judge: devices,
    why: "each interrupt that a vCPU's core takes for somebody else stops the guest",
    mend: &[Mend::write("echo {others} > /proc/irq/N/smp_affinity_list")],
    fix: Some(fix_devices),
};

pub(super) const NEW: Item = Item {
    id: "new-interrupts",
    group: Group::Runtime,
    reads: &[DEFAULT],
    judge: new,
    why: "a device that comes later gets this mask",
    mend: &[
        Mend::parameter("irqaffinity={others}"),
        Mend::write("echo {mask} > /proc/irq/default_smp_affinity"),
    ],
    fix: Some(|case| vec![Write::new(DEFAULT, mask(&case.others()))]),
};

pub(super) const OWN: Item = Item {
    id: "local-interrupts",
    group: Group::Runtime,
    reads: &["proc/interrupts"],
    judge: own,
    why: "ticks, calls from other CPUs and TLB shoot-downs that came while this was watched",
    mend: &[Mend::advice(
        "mend nohz-full, threads and workqueues; what is left comes from the guest itself",
    )],
    fix: None,
};

fn balancer(case: &Case<'_>) -> Fact<Verdict> {
    let threads = seen(&case.facts.threads)?;
    let Some(alive) = threads.iter().find(|thread| thread.name == "irqbalance") else {
        return Ok(Verdict::good("does not run"));
    };
    let found = format!("runs (pid {})", alive.pid);
    Ok(match case.cpus() {
        Some(cpus) if !case.isolated(cpus) => Verdict::bad(found),
        Some(_) => Verdict::warning(format!("{found}; it leaves isolated CPUs alone by default")),
        None => Verdict::warning(found),
    })
}

/// How much of `count` is on `cpus`.
fn on(count: &Count, cpus: &CpuSet) -> u64 {
    let counts = count.iter().filter(|(cpu, _)| cpus.contains(cpu));
    counts.fold(0, |sum, (_, count)| sum.saturating_add(*count))
}

/// Whether an interrupt goes to one of `cpus`, and will the time after next: one
/// whose affinity was changed is moved when it comes the next time
/// (`irq_move_irq`).
fn goes_to(irq: &Irq, cpus: &CpuSet) -> bool {
    let may = |set: &CpuSet| !set.is_disjoint(cpus);
    irq.target().is_ok_and(may) && irq.allowed.as_ref().map_or(true, may)
}

fn devices(case: &Case<'_>) -> Fact<Verdict> {
    let irqs = &seen(&case.facts.interrupts)?.irqs;
    let Some(cpus) = case.cpus() else {
        return Ok(unnamed());
    };
    // One that nobody may look at is not one that is elsewhere.
    for irq in irqs {
        irq.target()?;
    }
    let there: Vec<_> = irqs.iter().filter(|irq| goes_to(irq, cpus)).collect();
    if there.is_empty() {
        return Ok(Verdict::good("none goes there"));
    }
    let shown = there.iter().map(|irq| {
        let moved = on(&irq.after, cpus).saturating_sub(on(&irq.before, cpus));
        let count = match moved {
            0 => format!("{}", on(&irq.after, cpus)),
            moved => format!("{}, {moved} just now", on(&irq.after, cpus)),
        };
        format!("{} {} ({count})", irq.number, irq.name)
    });
    let managed = there.iter().filter(|irq| irq.managed).count();
    let fired = there.iter().any(|irq| on(&irq.after, cpus) > 0);
    let state = if fired { State::Bad } else { State::Warning };
    let verb = if there.len() == 1 { "goes" } else { "go" };
    let found = format!("{} {verb} to {}", some_of(shown), cpus_text(cpus));
    let mut verdict = Verdict::new(state, found);
    if managed < there.len() {
        let free = there.iter().filter(|irq| !irq.managed);
        verdict = verdict.mended(
            How::Write,
            format!(
                "echo {} > /proc/irq/N/smp_affinity_list (N: {})",
                format_cpu_list(&case.others()),
                format_cpu_list(&free.map(|irq| HostCpu(irq.number)).collect())
            ),
        );
    }
    // They come only when something on that CPU uses the device.
    if managed > 0 {
        verdict = verdict.mended(
            How::KernelParameter,
            case.fill("isolcpus=managed_irq,domain,{cpus}"),
        );
    }
    Ok(verdict)
}

fn fix_devices(case: &Case<'_>) -> Vec<Write> {
    let others = format_cpu_list(&case.others());
    let Ok(interrupts) = &case.facts.interrupts else {
        return Vec::new();
    };
    let there = interrupts
        .irqs
        .iter()
        .filter(|irq| !irq.managed && goes_to(irq, &case.guest.cpus));
    there
        .map(|irq| {
            let path = format!("proc/irq/{}/smp_affinity_list", irq.number);
            Write::new(path, &*others)
        })
        .collect()
}

fn new(case: &Case<'_>) -> Fact<Verdict> {
    let Some(cpus) = case.cpus() else {
        return Ok(unnamed());
    };
    let mask = case.facts.mask(DEFAULT)?;
    let both: CpuSet = mask.intersection(cpus).copied().collect();
    Ok(if both.is_empty() {
        Verdict::good("go to other CPUs")
    } else {
        Verdict::warning(format!("may go to {}", cpus_text(&both)))
    })
}

fn own(case: &Case<'_>) -> Fact<Verdict> {
    let Some(cpus) = case.cpus() else {
        return Ok(unnamed());
    };
    let interrupts = seen(&case.facts.interrupts)?;
    let interval = case.facts.interval;
    let ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
    if ms == 0 {
        return Ok(Verdict::not_applicable("not watched (--interval 0)"));
    }
    let mut moved: Vec<_> = interrupts
        .own
        .iter()
        .map(|(name, (before, after))| (on(after, cpus).saturating_sub(on(before, cpus)), name))
        .filter(|(moved, _)| *moved > 0)
        .collect();
    moved.sort_by(|a, b| b.cmp(a));
    let all = moved.iter().fold(0, |sum: u64, (moved, _)| sum + moved);
    let many = u64::try_from(cpus.len()).unwrap_or(u64::MAX);
    let few = FEW_A_SECOND.saturating_mul(many).saturating_mul(ms) / 1000;
    let found = match all {
        0 => format!("none in {ms} ms"),
        _ => format!(
            "{} in {ms} ms on {}",
            some_of(moved.iter().map(|(moved, name)| format!("{moved} {name}"))),
            cpus_text(cpus)
        ),
    };
    Ok(if all <= few.max(1) {
        Verdict::good(found)
    } else {
        Verdict::warning(found)
    })
}

//! Idle states of the vCPUs' cores.

use godwit_api::config::ExitName;

use super::case::{Case, cpus_text};
use super::facts::{Fact, IdleState, seen};
use super::item::{Group, Item, Mend, State, Verdict, Write};
use super::words::some_of;
use crate::spec::{CpuSet, HostCpu};

/// Waking up from C1 takes no longer on any CPU.
const SHALLOW_US: u64 = 2;

/// Waking up from here is seen in any measurement.
const DEEP_US: u64 = 20;

pub(super) const ROW: Item = Item {
    id: "c-states",
    group: Group::Cpu,
    reads: &[
        "sys/devices/system/cpu/cpu*/cpuidle/state*/*",
        "dev/cpu_dma_latency",
        "proc/cmdline",
    ],
    judge,
    why: "a core that sleeps deeply takes up to 200 µs to wake up for its vCPU",
    mend: &[
        Mend::firmware("C-states deeper than C1, C1E among them: disabled"),
        Mend::parameter("intel_idle.max_cstate=1 processor.max_cstate=1 (for all CPUs)"),
        Mend::write(
            "echo 1 > /sys/devices/system/cpu/cpuN/cpuidle/stateM/disable (each of {cpus}, M from 2)",
        ),
    ],
    fix: Some(fix),
};

/// States that are used and take long to wake up from.
fn deep<'a>(
    case: &Case<'a>,
    scope: &'a CpuSet,
) -> impl Iterator<Item = Fact<(HostCpu, Vec<&'a IdleState>)>> {
    let facts = case.facts;
    scope.iter().map(move |cpu| {
        let states = seen(&facts.cpu(*cpu)?.idle_states)?.iter();
        let used = states.filter(|state| !state.disabled && state.latency_us > SHALLOW_US);
        Ok((*cpu, used.collect()))
    })
}

fn judge(case: &Case<'_>) -> Fact<Verdict> {
    let facts = case.facts;
    let line = seen(&facts.command_line)?;
    if line.value("idle") == Some("poll") {
        return Ok(Verdict::good("idle CPUs poll (idle=poll)"));
    }
    let scope = case.scope()?;
    let any = scope.iter().filter_map(|cpu| facts.cpus.get(cpu));
    if any
        .clone()
        .all(|cpu| cpu.idle_states.as_ref().is_ok_and(Vec::is_empty))
    {
        return Ok(Verdict::not_applicable(
            "no cpuidle driver: a virtual machine, or idle CPUs only halt",
        ));
    }
    let mut sleepers = CpuSet::new();
    let mut names: Vec<String> = Vec::new();
    let mut worst = 0;
    for fact in deep(case, scope) {
        let (cpu, states) = fact?;
        for state in states {
            sleepers.insert(cpu);
            worst = worst.max(state.latency_us);
            let name = format!("{} ({} µs)", state.name, state.latency_us);
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    if sleepers.is_empty() {
        return Ok(Verdict::good("none deeper than C1"));
    }
    // Who has the file open holds it for all CPUs.
    if let Ok(us) = facts.wake_up_us
        && u64::try_from(us).is_ok_and(|us| us <= SHALLOW_US)
    {
        return Ok(Verdict::good(format!(
            "a process holds them at {us} µs through /dev/cpu_dma_latency"
        )));
    }
    if case.guest.keeps(ExitName::Hlt) {
        return Ok(Verdict::good(
            "not entered while the guest runs: its hlt does not leave it (cpus.disable_exits)",
        ));
    }
    let found = format!("{} on {}", some_of(names), cpus_text(&sleepers));
    let state = match case.cpus() {
        Some(_) if worst > DEEP_US => State::Bad,
        _ => State::Warning,
    };
    Ok(Verdict::new(state, found))
}

/// Only on CPUs that are a guest's: the others may save power.
fn fix(case: &Case<'_>) -> Vec<Write> {
    let Some(cpus) = case.cpus() else {
        return Vec::new();
    };
    let states = deep(case, cpus).flatten();
    states
        .flat_map(|(cpu, states)| {
            states.into_iter().map(move |state| {
                let folder = &state.folder;
                Write::new(
                    format!("sys/devices/system/cpu/cpu{cpu}/cpuidle/{folder}/disable"),
                    "1",
                )
            })
        })
        .collect()
}

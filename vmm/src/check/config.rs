//! What the config asks for, and whether it contradicts itself.

use std::collections::BTreeMap;

use godwit_api::config::{ExitName, VmConfig};

use super::case::{Case, cpus_text};
use super::facts::{CommandLine, Fact, seen};
use super::item::{Group, How, Item, Mend, State, Verdict};
use super::words::some_of;
use crate::spec::{CpuSet, HostCpu, Problem, ProblemKind, format_cpu_list};

pub(super) const ROWS: &[Item] = &[
    Item {
        id: "config",
        group: Group::Config,
        reads: &[],
        judge: accepted,
        why: "a config that godwit refuses is no machine",
        mend: &[],
        fix: None,
    },
    Item {
        id: "pinning",
        group: Group::Config,
        reads: &[],
        judge: pinning,
        why: "a vCPU that may run on several CPUs, or beside another, waits for its turn",
        mend: &[Mend::config(
            "\"cpus\": { \"affinity\": [{ \"vcpu\": 0, \"host_cpus\": [CPU] }, …] } (one CPU each)",
        )],
        fix: None,
    },
    Item {
        id: "shared-cores",
        group: Group::Config,
        reads: &["sys/devices/system/cpu/cpu*/topology/thread_siblings_list"],
        judge: shared_cores,
        why: "the two hardware threads of a core slow each other down",
        mend: &[Mend::config(
            "\"affinity\", \"emulator_cpus\", \"worker_cpus\" (one thread of a core for a vCPU, \
             the other for nothing)",
        )],
        fix: None,
    },
    Item {
        id: "other-threads",
        group: Group::Config,
        reads: &[],
        judge: other_threads,
        why: "threads of the API, of devices and of migration belong on other CPUs",
        mend: &[Mend::config(
            "\"platform\": { \"emulator_cpus\": [{others}] }",
        )],
        fix: None,
    },
    Item {
        id: "vhost-workers",
        group: Group::Config,
        reads: &[],
        judge: vhost_workers,
        why: "a vhost worker is busy as soon as packets come, and needs a CPU of its own",
        mend: &[Mend::config("\"net\": [{ …, \"worker_cpus\": [CPU] }]")],
        fix: None,
    },
    Item {
        id: "scheduling",
        group: Group::Config,
        reads: &[],
        judge: scheduling,
        why: "SCHED_FIFO keeps a vCPU running when something else wants its core",
        mend: &[Mend::config(
            "\"cpus\": { \"sched\": { \"policy\": \"fifo\", \"priority\": 1 } }",
        )],
        fix: None,
    },
    Item {
        id: "exits",
        group: Group::Config,
        reads: &[],
        judge: exits,
        why: "a guest that halts or pauses on a core of its own need not leave for it",
        mend: &[Mend::config(
            "\"cpus\": { \"disable_exits\": [\"hlt\", \"pause\", \"mwait\"], \"realtime_hint\": true }",
        )],
        fix: None,
    },
    Item {
        id: "memory",
        group: Group::Config,
        reads: &[],
        judge: memory,
        why: "memory that is not there yet is a fault in the middle of a packet",
        mend: &[Mend::config(
            "\"memory\": { \"hugepages\": true, \"prefault\": true, \"lock\": true }",
        )],
        fix: None,
    },
    Item {
        id: "taps",
        group: Group::Config,
        reads: &["sys/class/net/*"],
        judge: taps,
        why: "godwit makes no taps",
        mend: &[Mend::command("ip tuntap add NAME mode tap vnet_hdr")],
        fix: None,
    },
    Item {
        id: "guest-command-line",
        group: Group::Config,
        reads: &[],
        judge: guest_command_line,
        why: "the guest's own kernel ticks, checks and moves threads about as any other",
        mend: &[
            Mend::guest("isolcpus=managed_irq,domain,1-N nohz_full=1-N rcu_nocbs=1-N"),
            Mend::guest("tsc=reliable"),
            Mend::guest("nowatchdog"),
            Mend::guest("skew_tick=1"),
        ],
        fix: None,
    },
];

/// The config, or the verdict where there is none.
fn config<'a>(case: &Case<'a>) -> Result<&'a VmConfig, Verdict> {
    let config = case.guest.config.as_ref();
    config.ok_or_else(|| Verdict::not_applicable("no config is named"))
}

fn accepted(case: &Case<'_>) -> Fact<Verdict> {
    if let Err(verdict) = config(case) {
        return Ok(verdict);
    }
    // Without it, nothing was held against the config.
    seen(&case.facts.host)?;
    // Pools of huge pages have a row of their own.
    let is_pool = |problem: &Problem| {
        let field = problem.field.as_str();
        problem.kind == ProblemKind::Host
            && field.starts_with("memory.")
            && field.ends_with(".size")
    };
    let problems: Vec<_> = case
        .guest
        .problems
        .iter()
        .filter(|problem| !is_pool(problem))
        .map(ToString::to_string)
        .collect();
    Ok(if problems.is_empty() {
        Verdict::good("godwit accepts it")
    } else {
        Verdict::bad(problems.join("\n"))
    })
}

fn pinning(case: &Case<'_>) -> Fact<Verdict> {
    let config = match config(case) {
        Ok(config) => config,
        Err(verdict) => return Ok(verdict),
    };
    let pinned = case.guest.pinned();
    let vcpus = config
        .cpus
        .boot_vcpus
        .min(u32::from(crate::spec::MAX_VCPUS));
    let loose: CpuSet = (0..vcpus)
        .filter(|vcpu| pinned.get(vcpu).is_none_or(|cpus| cpus.len() != 1))
        .map(HostCpu)
        .collect();
    let mut owners: BTreeMap<HostCpu, Vec<u32>> = BTreeMap::new();
    for (vcpu, cpus) in &pinned {
        for cpu in cpus {
            owners.entry(*cpu).or_default().push(*vcpu);
        }
    }
    let shared: Vec<_> = owners
        .iter()
        .filter(|(_, vcpus)| vcpus.len() > 1)
        .map(|(cpu, vcpus)| format!("vCPUs {} share CPU {cpu}", some_of(vcpus)))
        .collect();
    Ok(if !shared.is_empty() {
        Verdict::bad(some_of(shared))
    } else if !loose.is_empty() {
        Verdict::warning(format!(
            "not pinned to one CPU: vCPU {}",
            format_cpu_list(&loose)
        ))
    } else {
        Verdict::good("each vCPU has one CPU")
    })
}

fn shared_cores(case: &Case<'_>) -> Fact<Verdict> {
    if let Err(verdict) = config(case) {
        return Ok(verdict);
    }
    let online = case.facts.online()?;
    let pinned = case.guest.pinned();
    let others = case.guest.other_cpus();
    let mut lines = Vec::new();
    let mut state = State::Good;
    for (vcpu, cpus) in &pinned {
        // Those that are not there are problems of the config.
        for cpu in cpus.intersection(online) {
            let siblings = seen(&case.facts.cpu(*cpu)?.siblings)?;
            for sibling in siblings.iter().filter(|sibling| *sibling != cpu) {
                let beside = |other: &CpuSet| other.contains(sibling);
                for (other, _) in pinned
                    .iter()
                    .filter(|(other, cpus)| *other > vcpu && beside(cpus))
                {
                    state = state.max(State::Warning);
                    lines.push(format!(
                        "CPU {cpu} of vCPU {vcpu} and CPU {sibling} of vCPU {other} are one core"
                    ));
                }
                for (field, _) in others.iter().filter(|(_, cpus)| beside(cpus)) {
                    state = state.max(State::Bad);
                    lines.push(format!(
                        "CPU {cpu} of vCPU {vcpu} and CPU {sibling} of {field} are one core"
                    ));
                }
            }
        }
    }
    Ok(match state {
        State::Good => Verdict::good("no core has two uses"),
        state => Verdict::new(state, lines.join("\n")),
    })
}

fn other_threads(case: &Case<'_>) -> Fact<Verdict> {
    let config = match config(case) {
        Ok(config) => config,
        Err(verdict) => return Ok(verdict),
    };
    let emulator = super::guest::set(&config.platform.emulator_cpus);
    if emulator.is_empty() {
        return Ok(match case.cpus() {
            // A thread without a set starts where the process does: not on
            // isolated CPUs.
            Some(cpus) if case.isolated(cpus) => {
                Verdict::good("platform.emulator_cpus is not set, but vCPUs are isolated")
            }
            _ => Verdict::warning("platform.emulator_cpus is not set: other threads run anywhere"),
        });
    }
    let both: CpuSet = emulator.intersection(&case.guest.cpus).copied().collect();
    Ok(if both.is_empty() {
        Verdict::good(cpus_text(&emulator))
    } else {
        Verdict::bad(format!(
            "platform.emulator_cpus has {} of vCPUs",
            cpus_text(&both)
        ))
    })
}

fn vhost_workers(case: &Case<'_>) -> Fact<Verdict> {
    let config = match config(case) {
        Ok(config) if config.net.is_empty() => {
            return Ok(Verdict::not_applicable("the config has no network device"));
        }
        Ok(config) => config,
        Err(verdict) => return Ok(verdict),
    };
    let mut open = Vec::new();
    for (at, net) in config.net.iter().enumerate() {
        let workers = super::guest::set(&net.worker_cpus);
        let both: CpuSet = workers.intersection(&case.guest.cpus).copied().collect();
        if !both.is_empty() {
            return Ok(Verdict::bad(format!(
                "net[{at}].worker_cpus has {} of vCPUs",
                cpus_text(&both)
            )));
        }
        if workers.is_empty() {
            open.push(format!("net[{at}]"));
        }
    }
    Ok(if open.is_empty() {
        Verdict::good("each has CPUs")
    } else {
        Verdict::warning(format!("no worker_cpus for {}", some_of(open)))
    })
}

fn scheduling(case: &Case<'_>) -> Fact<Verdict> {
    if let Err(verdict) = config(case) {
        return Ok(verdict);
    }
    Ok(match (case.guest.is_fifo(), case.cpus()) {
        (true, _) => Verdict::good("fifo"),
        (false, Some(cpus)) if case.isolated(cpus) => {
            Verdict::good("other, on CPUs that are isolated")
        }
        (false, _) => Verdict::warning("other: vCPU threads take turns with what comes"),
    })
}

fn exits(case: &Case<'_>) -> Fact<Verdict> {
    let config = match config(case) {
        Ok(config) => config,
        Err(verdict) => return Ok(verdict),
    };
    if case.cpus().is_none() {
        return Ok(Verdict::not_applicable("vCPUs have no CPUs of their own"));
    }
    let names = [
        (ExitName::Hlt, "hlt"),
        (ExitName::Pause, "pause"),
        (ExitName::Mwait, "mwait"),
    ];
    let mut left: Vec<_> = names
        .into_iter()
        .filter(|(exit, _)| !case.guest.keeps(*exit))
        .map(|(_, name)| format!("{name} leaves the guest"))
        .collect();
    if !config.cpus.realtime_hint {
        left.push("no realtime_hint".to_owned());
    }
    Ok(if left.is_empty() {
        Verdict::good("none for hlt, pause and mwait")
    } else {
        Verdict::warning(some_of(left))
    })
}

fn memory(case: &Case<'_>) -> Fact<Verdict> {
    let config = match config(case) {
        Ok(config) => config,
        Err(verdict) => return Ok(verdict),
    };
    let memory = &config.memory;
    let mut lacks = Vec::new();
    if case.guest.small_bytes() > 0 {
        lacks.push("not all on huge pages");
    }
    let late = |huge, prefault: Option<bool>| !prefault.unwrap_or(huge);
    let pieces_late = match memory.zones.as_slice() {
        [] => late(memory.hugepages, memory.prefault),
        zones => zones.iter().any(|zone| late(zone.hugepages, zone.prefault)),
    };
    if pieces_late {
        lacks.push("not all prefaulted");
    }
    if !memory.lock {
        lacks.push("not locked");
    }
    Ok(if lacks.is_empty() {
        Verdict::good("huge pages, prefaulted, locked")
    } else {
        Verdict::warning(lacks.join(", "))
    })
}

fn taps(case: &Case<'_>) -> Fact<Verdict> {
    let config = match config(case) {
        Ok(config) => config,
        Err(verdict) => return Ok(verdict),
    };
    let names: Vec<_> = config
        .net
        .iter()
        .filter_map(|net| net.tap.as_ref())
        .collect();
    if names.is_empty() {
        return Ok(Verdict::not_applicable("the config names no tap"));
    }
    let links = seen(&case.facts.links)?;
    let absent: Vec<_> = names
        .iter()
        .filter(|name| !links.contains_key(**name))
        .collect();
    let mut verdict = match absent.len() {
        0 => return Ok(Verdict::good(some_of(names))),
        1 => Verdict::bad(format!("{} is not there", some_of(&absent))),
        _ => Verdict::bad(format!("{} are not there", some_of(&absent))),
    };
    for name in absent {
        let queues = config
            .net
            .iter()
            .find(|net| net.tap.as_ref() == Some(*name));
        let many = queues.is_some_and(|net| net.num_queues > 2);
        let many = if many { " multi_queue" } else { "" };
        verdict = verdict.mended(
            How::Command,
            format!("ip tuntap add {name} mode tap vnet_hdr{many} && ip link set {name} up"),
        );
    }
    Ok(verdict)
}

fn guest_command_line(case: &Case<'_>) -> Fact<Verdict> {
    let config = match config(case) {
        Ok(config) => config,
        Err(verdict) => return Ok(verdict),
    };
    if !case.guest.wants_latency() {
        return Ok(Verdict::not_applicable(
            "the config asks for no low latency (sched, disable_exits, realtime_hint)",
        ));
    }
    let line = CommandLine::parse(config.payload.cmdline.as_deref().unwrap_or_default());
    let mut lacks = Vec::new();
    if config.cpus.boot_vcpus > 1 {
        let last = config.cpus.boot_vcpus - 1;
        let wanted = ["isolcpus", "nohz_full", "rcu_nocbs"];
        let range = if last == 1 {
            "1".to_owned()
        } else {
            format!("1-{last}")
        };
        let absent = wanted.into_iter().filter(|name| !line.has(name));
        lacks.extend(absent.map(|name| format!("{name}={range}")));
        if !line.has("skew_tick") {
            lacks.push("skew_tick=1".to_owned());
        }
    }
    if !line.sets("tsc", "reliable") && !line.sets("tsc", "nowatchdog") {
        lacks.push("tsc=reliable".to_owned());
    }
    if !line.has("nowatchdog") && line.value("nmi_watchdog") != Some("0") {
        lacks.push("nowatchdog".to_owned());
    }
    Ok(if lacks.is_empty() {
        Verdict::good("has what a quiet kernel needs")
    } else {
        Verdict::warning(format!("lacks {}", lacks.join(" ")))
            .mended(How::GuestParameter, lacks.join(" "))
    })
}

//! CPU and firmware.

use super::case::{Case, cpus_text};
use super::facts::{Fact, Processor, Unread, Vendor, seen};
use super::item::{Group, How, Item, Mend, Verdict, Write};
use super::words::some_of;
use super::{idle, posted};
use crate::spec::{CpuSet, format_cpu_list};

const NO_TURBO: &str = "sys/devices/system/cpu/intel_pstate/no_turbo";
const BOOST: &str = "sys/devices/system/cpu/cpufreq/boost";
const SMT: &str = "sys/devices/system/cpu/smt/active";
const MCE: &str = "sys/devices/system/machinecheck/machinecheck0/check_interval";

pub(super) const ROWS: &[Item] = &[
    Item {
        id: "virtualization",
        group: Group::Cpu,
        reads: &["proc/cpuinfo", "dev/kvm"],
        judge: virtualization,
        why: "KVM runs guests on the CPU itself only with VT-x or SVM",
        mend: &[Mend::firmware("Intel VT-x or AMD SVM: enabled")],
        fix: None,
    },
    Item {
        id: "tsc-invariant",
        group: Group::Cpu,
        reads: &["proc/cpuinfo"],
        judge: tsc_invariant,
        why: "a time stamp counter that changes pace or stops cannot be the clock of a guest",
        mend: &[Mend::firmware(
            "a CPU with an invariant TSC (flags constant_tsc, nonstop_tsc)",
        )],
        fix: None,
    },
    Item {
        id: "tsc-deadline",
        group: Group::Cpu,
        reads: &["proc/cpuinfo"],
        judge: tsc_deadline,
        why: "timers that fire at a TSC value are exact and cheap to arm; others are counted down",
        mend: &[Mend::firmware("x2APIC and TSC deadline timer: enabled")],
        fix: None,
    },
    posted::ROW,
    Item {
        id: "hyper-threading",
        group: Group::Cpu,
        reads: &[
            SMT,
            "sys/devices/system/cpu/cpu*/topology/thread_siblings_list",
        ],
        judge: hyper_threading,
        why: "whatever runs on the other thread of a core takes its caches and its units",
        mend: &[
            Mend::firmware("Hyper-Threading or SMT: disabled"),
            Mend::parameter("nosmt (or leave siblings of vCPUs' CPUs idle)"),
        ],
        fix: None,
    },
    Item {
        id: "governor",
        group: Group::Cpu,
        reads: &["sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"],
        judge: governor,
        why: "a core that has to speed up first is late, and changing its frequency halts it",
        mend: &[
            Mend::firmware("power profile: maximum performance"),
            Mend::write(
                "echo performance > /sys/devices/system/cpu/cpuN/cpufreq/scaling_governor \
                 (each of {cpus})",
            ),
        ],
        fix: Some(fix_governor),
    },
    Item {
        id: "turbo",
        group: Group::Cpu,
        reads: &[NO_TURBO, BOOST],
        judge: turbo,
        why: "with turbo, what the neighbours do and the temperature decide how fast a core is",
        mend: &[
            Mend::firmware("Turbo Boost or Core Performance Boost: disabled"),
            Mend::write("echo 1 > /sys/devices/system/cpu/intel_pstate/no_turbo"),
            Mend::write("echo 0 > /sys/devices/system/cpu/cpufreq/boost"),
        ],
        fix: Some(fix_turbo),
    },
    idle::ROW,
    Item {
        id: "smi",
        group: Group::Cpu,
        reads: &["dev/cpu/*/msr"],
        judge: smi,
        why: "a System Management Interrupt stops every CPU for up to milliseconds, unseen by \
              the kernel",
        mend: &[
            Mend::firmware(
                "what raises SMIs: disabled (legacy USB, memory error and power reporting, \
                 thermal polling)",
            ),
            Mend::command("modprobe msr"),
        ],
        fix: None,
    },
    Item {
        id: "mce-polling",
        group: Group::Cpu,
        reads: &[MCE, "proc/cmdline"],
        judge: mce_polling,
        why: "each CPU polls for corrected errors, every five minutes unless told otherwise",
        mend: &[
            Mend::parameter("mce=ignore_ce (corrected errors are then not told at all)"),
            Mend::write("echo 0 > /sys/devices/system/machinecheck/machinecheck0/check_interval"),
        ],
        fix: Some(|_| vec![Write::new(MCE, "0")]),
    },
    Item {
        id: "mitigations",
        group: Group::Cpu,
        reads: &["sys/devices/system/cpu/vulnerabilities/*"],
        judge: mitigations,
        why: "some flush or fence at each entry to a guest or to the kernel",
        mend: &[Mend::parameter(
            "mitigations=off (only where guests and host trust each other)",
        )],
        fix: None,
    },
];

fn virtualization(case: &Case<'_>) -> Fact<Verdict> {
    let processor = seen(&case.facts.processor)?;
    let flag = ["vmx", "svm"].into_iter().find(|flag| processor.has(flag));
    Ok(match (flag, case.facts.device("dev/kvm")) {
        (Some(flag), _) => Verdict::good(flag),
        (None, Ok(())) => Verdict::warning(
            "neither vmx nor svm among the CPU's flags; the KVM that is here does it in software",
        ),
        (None, Err(_)) => for_virtual(
            processor,
            Verdict::bad("neither vmx nor svm among the CPU's flags"),
            "switch nested virtualization on for this virtual machine",
        ),
    })
}

/// A virtual machine has no firmware to be set up: its host has to do it.
fn for_virtual(processor: &Processor, verdict: Verdict, advice: &str) -> Verdict {
    if processor.is_virtual() {
        verdict.mended(How::Advice, advice)
    } else {
        verdict
    }
}

fn tsc_invariant(case: &Case<'_>) -> Fact<Verdict> {
    let processor = seen(&case.facts.processor)?;
    let flags = ["constant_tsc", "nonstop_tsc"];
    let lacks: Vec<_> = flags.iter().filter(|flag| !processor.has(flag)).collect();
    Ok(if lacks.is_empty() {
        Verdict::good(flags.join(", "))
    } else {
        for_virtual(
            processor,
            Verdict::bad(format!("no {} among the CPU's flags", some_of(lacks))),
            "give this virtual machine an invariant TSC",
        )
    })
}

fn tsc_deadline(case: &Case<'_>) -> Fact<Verdict> {
    let processor = seen(&case.facts.processor)?;
    Ok(
        match (processor.has("tsc_deadline_timer"), processor.vendor) {
            (true, _) => Verdict::good("tsc_deadline_timer"),
            (false, Vendor::Amd) => Verdict::not_applicable(
                "this CPU has none; KVM gives guests one that it makes from the kernel's timers",
            ),
            (false, _) => Verdict::warning("no tsc_deadline_timer among the CPU's flags"),
        },
    )
}

fn hyper_threading(case: &Case<'_>) -> Fact<Verdict> {
    if let Ok(Some("0")) = case.facts.optional(SMT) {
        return Ok(Verdict::good("off"));
    }
    let scope = case.scope()?;
    let mut beside = CpuSet::new();
    for cpu in scope {
        let siblings = seen(&case.facts.cpu(*cpu)?.siblings)?;
        beside.extend(siblings.iter().filter(|other| *other != cpu));
    }
    if beside.is_empty() {
        return Ok(Verdict::good("each has a core of its own"));
    }
    let Some(cpus) = case.cpus() else {
        return Ok(Verdict::warning("on: cores have two threads"));
    };
    let strangers: CpuSet = beside.difference(cpus).copied().collect();
    let Some(first) = strangers.first() else {
        return Ok(Verdict::warning(format!(
            "on, and {} share cores with each other",
            cpus_text(cpus)
        )));
    };
    let verdict = if case.isolated(&strangers) {
        Verdict::warning(format!(
            "{} beside them may run others, but are isolated",
            cpus_text(&strangers)
        ))
    } else {
        Verdict::bad(format!("{} beside them run others", cpus_text(&strangers)))
    };
    let all = match strangers.len() {
        1 => String::new(),
        _ => format!(" (each of {})", format_cpu_list(&strangers)),
    };
    Ok(verdict
        .mended(
            How::Command,
            format!("echo 0 > /sys/devices/system/cpu/cpu{first}/online{all}"),
        )
        .mended(How::KernelParameter, "nosmt"))
}

fn governor(case: &Case<'_>) -> Fact<Verdict> {
    let mut slow = CpuSet::new();
    let mut names = Vec::new();
    let mut known = false;
    for cpu in case.scope()? {
        match seen(&case.facts.cpu(*cpu)?.governor) {
            Ok(name) if name == "performance" => known = true,
            Ok(name) => {
                slow.insert(*cpu);
                if !names.contains(name) {
                    names.push(name.clone());
                }
            }
            Err(Unread::Missing { .. }) => {}
            Err(unread) => return Err(unread),
        }
    }
    Ok(match (slow.is_empty(), known) {
        (true, true) => Verdict::good("performance"),
        (true, false) => {
            Verdict::not_applicable("the kernel does not set the frequency: no cpufreq driver")
        }
        (false, _) => case.disturbed(format!("{} on {}", some_of(names), cpus_text(&slow))),
    })
}

fn fix_governor(case: &Case<'_>) -> Vec<Write> {
    let scope = case.scope().into_iter().flatten();
    let slow = scope.filter(|cpu| {
        let facts = case.facts.cpus.get(cpu);
        let governor = facts.and_then(|facts| facts.governor.as_ref().ok());
        governor.is_some_and(|name| name != "performance")
    });
    slow.map(|cpu| {
        Write::new(
            format!("sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor"),
            "performance",
        )
    })
    .collect()
}

fn turbo(case: &Case<'_>) -> Fact<Verdict> {
    let facts = case.facts;
    let on = match (facts.optional(NO_TURBO)?, facts.optional(BOOST)?) {
        (None, None) => {
            return Ok(Verdict::not_applicable(
                "the kernel does not switch it: neither intel_pstate nor cpufreq/boost",
            ));
        }
        (Some(_), _) => !facts.switch(NO_TURBO)?,
        (None, Some(_)) => facts.switch(BOOST)?,
    };
    if !on {
        return Ok(Verdict::good("off"));
    }
    let mut verdict = Verdict::warning("on").mended(
        How::Firmware,
        "Turbo Boost or Core Performance Boost: disabled",
    );
    for Write { path, value } in fix_turbo(case) {
        verdict = verdict.mended(How::Write, format!("echo {value} > /{path}"));
    }
    Ok(verdict)
}

fn fix_turbo(case: &Case<'_>) -> Vec<Write> {
    match case.facts.optional(NO_TURBO) {
        Ok(Some(_)) => vec![Write::new(NO_TURBO, "1")],
        _ => vec![Write::new(BOOST, "0")],
    }
}

fn smi(case: &Case<'_>) -> Fact<Verdict> {
    let processor = seen(&case.facts.processor)?;
    if processor.is_virtual() {
        return Ok(Verdict::not_applicable(
            "a virtual machine does not see those of the machine that it runs on",
        ));
    }
    if processor.vendor != Vendor::Intel {
        return Ok(Verdict::not_applicable("only Intel's CPUs count them"));
    }
    let (before, after) = match &case.facts.smis {
        Err(Unread::Missing { path }) => {
            return Ok(Verdict::unknown(format!(
                "/{path} is not there: the module msr is not loaded"
            ))
            .mended(How::Command, "modprobe msr"));
        }
        smis => *seen(smis)?,
    };
    let interval = case.facts.interval;
    Ok(match after.wrapping_sub(before) {
        0 if interval.is_zero() => Verdict::unknown(format!(
            "{after} since power-on, not watched (--interval 0)"
        )),
        0 => Verdict::good(format!("none in {} ms", interval.as_millis())),
        moved => Verdict::bad(format!(
            "{moved} in {} ms, {after} since power-on",
            interval.as_millis()
        )),
    })
}

fn mce_polling(case: &Case<'_>) -> Fact<Verdict> {
    let line = seen(&case.facts.command_line)?;
    if line.sets("mce", "ignore_ce") || line.sets("mce", "off") {
        return Ok(Verdict::good("switched off on the kernel's command line"));
    }
    if case.facts.optional(MCE)?.is_none() {
        return Ok(Verdict::not_applicable(
            "no machine checks: a virtual machine, or a kernel without them",
        ));
    }
    Ok(match case.facts.file(MCE)? {
        "0" => Verdict::good("off"),
        seconds => Verdict::warning(format!("check_interval is {seconds}")),
    })
}

/// What is done at entries and exits, by the words that the kernel uses for it.
const COSTLY: &[(&str, &[&str])] = &[
    ("itlb_multihit", &["Split huge pages"]),
    ("l1tf", &["flush"]),
    ("mds", &["Clear CPU buffers"]),
    ("meltdown", &["PTI"]),
    ("mmio_stale_data", &["Clear CPU buffers"]),
    ("reg_file_data_sampling", &["Clear"]),
    ("retbleed", &["IBRS", "untrained", "Stuffing"]),
    ("spec_rstack_overflow", &["Safe RET", "IBPB"]),
    ("tsa", &["Clear CPU buffers"]),
    ("tsx_async_abort", &["Clear CPU buffers"]),
    ("vmscape", &["IBPB"]),
];

fn mitigations(case: &Case<'_>) -> Fact<Verdict> {
    let known = match &case.facts.vulnerabilities {
        Err(Unread::Missing { .. }) => {
            return Ok(Verdict::not_applicable("this kernel does not list any"));
        }
        known => seen(known)?,
    };
    let costly: Vec<_> = COSTLY
        .iter()
        .filter(|(name, words)| {
            let text = known
                .get(*name)
                .and_then(|text| text.split_once("Mitigation:"));
            text.is_some_and(|(_, text)| words.iter().any(|word| text.contains(word)))
        })
        .map(|(name, _)| name)
        .collect();
    Ok(if costly.is_empty() {
        Verdict::good("none that costs at entry or exit")
    } else {
        Verdict::warning(format!("at work: {}", some_of(costly)))
    })
}

//! The kernel and its command line.

use super::case::{Case, cpus_text, unnamed};
use super::facts::{Fact, Unread, seen};
use super::item::{Group, How, Item, Mend, Verdict, Write};
use crate::spec::{CpuSet, HostCpu, PageSize};

const CLOCK: &str = "sys/devices/system/clocksource/clocksource0/current_clocksource";
const CLOCKS: &str = "sys/devices/system/clocksource/clocksource0/available_clocksource";
const NMI_WATCHDOG: &str = "proc/sys/kernel/nmi_watchdog";
const WATCHDOG: &str = "proc/sys/kernel/watchdog";
const WATCHDOG_CPUS: &str = "proc/sys/kernel/watchdog_cpumask";
const RT_RUNTIME: &str = "proc/sys/kernel/sched_rt_runtime_us";
const VERSION: &str = "proc/sys/kernel/version";
const REALTIME: &str = "sys/kernel/realtime";

pub(super) const ROWS: &[Item] = &[
    Item {
        id: "preempt-rt",
        group: Group::Kernel,
        reads: &[REALTIME, VERSION],
        judge: preempt_rt,
        why: "only a PREEMPT_RT kernel bounds how long it keeps a vCPU thread waiting",
        mend: &[Mend::advice(
            "install a kernel with PREEMPT_RT (Debian: linux-image-rt-amd64)",
        )],
        fix: None,
    },
    Item {
        id: "idle-parameter",
        group: Group::Kernel,
        reads: &["proc/cmdline"],
        judge: idle_parameter,
        why: "idle=poll wakes up soonest but heats every CPU; bounding c-states is enough",
        mend: &[Mend::advice(
            "take idle=nomwait off the kernel's command line",
        )],
        fix: None,
    },
    Item {
        id: "clock-source",
        group: Group::Kernel,
        reads: &[CLOCK, CLOCKS],
        judge: clock_source,
        why: "reading any other clock is a slow access to a device, and guests lose kvm-clock",
        mend: &[
            Mend::parameter("clocksource=tsc (where it is not chosen by itself)"),
            Mend::write(
                "echo tsc > /sys/devices/system/clocksource/clocksource0/current_clocksource",
            ),
        ],
        fix: Some(|case| {
            let able = has_tsc(case).then(|| Write::new(CLOCK, "tsc"));
            able.into_iter().collect()
        }),
    },
    Item {
        id: "tsc-watchdog",
        group: Group::Kernel,
        reads: &["proc/cmdline", "proc/cpuinfo", CLOCK],
        judge: tsc_watchdog,
        why: "the clock's watchdog visits each CPU in turn, twice a second",
        mend: &[Mend::parameter("tsc=reliable")],
        fix: None,
    },
    Item {
        id: "nmi-watchdog",
        group: Group::Kernel,
        reads: &[NMI_WATCHDOG],
        judge: nmi_watchdog,
        why: "the hard lock-up detector interrupts each CPU and takes a performance counter",
        mend: &[
            Mend::parameter("nmi_watchdog=0"),
            Mend::write("echo 0 > /proc/sys/kernel/nmi_watchdog"),
        ],
        fix: Some(|_| vec![Write::new(NMI_WATCHDOG, "0")]),
    },
    Item {
        id: "soft-watchdog",
        group: Group::Kernel,
        reads: &[WATCHDOG, WATCHDOG_CPUS],
        judge: soft_watchdog,
        why: "the soft lock-up detector arms a timer on each of its CPUs every 4 s",
        mend: &[
            Mend::parameter("nosoftlockup"),
            Mend::write("echo {others} > /proc/sys/kernel/watchdog_cpumask"),
        ],
        fix: Some(|case| {
            let left: CpuSet = case.others();
            vec![Write::new(
                WATCHDOG_CPUS,
                crate::spec::format_cpu_list(&left),
            )]
        }),
    },
    Item {
        id: "skew-tick",
        group: Group::Kernel,
        reads: &["proc/cmdline"],
        judge: skew_tick,
        why: "ticks of all CPUs at one moment wait for each other's locks",
        mend: &[Mend::parameter("skew_tick=1")],
        fix: None,
    },
    Item {
        id: "rt-throttling",
        group: Group::Kernel,
        reads: &[RT_RUNTIME],
        judge: rt_throttling,
        why: "a SCHED_FIFO vCPU that never sleeps is stopped for 50 ms of each second",
        mend: &[Mend::write(
            "echo -1 > /proc/sys/kernel/sched_rt_runtime_us",
        )],
        fix: Some(|_| vec![Write::new(RT_RUNTIME, "-1")]),
    },
    Item {
        id: "fair-server",
        group: Group::Kernel,
        reads: &["sys/kernel/debug/sched/fair_server/cpu*/runtime"],
        judge: fair_server,
        why: "since Linux 6.12 a thread that starves beside a SCHED_FIFO vCPU gets 50 ms of each \
              second",
        mend: &[Mend::write(
            "echo 0 > /sys/kernel/debug/sched/fair_server/cpuN/runtime (each of {cpus})",
        )],
        fix: Some(fix_fair_server),
    },
    Item {
        id: "iommu",
        group: Group::Kernel,
        reads: &["sys/kernel/iommu_groups/*/type", "proc/cmdline"],
        judge: iommu,
        why: "an IOMMU that translates maps and unmaps each packet of the host's NICs",
        mend: &[Mend::parameter("intel_iommu=on iommu=pt")],
        fix: None,
    },
    Item {
        id: "default-huge-page",
        group: Group::Kernel,
        reads: &["proc/meminfo", "proc/cpuinfo"],
        judge: default_huge_page,
        why: "pages of 1 GiB keep a guest's memory in the TLB; they are had for sure at boot only",
        mend: &[Mend::parameter(
            "default_hugepagesz=1G hugepagesz=1G hugepages=COUNT",
        )],
        fix: None,
    },
];

fn preempt_rt(case: &Case<'_>) -> Fact<Verdict> {
    let facts = case.facts;
    if let Ok(Some("1")) = facts.optional(REALTIME) {
        return Ok(Verdict::good("PREEMPT_RT"));
    }
    let version = facts.file(VERSION)?;
    let preempt = version
        .split_whitespace()
        .find(|word| word.starts_with("PREEMPT"));
    Ok(match preempt {
        Some("PREEMPT_RT") => Verdict::good("PREEMPT_RT"),
        Some(other) => Verdict::warning(format!("{other}, not PREEMPT_RT")),
        None => Verdict::warning("not PREEMPT_RT"),
    })
}

fn idle_parameter(case: &Case<'_>) -> Fact<Verdict> {
    let line = seen(&case.facts.command_line)?;
    Ok(match line.value("idle") {
        None => Verdict::not_applicable("not set: c-states says how CPUs are idle"),
        Some("nomwait") => Verdict::warning(
            "idle=nomwait: without mwait, only the firmware's slower idle states are left",
        ),
        Some(value) => Verdict::good(format!("idle={value}")),
    })
}

fn clock_source(case: &Case<'_>) -> Fact<Verdict> {
    let clock = case.facts.file(CLOCK)?;
    if clock == "tsc" {
        return Ok(Verdict::good("tsc"));
    }
    if has_tsc(case) {
        return Ok(Verdict::bad(clock));
    }
    if clock == "kvm-clock" {
        return Ok(
            Verdict::warning("kvm-clock: this is a virtual machine without a sound TSC")
                .mended(How::Advice, "give this virtual machine an invariant TSC"),
        );
    }
    Ok(Verdict::bad(format!("{clock}; the kernel does not trust the TSC"))
        .mended(
            How::Firmware,
            "newer firmware: the TSCs of this machine are apart, or change pace (dmesg says why)",
        )
        .mended(How::KernelParameter, "tsc=reliable (only if they are sound)"))
}

/// Whether the kernel trusts the TSC.
fn has_tsc(case: &Case<'_>) -> bool {
    let able = case.facts.file(CLOCKS).unwrap_or_default();
    able.split_whitespace().any(|clock| clock == "tsc")
}

fn tsc_watchdog(case: &Case<'_>) -> Fact<Verdict> {
    let facts = case.facts;
    let line = seen(&facts.command_line)?;
    for value in ["reliable", "nowatchdog"] {
        if line.sets("tsc", value) {
            return Ok(Verdict::good(format!("off: tsc={value}")));
        }
    }
    if facts.file(CLOCK)? != "tsc" {
        return Ok(Verdict::not_applicable("the clock source is not the TSC"));
    }
    // The kernel's own rule since 5.16 (check_system_tsc_reliable).
    let processor = seen(&facts.processor)?;
    let flags = ["constant_tsc", "nonstop_tsc", "tsc_adjust"];
    if flags.iter().all(|flag| processor.has(flag)) && processor.packages <= 2 {
        return Ok(Verdict::good("off: this TSC needs none"));
    }
    Ok(Verdict::warning("on"))
}

fn nmi_watchdog(case: &Case<'_>) -> Fact<Verdict> {
    if case.facts.optional(NMI_WATCHDOG)?.is_none() {
        return Ok(Verdict::good("this kernel has none"));
    }
    Ok(if case.facts.switch(NMI_WATCHDOG)? {
        Verdict::warning("on")
    } else {
        Verdict::good("off")
    })
}

fn soft_watchdog(case: &Case<'_>) -> Fact<Verdict> {
    let facts = case.facts;
    match facts.optional(WATCHDOG)? {
        None => return Ok(Verdict::good("this kernel has none")),
        Some("0") => return Ok(Verdict::good("off")),
        Some(_) => {}
    }
    let Some(cpus) = case.cpus() else {
        return Ok(unnamed());
    };
    let watched: CpuSet = facts.list(WATCHDOG_CPUS)?;
    let watched: CpuSet = watched.intersection(cpus).copied().collect();
    Ok(if watched.is_empty() {
        Verdict::good("watches other CPUs only")
    } else {
        Verdict::warning(format!("watches {}", cpus_text(&watched)))
    })
}

fn skew_tick(case: &Case<'_>) -> Fact<Verdict> {
    let line = seen(&case.facts.command_line)?;
    Ok(if line.value("skew_tick") == Some("1") {
        Verdict::good("skew_tick=1")
    } else {
        Verdict::warning("ticks of all CPUs come at one moment")
    })
}

fn rt_throttling(case: &Case<'_>) -> Fact<Verdict> {
    let us: i64 = case.facts.number(RT_RUNTIME)?;
    Ok(if us < 0 {
        Verdict::good("off")
    } else if case.guest.is_fifo() {
        Verdict::bad(format!("real-time threads may run {us} µs of each second"))
    } else if case.guest.config.is_some() {
        Verdict::not_applicable("cpus.sched of the config is not fifo")
    } else {
        Verdict::warning(format!("real-time threads may run {us} µs of each second"))
    })
}

fn fair_server(case: &Case<'_>) -> Fact<Verdict> {
    if case.guest.config.is_some() && !case.guest.is_fifo() {
        return Ok(Verdict::not_applicable(
            "cpus.sched of the config is not fifo",
        ));
    }
    let Some(cpus) = case.cpus() else {
        return Ok(unnamed());
    };
    let mut serving = CpuSet::new();
    for cpu in cpus {
        match &case.facts.cpu(*cpu)?.fair_server_ns {
            Ok(0) => {}
            Err(Unread::Missing { .. }) => {
                return Ok(Verdict::not_applicable(
                    "this kernel has none, or debugfs is not mounted",
                ));
            }
            Ok(_) => {
                serving.insert(*cpu);
            }
            Err(unread) => return Err(unread.clone()),
        }
    }
    Ok(if serving.is_empty() {
        Verdict::good("off")
    } else {
        Verdict::warning(format!("on for {}", cpus_text(&serving)))
    })
}

fn fix_fair_server(case: &Case<'_>) -> Vec<Write> {
    let serves = |cpu: &&HostCpu| {
        let facts = case.facts.cpus.get(*cpu);
        facts.is_some_and(|facts| facts.fair_server_ns.as_ref().is_ok_and(|ns| *ns != 0))
    };
    let cpus = case.guest.cpus.iter().filter(serves);
    cpus.map(|cpu| {
        let path = format!("sys/kernel/debug/sched/fair_server/cpu{cpu}/runtime");
        Write::new(path, "0")
    })
    .collect()
}

fn iommu(case: &Case<'_>) -> Fact<Verdict> {
    let domains = seen(&case.facts.iommu_domains)?;
    if domains.is_empty() {
        return Ok(Verdict::not_applicable("no IOMMU is at work"));
    }
    let translating = domains.iter().filter(|kind| kind.starts_with("DMA"));
    Ok(match translating.count() {
        0 => Verdict::good("passed through (identity domains)"),
        count => Verdict::warning(format!("{count} of {} groups translate", domains.len())),
    })
}

fn default_huge_page(case: &Case<'_>) -> Fact<Verdict> {
    let host = seen(&case.facts.host)?;
    let Some(size) = host.default_huge_page else {
        return Ok(Verdict::bad("this kernel has no huge pages"));
    };
    let named = case.guest.config.as_ref().is_some_and(|config| {
        let memory = &config.memory;
        memory.hugepage_size.is_some()
            || memory
                .zones
                .iter()
                .any(|zone| zone.hugepages && zone.hugepage_size.is_some())
    });
    Ok(match size {
        PageSize::Huge1G => Verdict::good("1 GiB"),
        _ if named => Verdict::good(format!("{size}; the config names a size of its own")),
        _ if !host.huge_pages.contains_key(&PageSize::Huge1G) => {
            Verdict::good(format!("{size}, the largest of this host"))
        }
        _ => Verdict::warning(size.to_string()),
    })
}

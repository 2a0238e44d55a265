//! KVM's module parameters, and vhost.

use godwit_api::config::ExitName;

use super::case::Case;
use super::facts::{Fact, Unread};
use super::item::{Group, Item, Mend, Verdict, Write};

const HALT_POLL: &str = "sys/module/kvm/parameters/halt_poll_ns";
const CLOCK_SYNC: &str = "sys/module/kvm/parameters/kvmclock_periodic_sync";
const ADVANCE: &str = "sys/module/kvm/parameters/lapic_timer_advance";
const ADVANCE_NS: &str = "sys/module/kvm/parameters/lapic_timer_advance_ns";
const NX_PAGES: &str = "sys/module/kvm/parameters/nx_huge_pages";
const NX_RATIO: &str = "sys/module/kvm/parameters/nx_huge_pages_recovery_ratio";
const TDP_MMU: &str = "sys/module/kvm/parameters/tdp_mmu";
const EPT: &str = "sys/module/kvm_intel/parameters/ept";
const NPT: &str = "sys/module/kvm_amd/parameters/npt";
const EAGER_SPLIT: &str = "sys/module/kvm/parameters/eager_page_split";
const PLE_GAP: &str = "sys/module/kvm_intel/parameters/ple_gap";
const PAUSE_FILTER: &str = "sys/module/kvm_amd/parameters/pause_filter_count";
const ZERO_COPY: &str = "sys/module/vhost_net/parameters/experimental_zcopytx";
const FORK_OWNER: &str = "sys/module/vhost/parameters/fork_from_owner_default";

pub(super) const ROWS: &[Item] = &[
    Item {
        id: "kvm-device",
        group: Group::Kvm,
        reads: &["dev/kvm"],
        judge: kvm_device,
        why: "without it there is no guest",
        mend: &[
            Mend::command("modprobe kvm_intel (or kvm_amd)"),
            Mend::command("usermod -aG kvm USER"),
        ],
        fix: None,
    },
    Item {
        id: "two-dimensional-paging",
        group: Group::Kvm,
        reads: &[EPT, NPT],
        judge: two_dimensional_paging,
        why: "without EPT or NPT each change of a guest's page tables is an exit",
        mend: &[
            Mend::module("options kvm_intel ept=Y"),
            Mend::module("options kvm_amd npt=Y"),
        ],
        fix: None,
    },
    Item {
        id: "halt-poll",
        group: Group::Kvm,
        reads: &[HALT_POLL],
        judge: halt_poll,
        why: "a halted vCPU that is polled for starts again without the scheduler",
        mend: &[
            Mend::config("\"cpus\": { \"halt_poll_ns\": 200000 }"),
            Mend::write("echo 200000 > /sys/module/kvm/parameters/halt_poll_ns"),
        ],
        fix: Some(|_| vec![Write::new(HALT_POLL, "200000")]),
    },
    Item {
        id: "kvmclock-sync",
        group: Group::Kvm,
        reads: &[CLOCK_SYNC],
        judge: clock_sync,
        why: "every five minutes all vCPUs are made to leave the guest to agree on the time",
        mend: &[Mend::module("options kvm kvmclock_periodic_sync=N")],
        fix: None,
    },
    Item {
        id: "timer-advance",
        group: Group::Kvm,
        reads: &[ADVANCE, ADVANCE_NS],
        judge: timer_advance,
        why: "a guest's timer is armed early by what an entry takes, so that it is not late",
        mend: &[Mend::module("options kvm lapic_timer_advance=Y")],
        fix: None,
    },
    Item {
        id: "nx-huge-pages",
        group: Group::Kvm,
        reads: &[NX_PAGES, NX_RATIO],
        judge: nx_huge_pages,
        why: "huge pages that hold code are split, and made whole again by a thread that stops \
              the guest",
        mend: &[
            Mend::module("options kvm nx_huge_pages=never (only where guests are trusted)"),
            Mend::write("echo 0 > /sys/module/kvm/parameters/nx_huge_pages_recovery_ratio"),
        ],
        // The split itself is there for safety: it is not ours to take away.
        fix: Some(|_| vec![Write::new(NX_RATIO, "0")]),
    },
    Item {
        id: "tdp-mmu",
        group: Group::Kvm,
        reads: &[TDP_MMU, EPT, NPT],
        judge: tdp_mmu,
        why: "it fills and write-protects memory in parallel, which a migration needs",
        mend: &[Mend::module("options kvm tdp_mmu=Y")],
        fix: None,
    },
    Item {
        id: "eager-page-split",
        group: Group::Kvm,
        reads: &[EAGER_SPLIT],
        judge: eager_page_split,
        why: "without it vCPUs split huge pages themselves while a migration logs writes",
        mend: &[
            Mend::module("options kvm eager_page_split=Y"),
            Mend::write("echo Y > /sys/module/kvm/parameters/eager_page_split"),
        ],
        fix: Some(|_| vec![Write::new(EAGER_SPLIT, "Y")]),
    },
    Item {
        id: "pause-loop-exits",
        group: Group::Kvm,
        reads: &[PLE_GAP, PAUSE_FILTER],
        judge: pause_loop_exits,
        why: "a vCPU that spins is made to leave, though nobody else wants its core",
        mend: &[
            Mend::config("\"cpus\": { \"disable_exits\": [\"pause\"] }"),
            Mend::module("options kvm_intel ple_gap=0"),
            Mend::module("options kvm_amd pause_filter_count=0"),
        ],
        fix: None,
    },
    Item {
        id: "vhost-net",
        group: Group::Kvm,
        reads: &["dev/vhost-net"],
        judge: vhost_net,
        why: "the kernel serves network devices only with it",
        mend: &[Mend::command("modprobe vhost_net")],
        fix: None,
    },
    Item {
        id: "vhost-threads",
        group: Group::Kvm,
        reads: &[ZERO_COPY, FORK_OWNER],
        judge: vhost_threads,
        why: "zero-copy transmission waits for the NIC; workers that are no threads of godwit \
              escape its cgroup",
        mend: &[
            Mend::module("options vhost_net experimental_zcopytx=0"),
            Mend::module("options vhost fork_from_owner_default=1"),
        ],
        fix: None,
    },
];

/// A switch that a kernel may not have.
fn switch(case: &Case<'_>, path: &str) -> Fact<Option<bool>> {
    match case.facts.switch(path) {
        Err(Unread::Missing { .. }) => Ok(None),
        switch => switch.map(Some),
    }
}

fn absent() -> Verdict {
    Verdict::not_applicable("KVM is not loaded, or this kernel has no such parameter")
}

fn kvm_device(case: &Case<'_>) -> Fact<Verdict> {
    Ok(match case.facts.device("dev/kvm") {
        Ok(()) => Verdict::good("/dev/kvm"),
        // Not only unknown: godwit could not open it either.
        Err(unread) => Verdict::bad(unread.to_string()),
    })
}

/// Whether the CPU does it; `None`: neither module is loaded.
fn paging(case: &Case<'_>) -> Fact<Option<bool>> {
    Ok(switch(case, EPT)?.or(switch(case, NPT)?))
}

fn two_dimensional_paging(case: &Case<'_>) -> Fact<Verdict> {
    Ok(match paging(case)? {
        None => Verdict::not_applicable("neither kvm_intel nor kvm_amd is loaded"),
        Some(true) => Verdict::good("on"),
        Some(false) => Verdict::bad("off"),
    })
}

fn halt_poll(case: &Case<'_>) -> Fact<Verdict> {
    if case.guest.keeps(ExitName::Hlt) {
        return Ok(Verdict::not_applicable("hlt does not leave this guest"));
    }
    let config = case.guest.config.as_ref();
    if let Some(ns) = config.and_then(|config| config.cpus.halt_poll_ns) {
        return Ok(match ns {
            0 => Verdict::warning("0 in the config"),
            ns => Verdict::good(format!("{ns} ns in the config")),
        });
    }
    if case.facts.optional(HALT_POLL)?.is_none() {
        return Ok(absent());
    }
    Ok(match case.facts.number::<u64>(HALT_POLL)? {
        0 => Verdict::warning("0: halted vCPUs are not polled for"),
        ns => Verdict::good(format!("{ns} ns")),
    })
}

fn clock_sync(case: &Case<'_>) -> Fact<Verdict> {
    Ok(match switch(case, CLOCK_SYNC)? {
        None => absent(),
        Some(false) => Verdict::good("off"),
        Some(true) => Verdict::warning("on"),
    })
}

fn timer_advance(case: &Case<'_>) -> Fact<Verdict> {
    if let Some(on) = switch(case, ADVANCE)? {
        return Ok(match on {
            true => Verdict::good("adaptive"),
            false => Verdict::warning("off"),
        });
    }
    // Before Linux 6.9 it was a time, -1 for what suits the CPU.
    if case.facts.optional(ADVANCE_NS)?.is_none() {
        return Ok(absent());
    }
    // Some kernels print -1 without its sign.
    Ok(match case.facts.number::<i64>(ADVANCE_NS)? {
        0 => Verdict::warning("off"),
        -1 | 0xffff_ffff => Verdict::good("adaptive"),
        ns => Verdict::good(format!("{ns} ns")),
    })
}

fn nx_huge_pages(case: &Case<'_>) -> Fact<Verdict> {
    match case.facts.optional(NX_PAGES)? {
        None => return Ok(absent()),
        Some("never") => return Ok(Verdict::good("never")),
        Some(_) => {}
    }
    if !case.facts.switch(NX_PAGES)? {
        return Ok(Verdict::good("off: this CPU needs it not"));
    }
    Ok(match case.facts.file(NX_RATIO) {
        Ok("0") => Verdict::good("split pages stay split: the recovery thread is off"),
        _ => Verdict::warning("on, with a thread that makes split pages whole"),
    })
}

fn tdp_mmu(case: &Case<'_>) -> Fact<Verdict> {
    Ok(match (switch(case, TDP_MMU)?, paging(case)?) {
        (None, _) => absent(),
        (_, None | Some(false)) => Verdict::not_applicable("no EPT or NPT is in use"),
        (Some(true), _) => Verdict::good("on"),
        (Some(false), _) => Verdict::warning("off"),
    })
}

fn eager_page_split(case: &Case<'_>) -> Fact<Verdict> {
    Ok(match switch(case, EAGER_SPLIT)? {
        None => absent(),
        Some(true) => Verdict::good("on"),
        Some(false) => Verdict::warning("off"),
    })
}

fn pause_loop_exits(case: &Case<'_>) -> Fact<Verdict> {
    if case.guest.keeps(ExitName::Pause) {
        return Ok(Verdict::good("pause does not leave this guest"));
    }
    for path in [PLE_GAP, PAUSE_FILTER] {
        if case.facts.optional(path)?.is_some() {
            return Ok(match case.facts.number::<u64>(path)? {
                0 => Verdict::good("off"),
                window => Verdict::warning(format!("/{path} is {window}")),
            });
        }
    }
    Ok(absent())
}

fn vhost_net(case: &Case<'_>) -> Fact<Verdict> {
    let config = case.guest.config.as_ref();
    if config.is_some_and(|config| config.net.is_empty()) {
        return Ok(Verdict::not_applicable("the config has no network device"));
    }
    Ok(match case.facts.device("dev/vhost-net") {
        Ok(()) => Verdict::good("/dev/vhost-net"),
        Err(unread) if config.is_some() => Verdict::bad(unread.to_string()),
        Err(unread) => Verdict::warning(unread.to_string()),
    })
}

fn vhost_threads(case: &Case<'_>) -> Fact<Verdict> {
    let zero_copy = switch(case, ZERO_COPY)?;
    let forked = switch(case, FORK_OWNER)?;
    Ok(match (zero_copy, forked) {
        (None, None) => Verdict::not_applicable("vhost_net is not loaded"),
        (Some(true), _) => Verdict::warning("experimental_zcopytx is on"),
        (_, Some(false)) => {
            Verdict::warning("workers are kernel threads (fork_from_owner_default is off)")
        }
        (_, _) => Verdict::good("no zero-copy; workers are as this kernel has them"),
    })
}

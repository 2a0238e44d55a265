//! Single rows, and what holds for all of them.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Host, State, Unpacked, finds, good};
use crate::check::facts::{Facts, Unread};
use crate::check::guest::Guest;
use crate::check::report::{Detail, Look};
use crate::check::{Case, How, judge, table};
use crate::spec::HostCpu;

#[test]
fn rows_have_names_of_their_own_and_read_below_the_root() {
    let mut names = BTreeSet::new();
    for item in table() {
        assert!(names.insert(item.id), "{} is there twice", item.id);
        assert!(!item.why.ends_with('.'), "{}", item.id);
        for path in item.reads {
            let below = ["proc/", "sys/", "dev/"];
            assert!(below.iter().any(|top| path.starts_with(top)), "{path}");
        }
    }
}

/// A row that can write says so, with the file that it writes.
#[test]
fn what_a_fix_writes_is_what_the_row_tells() {
    for host in Host::ALL {
        let host = Unpacked::new(host);
        let facts = host.facts();
        let guest = Guest::on(&[HostCpu(2), HostCpu(3)].into(), &facts);
        let case = Case {
            facts: &facts,
            guest: &guest,
        };
        let report = judge(&case);
        for item in table() {
            let writes = item.fix.map(|fix| fix(&case)).unwrap_or_default();
            let finding = report.item(item.id).unwrap();
            if !finding.fixable {
                continue;
            }
            for write in writes {
                let file = write.path.rsplit('/').next().unwrap();
                let told = finding.mend.iter().any(|mend| {
                    mend.how == How::Write
                        && mend.text.contains(file)
                        && mend.text.contains(&format!("echo {} >", write.value))
                });
                assert!(told, "{}: {write:?} is not in {:?}", item.id, finding.mend);
            }
        }
    }
}

#[test]
fn what_may_not_be_read_is_not_good() {
    let host = Unpacked::new(Host::Rt);
    let mut facts = host.facts();
    let denied = || Unread::Denied {
        path: "secret".to_owned(),
    };
    facts.smis = Err(denied());
    facts.interrupts = Err(denied());
    facts.threads = Err(denied());
    facts.command_line = Err(denied());
    let guest = Guest::unnamed(&facts);
    let report = judge(&Case {
        facts: &facts,
        guest: &guest,
    });
    for id in [
        "smi",
        "device-interrupts",
        "threads",
        "rcu-nocbs",
        "skew-tick",
    ] {
        finds(
            &report,
            id,
            State::NoPermission,
            &["no permission for /secret"],
        );
    }
    assert!(report.counts.unknown >= 5);
    let text = serde_json::to_value(&report).unwrap();
    assert!(text.to_string().contains("\"no-permission\""));
}

#[test]
fn counters_that_move_are_seen() {
    let host = Unpacked::new(Host::Rt);
    let mut facts = host.facts();
    facts.interval = Duration::from_secs(1);
    facts.smis = Ok((12, 15));
    if let Ok(interrupts) = &mut facts.interrupts {
        let (before, after) = interrupts.own.get_mut("LOC").unwrap();
        before.insert(HostCpu(2), 1000);
        after.insert(HostCpu(2), 2000);
    }
    let guest = Guest::unnamed(&facts);
    let report = judge(&Case {
        facts: &facts,
        guest: &guest,
    });
    finds(
        &report,
        "smi",
        State::Bad,
        &["3 in 1000 ms, 15 since power-on"],
    );
    finds(
        &report,
        "local-interrupts",
        State::Warning,
        &["1000 LOC in 1000 ms"],
    );
}

#[test]
fn counters_that_are_not_watched_are_not_good() {
    let host = Unpacked::new(Host::Rt);
    let mut facts = host.facts();
    facts.interval = Duration::ZERO;
    let guest = Guest::unnamed(&facts);
    let report = judge(&Case {
        facts: &facts,
        guest: &guest,
    });
    finds(&report, "smi", State::Unknown, &["12 since power-on"]);
}

/// The verdict of one row of the tuned host with lines laid over it.
fn over(lines: &[&str], id: &str, state: State, words: &[&str]) {
    let report = Unpacked::with(Host::Rt, lines).judge(None);
    finds(&report, id, state, words);
}

#[test]
fn rows_tell_apart_what_their_files_can_hold() {
    use State::{Bad, Good, NotApplicable, Unknown, Warning};
    let idle = "sys/devices/system/cpu/cpu3/cpuidle/state2/disable\t0";
    over(&[idle], "c-states", Bad, &["C6 (170 µs) on CPU 3"]);
    let partition = "sys/fs/cgroup/cpuset.cpus.isolated\t2-7,10-15";
    let open = "sys/devices/system/cpu/isolated\t";
    over(&[open, partition], "isolcpus", Warning, &["no vCPU"]);
    let sync = "sys/module/kvm/parameters/kvmclock_periodic_sync\tmaybe";
    over(
        &[sync],
        "kvmclock-sync",
        Unknown,
        &["\"maybe\" is not Y or N"],
    );
    let advance = "sys/module/kvm/parameters/lapic_timer_advance\t!absent";
    for (ns, state) in [
        ("-1", Good),
        ("4294967295", Good),
        ("0", Warning),
        ("x", Unknown),
    ] {
        let ns = format!("sys/module/kvm/parameters/lapic_timer_advance_ns\t{ns}");
        over(&[advance, &ns], "timer-advance", state, &[]);
    }
    over(&[advance], "timer-advance", NotApplicable, &[]);
    let zero_copy = "sys/module/vhost_net/parameters/experimental_zcopytx\t1";
    over(&[zero_copy], "vhost-threads", Warning, &["zcopytx"]);
    let kthreads = "sys/module/vhost/parameters/fork_from_owner_default\tN";
    over(&[kthreads], "vhost-threads", Warning, &["kernel threads"]);
    let fair = "sys/kernel/debug/sched/fair_server/cpu4/runtime\t50000000";
    over(&[fair], "fair-server", Warning, &["on for CPU 4"]);
    let mask = "sys/devices/virtual/workqueue/cpumask\tff,zz";
    over(&[mask], "workqueues", Unknown, &["is not a CPU mask"]);
    let dma = "sys/kernel/iommu_groups/1/type\tDMA";
    over(&[dma], "iommu", Warning, &["1 of 3 groups translate"]);
    let stat = "proc/1/task/1/stat\tnonsense";
    over(&[stat], "threads", Good, &[]);
    let ept = "sys/module/kvm_intel/parameters/ept\tN";
    over(&[ept], "two-dimensional-paging", Bad, &["off"]);
    over(&[ept], "tdp-mmu", NotApplicable, &[]);
    let hpet = "sys/devices/system/clocksource/clocksource0/current_clocksource\thpet";
    over(&[hpet], "clock-source", Bad, &["hpet", "echo tsc >"]);
    let some = "sys/devices/system/clocksource/clocksource0/available_clocksource\thpet";
    over(&[hpet, some], "clock-source", Bad, &["does not trust"]);
    let quota = "sys/fs/cgroup/system.slice/cpu.max\t50000 100000";
    over(&[quota], "cgroup-quota", Bad, &["system.slice/cpu.max"]);
    let least = "sys/fs/cgroup/memory.max\t1073741824";
    over(&[least], "cgroup-memory", Warning, &["1024 MiB"]);
}

#[test]
fn a_vcpu_that_runs_already_is_no_disturbance() {
    let vcpu = "proc/5/task/6/stat\t6 (vcpu0) S 1 5 5 0 -1 4194304 0 0 0 0 1 1 0 0 20 0 1 0 1 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 17 2 0 0 0";
    let place = "proc/5/task/6/status\tCpus_allowed_list:\\t2";
    over(&[vcpu, place], "threads", State::Good, &[]);
    let other = vcpu.replace("vcpu0", "stress");
    over(
        &[&other, place],
        "threads",
        State::Bad,
        &["1 pinned", "stress"],
    );
}

#[test]
fn every_line_of_the_text_is_harmless_and_fits() {
    let name = "proc/9/task/9/stat\t9 (\u{1b}[2J) S 1 9 9 0 -1 4194304 0 0 0 0 1 1 0 0 20 0 1 0 1 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 17 2 0 0 0";
    let place = "proc/9/task/9/status\tCpus_allowed_list:\\t2";
    let host = Unpacked::with(Host::Distro, &[name, place]);
    let report = host.judge(Some(good()));
    let look = Look {
        detail: Detail::All,
        colour: false,
        width: 80,
    };
    let text = report.text(look);
    assert!(!text.contains('\u{1b}'));
    let counts = &report.counts;
    assert!(text.ends_with(&format!(
        "\n{} good, {} warnings, {} bad, {} unknown\n",
        counts.good, counts.warning, counts.bad, counts.unknown
    )));
    for item in &report.items {
        assert!(text.contains(&item.id));
    }
    let coloured = report.text(Look {
        colour: true,
        ..look
    });
    assert!(coloured.contains("\u{1b}[31mbad"));
    // Ways to mend are whole lines, to be copied; all else is wrapped.
    for line in text.lines() {
        let label = line.get(9..21).unwrap_or_default().trim();
        let is_mend = [
            "do",
            "boot with",
            "modprobe.d",
            "firmware",
            "config",
            "guest",
        ];
        assert!(
            line.chars().count() <= 80 || is_mend.contains(&label),
            "{line}"
        );
    }
    let short = report.text(Look {
        detail: Detail::Short,
        ..look
    });
    assert!(short.len() < text.len());
}

#[test]
fn facts_are_there_for_what_rows_read() {
    let facts: Facts = Unpacked::new(Host::Rt).facts();
    for item in table() {
        for path in item
            .reads
            .iter()
            .filter(|path| path.starts_with("sys/module"))
        {
            if let Err(unread) = facts.file(path) {
                assert!(matches!(unread, Unread::Missing { .. }), "{path}: {unread}");
            }
        }
    }
}

#[test]
fn an_interrupt_that_the_kernel_placed_is_not_ours_to_move() {
    use std::fs::{Permissions, set_permissions};
    use std::os::unix::fs::PermissionsExt;
    let host = Unpacked::new(Host::Amd);
    let path = host.path().join("proc/irq/40/smp_affinity_list");
    set_permissions(path, Permissions::from_mode(0o444)).unwrap();
    let report = host.judge(None);
    let words = ["40 mlx5_comp2", "isolcpus=managed_irq,domain,10-15"];
    finds(&report, "device-interrupts", State::Warning, &words);
    assert!(!report.item("device-interrupts").unwrap().fixable);
}

#[test]
fn an_interrupt_that_is_about_to_leave_is_not_told() {
    let host = Unpacked::with(Host::Amd, &["proc/irq/40/smp_affinity_list\t0-9"]);
    finds(
        &host.judge(None),
        "device-interrupts",
        State::Good,
        &["none goes there"],
    );
}

//! Verdicts on hosts made of files.

mod contradictions;
mod rows;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use godwit_api::config::VmConfig;
use godwit_lab::host_tree::{self, Host};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::facts::Facts;
use super::guest::{Files, Guest};
use super::report::{Outcome, Report};
use super::{Case, State, judge, read};

/// A host that is unpacked.
pub(super) struct Unpacked(TempDir);

impl Unpacked {
    pub(super) fn new(host: Host) -> Self {
        // In memory where that is possible: they are hundreds of files.
        let memory = Path::new("/dev/shm");
        let folder = match memory.is_dir() {
            true => tempfile::tempdir_in(memory),
            false => tempfile::tempdir(),
        };
        let folder = folder.unwrap();
        host.unpack(folder.path()).unwrap();
        Self(folder)
    }

    /// The same, with other lines laid over it.
    pub(super) fn with(host: Host, lines: &[&str]) -> Self {
        let unpacked = Self::new(host);
        for line in lines {
            host_tree::unpack(unpacked.path(), line).unwrap();
        }
        unpacked
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(super) fn facts(&self) -> Facts {
        read(self.path(), Duration::from_millis(1))
    }

    fn judge(&self, config: Option<Value>) -> Report {
        let facts = self.facts();
        let guest = match config {
            Some(config) => Guest::of(vm(config), &facts, Files::Elsewhere),
            None => Guest::unnamed(&facts),
        };
        judge(&Case {
            facts: &facts,
            guest: &guest,
        })
    }
}

pub(super) fn vm(config: Value) -> VmConfig {
    serde_json::from_value(config).unwrap()
}

/// A guest that is right for the tuned host.
pub(super) fn good() -> Value {
    json!({
        "payload": {
            "kernel": "/nowhere/vmlinuz",
            "cmdline": "isolcpus=1 nohz_full=1 rcu_nocbs=1 skew_tick=1 tsc=reliable nowatchdog"
        },
        "cpus": {
            "boot_vcpus": 2,
            "affinity": [{ "vcpu": 0, "host_cpus": [2] }, { "vcpu": 1, "host_cpus": [3] }],
            "sched": { "policy": "fifo", "priority": 1 },
            "disable_exits": ["hlt", "pause", "mwait"],
            "realtime_hint": true
        },
        "memory": {
            "size": 0,
            "zones": [{
                "id": "m0", "size": 4294967296_u64, "hugepages": true,
                "hugepage_size": 1073741824, "host_numa_node": 0
            }],
            "lock": true
        },
        "net": [{ "tap": "gw0", "worker_cpus": [1] }],
        "platform": { "emulator_cpus": [0] }
    })
}

/// Lays `piece` over a config.
pub(super) fn merged(mut config: Value, piece: Value) -> Value {
    fn merge(into: &mut Value, piece: Value) {
        match (into, piece) {
            (Value::Object(into), Value::Object(piece)) => {
                for (key, value) in piece {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
            (into, piece) => *into = piece,
        }
    }
    merge(&mut config, piece);
    config
}

#[track_caller]
fn finds(report: &Report, id: &str, expected: State, words: &[&str]) {
    let item = report.item(id).unwrap();
    assert_eq!(item.state, expected, "{id}: {}", item.found);
    for word in words {
        let mends = item.mend.iter().any(|mend| mend.text.contains(word));
        assert!(
            item.found.contains(word) || mends,
            "no {word:?} in {item:#?}"
        );
    }
}

/// The names of items by their state.
fn by_state(report: &Report) -> BTreeMap<State, Vec<&str>> {
    let mut names: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for item in &report.items {
        names.entry(item.state).or_default().push(item.id.as_str());
    }
    names
}

/// All that is not good, with what is wrong.
#[track_caller]
fn amiss(report: &Report, expected: &[(&str, State)]) {
    let found: Vec<_> = report
        .items
        .iter()
        .filter(|item| !matches!(item.state, State::Good | State::NotApplicable))
        .map(|item| (item.id.as_str(), item.state))
        .collect();
    assert_eq!(found, expected, "{report:#?}");
}

#[test]
fn the_tuned_host_is_ready_for_its_guest() {
    let report = Unpacked::new(Host::Rt).judge(Some(good()));
    amiss(&report, &[]);
    assert_eq!(report.outcome, Outcome::Ready);
    assert_eq!(
        by_state(&report)[&State::NotApplicable],
        ["idle-parameter", "halt-poll"]
    );
    finds(&report, "numa-nic", State::Good, &["gw0 → eth0 on node 0"]);
    finds(&report, "smi", State::Good, &["none in 1 ms"]);
}

#[test]
fn the_tuned_host_is_ready_without_a_config() {
    let report = Unpacked::new(Host::Rt).judge(None);
    amiss(&report, &[]);
    assert_eq!(report.host.vcpu_cpus, "2-7,10-15");
    assert_eq!(report.host.other_cpus, "0-1,8-9");
}

#[test]
fn a_server_as_it_was_installed_is_not() {
    use State::{Bad, Unknown, Warning};
    let report = Unpacked::new(Host::Distro).judge(Some(good()));
    amiss(
        &report,
        &[
            ("taps", Bad),
            ("hyper-threading", Bad),
            ("governor", Bad),
            ("turbo", Warning),
            ("smi", Unknown),
            ("mce-polling", Warning),
            ("mitigations", Warning),
            ("isolcpus", Bad),
            ("nohz-full", Bad),
            ("rcu-nocbs", Warning),
            ("timer-migration", Warning),
            ("workqueues", Bad),
            ("preempt-rt", Warning),
            ("nmi-watchdog", Warning),
            ("soft-watchdog", Warning),
            ("skew-tick", Warning),
            ("rt-throttling", Bad),
            ("iommu", Warning),
            ("irqbalance", Bad),
            ("device-interrupts", Bad),
            ("new-interrupts", Warning),
            ("receive-steering", Bad),
            ("transmit-steering", Warning),
            ("threads", Bad),
            ("transparent-huge-pages", Warning),
            ("khugepaged", Warning),
            ("ksm", Warning),
            ("vm-statistics", Warning),
            ("huge-pages", Bad),
            ("kvmclock-sync", Warning),
            ("nx-huge-pages", Warning),
            ("eager-page-split", Warning),
            ("vhost-net", Bad),
        ],
    );
    assert_eq!(report.outcome, Outcome::NotReady);
    let is_bad = |id: &str, words: &[&str]| finds(&report, id, Bad, words);
    is_bad(
        "taps",
        &["gw0 is not there", "ip tuntap add gw0 mode tap vnet_hdr"],
    );
    is_bad(
        "hyper-threading",
        &["CPUs 6-7", "cpu6/online (each of 6-7)"],
    );
    is_bad(
        "isolcpus",
        &["no CPU is isolated", "isolcpus=managed_irq,domain,2-3"],
    );
    is_bad(
        "device-interrupts",
        &[
            "1 i8042 (9)",
            "126 i915 (554433)",
            "echo 0-1,4-7",
            "N: 1,126",
        ],
    );
    // Each queue keeps what others may do for it; the last has nobody left.
    is_bad(
        "receive-steering",
        &[
            "eno1 rx-0, eno1 rx-1 hand packets to CPUs 2-3",
            "echo f3 >",
            "echo 0 > /sys/class/net/NAME/queues/rx-N/rps_cpus (eno1 rx-1)",
        ],
    );
    finds(
        &report,
        "transmit-steering",
        Warning,
        &["eno1 has queues for CPUs 2-3 only"],
    );
    is_bad(
        "workqueues",
        &[
            "CPUs 2-3",
            "echo f3 > /sys/devices/virtual/workqueue/cpumask",
        ],
    );
    is_bad(
        "threads",
        &["3 may run there, 2 did last", "Web Content) x, irqbalance"],
    );
    is_bad(
        "huge-pages",
        &[
            "4 of 1 GiB needed on node 0, 0 free",
            "hugepagesz=1G hugepages=4",
        ],
    );
    finds(
        &report,
        "mitigations",
        Warning,
        &["itlb_multihit, l1tf, mds"],
    );
    finds(&report, "timer-migration", Warning, &["echo 0 >"]);
    finds(&report, "smi", Unknown, &["/dev/cpu/0/msr", "modprobe msr"]);
    // There is no reading on into the offline CPUs of the host.
    assert_eq!(report.host.online_cpus, "0-7");
}

#[test]
fn an_amd_host_is_told_what_is_left_to_do() {
    use State::{Bad, Warning};
    let report = Unpacked::new(Host::Amd).judge(None);
    amiss(
        &report,
        &[
            ("posted-interrupts", Warning),
            ("turbo", Warning),
            ("mitigations", Warning),
            ("isolcpus", Warning),
            ("timer-migration", Warning),
            ("preempt-rt", Warning),
            ("idle-parameter", Warning),
            ("tsc-watchdog", Warning),
            ("skew-tick", Warning),
            ("rt-throttling", Warning),
            ("default-huge-page", Warning),
            ("device-interrupts", Warning),
            ("new-interrupts", Warning),
            ("threads", Bad),
            ("vm-statistics", Warning),
            ("kvmclock-sync", Warning),
            ("pause-loop-exits", Warning),
        ],
    );
    finds(&report, "isolcpus", Warning, &["managed_irq"]);
    finds(
        &report,
        "threads",
        Bad,
        &["1 pinned to CPUs 10-15: dpdk-stats", "TID: 77"],
    );
    finds(
        &report,
        "device-interrupts",
        Warning,
        &["40 mlx5_comp2@pci:0000:c1:00.0 (0)"],
    );
    finds(&report, "c-states", State::Good, &["/dev/cpu_dma_latency"]);
    // The other maker's modules are none of its concern.
    let posted = report.item("posted-interrupts").unwrap();
    assert!(posted.mend.iter().any(|mend| mend.text.contains("kvm_amd")));
    assert!(
        !posted
            .mend
            .iter()
            .any(|mend| mend.text.contains("kvm_intel"))
    );
    finds(
        &report,
        "turbo",
        Warning,
        &["echo 0 > /sys/devices/system/cpu/cpufreq/boost"],
    );
}

#[test]
fn cpus_that_are_isolated_for_others_stay_theirs() {
    let host = Unpacked::new(Host::Amd);
    let report = host.judge(Some(good()));
    assert_eq!(report.host.other_cpus, "0-1,4-9");
    let parameters = [
        ("isolcpus", "isolcpus=managed_irq,domain,2-3,10-15"),
        ("nohz-full", "nohz_full=2-3,10-15"),
    ];
    for (id, parameter) in parameters {
        finds(&report, id, State::Bad, &[parameter]);
    }
    finds(
        &report,
        "new-interrupts",
        State::Warning,
        &["echo 3f3 >", "irqaffinity=0-1,4-9"],
    );
    // Through the switch to the NIC.
    finds(
        &report,
        "numa-nic",
        State::Good,
        &["gw0 → enp193s0 on node 0"],
    );
}

#[test]
fn a_container_is_told_its_limits() {
    use State::{Bad, Unknown};
    let report = Unpacked::new(Host::Container).judge(Some(good()));
    amiss(
        &report,
        &[
            ("smi", Unknown),
            ("cgroup-cpus", Bad),
            ("cgroup-quota", Bad),
            ("cgroup-memory", Bad),
            ("memory-lock", Bad),
            ("rt-priority", Bad),
            ("kvm-device", Bad),
            ("vhost-net", Bad),
        ],
    );
    let is_bad = |id: &str, words: &[&str]| finds(&report, id, Bad, words);
    is_bad(
        "cgroup-cpus",
        &[
            "only CPUs 4-5",
            "CPUs 0-3",
            "emulator_cpus",
            "net[0].worker_cpus",
        ],
    );
    is_bad("cgroup-quota", &["/sys/fs/cgroup/cpu.max is 100000 100000"]);
    is_bad(
        "cgroup-memory",
        &["/sys/fs/cgroup/hugetlb.1GB.max is 0 MiB", "4096 MiB"],
    );
    is_bad("memory-lock", &["4096 MiB", "8 MiB at most"]);
    is_bad("rt-priority", &["priority 1", "0 at most"]);
}

#[test]
fn a_virtual_machine_without_most_files_gets_a_verdict_on_each() {
    use State::{Bad, Unknown, Warning};
    let report = Unpacked::new(Host::Vm).judge(None);
    amiss(
        &report,
        &[
            ("virtualization", Bad),
            ("tsc-invariant", Bad),
            ("isolcpus", Warning),
            ("nohz-full", Warning),
            ("preempt-rt", Warning),
            ("clock-source", Warning),
            ("skew-tick", Warning),
            ("rt-throttling", Warning),
            ("default-huge-page", Warning),
            ("transparent-huge-pages", Unknown),
            ("khugepaged", Unknown),
            ("vm-statistics", Unknown),
            ("kvm-device", Bad),
        ],
    );
    finds(
        &report,
        "vm-statistics",
        Unknown,
        &["stat_interval", "\"often\" is not a number"],
    );
    finds(&report, "clock-source", Warning, &["kvm-clock"]);
    assert!(!report.item("clock-source").unwrap().fixable);
    for id in [
        "c-states",
        "governor",
        "turbo",
        "smi",
        "mce-polling",
        "numa-cpus",
    ] {
        finds(&report, id, State::NotApplicable, &[]);
    }
}

#[test]
fn an_empty_host_is_unknown_and_nothing_is_good_by_accident() {
    let folder = tempfile::tempdir().unwrap();
    let facts = read(folder.path(), Duration::ZERO);
    for guest in [
        Guest::unnamed(&facts),
        Guest::of(vm(good()), &facts, Files::Elsewhere),
    ] {
        let report = judge(&Case {
            facts: &facts,
            guest: &guest,
        });
        assert_ne!(report.outcome, Outcome::Ready);
        let names = by_state(&report);
        let good = names.get(&State::Good).cloned().unwrap_or_default();
        // What a kernel may be built without, or what the config alone decides.
        let absent = [
            "nmi-watchdog",
            "soft-watchdog",
            "transparent-huge-pages",
            "khugepaged",
            "ksm",
            "numa-balancing",
            "cgroup-cpus",
            "cgroup-quota",
            "cgroup-memory",
        ];
        let config = [
            "pinning",
            "shared-cores",
            "other-threads",
            "vhost-workers",
            "scheduling",
            "exits",
            "memory",
            "guest-command-line",
            "pause-loop-exits",
        ];
        for id in good {
            assert!(absent.contains(&id) || config.contains(&id), "{id}");
        }
    }
}

#[test]
fn the_report_comes_back_from_json() {
    let report = Unpacked::new(Host::Distro).judge(Some(good()));
    let text = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
    assert_eq!(report.version, 1);
}

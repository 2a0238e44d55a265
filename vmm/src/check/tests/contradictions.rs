//! Configs that contradict themselves or the host: a clear line for each.

use serde_json::{Value, json};

use super::{Host, State, Unpacked, finds, good, merged};
use crate::check::report::Report;

fn judged(host: Host, piece: Value) -> Report {
    Unpacked::new(host).judge(Some(merged(good(), piece)))
}

#[test]
fn a_vcpu_where_other_threads_are() {
    let report = judged(Host::Rt, json!({ "platform": { "emulator_cpus": [0, 2] } }));
    finds(
        &report,
        "other-threads",
        State::Bad,
        &["platform.emulator_cpus has CPU 2 of vCPUs"],
    );
    finds(
        &report,
        "config",
        State::Bad,
        &["platform.emulator_cpus: CPU 2 is where vCPU 0 is pinned"],
    );
}

#[test]
fn a_vcpu_where_vhost_works() {
    let report = judged(
        Host::Rt,
        json!({ "net": [{ "tap": "gw0", "worker_cpus": [3] }] }),
    );
    finds(
        &report,
        "vhost-workers",
        State::Bad,
        &["net[0].worker_cpus has CPU 3 of vCPUs"],
    );
}

#[test]
fn two_vcpus_on_one_cpu() {
    let affinity = json!([{ "vcpu": 0, "host_cpus": [2] }, { "vcpu": 1, "host_cpus": [2] }]);
    let report = judged(Host::Rt, json!({ "cpus": { "affinity": affinity } }));
    finds(&report, "pinning", State::Bad, &["vCPUs 0, 1 share CPU 2"]);
}

#[test]
fn a_vcpu_without_a_cpu_of_its_own() {
    let affinity = json!([{ "vcpu": 0, "host_cpus": [2, 3] }]);
    let report = judged(Host::Rt, json!({ "cpus": { "affinity": affinity } }));
    finds(
        &report,
        "pinning",
        State::Warning,
        &["not pinned to one CPU: vCPU 0-1"],
    );
}

#[test]
fn two_vcpus_on_one_core() {
    let affinity = json!([{ "vcpu": 0, "host_cpus": [2] }, { "vcpu": 1, "host_cpus": [6] }]);
    let report = judged(Host::Distro, json!({ "cpus": { "affinity": affinity } }));
    finds(
        &report,
        "shared-cores",
        State::Warning,
        &["CPU 2 of vCPU 0 and CPU 6 of vCPU 1 are one core"],
    );
    finds(
        &report,
        "hyper-threading",
        State::Warning,
        &["CPUs 2,6 share cores with each other"],
    );
}

#[test]
fn other_threads_beside_a_vcpu_on_its_core() {
    let report = judged(
        Host::Distro,
        json!({ "platform": { "emulator_cpus": [0, 6] } }),
    );
    finds(
        &report,
        "shared-cores",
        State::Bad,
        &["CPU 2 of vCPU 0 and CPU 6 of platform.emulator_cpus are one core"],
    );
}

#[test]
fn cpus_that_are_offline_or_not_there() {
    let affinity = json!([{ "vcpu": 0, "host_cpus": [2] }, { "vcpu": 1, "host_cpus": [9] }]);
    let cpus = json!({ "cpus": { "affinity": affinity }, "platform": { "emulator_cpus": [40] } });
    let report = judged(Host::Distro, cpus);
    finds(
        &report,
        "config",
        State::Bad,
        &[
            "CPU 9 is offline",
            "echo 1 > /sys/devices/system/cpu/cpu9/online",
            "no CPU 40",
        ],
    );
    assert_eq!(report.host.vcpu_cpus, "2");
}

#[test]
fn a_guest_on_two_nodes() {
    let affinity = json!([{ "vcpu": 0, "host_cpus": [2] }, { "vcpu": 1, "host_cpus": [10] }]);
    let report = judged(Host::Rt, json!({ "cpus": { "affinity": affinity } }));
    finds(
        &report,
        "numa-cpus",
        State::Warning,
        &["CPU 2 on node 0, CPU 10 on node 1"],
    );
    finds(&report, "numa-nic", State::NotApplicable, &[]);
}

#[test]
fn a_guest_far_from_its_memory_its_nic_and_vhost() {
    let affinity = json!([{ "vcpu": 0, "host_cpus": [10] }, { "vcpu": 1, "host_cpus": [11] }]);
    let report = judged(Host::Rt, json!({ "cpus": { "affinity": affinity } }));
    let far = [
        (
            "numa-memory",
            State::Bad,
            "memory on node 0, vCPUs on node 1",
        ),
        (
            "numa-nic",
            State::Warning,
            "gw0 → eth0 on node 0, vCPUs on node 1",
        ),
        (
            "numa-vhost",
            State::Warning,
            "net[0].worker_cpus 1 not all on node 1",
        ),
    ];
    for (id, state, words) in far {
        finds(&report, id, state, &[words]);
    }
}

#[test]
fn memory_that_is_bound_to_no_node() {
    let memory =
        json!({ "size": 1073741824, "zones": [], "hugepages": true, "hugepage_size": 1073741824 });
    let report = judged(Host::Rt, json!({ "memory": memory }));
    finds(
        &report,
        "numa-memory",
        State::Warning,
        &["bound to no node"],
    );
    finds(&report, "huge-pages", State::Good, &[]);
}

#[test]
fn a_config_that_asks_for_nothing_is_told_what_it_could() {
    let config = json!({ "payload": { "kernel": "k" }, "net": [{ "tap": "gw0" }] });
    let report = Unpacked::new(Host::Rt).judge(Some(config));
    let lines = [
        ("pinning", "vCPU 0"),
        ("other-threads", "emulator_cpus is not set"),
        ("vhost-workers", "no worker_cpus for net[0]"),
        ("scheduling", "other"),
        (
            "memory",
            "not all on huge pages, not all prefaulted, not locked",
        ),
        ("huge-pages", "512 MiB of the guest are on pages of 4 KiB"),
        ("numa-memory", "bound to no node"),
    ];
    for (id, words) in lines {
        finds(&report, id, State::Warning, &[words]);
    }
    for id in [
        "exits",
        "guest-command-line",
        "rt-priority",
        "rt-throttling",
        "memory-lock",
    ] {
        let state = report.item(id).unwrap().state;
        assert!(
            matches!(state, State::NotApplicable | State::Good),
            "{id}: {state}"
        );
    }
    // No CPU is known to be a vCPU's, so none can be disturbed.
    finds(&report, "threads", State::NotApplicable, &["--cpus"]);
}

#[test]
fn a_guest_kernel_that_is_not_quiet() {
    let report = judged(
        Host::Rt,
        json!({ "payload": { "kernel": "k", "cmdline": "tsc=reliable" } }),
    );
    finds(
        &report,
        "guest-command-line",
        State::Warning,
        &["isolcpus=1 nohz_full=1 rcu_nocbs=1 skew_tick=1 nowatchdog"],
    );
}

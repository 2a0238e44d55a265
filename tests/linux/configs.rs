//! The configs of `resources/configs`, booted as they are: only a path that must be writable is
//! replaced. `disk.json` is booted by the tests of disks.

use std::time::Duration;

use godwit_lab::seam::{self, Need};
use godwit_lab::traffic::{self, Port, Stream};
use serde_json::Value;

use crate::support::config::{GIB, MIB};
use crate::support::host::{self, HugePages, SCHED_FIFO, SCHED_OTHER, Task};
use crate::support::linux::{self, Guest, LinuxVm, Tap};
use crate::support::scratch::Scratch;

/// The tap of the examples.
const TAP: &str = "gw0";

fn start(name: &str) -> (LinuxVm, Value) {
    let config = linux::example(name);
    let json = config.json().clone();
    (LinuxVm::start(Scratch::new(), config, &[]), json)
}

fn named<'a>(tasks: &'a [Task], name: &str) -> &'a Task {
    tasks
        .iter()
        .find(|task| task.name == name)
        .unwrap_or_else(|| panic!("no thread {name} in {tasks:#?}"))
}

/// Every thread but the vCPUs may run on `cpus` only, in the ordinary class.
fn assert_others(tasks: &[Task], cpus: &str) {
    for task in tasks.iter().filter(|task| !task.name.starts_with("vcpu")) {
        assert_eq!((task.policy, task.priority), (SCHED_OTHER, 0), "{task:?}");
        assert_eq!(task.cpus, cpus, "{task:?}");
    }
}

#[test]
fn minimal() {
    let (mut vm, config) = start("minimal.json");
    vm.wait_for("godwit: up");
    // The shell's prompt; its name for this folder is "~".
    vm.wait_for("# ");
    vm.type_in("nproc; cat /proc/meminfo | head -n 1; poweroff -f\n");
    let ended = vm.wait_code(0);
    let console = &ended.ended.stdout;
    assert!(console.contains("\n1\r\n"), "one CPU: {console}");
    let size = config["memory"]["size"].as_u64().expect("a size");
    let total = linux::bytes_after(console, "MemTotal:");
    assert!(
        (size / 2..size).contains(&total),
        "{total} of {size} bytes: {console}"
    );
}

#[test]
fn realtime_1g() {
    seam::require(&[Need::HardwareVirtualization, Need::HugePages1G(1)]);
    // Ours alone, as every pool.
    let _pool = HugePages::take();
    let free = || [0, 1].map(host::free_gib_pages);
    let [on_node_0, on_node_1] = free();
    assert!(
        on_node_0 > 0,
        "needs a free huge page of 1 GiB on NUMA node 0"
    );
    let _tap = Tap::new(TAP, false);
    let (mut vm, config) = start("realtime-1g.json");
    vm.wait_for("godwit: up");

    // All of the guest is one page, from node 0, and there before the guest began.
    assert_eq!(free(), [on_node_0 - 1, on_node_1]);
    assert!(host::status_bytes(vm.pid(), "HugetlbPages") >= GIB);

    let tasks = host::tasks(vm.pid());
    let vcpu = named(&tasks, "vcpu0");
    assert_eq!((vcpu.policy, vcpu.priority), (SCHED_FIFO, 1), "{vcpu:?}");
    assert_eq!(vcpu.cpus, "1");
    assert_others(&tasks, "0");
    // The tap's worker: a thread of the kernel's, named after the thread that asked for it.
    let workers = host::vhost_workers(vm.pid());
    assert_eq!(workers.len(), 1, "{workers:?}");
    for worker in &workers {
        assert_eq!(worker.cpus, "0", "{worker:?}");
    }

    let ended = vm.wait_code(0);
    let cpus = &config["cpus"];
    assert_eq!(cpus["affinity"][0]["host_cpus"][0], 1);
    let numa = ended.section("numa");
    assert!(numa.contains("node0 cpus 0"), "{numa}");
    let total = linux::bytes_after(ended.section("memory"), "MemTotal:");
    assert!((GIB * 3 / 4..GIB).contains(&total), "{total} bytes");
    let link = ended.section("link");
    let mac = config["net"][0]["mac"].as_str().expect("a MAC address");
    assert!(link.contains(mac), "{link}");
    host::wait_until("the page is given back", || {
        free() == [on_node_0, on_node_1]
    });
}

#[test]
fn dpdk_l2fwd() {
    seam::require(&[Need::HardwareVirtualization]);
    let example = linux::example("dpdk-l2fwd.json");
    let size = example.json()["memory"]["size"].as_u64().expect("a size");
    let pages = size / (2 * MIB);
    let pool = HugePages::reserve(pages);
    let used = pool.used();
    let tap = Tap::new(TAP, false);
    let (mut vm, _) = start("dpdk-l2fwd.json");
    vm.wait_for("godwit: ready testpmd");
    assert_eq!(pool.used(), used + pages);

    let tasks = host::tasks(vm.pid());
    assert_eq!(named(&tasks, "vcpu0").cpus, "1");
    assert_eq!(named(&tasks, "vcpu1").cpus, "2");

    assert_forwards(&tap);
    vm.type_in("stop\n");
    let ended = vm.wait_code(0);
    let forwarded = ended.section("testpmd");
    assert!(forwarded.contains("RX-packets"), "{forwarded}");
}

/// Every frame comes back.
#[track_caller]
fn assert_forwards(tap: &Tap) {
    let port = Port::open(tap.name()).expect("a packet socket on the tap");
    let stream = Stream {
        frames: 500,
        patience: Duration::from_secs(10),
        limit: Duration::from_secs(120),
        ..Stream::default()
    };
    let tally = traffic::one_in_flight(&port, &stream, |_| ()).expect("sending frames");
    assert_eq!((tally.sent, tally.received), (500, 500), "{tally}");
}

/// The guest's own kernel is PREEMPT_RT and leaves vCPU 1 to the forwarder.
#[test]
fn dpdk_rt() {
    seam::require(&[Need::HardwareVirtualization, Need::RtImage]);
    let example = linux::example("dpdk-rt.json");
    let size = example.json()["memory"]["size"].as_u64().expect("a size");
    let _pool = HugePages::reserve(size / (2 * MIB));
    let tap = Tap::new(TAP, false);
    let (mut vm, _) = start("dpdk-rt.json");
    vm.wait_for("godwit: ready testpmd");

    let tasks = host::tasks(vm.pid());
    for (name, cpu) in [("vcpu0", "1"), ("vcpu1", "2")] {
        let vcpu = named(&tasks, name);
        assert_eq!((vcpu.policy, vcpu.priority), (SCHED_FIFO, 1), "{vcpu:?}");
        assert_eq!(vcpu.cpus, cpu);
    }

    let kernel = vm.run("uname -v");
    assert!(kernel.contains("PREEMPT_RT"), "{kernel}");
    for list in ["isolated", "nohz_full"] {
        let cpus = vm.run(&format!("cat /sys/devices/system/cpu/{list}"));
        assert_eq!(cpus, "1", "{list}");
    }
    let offloaded = vm.run("ps | grep -c '[r]cuo[gps]/1'");
    assert_ne!(offloaded, "0", "RCU callbacks of vCPU 1");

    assert_forwards(&tap);
    vm.type_in("stop\n");
    vm.wait_code(0);
}

/// A config without a test here, or in the tests of disks, is found by this.
#[test]
fn all_of_them_are_booted() {
    let folder = linux::example_path("");
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .expect("the examples")
        .map(|entry| entry.expect("the examples").file_name())
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "disk.json",
            "dpdk-l2fwd.json",
            "dpdk-rt.json",
            "minimal.json",
            "realtime-1g.json"
        ]
    );
}

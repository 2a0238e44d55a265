//! What Linux sees of its machine.

use serde_json::json;

use crate::support::config::MIB;
use crate::support::linux::{self, EndedLinux, LinuxVm, Tap};
use crate::support::scratch::Scratch;

/// The value of `key` in the output of lscpu and the like.
#[track_caller]
fn value<'a>(section: &'a str, key: &str) -> &'a str {
    section
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.trim() == key)
        .map_or_else(
            || panic!("no {key} in:\n{section}"),
            |(_, value)| value.trim(),
        )
}

fn boot() -> EndedLinux {
    let scratch = Scratch::new();
    let disk = scratch.write("disk.img", vec![0; 2 << 20]);
    let tap = Tap::new("gwfacts0", true);
    let config = linux::task("godwit.task=facts godwit.pairs=2")
        .with(linux::net(tap.name(), 2))
        .with(json!({
            "cpus": {"boot_vcpus": 4, "topology": {
                "threads_per_core": 2, "cores_per_die": 1, "dies_per_package": 1, "packages": 2,
            }},
            "memory": {"size": 0, "zones": [
                {"id": "a", "size": 256 * MIB}, {"id": "b", "size": 384 * MIB},
            ]},
            "numa": [
                {"guest_numa_id": 0, "cpus": [0, 1], "memory_zones": ["a"],
                 "distances": [{"destination": 1, "distance": 21}]},
                {"guest_numa_id": 1, "cpus": [2, 3], "memory_zones": ["b"],
                 "distances": [{"destination": 0, "distance": 21}]},
            ],
            "disks": [{"path": disk, "readonly": true, "num_queues": 2}],
        }));
    LinuxVm::start(scratch, config, &[]).wait_code(0)
}

#[test]
fn the_machine_is_as_configured() {
    let guest = boot();

    let lscpu = guest.section("lscpu");
    assert_eq!(value(lscpu, "CPU(s)"), "4");
    assert_eq!(value(lscpu, "Thread(s) per core"), "2");
    assert_eq!(value(lscpu, "Core(s) per socket"), "1");
    assert_eq!(value(lscpu, "Socket(s)"), "2");
    assert_eq!(value(lscpu, "NUMA node(s)"), "2");
    assert_eq!(value(lscpu, "Hypervisor vendor"), "KVM");

    let numa = guest.section("numa");
    assert!(numa.contains("node0 cpus 0-1"), "{numa}");
    assert!(numa.contains("node1 cpus 2-3"), "{numa}");
    assert!(numa.contains("node0 distance 10 21"), "{numa}");

    let lspci = guest.section("lspci");
    for id in ["[1af4:1041]", "[1af4:1042]", "[1af4:1044]"] {
        assert!(lspci.contains(id), "no {id} in:\n{lspci}");
    }
    assert!(lspci.contains("MSI-X: Enable+"), "{lspci}");

    // Each queue has a vector of its own, and there is one for the configuration.
    let interrupts = guest.section("interrupts");
    for name in [
        "virtio0-config",
        "virtio0-input.0",
        "virtio0-output.0",
        "virtio0-input.1",
        "virtio0-output.1",
        "virtio1-req.0",
        "virtio1-req.1",
    ] {
        let line = interrupts
            .lines()
            .find(|line| line.trim_end().ends_with(name));
        assert!(
            line.is_some_and(|line| line.contains("MSI")),
            "no {name} in:\n{interrupts}"
        );
    }

    let block = guest.section("block");
    let disk = block.lines().find(|line| line.starts_with("vda"));
    let fields: Vec<_> = disk.unwrap_or("").split_whitespace().take(3).collect();
    assert_eq!(fields, ["vda", "2097152", "1"], "{block}");

    assert!(guest.section("rng").contains("virtio_rng"));
    assert!(guest.section("clock").contains("kvm-clock") || guest.section("clock").contains("tsc"));
    let offloads = guest.section("offloads");
    assert_eq!(value(offloads, "tcp-segmentation-offload"), "on");
}

//! What is refused, and what is said about it.

mod devices;
mod memory;

use super::*;

/// Every patch makes the one problem given; `@` in it is the folder of the
/// files.
fn assert_refused(cases: &[(Value, &str)]) {
    let files = Files::new();
    for (patch, expected) in cases {
        let error = files
            .spec(patch.clone())
            .map(|_| panic!("{patch} is accepted"))
            .unwrap_err();
        let expected = expected.replace("@/", &files.path(""));
        assert_eq!(error.to_string(), expected.replace("//", "/"), "{patch}");
    }
}

#[test]
fn payload() {
    assert_refused(&[
        (
            json!({"payload": {"kernel": null}}),
            "payload.kernel: missing; name a bzImage or an ELF image to boot",
        ),
        (
            json!({"payload": {"kernel": "@/nothing"}}),
            "payload.kernel: @/nothing is not there",
        ),
        (
            json!({"payload": {"kernel": "/"}}),
            "payload.kernel: / is a directory, not a file",
        ),
        (
            json!({"payload": {"kernel": "/dev/null"}}),
            "payload.kernel: /dev/null is a character device, not a file",
        ),
        (
            json!({"payload": {"kernel": "@/empty"}}),
            "payload.kernel: @/empty is empty",
        ),
        (
            json!({"payload": {"initramfs": "@/nothing"}}),
            "payload.initramfs: @/nothing is not there",
        ),
        (
            json!({"payload": {"cmdline": "a\u{0}b"}}),
            "payload.cmdline: '\\0' at byte 1 is not printable ASCII",
        ),
        (
            json!({"payload": {"cmdline": "x".repeat(2048)}}),
            "payload.cmdline: 2048 bytes are too long; Linux keeps 2047",
        ),
        (
            json!({"payload": {"kernel": null, "firmware": "f"}}),
            "payload.firmware: firmware is not supported by godwit; name a kernel in \"kernel\"",
        ),
    ]);
}

#[test]
fn a_relative_path_tells_from_where() {
    let files = Files::new();
    let error = files
        .spec(json!({"payload": {"kernel": "no/such/kernel"}}))
        .unwrap_err()
        .to_string();
    let directory = std::env::current_dir().unwrap();
    assert_eq!(
        error,
        format!(
            "payload.kernel: no/such/kernel is not there (seen from {})",
            directory.display()
        )
    );
}

#[test]
fn vcpus() {
    let shape = |threads, cores| {
        json!({"cpus": {"topology": {"threads_per_core": threads, "cores_per_die": cores,
                                     "dies_per_package": 1, "packages": 1}}})
    };
    assert_refused(&[
        (
            json!({"cpus": {"boot_vcpus": 0}}),
            "cpus.boot_vcpus: 0 is too few; a machine has 1 to 64 vCPUs",
        ),
        (
            json!({"cpus": {"boot_vcpus": 65}}),
            "cpus.boot_vcpus: 65 is too many; a machine has 1 to 64 vCPUs",
        ),
        (
            json!({"cpus": {"boot_vcpus": 4_000_000_000_u32}}),
            "cpus.boot_vcpus: 4000000000 is too many; a machine has 1 to 64 vCPUs",
        ),
        (
            json!({"cpus": {"max_vcpus": 8}}),
            "cpus.max_vcpus: 8 is more than boot_vcpus (2), and vCPUs cannot be added later; \
             set both to the number that is needed",
        ),
        (
            json!({"cpus": {"max_vcpus": 1}}),
            "cpus.max_vcpus: 1 is less than boot_vcpus (2); set both to one number",
        ),
        (
            shape(2, 2),
            "cpus.topology: 1 packages × 1 dies × 2 cores × 2 threads are 4 vCPUs, but \
             boot_vcpus is 2; make them equal",
        ),
        (
            shape(3, 2),
            "cpus.topology.threads_per_core: 3 is out of range; 1 to 2 is possible",
        ),
        (
            shape(1, 0),
            "cpus.topology.cores_per_die: 0 is out of range; 1 to 64 is possible",
        ),
        (
            json!({"cpus": {"max_phys_bits": 32}}),
            "cpus.max_phys_bits: 32 is out of range; 41 to 52 bits are possible",
        ),
        (
            json!({"cpus": {"kvm_hyperv": true}}),
            "cpus.kvm_hyperv: Hyper-V emulation is not supported by godwit; leave the field out",
        ),
    ]);
}

#[test]
fn affinity() {
    assert_refused(&[
        (
            json!({"cpus": {"affinity": [{"vcpu": 0, "host_cpus": [1, 9]}]}}),
            "cpus.affinity[0].host_cpus: this host has no CPU 9; online are 0-3",
        ),
        (
            json!({"cpus": {"affinity": [{"vcpu": 0, "host_cpus": [4, 5]}]}}),
            "cpus.affinity[0].host_cpus: CPU 4-5 is offline; online are 0-3; to bring it up: \
             echo 1 > /sys/devices/system/cpu/cpu4/online",
        ),
        (
            json!({"cpus": {"affinity": [{"vcpu": 2, "host_cpus": [1]}]}}),
            "cpus.affinity[0].vcpu: there is no vCPU 2; the machine has vCPUs 0 to 1",
        ),
        (
            json!({"cpus": {"affinity": [{"vcpu": 1, "host_cpus": []}]}}),
            "cpus.affinity[0].host_cpus: empty, so vCPU 1 could run nowhere; name a CPU, or \
             leave the entry out to let it run anywhere",
        ),
        (
            json!({"cpus": {"affinity": [{"vcpu": 1, "host_cpus": [0]},
                                         {"vcpu": 1, "host_cpus": [1]}]}}),
            "cpus.affinity[1].vcpu: vCPU 1 has an entry already; join the two",
        ),
        (
            json!({"cpus": {"affinity": [{"vcpu": 1, "host_cpus": [2]}]},
                   "platform": {"emulator_cpus": [0, 2]}}),
            "platform.emulator_cpus: CPU 2 is where vCPU 1 is pinned, and other threads would \
             disturb it; take it out of one of the two",
        ),
        (
            json!({"cpus": {"affinity": [{"vcpu": 1, "host_cpus": [2]}]},
                   "platform": {"migration_cpus": [2]}}),
            "platform.migration_cpus: CPU 2 is where vCPU 1 is pinned, and other threads would \
             disturb it; take it out of one of the two",
        ),
        (
            json!({"cpus": {"affinity": [{"vcpu": 1, "host_cpus": [2]}]},
                   "net": [{"tap": "t", "worker_cpus": [2]}]}),
            "net[0].worker_cpus: CPU 2 is where vCPU 1 is pinned, and other threads would \
             disturb it; take it out of one of the two",
        ),
        (
            json!({"platform": {"emulator_cpus": [77]}}),
            "platform.emulator_cpus: this host has no CPU 77; online are 0-3",
        ),
        (
            json!({"cpus": {"sched": {"policy": "fifo", "priority": 5},
                            "affinity": [{"vcpu": 0, "host_cpus": [1]},
                                         {"vcpu": 1, "host_cpus": [1]}]}}),
            "cpus.affinity: vCPUs 0 and 1 are both pinned to CPU 1; under policy \"fifo\" one \
             would starve the other; give each a CPU of its own",
        ),
    ]);
}

#[test]
fn scheduling() {
    let sched = |policy: &str, priority: Value| json!({"cpus": {"sched": {"policy": policy, "priority": priority}}});
    assert_refused(&[
        (
            sched("fifo", 0.into()),
            "cpus.sched.priority: 0 is out of range; SCHED_FIFO has priorities 1 to 99",
        ),
        (
            sched("fifo", 100.into()),
            "cpus.sched.priority: 100 is out of range; SCHED_FIFO has priorities 1 to 99",
        ),
        (
            sched("fifo", Value::Null),
            "cpus.sched.priority: missing; policy \"fifo\" needs a priority of 1 to 99",
        ),
        (
            sched("other", 3.into()),
            "cpus.sched.priority: 3 means nothing with policy \"other\"; leave it out, or set \
             the policy to \"fifo\"",
        ),
    ]);
}

#[test]
fn what_is_known_and_not_done() {
    let files = Files::new();
    for (patch, field) in [
        (
            json!({"devices": [{"path": "/sys/bus/pci/devices/0000:3b:00.1"}]}),
            "devices",
        ),
        (json!({"watchdog": true}), "watchdog"),
        (json!({"balloon": {"size": 4096}}), "balloon"),
        (json!({"fs": [{"tag": "t"}]}), "fs"),
        (json!({"vsock": {"cid": 3}}), "vsock"),
        (
            json!({"platform": {"num_pci_segments": 2}}),
            "platform.num_pci_segments",
        ),
        (json!({"platform": {"uuid": "u"}}), "platform.uuid"),
        (json!({"platform": {"sev_snp": true}}), "platform.sev_snp"),
        (json!({"debug_console": {"mode": "Tty"}}), "debug_console"),
        (json!({"rng": {"iommu": true}}), "rng.iommu"),
        (json!({"memory": {"mergeable": true}}), "memory.mergeable"),
        (json!({"landlock_enable": true}), "landlock_enable"),
        (
            json!({"disks": [{"path": "@/disk", "rate_limiter_config": {}}]}),
            "disks[0].rate_limiter_config",
        ),
    ] {
        let error = files.spec(patch.clone()).unwrap_err();
        let [problem] = error.problems() else {
            panic!("{patch}: {error}");
        };
        assert_eq!(problem.field, field);
        assert_eq!(problem.kind, ProblemKind::Unsupported, "{error}");
        assert!(problem.reason.ends_with("leave the field out"), "{error}");
    }
}

#[test]
fn all_problems_are_told_together() {
    let files = Files::new();
    let error = files
        .spec(json!({
            "payload": {"kernel": "@/nothing"},
            "cpus": {"boot_vcpus": 0},
            "memory": {"size": 1},
            "net": [{"tap": "t", "num_queues": 1, "mac": "ff:ff:ff:ff:ff:ff"}],
            "disks": [{"path": "/"}],
            "watchdog": true,
        }))
        .unwrap_err();
    let mut fields: Vec<_> = error.problems().iter().map(|p| p.field.as_str()).collect();
    fields.sort_unstable();
    assert_eq!(
        fields,
        [
            "cpus.boot_vcpus",
            "disks[0].path",
            "memory.size",
            "net[0].mac",
            "net[0].num_queues",
            "payload.kernel",
            "watchdog"
        ]
    );
    let text = error.to_string();
    assert!(text.starts_with("the config has 7 problems:\n  "), "{text}");
    assert_eq!(text.lines().count(), 8);
}

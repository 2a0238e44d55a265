//! What is refused, and what is said about it.

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
fn memory() {
    let huge = |size: u64, page: u64| json!({"memory": {"size": size, "hugepages": true, "hugepage_size": page}});
    let zone = |zone: Value| {
        let mut whole = json!({"id": "z", "size": 4 << 20});
        lay_over(&mut whole, zone);
        json!({"memory": {"zones": [whole]}})
    };
    assert_refused(&[
        (
            json!({"memory": {"size": 0}}),
            "memory.size: 0 bytes are no memory; the least is one page, 4096",
        ),
        (
            json!({"memory": {"size": 10_000}}),
            "memory.size: 10000 bytes are not a whole number of 4 KiB pages; the nearest are \
             8192 and 12288",
        ),
        (
            huge((2 << 20) + 4096, 2 << 20),
            "memory.size: 2101248 bytes are not a whole number of 2 MiB pages; the nearest are \
             2097152 and 4194304",
        ),
        (
            huge(512 << 20, 1 << 30),
            "memory.size: 536870912 bytes are not a whole number of 1 GiB pages; the least is \
             1073741824",
        ),
        (
            json!({"memory": {"size": (1_u64 << 40) + 4096}}),
            "memory.size: 1099511631872 bytes are too much; a machine has at most 1 TiB \
             (1099511627776 bytes)",
        ),
        (
            huge(64 << 20, 16 << 20),
            "memory.hugepage_size: 16777216 bytes are no huge page of x86-64; there are 2097152 \
             (2 MiB) and 1073741824 (1 GiB)",
        ),
        (
            json!({"memory": {"hugepage_size": 2 << 20}}),
            "memory.hugepage_size: set, but \"hugepages\" is not true; set that too, or leave \
             both out",
        ),
        (
            huge(2 << 30, 2 << 20),
            "memory.size: 1024 huge pages of 2 MiB are needed, but of 1024 in the pool \
             /sys/kernel/mm/hugepages/hugepages-2048kB only 512 can be had; to grow it: \
             echo 1536 > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
        ),
        (
            huge(3 << 30, 1 << 30),
            "memory.size: 3 huge pages of 1 GiB are needed, but of 2 in the pool \
             /sys/kernel/mm/hugepages/hugepages-1048576kB only 2 can be had; to grow it: \
             echo 3 > /sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages, or, when memory \
             is too scattered for that, boot the host with hugepagesz=1G hugepages=3",
        ),
        (
            zone(json!({"size": 64 << 20, "hugepages": true, "host_numa_node": 1})),
            "memory.zones[0].size: 32 huge pages of 2 MiB are needed, but of 512 in the pool \
             /sys/devices/system/node/node1/hugepages/hugepages-2048kB only 12 can be had; to \
             grow it: \
             echo 532 > /sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages",
        ),
        (
            zone(json!({"host_numa_node": 2})),
            "memory.zones[0].host_numa_node: this host has no NUMA node 2; it has 0-1",
        ),
        (
            zone(json!({"size": 6144})),
            "memory.zones[0].size: 6144 bytes are not a whole number of 4 KiB pages; the nearest \
             are 4096 and 8192",
        ),
        (
            json!({"memory": {"zones": [{"id": "z", "size": 4096}, {"id": "z", "size": 4096}]}}),
            "memory.zones[1].id: another zone is named \"z\"; names must differ",
        ),
        (
            json!({"memory": {"zones": [{"id": "a", "size": 1_u64 << 40}, {"id": "b", "size": u64::MAX - 4095}]}}),
            "memory.zones: the zones together are too much; a machine has at most 1 TiB \
             (1099511627776 bytes)",
        ),
        (
            json!({"memory": {"size": 4096, "zones": [{"id": "z", "size": 4096}]}}),
            "memory.size: 4096, but the zones have sizes of their own; leave it out or set it to 0",
        ),
        (
            json!({"memory": {"hugepages": true, "zones": [{"id": "z", "size": 4096}]}}),
            "memory.hugepages: set, but with zones it applies to nothing; set it for each zone",
        ),
        (
            json!({"memory": {"hotplug_size": 1}}),
            "memory.hotplug_size: adding memory later is not supported by godwit; leave the field \
             out",
        ),
    ]);
}

#[test]
fn a_host_without_the_page_size() {
    let files = Files::new();
    let mut facts = facts();
    facts.huge_pages.remove(&PageSize::Huge1G);
    let config = files.config(json!({"memory": {
        "size": 1 << 30, "hugepages": true, "hugepage_size": 1 << 30}}));
    let error = MachineSpec::from_config(&config, &facts).unwrap_err();
    assert_eq!(
        error.to_string(),
        "memory.hugepage_size: this host has no huge pages of 1 GiB: \
         /sys/kernel/mm/hugepages/hugepages-1048576kB is not there; it has 2 MiB"
    );
    assert_eq!(error.problems()[0].kind, ProblemKind::Host);
}

#[test]
fn numa() {
    let zones = json!([{"id": "a", "size": 4096}, {"id": "b", "size": 4096}]);
    let nodes = |numa: Value| json!({"memory": {"zones": zones}, "numa": numa});
    let whole = |more: Value| {
        let mut node = json!({"guest_numa_id": 0, "cpus": [0, 1], "memory_zones": ["a", "b"]});
        lay_over(&mut node, more);
        nodes(json!([node]))
    };
    assert_refused(&[
        (
            whole(json!({"cpus": [1]})),
            "numa: no node has vCPU 0; name each vCPU in the \"cpus\" of one node",
        ),
        (
            whole(json!({"cpus": [0, 1, 2]})),
            "numa[0].cpus: there is no vCPU 2; the machine has 2",
        ),
        (
            whole(json!({"cpus": [0, 1, 1]})),
            "numa[0].cpus: vCPU 1 is named twice; it is in one node only",
        ),
        (
            whole(json!({"memory_zones": ["a"]})),
            "numa: no node has zone \"b\"; name each zone in the \"memory_zones\" of one node",
        ),
        (
            whole(json!({"memory_zones": ["a", "b", "c"]})),
            "numa[0].memory_zones: there is no zone \"c\"; there are [\"a\", \"b\"]",
        ),
        (
            whole(json!({"guest_numa_id": 1})),
            "numa[0].guest_numa_id: 1 leaves a gap; 1 nodes are numbered 0 to 0",
        ),
        (
            whole(json!({"distances": [{"destination": 3, "distance": 20}]})),
            "numa[0].distances[0].destination: there is no node 3",
        ),
        (
            whole(json!({"distances": [{"destination": 0, "distance": 20}]})),
            "numa[0].distances[0].distance: 20, but a node is 10 from itself",
        ),
        (
            nodes(json!([
                {"guest_numa_id": 0, "cpus": [0], "memory_zones": ["a"],
                 "distances": [{"destination": 1, "distance": 255}]},
                {"guest_numa_id": 1, "cpus": [1], "memory_zones": ["b"]}
            ])),
            "numa[0].distances[0].distance: 255 is out of range; another node is 11 to 254 away",
        ),
    ]);
}

#[test]
fn net() {
    let net = |fields: Value| {
        let mut device = json!({"tap": "t0"});
        lay_over(&mut device, fields);
        json!({"net": [device]})
    };
    let rings =
        "is not possible; it counts rings, two for each queue pair, so it is even and 2 to 32";
    let sizes = "a queue has 32, 64, 128, 256, 512 or 1024 descriptors";
    assert_refused(&[
        (
            net(json!({"num_queues": 3})),
            &format!("net[0].num_queues: 3 {rings}"),
        ),
        (
            net(json!({"num_queues": 0})),
            &format!("net[0].num_queues: 0 {rings}"),
        ),
        (
            net(json!({"num_queues": 34})),
            &format!("net[0].num_queues: 34 {rings}"),
        ),
        (
            net(json!({"queue_size": 100})),
            &format!("net[0].queue_size: 100 is not a power of two; {sizes}"),
        ),
        (
            net(json!({"queue_size": 2048})),
            &format!("net[0].queue_size: 2048 is out of range; {sizes}"),
        ),
        (
            net(json!({"queue_size": 0})),
            &format!("net[0].queue_size: 0 is not a power of two; {sizes}"),
        ),
        (
            net(json!({"mtu": 576})),
            "net[0].mtu: 576 bytes are out of range; 1280 to 65521 are possible",
        ),
        (
            net(json!({"mac": "01:00:5e:00:00:01"})),
            "net[0].mac: \"01:00:5e:00:00:01\" is a multicast address (the lowest bit of its \
             first octet is set); a device needs a unicast one, such as 52:54:00:12:34:56",
        ),
        (
            net(json!({"mac": "52:54"})),
            "net[0].mac: \"52:54\" is not a MAC address; write it as 52:54:00:12:34:56",
        ),
        (
            net(json!({"tap": null})),
            "net[0].tap: missing; name a tap interface, made so: ip tuntap add NAME mode tap \
             vnet_hdr (with multi_queue for more than one pair)",
        ),
        (
            net(json!({"tap": "a-name-that-is-too-long"})),
            "net[0].tap: \"a-name-that-is-too-long\" cannot be an interface's name; it has 1 to \
             15 printable characters and none of / : %",
        ),
        (
            net(json!({"fds": [4]})),
            "net[0].fds: given beside \"tap\"; give one of the two",
        ),
        (
            net(json!({"tap": null, "fds": [4], "num_queues": 4})),
            "net[0].fds: 1 given, but num_queues 4 are 2 queue pairs; give one descriptor for \
             each pair",
        ),
        (
            net(json!({"tap": null, "fds": [1]})),
            "net[0].fds: 1 cannot be a tap; 0 to 2 are standard input, output and error",
        ),
        (
            net(json!({"tap": null, "vhost_user": true, "vhost_socket": "s"})),
            "net[0].vhost_user: vhost-user is not supported yet; give a tap, which vhost-net \
             serves",
        ),
        (
            net(json!({"vhost_net": false})),
            "net[0].vhost_net: false, but a tap is served by the kernel's vhost-net only; leave \
             it out",
        ),
        (
            net(json!({"ip": "10.0.0.1"})),
            "net[0].ip: \"10.0.0.1\": godwit sets no address on a tap; leave it out and use: \
             ip addr add … dev t0",
        ),
        (
            net(json!({"offload_csum": false, "offload_ufo": false})),
            "net[0].offload_tso: true, but offload_csum is false, and one needs the other; set \
             this one to false too",
        ),
        (
            net(json!({"iommu": true})),
            "net[0].iommu: a virtual IOMMU is not supported by godwit; leave the field out",
        ),
        (
            json!({"net": [{"tap": "a", "mac": "52:54:00:00:00:01"},
                           {"tap": "b", "mac": "52:54:00:00:00:01"}]}),
            "net[1].mac: net[0] has 52:54:00:00:00:01 too; addresses must differ",
        ),
        (
            json!({"net": [{"tap": "a"}, {"tap": "a"}]}),
            "net[1].tap: net[0] is on \"a\" too; each device needs a tap of its own",
        ),
    ]);
}

#[test]
fn ids() {
    let ids = |net: &str, disk: &str| json!({"net": [{"tap": "t", "id": net}], "disks": [{"path": "@/disk", "id": disk}]});
    assert_refused(&[
        (
            ids("a", "a"),
            "disks[0].id: another device is named \"a\"; names must differ",
        ),
        (
            ids("__rng", "a"),
            "net[0].id: \"__rng\" begins with \"__\", which is kept for built-in devices",
        ),
        (ids("", "a"), "net[0].id: 0 bytes; a name has 1 to 64"),
        (
            ids("a", "b c"),
            "disks[0].id: \"b c\" holds ' '; a name is printable ASCII without spaces and slashes",
        ),
    ]);
    let error = Files::new().spec(ids("a", "a")).unwrap_err();
    assert_eq!(error.problems()[0].kind, ProblemKind::Duplicate);
}

#[test]
fn disks() {
    let disk = |fields: Value| {
        let mut device = json!({"path": "@/disk"});
        lay_over(&mut device, fields);
        json!({"disks": [device]})
    };
    assert_refused(&[
        (
            disk(json!({"path": null})),
            "disks[0].path: missing; name a raw image or a block device",
        ),
        (
            disk(json!({"path": "@/nothing"})),
            "disks[0].path: @/nothing is not there",
        ),
        (
            disk(json!({"path": "/"})),
            "disks[0].path: / is a directory, not a raw image or block device",
        ),
        (
            disk(json!({"sparse": false})),
            "disks[0].sparse: false is not supported: blocks that the guest discards are given back to the file \
             system; leave it out",
        ),
        (
            disk(json!({"num_queues": 17})),
            "disks[0].num_queues: 17 is out of range; a disk has 1 to 16 queues",
        ),
        (
            disk(json!({"serial": "a-serial-number-of-22b"})),
            "disks[0].serial: 22 bytes are too long; the guest reads 20",
        ),
        (
            disk(json!({"image_type": "Qcow2"})),
            "disks[0].image_type: an image that is not \"Raw\" is not supported by godwit; convert \
             it: qemu-img convert -O raw",
        ),
        (
            json!({"disks": [{"path": "@/disk"}, {"path": "@/disk", "readonly": true}]}),
            "disks[1].path: disks[0] has the same image, and one of them writes; give each its \
             own, or make both readonly",
        ),
    ]);
}

#[test]
fn character_devices() {
    assert_refused(&[
        (
            json!({"serial": {"mode": "File"}}),
            "serial.file: missing; mode \"File\" needs a path",
        ),
        (
            json!({"serial": {"mode": "File", "file": "@/no/log"}}),
            "serial.file: the directory @/no is not there",
        ),
        (
            json!({"serial": {"mode": "File", "file": "/"}}),
            "serial.file: / names no file",
        ),
        (
            json!({"serial": {"mode": "Tty", "socket": "s"}}),
            "serial.socket: set, but the mode is Tty; leave it out, or set the mode to \"Socket\"",
        ),
        (
            json!({"serial": {"mode": "Socket", "socket": format!("/{}", "x".repeat(107))}}),
            "serial.socket: 108 bytes are too long for a socket's path; the kernel takes 107",
        ),
        (
            json!({"console": {"mode": "Pty"}}),
            "console.mode: a virtio console is not supported yet; set it to \"Off\" and use \
             \"serial\"",
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
fn the_rng_source_is_looked_at() {
    assert_refused(&[
        (
            json!({"rng": {"src": "/tmp"}}),
            "rng.src: /tmp is a directory, not a file or character device",
        ),
        (
            json!({"rng": {"src": "/dev/no-such-source"}}),
            "rng.src: /dev/no-such-source is not there",
        ),
    ]);
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

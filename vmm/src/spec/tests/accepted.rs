//! What is accepted, and what it becomes.

use super::*;

#[test]
fn the_least_config_is_a_machine_with_the_defaults() {
    let files = Files::new();
    let spec = files.spec(json!({"cpus": {"boot_vcpus": 1}})).unwrap();
    assert_eq!(spec.payload.kernel, Path::new(&files.path("kernel")));
    assert_eq!(spec.payload.initramfs, None);
    assert_eq!(spec.payload.cmdline, "");
    assert_eq!(spec.cpus.vcpus().collect::<Vec<_>>(), [VcpuId(0)]);
    assert!(spec.cpus.affinity.is_empty());
    assert!(spec.cpus.nested);
    assert_eq!(
        spec.memory,
        MemorySpec {
            zones: vec![ZoneSpec {
                id: "mem0".to_owned(),
                size_bytes: 512 << 20,
                page_size: PageSize::Small4K,
                host_numa_node: None,
                prefault: false,
            }],
            total_bytes: 512 << 20,
            lock: false,
        }
    );
    assert_eq!(spec.serial, SerialSpec::Null);
    assert_eq!(spec.console, ConsoleSpec::Off);
    assert_eq!(spec.rng.source, Path::new("/dev/urandom"));
    assert_eq!(spec.platform.emulator_cpus, None);
}

#[test]
fn everything_at_once() {
    let files = Files::new();
    let spec = files
        .spec(json!({
            "payload": {"initramfs": "@/initramfs", "cmdline": "console=ttyS0"},
            "cpus": {
                "boot_vcpus": 4, "max_vcpus": 4, "nested": false,
                "topology": {"threads_per_core": 2, "cores_per_die": 2,
                             "dies_per_package": 1, "packages": 1},
                "affinity": [{"vcpu": 0, "host_cpus": [1]}, {"vcpu": 3, "host_cpus": [2, 3]}],
                "sched": {"policy": "fifo", "priority": 99},
                "disable_exits": ["hlt", "mwait"], "halt_poll_ns": 7, "realtime_hint": true,
            },
            "memory": {
                "lock": true, "size": 0,
                "zones": [
                    {"id": "a", "size": 1 << 30, "hugepages": true, "hugepage_size": 1 << 30,
                     "host_numa_node": 0},
                    {"id": "b", "size": 8 << 20, "hugepages": true, "prefault": false},
                ],
            },
            "numa": [
                {"guest_numa_id": 0, "cpus": [0, 1], "memory_zones": ["a"],
                 "distances": [{"destination": 1, "distance": 30}]},
                {"guest_numa_id": 1, "cpus": [2, 3], "memory_zones": ["b"]},
            ],
            "net": [{"tap": "t0", "mac": "52:54:00:00:00:09", "num_queues": 32, "queue_size": 1024,
                     "mtu": 9000, "worker_cpus": [0], "offload_ufo": false},
                    {"id": "n", "fds": [7, 8], "num_queues": 4}],
            "disks": [{"path": "@/disk", "serial": "s", "direct": true, "num_queues": 16}],
            "serial": {"mode": "File", "file": "@/serial.log"},
            "platform": {"emulator_cpus": [0], "migration_cpus": [0]},
        }))
        .unwrap();
    assert_eq!(spec.cpus.topology.threads_per_core, 2);
    assert_eq!(
        spec.cpus.affinity[&VcpuId(3)],
        [HostCpu(2), HostCpu(3)].into()
    );
    assert_eq!(spec.cpus.sched.unwrap().get(), 99);
    assert_eq!(
        spec.cpus.disable_exits,
        DisabledExits {
            hlt: true,
            pause: false,
            mwait: true
        }
    );
    assert_eq!(spec.memory.total_bytes, (1 << 30) + (8 << 20));
    assert_eq!(spec.memory.zones[0].page_size, PageSize::Huge1G);
    assert!(spec.memory.zones[0].prefault);
    assert_eq!(spec.memory.zones[1].page_size, PageSize::Huge2M);
    assert!(!spec.memory.zones[1].prefault);
    assert_eq!(spec.numa[0].distances, [(1, 30)].into());
    assert_eq!(spec.numa[1].zones, [1].into());
    assert_eq!(spec.net[0].queue_pairs, 16);
    assert_eq!(spec.net[0].tap, TapSpec::Name("t0".to_owned()));
    assert_eq!(
        spec.net[0].offloads,
        Offloads {
            csum: true,
            tso: true,
            ufo: false
        }
    );
    assert_eq!(spec.net[1].tap, TapSpec::Fds(vec![7, 8]));
    let ids: Vec<_> = spec.net.iter().map(|net| net.id.as_str()).collect();
    assert_eq!(ids, ["_net0", "n"]);
    assert_eq!(spec.disks[0].id, "_disk1");
    assert_eq!(
        spec.serial,
        SerialSpec::File(files.path("serial.log").into())
    );
}

#[test]
fn an_id_made_up_passes_by_one_that_is_taken() {
    let files = Files::new();
    let spec = files
        .spec(json!({"net": [{"tap": "a"}, {"tap": "b", "id": "_net0"}]}))
        .unwrap();
    assert_eq!(spec.net[0].id, "_net1");
    assert_eq!(spec.net[1].id, "_net0");
}

#[test]
fn a_completed_config_gives_the_same_machine_elsewhere() {
    let files = Files::new();
    let mut config = files.config(json!({
        "memory": {"hugepages": true, "size": 4 << 20},
        "net": [{"tap": "a"}, {"tap": "b"}],
        "disks": [{"path": "@/disk"}],
    }));
    let incoming = MachineSpec::from_incoming(&config, &facts()).unwrap_err();
    assert_eq!(incoming.problems().len(), 5, "{incoming}");

    let spec = MachineSpec::from_config(&config, &facts()).unwrap();
    spec.complete(&mut config);
    assert_eq!(config.cpus.max_vcpus, Some(2));
    assert_eq!(config.memory.prefault, Some(true));
    assert_eq!(config.memory.hugepage_size, Some(2 << 20));
    assert_eq!(config.net[1].id.as_deref(), Some("_net1"));

    // The kernel need not be where the guest goes.
    fs::remove_file(files.path("kernel")).unwrap();
    let written = serde_json::to_vec(&config).unwrap();
    let read: VmConfig = json::read_strict(&written).unwrap();
    assert_eq!(MachineSpec::from_incoming(&read, &facts()).unwrap(), spec);
}

/// As generated by the peer's clients, whether they need it or not.
#[test]
fn values_that_ask_for_nothing_are_accepted() {
    let files = Files::new();
    files
        .spec(json!({
            "cpus": {"kvm_hyperv": false, "max_phys_bits": 46, "features": {"amx": false},
                     "core_scheduling": "Off", "profile": "Host"},
            "memory": {"mergeable": false, "hotplug_method": "Acpi", "hotplug_size": 0,
                       "shared": false, "thp": true, "reserve": true, "prefault": false},
            "net": [{"fds": [5], "ip": "192.168.249.1", "mask": "255.255.255.0",
                     "iommu": false, "pci_segment": 0, "vhost_user": false,
                     "vhost_mode": "Client"}],
            "disks": [{"path": "@/disk", "backing_files": false, "sparse": true,
                       "image_type": "Raw", "lock_granularity": "ByteRange"}],
            "serial": {"mode": "Off", "iommu": false},
            "console": {"mode": "Off", "iommu": false},
            "balloon": {"size": 0},
            "platform": {"num_pci_segments": 1, "tdx": false},
            "iommu": false, "watchdog": false, "pvpanic": false, "landlock_enable": false,
            "fs": [], "devices": [],
        }))
        .unwrap();
}

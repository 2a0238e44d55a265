//! No document makes the way from bytes to machine panic.

use proptest::prelude::*;

use super::*;

/// Values for any field: some that fit, some at the edges.
fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Into::into),
        prop::sample::select(vec![
            0_u64,
            1,
            2,
            3,
            16,
            32,
            33,
            64,
            65,
            255,
            256,
            4096,
            65535,
            2 << 20,
            1 << 30,
            1 << 40,
            u32::MAX.into(),
            u64::MAX,
            u64::MAX - 4095,
        ])
        .prop_map(Into::into),
        prop::sample::select(vec![
            "",
            "a",
            "__a",
            "/",
            "/tmp",
            "/dev/null",
            "Tty",
            "File",
            "Off",
            "fifo",
            "hlt",
            "ff:ff:ff:ff:ff:ff",
            "52:54:00:00:00:01",
            "é",
        ])
        .prop_map(Into::into),
    ]
}

/// A document of the right shape, whose leaves are anything.
fn document() -> impl Strategy<Value = Value> {
    let section = |fields: &'static [&'static str]| {
        prop::collection::vec((prop::sample::select(fields), leaf()), 0..4).prop_map(|entries| {
            Value::Object(
                entries
                    .into_iter()
                    .map(|(key, value)| (key.to_owned(), value))
                    .collect(),
            )
        })
    };
    let sections = |fields| prop::collection::vec(section(fields), 0..3);
    (
        section(&["kernel", "initramfs", "cmdline"]),
        section(&["boot_vcpus", "max_vcpus", "max_phys_bits", "halt_poll_ns"]),
        sections(&["vcpu", "host_cpus"]),
        section(&["size", "hugepages", "hugepage_size", "prefault", "lock"]),
        sections(&["id", "size", "hugepages", "hugepage_size", "host_numa_node"]),
        sections(&["guest_numa_id"]),
        sections(&[
            "id",
            "tap",
            "mac",
            "mtu",
            "num_queues",
            "queue_size",
            "offload_csum",
        ]),
        sections(&[
            "id",
            "path",
            "num_queues",
            "queue_size",
            "serial",
            "readonly",
        ]),
        section(&["mode", "file", "socket"]),
        prop::collection::vec(any::<u32>(), 0..3),
    )
        .prop_map(
            |(payload, mut cpus, affinity, mut memory, zones, numa, net, disks, serial, list)| {
                cpus["affinity"] = affinity.into();
                memory["zones"] = zones.into();
                json!({"payload": payload, "cpus": cpus, "memory": memory, "numa": numa,
                       "net": net, "disks": disks, "serial": serial,
                       "platform": {"emulator_cpus": list}})
            },
        )
}

proptest! {
    #[test]
    fn any_document_is_a_machine_or_refused(document in document()) {
        let text = document.to_string();
        if let Ok(read) = json::read_lenient::<VmConfig>(text.as_bytes()) {
            for built in [
                MachineSpec::from_config(&read.value, &facts()),
                MachineSpec::from_incoming(&read.value, &facts()),
            ] {
                match built {
                    Ok(spec) => check(&spec, &read.value),
                    Err(error) => prop_assert!(!error.problems().is_empty()),
                }
            }
        }
    }

    #[test]
    fn numbers_that_fit_their_type_are_a_machine_or_refused(
        vcpus in 0_u32..70,
        size in prop_oneof![any::<u64>(), (0_u64..1 << 20).prop_map(|pages| pages << 12)],
        rings in 0_u32..40,
        queue_size in prop_oneof![any::<u16>(), (0_u32..16).prop_map(|bits| 1_u16 << bits)],
        mtu in any::<u16>(),
    ) {
        let files = Files::new();
        let mut config = files.config(json!({"net": [{"tap": "t"}]}));
        config.cpus.boot_vcpus = vcpus;
        config.memory.size = Some(size);
        config.net[0].num_queues = rings;
        config.net[0].queue_size = queue_size;
        config.net[0].mtu = Some(mtu);
        if let Ok(spec) = MachineSpec::from_config(&config, &facts()) {
            check(&spec, &config);
        }
    }
}

/// What a machine promises whatever it was made from.
fn check(spec: &MachineSpec, config: &VmConfig) {
    assert!((1..=u32::from(MAX_VCPUS)).contains(&spec.cpus.topology.vcpus()));
    let total: u64 = spec.memory.zones.iter().map(|zone| zone.size_bytes).sum();
    assert_eq!(total, spec.memory.total_bytes);
    assert!((1..=MAX_MEMORY_BYTES).contains(&total));
    for zone in &spec.memory.zones {
        assert!(zone.size_bytes > 0 && zone.size_bytes % zone.page_size.bytes() == 0);
    }
    assert_eq!(spec.net.len(), config.net.len());
    assert_eq!(spec.disks.len(), config.disks.len());
    for net in &spec.net {
        assert!((1..=16).contains(&net.queue_pairs));
        assert!(net.queue_size.is_power_of_two() && net.queue_size <= 1024);
    }
}

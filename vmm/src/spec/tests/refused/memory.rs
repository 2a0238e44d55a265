//! Memory and NUMA nodes.

use super::*;

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

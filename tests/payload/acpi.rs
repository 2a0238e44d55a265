//! ACPI tables, as the guest walks them.

use std::collections::BTreeSet;

use serde_json::json;

use crate::support::config::{Config, Image, MIB};
use crate::support::vm::run_to_power_off;

#[track_caller]
fn tables(config: Config) -> BTreeSet<String> {
    let output = run_to_power_off(config);
    let root = output.one("rsdp");
    assert_eq!(root.field("sum"), "ok");
    assert!(root.number("revision") >= 2, "{}", root.text);
    let tables = output.all("acpi");
    for table in &tables {
        assert_eq!(table.field("sum"), "ok", "{}", table.text);
    }
    let count = output.one("tables");
    assert_eq!(count.number("invalid"), 0);
    assert_eq!(count.number("count"), tables.len() as u64);
    let names: BTreeSet<_> = tables
        .iter()
        .map(|table| table.field("signature").to_owned())
        .collect();
    for needed in ["XSDT", "FACP", "DSDT", "APIC", "MCFG"] {
        assert!(names.contains(needed), "no {needed} in {names:?}");
    }
    names
}

#[test]
fn every_table_has_its_checksum() {
    let names = tables(Config::new("facts poweroff"));
    assert!(!names.contains("SRAT"), "{names:?}");
}

#[test]
fn every_table_has_its_checksum_with_64_vcpus_by_the_linux_protocol() {
    let config = Config::booting(Image::Bz, "facts poweroff");
    tables(config.with(json!({"cpus": {"boot_vcpus": 64}})));
}

#[test]
fn numa_nodes_are_described() {
    let zone = |id: &str| json!({"id": id, "size": 32 * MIB});
    let names = tables(Config::new("facts poweroff").with(json!({
        "cpus": {"boot_vcpus": 2},
        "memory": {"size": null, "zones": [zone("a"), zone("b")]},
        "numa": [
            {"guest_numa_id": 0, "cpus": [0], "memory_zones": ["a"],
             "distances": [{"destination": 1, "distance": 21}]},
            {"guest_numa_id": 1, "cpus": [1], "memory_zones": ["b"],
             "distances": [{"destination": 0, "distance": 21}]},
        ],
    })));
    assert!(
        names.contains("SRAT") && names.contains("SLIT"),
        "{names:?}"
    );
}

//! The tables as a guest reads them.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use acpi_tables::aml::{Device, EISAName, Name, Path};
use godwit_devices::GuestRam;

use super::*;
use crate::arch::layout::GIB;
use crate::spec::VcpuId;

fn nodes() -> Vec<NumaNodeSpec> {
    let node = |id: u32, vcpus: [u8; 2], zone: usize, distances: &[(u32, u8)]| NumaNodeSpec {
        id,
        vcpus: vcpus.into_iter().map(VcpuId).collect(),
        zones: BTreeSet::from([zone]),
        distances: distances.iter().copied().collect::<BTreeMap<_, _>>(),
    };
    vec![node(0, [0, 1], 0, &[(1, 31)]), node(1, [2, 3], 1, &[])]
}

fn regions() -> Vec<RamRegion> {
    let zone = layout::Zone {
        size: 2 * GIB,
        page_size: GIB,
    };
    layout::place_zones(&[zone, zone]).expect("two zones fit")
}

fn tables(numa: &[NumaNodeSpec], vcpus: u8) -> Vec<Table> {
    build(&AcpiSpec {
        topology: Topology::flat(vcpus),
        regions: &regions(),
        numa,
        pci_window_64: Some(5 * GIB..1 << 40),
        devices: &[],
    })
    .expect("the tables fit")
}

fn find<'a>(tables: &'a [Table], signature: &[u8]) -> &'a Table {
    tables
        .iter()
        .find(|table| table.bytes.starts_with(signature))
        .expect("the table is there")
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().copied().fold(0, u8::wrapping_add)
}

fn number(bytes: &[u8], offset: usize, size: usize) -> u64 {
    bytes
        .get(offset..offset + size)
        .expect("the field is in the table")
        .iter()
        .rev()
        .fold(0, |value, &byte| value << 8 | u64::from(byte))
}

#[test]
fn checksums_and_lengths_hold() {
    for tables in [tables(&[], 1), tables(&nodes(), 4), tables(&[], 64)] {
        let rsdp = tables.first().expect("the RSDP comes first");
        assert_eq!(rsdp.address, layout::RSDP);
        assert_eq!((sum(&rsdp.bytes[..20]), sum(&rsdp.bytes)), (0, 0));
        let mut last = rsdp.address.0 + 36;
        for table in &tables[1..] {
            assert_eq!(sum(&table.bytes), 0);
            assert_eq!(number(&table.bytes, 4, 4), table.bytes.len() as u64);
            assert!(table.address.0 >= last);
            last = table.address.0 + table.bytes.len() as u64;
        }
        assert!(last <= layout::ACPI_END);
    }
}

#[test]
fn every_table_is_reached_from_the_root() {
    let tables = tables(&nodes(), 4);
    let xsdt = find(&tables, b"XSDT");
    assert_eq!(number(&tables[0].bytes, 24, 8), xsdt.address.0);
    let listed: Vec<u64> = xsdt.bytes[36..]
        .chunks(8)
        .map(|entry| number(entry, 0, 8))
        .collect();
    let expected: Vec<u64> = [b"FACP", b"APIC", b"MCFG", b"SRAT", b"SLIT"]
        .map(|signature| find(&tables, signature).address.0)
        .to_vec();
    assert_eq!(listed, expected);
    let fadt = find(&tables, b"FACP");
    assert_eq!(
        number(&fadt.bytes, 140, 8),
        find(&tables, b"DSDT").address.0
    );
}

#[test]
fn fadt_tells_how_to_sleep_and_reset() {
    let tables = tables(&[], 1);
    let fadt = &find(&tables, b"FACP").bytes;
    let flags = number(fadt, 112, 4);
    assert_eq!(flags >> 20 & 1, 1, "hardware-reduced");
    assert_eq!(flags >> 10 & 1, 1, "reset register");
    let register = |offset| (number(fadt, offset, 2), number(fadt, offset + 4, 8));
    assert_eq!(register(116), (0x0801, 0x602));
    assert_eq!(fadt[128], layout::RESET_VALUE);
    assert_eq!(register(244), (0x0801, 0x600));
    assert_eq!(register(256), (0x0801, 0x601));
    assert_eq!(layout::SLEEP_S5, 0x34);
}

#[test]
fn madt_lists_processors_by_apic_id() {
    let spec = AcpiSpec {
        topology: Topology {
            threads_per_core: 1,
            cores_per_die: 3,
            dies_per_package: 1,
            packages: 2,
        },
        regions: &regions(),
        numa: &[],
        pci_window_64: None,
        devices: &[],
    };
    let tables = build(&spec).expect("the tables fit");
    let madt = &find(&tables, b"APIC").bytes;
    let ids: Vec<_> = madt[44..44 + 6 * 8]
        .chunks(8)
        .map(|entry| (entry[0], entry[2], entry[3], entry[4]))
        .collect();
    let expected: Vec<_> = [0, 1, 2, 4, 5, 6]
        .into_iter()
        .zip(0..)
        .map(|(id, uid)| (0, uid, id, 1))
        .collect();
    assert_eq!(ids, expected);
    assert_eq!(madt[92..94], [1, 12]);
    assert_eq!(number(madt, 96, 4), 0xfec0_0000);
}

#[test]
fn numa_tables_follow_the_nodes() {
    let tables = tables(&nodes(), 4);
    let srat = &find(&tables, b"SRAT").bytes;
    let mut rest = &srat[48..];
    let mut found = Vec::new();
    while let [kind, size, ..] = *rest {
        found.push(match kind {
            0 => (u64::from(rest[2]), u64::from(rest[3]), 0),
            _ => (number(rest, 2, 4), number(rest, 8, 8), number(rest, 16, 8)),
        });
        rest = &rest[usize::from(size)..];
    }
    let expected = [
        (0, 0, 0),
        (0, 1, 0),
        (0, 0, 2 * GIB),
        (1, 2, 0),
        (1, 3, 0),
        (1, 2 * GIB, GIB),
        (1, 4 * GIB, GIB),
    ];
    assert_eq!(found, expected);
    let slit = &find(&tables, b"SLIT").bytes;
    assert_eq!(number(slit, 36, 8), 2);
    assert_eq!(slit[44..], [10, 31, 31, 10]);
}

#[test]
fn node_numbers_are_bounded() {
    let regions = regions();
    let with_node = |id| {
        let mut nodes = nodes();
        nodes[1].id = id;
        build(&AcpiSpec {
            topology: Topology::flat(4),
            regions: &regions,
            numa: &nodes,
            pci_window_64: None,
            devices: &[],
        })
    };
    let error = with_node(NODE_MAX + 1).expect_err("node 128 is refused");
    assert_eq!(
        error.to_string(),
        "NUMA node 128: node numbers go from 0 to 127"
    );
    assert!(with_node(NODE_MAX).is_ok());
}

#[test]
fn memory_that_ends_below_the_tables_is_an_error() {
    let memory =
        GuestRam::from_ranges(&[(GuestAddress(0), 64 << 10)]).expect("memory can be mapped");
    let spec = AcpiSpec {
        topology: Topology::flat(1),
        regions: &regions(),
        numa: &[],
        pci_window_64: None,
        devices: &[],
    };
    let error = write(&memory, &spec).expect_err("memory is too small");
    assert!(error.to_string().contains("at 0xe0000"), "{error}");
}

/// The reference compiler reads every table back without an error, and compiles the
/// DSDT's source to the same bytes. Runs where `iasl` (package acpica-tools) is there.
#[test]
fn the_reference_compiler_agrees() {
    if Command::new("iasl").arg("-v").output().is_err() {
        eprintln!("not run: iasl is not installed (package acpica-tools)");
        return;
    }
    let path = std::env::temp_dir().join(format!("godwit-acpi-{}", std::process::id()));
    std::fs::create_dir(&path).expect("the directory is new");
    let id = Name::new(Path::new("_HID"), &EISAName::new("PNP0C02"));
    let extra = Device::new(Path::new("EXTR"), vec![&id]);
    let tables = build(&AcpiSpec {
        topology: Topology::flat(4),
        regions: &regions(),
        numa: &nodes(),
        pci_window_64: Some(5 * GIB..1 << 40),
        devices: &[&extra],
    })
    .expect("the tables fit");
    let iasl = |arguments: &[&str]| {
        let output = Command::new("iasl")
            .args(arguments)
            .current_dir(&path)
            .output()
            .expect("iasl starts");
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&text).into_owned(),
        )
    };
    let mut wrong = Vec::new();
    for table in &tables[1..] {
        let name = String::from_utf8_lossy(&table.bytes[..4]).into_owned();
        std::fs::write(path.join(&name), &table.bytes).expect("the table can be written");
        let (read, text) = iasl(&["-d", &name]);
        if !read || text.contains("Error") || text.contains("Warning") || text.contains("Invalid") {
            wrong.push(text);
        }
        if let Ok(source) = std::fs::read_to_string(path.join(format!("{name}.dsl")))
            && (source.contains("**** ") || source.contains("Unknown"))
        {
            wrong.push(source);
        }
    }
    let (compiled, text) = iasl(&["-p", "again", "DSDT.dsl"]);
    if !compiled || !text.contains(" 0 Errors, 0 Warnings") {
        wrong.push(text);
    }
    let again = std::fs::read(path.join("again.aml")).unwrap_or_default();
    let _ = std::fs::remove_dir_all(&path);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(again.get(36..), find(&tables, b"DSDT").bytes.get(36..));
}

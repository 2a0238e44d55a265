//! Every config in `resources/configs` is a machine.

use super::*;

/// A host that has what the examples ask for.
fn roomy() -> HostFacts {
    let mut facts = facts();
    for pool in facts.huge_pages.values_mut() {
        *pool = HugePagePool {
            total: 4096,
            available: 4096,
        };
    }
    facts
}

#[test]
fn every_example_is_read_strictly_and_is_a_machine() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../resources/configs");
    let files = Files::new();
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let mut config = godwit_api::config::read_file(&path).unwrap();
        // The guest image is built by another tool, perhaps not yet.
        config.payload.kernel = Some(files.path("kernel").into());
        config.payload.initramfs = Some(files.path("initramfs").into());
        for disk in &mut config.disks {
            disk.path = Some(files.path("disk").into());
        }
        let spec = MachineSpec::from_config(&config, &roomy())
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(spec.serial, SerialSpec::Tty);
        names.push(path.file_name().unwrap().to_str().unwrap().to_owned());
    }
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

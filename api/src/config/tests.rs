use serde_json::json;

use super::*;
use crate::json::{read_lenient, read_strict};

#[test]
fn an_empty_document_is_the_default() {
    let config: VmConfig = read_strict(b"{}").unwrap();
    assert_eq!(config, VmConfig::default());
    assert_eq!(config.serial.mode, CharacterMode::Null);
    assert_eq!(config.cpus.boot_vcpus, 1);
}

#[test]
fn what_is_written_is_read_again() {
    let config: VmConfig = read_strict(
        json!({
            "payload": {"kernel": "k", "cmdline": "c"},
            "cpus": {"boot_vcpus": 2, "sched": {"policy": "fifo", "priority": 3},
                     "disable_exits": ["hlt", "mwait"], "halt_poll_ns": 0},
            "memory": {"zones": [{"id": "z", "size": 4096}]},
            "net": [{"tap": "t", "fds": [3]}],
            "serial": {"mode": "File", "file": "f"},
        })
        .to_string()
        .as_bytes(),
    )
    .unwrap();
    let written = serde_json::to_vec(&config).unwrap();
    assert_eq!(read_strict::<VmConfig>(&written).unwrap(), config);
}

#[test]
fn written_config_tells_the_defaults_and_leaves_out_what_is_not_set() {
    let written = serde_json::to_value(VmConfig {
        net: vec![NetConfig::default()],
        ..VmConfig::default()
    })
    .unwrap();
    assert_eq!(written["net"][0]["queue_size"], 256);
    assert_eq!(written["net"][0]["num_queues"], 2);
    assert_eq!(written["net"][0]["vhost_mode"], "Client");
    assert_eq!(written["cpus"]["max_phys_bits"], 46);
    assert_eq!(written["rng"]["src"], "/dev/urandom");
    assert!(written["net"][0].get("mac").is_none());
    assert!(written.get("disks").is_none());
    assert!(!written.to_string().contains("null"));
}

/// A body as a container runtime generates it: all defaults spelled out, keys
/// of other versions, and `null` for what is not set.
#[test]
fn a_generated_body_is_read() {
    let body = json!({
        "cpus": {"boot_vcpus": 1, "max_vcpus": 1, "kvm_hyperv": false, "nested": true,
                 "max_phys_bits": 46, "features": {"amx": false}, "topology": null},
        "memory": {"size": 2_147_483_648_u64, "mergeable": false, "hotplug_method": "Acpi",
                   "hotplug_size": null, "shared": true, "hugepages": true,
                   "prefault": false, "thp": true, "zones": null},
        "payload": {"kernel": "K", "cmdline": "quiet", "mrconfigid": "x"},
        "disks": [{"path": "I", "readonly": true, "direct": false, "iommu": false,
                   "num_queues": 1, "queue_size": 128, "vhost_user": false,
                   "backing_files": false, "sparse": true, "image_type": "Raw"}],
        "net": null,
        "rng": {"src": "/dev/urandom", "iommu": false},
        "serial": {"mode": "Off", "iommu": false},
        "console": {"mode": "Off", "iommu": false},
        "platform": {"num_pci_segments": 1, "tdx": false, "sev_snp": false,
                     "iommu_address_width": 64},
        "iommu": false, "watchdog": false, "pvpanic": false, "landlock_enable": false
    });
    let read = read_lenient::<VmConfig>(body.to_string().as_bytes()).unwrap();
    let mut ignored: Vec<_> = read.ignored.iter().map(|field| &field.path).collect();
    ignored.sort();
    assert_eq!(
        ignored,
        ["payload.mrconfigid", "platform.iommu_address_width"]
    );
    assert_eq!(read.value.memory.size, Some(2 << 30));
    assert_eq!(read.value.memory.prefault, Some(false));
    assert!(read.value.net.is_empty());
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = read_file(Path::new("/nonexistent/vm.json")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot read the config file /nonexistent/vm.json"
    );
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("No such file"), "{source}");
}

#[test]
fn a_directory_is_no_config() {
    let error = read_file(Path::new("/")).unwrap_err();
    assert!(matches!(error, ConfigFileError::Io { .. }), "{error:?}");
}

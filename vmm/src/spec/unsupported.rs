//! Fields that godwit knows and cannot honour.
//!
//! A table: where the field is, whether its value asks for nothing, and what
//! it would ask for. Clients send the values that ask for nothing unasked, so
//! those are always accepted.

use godwit_api::config::{
    BalloonConfig, CharacterConfig, CharacterMode, CpusConfig, DiskConfig, HotplugMethod,
    MemoryConfig, NetConfig, NumaConfig, PayloadConfig, PlatformConfig, VmConfig,
};

use super::error::Problems;

/// Devices on PCI bus 0 beside the host bridge and the entropy device.
const MAX_DEVICES: usize = 30;

pub(super) fn check(config: &VmConfig, problems: &mut Problems) {
    let mut table = Table {
        prefix: String::new(),
        problems,
    };
    machine(config, &mut table);
    payload(&config.payload, &mut table.below("payload."));
    cpus(&config.cpus, &mut table.below("cpus."));
    memory(&config.memory, &mut table.below("memory."));
    for (i, node) in config.numa.iter().enumerate() {
        numa(node, &mut table.below(&format!("numa[{i}].")));
    }
    for (i, device) in config.net.iter().enumerate() {
        net(device, &mut table.below(&format!("net[{i}].")));
    }
    for (i, device) in config.disks.iter().enumerate() {
        disk(device, &mut table.below(&format!("disks[{i}].")));
    }
    character(&config.serial, &mut table.below("serial."));
    character(&config.console, &mut table.below("console."));
    platform(&config.platform, &mut table.below("platform."));
}

struct Table<'a> {
    prefix: String,
    problems: &'a mut Problems,
}

impl Table<'_> {
    fn below(&mut self, prefix: &str) -> Table<'_> {
        Table {
            prefix: prefix.to_owned(),
            problems: self.problems,
        }
    }

    /// `is_off`: the value asks for nothing.
    fn row(&mut self, name: &str, is_off: bool, what: &str) {
        self.row_with_way_out(name, is_off, what, "leave the field out");
    }

    fn row_with_way_out(&mut self, name: &str, is_off: bool, what: &str, way_out: &str) {
        if !is_off {
            self.problems.unsupported(
                format!("{}{name}", self.prefix),
                format!("{what} not supported by godwit; {way_out}"),
            );
        }
    }
}

fn machine(config: &VmConfig, table: &mut Table<'_>) {
    let no_balloon = config
        .balloon
        .as_ref()
        .is_none_or(|balloon| *balloon == BalloonConfig::default());
    let debug_off = config.debug_console.mode == CharacterMode::Off;
    for (name, is_off, what) in [
        ("devices", config.devices.is_empty(), "VFIO passthrough is"),
        ("balloon", no_balloon, "a memory balloon is"),
        ("watchdog", !config.watchdog, "a watchdog is"),
        ("iommu", !config.iommu, "a virtual IOMMU is"),
        ("pvpanic", !config.pvpanic, "a panic notifier is"),
        ("debug_console", debug_off, "a debug console is"),
        ("fs", config.fs.is_empty(), "virtio-fs is"),
        ("pmem", config.pmem.is_empty(), "persistent memory is"),
        ("vdpa", config.vdpa.is_empty(), "vhost-vDPA is"),
        (
            "user_devices",
            config.user_devices.is_empty(),
            "vfio-user is",
        ),
        (
            "generic_vhost_user",
            config.generic_vhost_user.is_empty(),
            "vhost-user is",
        ),
        (
            "pci_segments",
            config.pci_segments.is_empty(),
            "more than one PCI segment is",
        ),
        (
            "rate_limit_groups",
            config.rate_limit_groups.is_empty(),
            "rate limiting is",
        ),
        ("sgx_epc", config.sgx_epc.is_empty(), "SGX is"),
        ("vsock", config.vsock.is_none(), "virtio-vsock is"),
        ("tpm", config.tpm.is_none(), "a TPM is"),
        ("rtc", config.rtc.is_none(), "virtio-rtc is"),
        ("ivshmem", config.ivshmem.is_none(), "ivshmem is"),
        ("gdb", !config.gdb, "a debugger's port is"),
        (
            "landlock_enable",
            !config.landlock_enable,
            "Landlock by the config is",
        ),
        (
            "landlock_rules",
            config.landlock_rules.is_empty(),
            "Landlock by the config is",
        ),
        ("rng.iommu", !config.rng.iommu, "a virtual IOMMU is"),
    ] {
        table.row(name, is_off, what);
    }
    let devices = config.net.len().saturating_add(config.disks.len());
    if devices > MAX_DEVICES {
        table.problems.invalid(
            "net",
            format!(
                "{} network devices and {} disks are too many for the PCI bus, which takes \
                 {MAX_DEVICES} together",
                config.net.len(),
                config.disks.len()
            ),
        );
    }
}

fn payload(config: &PayloadConfig, table: &mut Table<'_>) {
    let kernel = "name a kernel in \"kernel\"";
    table.row_with_way_out("firmware", config.firmware.is_none(), "firmware is", kernel);
    table.row("igvm", config.igvm.is_none(), "an IGVM file is");
    table.row("host_data", config.host_data.is_none(), "host data is");
}

fn cpus(config: &CpusConfig, table: &mut Table<'_>) {
    let host_profile = config.profile.as_deref().is_none_or(|name| name == "Host");
    table.row("kvm_hyperv", !config.kvm_hyperv, "Hyper-V emulation is");
    table.row("features.amx", !config.features.amx, "AMX is");
    table.row("profile", host_profile, "a profile other than \"Host\" is");
}

fn memory(config: &MemoryConfig, table: &mut Table<'_>) {
    let hotplug = "adding memory later is";
    let none = |size: Option<u64>| size.unwrap_or(0) == 0;
    let acpi = config.hotplug_method == HotplugMethod::Acpi;
    table.row("mergeable", !config.mergeable, "merging pages is");
    table.row("hotplug_method", acpi, "virtio-mem is");
    table.row("hotplug_size", none(config.hotplug_size), hotplug);
    table.row("hotplugged_size", none(config.hotplugged_size), hotplug);
    for (i, zone) in config.zones.iter().enumerate() {
        let mut table = table.below(&format!("memory.zones[{i}]."));
        table.row("file", zone.file.is_none(), "memory in a file is");
        table.row("mergeable", !zone.mergeable, "merging pages is");
        table.row("hotplug_size", none(zone.hotplug_size), hotplug);
        table.row("hotplugged_size", none(zone.hotplugged_size), hotplug);
    }
}

fn numa(config: &NumaConfig, table: &mut Table<'_>) {
    let segment = config.pci_segments.iter().all(|segment| *segment == 0);
    let sgx = config.sgx_epc_sections.is_empty();
    table.row("pci_segments", segment, "more than one PCI segment is");
    table.row(
        "device_id",
        config.device_id.is_none(),
        "a node by device is",
    );
    table.row("sgx_epc_sections", sgx, "SGX is");
}

fn net(config: &NetConfig, table: &mut Table<'_>) {
    let unlimited = config.rate_limiter_config.is_none();
    let slot = config.pci_device_id.is_none();
    table.row(
        "host_mac",
        config.host_mac.is_none(),
        "setting the tap's MAC is",
    );
    table.row("iommu", !config.iommu, "a virtual IOMMU is");
    table.row("rate_limiter_config", unlimited, "rate limiting is");
    table.row(
        "pci_segment",
        config.pci_segment == 0,
        "a second PCI segment is",
    );
    table.row("pci_device_id", slot, "choosing the PCI slot is");
}

fn disk(config: &DiskConfig, table: &mut Table<'_>) {
    let raw = config
        .image_type
        .as_deref()
        .is_none_or(|name| matches!(name, "Raw" | "Unknown"));
    let convert = "convert it: qemu-img convert -O raw";
    table.row_with_way_out(
        "image_type",
        raw,
        "an image that is not \"Raw\" is",
        convert,
    );
    let lock = config
        .lock_granularity
        .as_deref()
        .is_none_or(|name| matches!(name, "ByteRange" | "Full"));
    for (name, is_off, what) in [
        ("iommu", !config.iommu, "a virtual IOMMU is"),
        ("vhost_user", !config.vhost_user, "vhost-user is"),
        (
            "vhost_socket",
            config.vhost_socket.is_none(),
            "vhost-user is",
        ),
        (
            "rate_limit_group",
            config.rate_limit_group.is_none(),
            "rate limiting is",
        ),
        (
            "rate_limiter_config",
            config.rate_limiter_config.is_none(),
            "rate limiting is",
        ),
        (
            "queue_affinity",
            config.queue_affinity.is_empty(),
            "placing single queues is",
        ),
        ("backing_files", !config.backing_files, "a backing file is"),
        ("lock_granularity", lock, "this kind of lock is"),
        (
            "pci_segment",
            config.pci_segment == 0,
            "a second PCI segment is",
        ),
        (
            "pci_device_id",
            config.pci_device_id.is_none(),
            "choosing the PCI slot is",
        ),
        (
            "disable_io_uring",
            !config.disable_io_uring,
            "doing without io_uring is",
        ),
    ] {
        table.row(name, is_off, what);
    }
}

fn character(config: &CharacterConfig, table: &mut Table<'_>) {
    let slot = config.pci_device_id.is_none();
    table.row("iommu", !config.iommu, "a virtual IOMMU is");
    table.row("id", config.id.is_none(), "naming this device is");
    table.row(
        "pci_segment",
        config.pci_segment == 0,
        "a second PCI segment is",
    );
    table.row("pci_device_id", slot, "choosing the PCI slot is");
    table.row(
        "iobase",
        config.iobase.is_none(),
        "choosing the I/O port is",
    );
}

fn platform(config: &PlatformConfig, table: &mut Table<'_>) {
    let smbios = "SMBIOS is";
    for (name, is_off, what) in [
        (
            "num_pci_segments",
            config.num_pci_segments == 1,
            "any number of PCI segments but 1 is",
        ),
        (
            "iommu_segments",
            config.iommu_segments.is_empty(),
            "a virtual IOMMU is",
        ),
        (
            "iommu_address_width_bits",
            config.iommu_address_width_bits == 64,
            "a virtual IOMMU is",
        ),
        ("serial_number", config.serial_number.is_none(), smbios),
        ("uuid", config.uuid.is_none(), smbios),
        ("oem_strings", config.oem_strings.is_empty(), smbios),
        ("tdx", !config.tdx, "TDX is"),
        ("sev_snp", !config.sev_snp, "SEV-SNP is"),
        ("iommufd", !config.iommufd, "iommufd is"),
    ] {
        table.row(name, is_off, what);
    }
}

//! Guest memory.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Guest memory, as one piece or as zones.
///
/// Memory is a memfd and shared in any case. Huge pages are reserved in any
/// case, so `reserve` changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct MemoryConfig {
    /// Size in bytes; 512 MiB, or 0 with `zones`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Whether the kernel may merge equal pages.
    pub mergeable: bool,
    /// How memory is added later.
    pub hotplug_method: HotplugMethod,
    /// What may be added later, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hotplug_size: Option<u64>,
    /// What was added, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hotplugged_size: Option<u64>,
    /// Whether memory can be shared with other processes; always so.
    pub shared: bool,
    /// Whether memory is on huge pages; no.
    pub hugepages: bool,
    /// Size of a huge page in bytes; the host's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hugepage_size: Option<u64>,
    /// Whether all memory is there before the first instruction; yes with huge
    /// pages, else no.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefault: Option<bool>,
    /// Whether swap is reserved.
    pub reserve: bool,
    /// Whether private memory asks for transparent huge pages.
    pub thp: bool,
    /// Memory in pieces; then `size` and the page settings are the zones' own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub zones: Vec<ZoneConfig>,
    /// Whether all memory of the process is locked (mlockall(2)); no.
    /// *godwit's own.*
    pub lock: bool,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            size: None,
            mergeable: false,
            hotplug_method: HotplugMethod::Acpi,
            hotplug_size: None,
            hotplugged_size: None,
            shared: true,
            hugepages: false,
            hugepage_size: None,
            prefault: None,
            reserve: false,
            thp: true,
            zones: Vec::new(),
            lock: false,
        }
    }
}

/// A piece of guest memory with settings of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ZoneConfig {
    /// Name of the zone.
    pub id: String,
    /// Size in bytes.
    pub size: u64,
    /// A file that holds the memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Whether the kernel may merge equal pages.
    #[serde(default)]
    pub mergeable: bool,
    /// Whether memory can be shared with other processes; always so.
    #[serde(default = "yes")]
    pub shared: bool,
    /// Whether memory is on huge pages; no.
    #[serde(default)]
    pub hugepages: bool,
    /// Size of a huge page in bytes; the host's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hugepage_size: Option<u64>,
    /// The host's NUMA node that the memory must come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_numa_node: Option<u32>,
    /// What may be added later, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hotplug_size: Option<u64>,
    /// What was added, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hotplugged_size: Option<u64>,
    /// Whether all memory is there before the first instruction; yes with huge
    /// pages, else no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefault: Option<bool>,
    /// Whether swap is reserved.
    #[serde(default)]
    pub reserve: bool,
}

fn yes() -> bool {
    true
}

/// How memory is added later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum HotplugMethod {
    /// By ACPI memory devices.
    Acpi,
    /// By virtio-mem.
    VirtioMem,
}

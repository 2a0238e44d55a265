//! NUMA nodes that the guest sees.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One NUMA node of the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct NumaConfig {
    /// The node's number in the guest.
    pub guest_numa_id: u32,
    /// The node's vCPUs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cpus: Vec<u32>,
    /// How far other nodes are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub distances: Vec<DistanceConfig>,
    /// The node's memory, by ids of zones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub memory_zones: Vec<String>,
    /// The node's PCI segments.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pci_segments: Vec<u16>,
    /// A device that is a node of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_id: Option<String>,
    /// The node's SGX sections.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sgx_epc_sections: Vec<String>,
}

/// How far another node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DistanceConfig {
    /// The other node.
    pub destination: u32,
    /// The distance as in ACPI's SLIT; a node is 10 from itself.
    pub distance: u8,
}

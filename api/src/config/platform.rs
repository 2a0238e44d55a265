//! The machine around vCPUs and devices.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The machine around vCPUs and devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PlatformConfig {
    /// PCI segments; 1.
    pub num_pci_segments: u16,
    /// Segments behind a virtual IOMMU.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub iommu_segments: Vec<u16>,
    /// Width of a virtual IOMMU's addresses, in bits; 64.
    pub iommu_address_width_bits: u8,
    /// Serial number for the guest's firmware tables.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial_number: Option<String>,
    /// Machine id for the guest's firmware tables.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Strings for the guest's firmware tables.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub oem_strings: Vec<String>,
    /// A confidential guest by TDX.
    pub tdx: bool,
    /// A confidential guest by SEV-SNP.
    pub sev_snp: bool,
    /// Whether VFIO uses iommufd.
    pub iommufd: bool,
    /// Whether VFIO devices reach each other; yes.
    pub vfio_p2p_dma: bool,
    /// Host CPUs for every thread that is no vCPU's. *godwit's own.*
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub emulator_cpus: Vec<u32>,
    /// Host CPUs for migration threads; those of `emulator_cpus`. *godwit's
    /// own.*
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub migration_cpus: Vec<u32>,
}

impl Default for PlatformConfig {
    fn default() -> Self {
        Self {
            num_pci_segments: 1,
            iommu_segments: Vec::new(),
            iommu_address_width_bits: 64,
            serial_number: None,
            uuid: None,
            oem_strings: Vec::new(),
            tdx: false,
            sev_snp: false,
            iommufd: false,
            vfio_p2p_dma: true,
            emulator_cpus: Vec::new(),
            migration_cpus: Vec::new(),
        }
    }
}

//! The machine as asked for, in JSON: dumb types, no behaviour.
//!
//! Names, defaults and meaning are those of Cloud Hypervisor's `VmConfig`
//! where the two overlap, so that its clients drive godwit unchanged. Fields
//! that only godwit has are marked *godwit's own*.
//!
//! Every field that a client may send is here, also those that godwit cannot
//! honour: whether a value can be honoured is judged where the machine is
//! specified, and refused there, so that nothing that was asked for is dropped
//! in silence. Sizes are in bytes. An option that is not set is left out when
//! written.

mod character;
mod cpus;
mod disk;
mod memory;
mod net;
mod numa;
mod payload;
mod platform;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use crate::json::{self, MAX_DOCUMENT_BYTES, ReadError};

pub use character::{CharacterConfig, CharacterMode};
pub use cpus::{
    AffinityConfig, CoreScheduling, CpuFeaturesConfig, CpusConfig, ExitName, SchedConfig,
    SchedPolicy, TopologyConfig,
};
pub use disk::{DiskConfig, QueueAffinityConfig};
pub use memory::{HotplugMethod, MemoryConfig, ZoneConfig};
pub use net::{NetConfig, VhostMode};
pub use numa::{DistanceConfig, NumaConfig};
pub use payload::PayloadConfig;
pub use platform::PlatformConfig;

/// A whole machine: the document that `godwit run` takes, and the body of
/// `vm.create`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct VmConfig {
    /// What is booted.
    pub payload: PayloadConfig,
    /// vCPUs, where they run and how.
    pub cpus: CpusConfig,
    /// Guest memory.
    pub memory: MemoryConfig,
    /// NUMA nodes that the guest sees; empty: none are described.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub numa: Vec<NumaConfig>,
    /// Network devices.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub net: Vec<NetConfig>,
    /// Block devices.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<DiskConfig>,
    /// The entropy device, which every machine has.
    pub rng: RngConfig,
    /// The 16550 serial port at 0x3f8 (COM1); `Null`.
    pub serial: CharacterConfig,
    /// The virtio console. Off unless asked for, unlike the peer's.
    pub console: CharacterConfig,
    /// The machine around vCPUs and devices.
    pub platform: PlatformConfig,

    /// VFIO devices.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<Value>,
    /// The memory balloon.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balloon: Option<BalloonConfig>,
    /// The watchdog device.
    pub watchdog: bool,
    /// The virtual IOMMU.
    pub iommu: bool,
    /// The panic notifier.
    pub pvpanic: bool,
    /// The debug port.
    pub debug_console: CharacterConfig,
    /// vhost-user file systems.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fs: Vec<Value>,
    /// Persistent memory.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pmem: Vec<Value>,
    /// vhost-vDPA devices.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub vdpa: Vec<Value>,
    /// vfio-user devices.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub user_devices: Vec<Value>,
    /// Other vhost-user devices.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub generic_vhost_user: Vec<Value>,
    /// PCI segments.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pci_segments: Vec<Value>,
    /// Rate limits shared by disks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rate_limit_groups: Vec<Value>,
    /// SGX enclave page cache.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sgx_epc: Vec<Value>,
    /// The socket device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vsock: Option<Value>,
    /// The trusted platform module.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tpm: Option<Value>,
    /// The virtio real-time clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtc: Option<Value>,
    /// Shared memory between machines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ivshmem: Option<Value>,
    /// The debugger's port.
    pub gdb: bool,
    /// Whether files are fenced with Landlock.
    pub landlock_enable: bool,
    /// Files that the Landlock fence lets through.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub landlock_rules: Vec<Value>,
}

impl Default for VmConfig {
    fn default() -> Self {
        Self {
            payload: PayloadConfig::default(),
            cpus: CpusConfig::default(),
            memory: MemoryConfig::default(),
            numa: Vec::new(),
            net: Vec::new(),
            disks: Vec::new(),
            rng: RngConfig::default(),
            serial: CharacterConfig::new(CharacterMode::Null),
            console: CharacterConfig::new(CharacterMode::Off),
            platform: PlatformConfig::default(),
            devices: Vec::new(),
            balloon: None,
            watchdog: false,
            iommu: false,
            pvpanic: false,
            debug_console: CharacterConfig::new(CharacterMode::Off),
            fs: Vec::new(),
            pmem: Vec::new(),
            vdpa: Vec::new(),
            user_devices: Vec::new(),
            generic_vhost_user: Vec::new(),
            pci_segments: Vec::new(),
            rate_limit_groups: Vec::new(),
            sgx_epc: Vec::new(),
            vsock: None,
            tpm: None,
            rtc: None,
            ivshmem: None,
            gdb: false,
            landlock_enable: false,
            landlock_rules: Vec::new(),
        }
    }
}

/// The entropy device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RngConfig {
    /// Where the bytes come from; `/dev/urandom`.
    pub src: PathBuf,
    /// Whether the device is behind a virtual IOMMU.
    pub iommu: bool,
}

impl Default for RngConfig {
    fn default() -> Self {
        Self {
            src: PathBuf::from("/dev/urandom"),
            iommu: false,
        }
    }
}

/// The memory balloon.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct BalloonConfig {
    /// Size at start, in bytes.
    pub size: u64,
    /// Whether the balloon shrinks when the guest runs out of memory.
    pub deflate_on_oom: bool,
    /// Whether the guest reports free pages.
    pub free_page_reporting: bool,
}

/// Why a config file was not read.
#[derive(Debug, Error)]
pub enum ConfigFileError {
    /// The file cannot be opened or read.
    #[error("cannot read the config file {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// The file was read, but is not a config.
    #[error("the config file {} is not usable", path.display())]
    Document {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: ReadError,
    },
}

/// Reads a config file strictly: an unknown field is an error.
///
/// Relative paths in the config stay as they are: like the peer's they mean
/// the working directory of the process.
///
/// # Errors
///
/// [`ConfigFileError`]: the file cannot be read, is larger than
/// [`MAX_DOCUMENT_BYTES`], is not JSON or is not a [`VmConfig`].
pub fn read_file(path: &Path) -> Result<VmConfig, ConfigFileError> {
    // One byte more than the limit, so that the reader sees that it is passed.
    const LIMIT: u64 = MAX_DOCUMENT_BYTES as u64 + 1;
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(LIMIT).read_to_end(&mut bytes))
        .map_err(|source| ConfigFileError::Io {
            path: path.to_owned(),
            source,
        })?;
    json::read_strict(&bytes).map_err(|source| ConfigFileError::Document {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests;

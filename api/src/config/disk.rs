//! Block devices.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A virtio-blk device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DiskConfig {
    /// Name of the device; `_diskN` when not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// A raw image or a block device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Whether the guest may only read; no.
    pub readonly: bool,
    /// Whether the host's page cache is passed by (`O_DIRECT`); no.
    pub direct: bool,
    /// Whether the device is behind a virtual IOMMU.
    pub iommu: bool,
    /// Queues, 1 to 16; 1.
    pub num_queues: u32,
    /// Descriptors in a queue, a power of two; 128.
    pub queue_size: u16,
    /// Whether blocks are served by another process.
    pub vhost_user: bool,
    /// The socket to that process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vhost_socket: Option<String>,
    /// The limits' group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit_group: Option<String>,
    /// Limits of bandwidth and operations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limiter_config: Option<Value>,
    /// Serial number that the guest reads, at most 20 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Host CPUs for each queue.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub queue_affinity: Vec<QueueAffinityConfig>,
    /// Whether the image may name another image below it.
    pub backing_files: bool,
    /// Whether discarded blocks are given back to the file system; yes.
    pub sparse: bool,
    /// Format of the image: `Raw`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_type: Option<String>,
    /// What the lock on the image covers: `ByteRange` or `Full`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lock_granularity: Option<String>,
    /// The PCI segment.
    pub pci_segment: u16,
    /// The PCI slot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pci_device_id: Option<u8>,
    /// The peer's switch for its tests.
    pub disable_io_uring: bool,
    /// The peer's switch for its tests.
    pub disable_aio: bool,
}

impl Default for DiskConfig {
    fn default() -> Self {
        Self {
            id: None,
            path: None,
            readonly: false,
            direct: false,
            iommu: false,
            num_queues: 1,
            queue_size: 128,
            vhost_user: false,
            vhost_socket: None,
            rate_limit_group: None,
            rate_limiter_config: None,
            serial: None,
            queue_affinity: Vec::new(),
            backing_files: false,
            sparse: true,
            image_type: None,
            lock_granularity: None,
            pci_segment: 0,
            pci_device_id: None,
            disable_io_uring: false,
            disable_aio: false,
        }
    }
}

/// Where one queue of a disk is served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QueueAffinityConfig {
    /// The queue, from 0.
    pub queue_index: u16,
    /// Host CPUs by number.
    pub host_cpus: Vec<u32>,
}

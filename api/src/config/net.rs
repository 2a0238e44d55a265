//! Network devices.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A virtio-net device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct NetConfig {
    /// Name of the device; `_netN` when not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The host's tap interface.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tap: Option<String>,
    /// Address for a tap that the peer makes itself; not applied with `fds`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    /// Mask for a tap that the peer makes itself; not applied with `fds`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask: Option<String>,
    /// The guest's MAC address; random and locally administered when not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// The host's MAC address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_mac: Option<String>,
    /// Largest packet in bytes, from 1280; the tap's own when not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// Whether the device is behind a virtual IOMMU.
    pub iommu: bool,
    /// Rings: two for each queue pair, so 2 to 32 and even; 2.
    pub num_queues: u32,
    /// Descriptors in a ring, a power of two; 256.
    pub queue_size: u16,
    /// Whether the packets are served by another process.
    pub vhost_user: bool,
    /// The socket to that process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vhost_socket: Option<String>,
    /// Who connects to whom; the machine to the process.
    pub vhost_mode: VhostMode,
    /// Open file descriptors of a multi-queue tap, one for each queue pair.
    /// Numbers in a request mean nothing: the descriptors come beside it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fds: Option<Vec<i32>>,
    /// Limits of bandwidth and operations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limiter_config: Option<Value>,
    /// Whether TCP segmentation is offloaded; yes.
    pub offload_tso: bool,
    /// Whether UDP fragmentation is offloaded; yes.
    pub offload_ufo: bool,
    /// Whether checksums are offloaded; yes.
    pub offload_csum: bool,
    /// The PCI segment.
    pub pci_segment: u16,
    /// The PCI slot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pci_device_id: Option<u8>,
    /// Whether the kernel's vhost-net serves the tap; yes. *godwit's own.*
    pub vhost_net: bool,
    /// Host CPUs for the kernel's vhost threads of this device. *godwit's
    /// own.*
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub worker_cpus: Vec<u32>,
}

impl Default for NetConfig {
    fn default() -> Self {
        Self {
            id: None,
            tap: None,
            ip: None,
            mask: None,
            mac: None,
            host_mac: None,
            mtu: None,
            iommu: false,
            num_queues: 2,
            queue_size: 256,
            vhost_user: false,
            vhost_socket: None,
            vhost_mode: VhostMode::Client,
            fds: None,
            rate_limiter_config: None,
            offload_tso: true,
            offload_ufo: true,
            offload_csum: true,
            pci_segment: 0,
            pci_device_id: None,
            vhost_net: true,
            worker_cpus: Vec::new(),
        }
    }
}

/// The machine's own role on a vhost-user socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum VhostMode {
    /// It connects.
    Client,
    /// It listens.
    Server,
}

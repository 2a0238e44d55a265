//! A guest that moves.
//!
//! The destination starts empty: the config travels with the guest. What is
//! called otherwise at the destination (a tap, a socket, a NUMA node, host
//! CPUs) is said in the request that receives it:
//!
//! ```json
//! {"receiver_url": "tcp:0.0.0.0:4444",
//!  "net": [{"id": "n0", "tap": "tap7"}],
//!  "host_numa_nodes": [{"from": 0, "to": 1}],
//!  "cpus": {"affinity": [{"vcpu": 0, "host_cpus": [6]}], "emulator_cpus": [4]}}
//! ```
//!
//! Keys of the peer that ask for what godwit does not do are accepted with
//! the value that means "no", since its client always sends them, and refused
//! with any other.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Endpoint, NetFdsConfig};
use crate::config::AffinityConfig;
use crate::error::{ApiError, ErrorKind};

/// How the guest leaves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SendMigration {
    /// Where to.
    pub destination_url: Endpoint,
    /// Connections for memory at once, 1 to 128; 1.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 128))]
    pub connections: u32,
    /// How long the guest may stand still, in milliseconds, from 1; 300.
    #[serde(default = "default_downtime_ms")]
    #[schemars(range(min = 1))]
    pub downtime_ms: u64,
    /// How long it may take to get below that, in seconds, from 1; 3600.
    #[serde(default = "default_timeout_s")]
    #[schemars(range(min = 1))]
    pub timeout_s: u64,
    /// What happens when it takes longer; `Cancel`.
    #[serde(default)]
    pub timeout_strategy: TimeoutStrategy,
    /// Whether memory is handed over instead of copied: to a process on this
    /// host, over a Unix socket; no.
    #[serde(default)]
    pub local: bool,
    /// Keys and certificates for TLS, over TCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_dir: Option<PathBuf>,
    /// Bytes a second at most; no limit. *godwit's own.*
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub bandwidth_bps: Option<u64>,
    /// Whether zero lines in a page are left out; `auto`. *godwit's own.*
    #[serde(default)]
    pub zero_lines: ZeroLines,
    /// Means of speed to do without, so that a benchmark shows what each gains;
    /// none. *godwit's own.*
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without: Vec<Means>,
    /// Whether the source keeps the guest, paused; `false` is all there is.
    #[serde(default)]
    pub preserve_source: bool,
    /// When memory moves; `Precopy` is all there is.
    #[serde(default)]
    pub memory_mode: MemoryMode,
}

/// How a guest comes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReceiveMigration {
    /// Where to listen.
    pub receiver_url: Endpoint,
    /// Keys and certificates for TLS, over TCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_dir: Option<PathBuf>,
    /// Network devices whose taps come as descriptors beside the request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub net_fds: Vec<NetFdsConfig>,
    /// Network devices whose tap or socket is another here. *godwit's own.*
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub net: Vec<NetPlace>,
    /// NUMA nodes of the host whose number is another here. *godwit's own.*
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_numa_nodes: Vec<NodePlace>,
    /// Host CPUs of the machine's threads here. *godwit's own.*
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<CpuPlaces>,
    /// Means of speed to do without, as of
    /// [`SendMigration::without`]. *godwit's own.*
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without: Vec<Means>,
    /// When memory moves; `Precopy` is all there is.
    #[serde(default)]
    pub memory_mode: MemoryMode,
    /// Zones on another NUMA node; none is all there is, since
    /// `host_numa_nodes` says it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub zone_updates: Vec<Value>,
    /// VFIO devices that come as descriptors; none is all there is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vfio_fds: Vec<Value>,
    /// The iommufd that comes as a descriptor; none is all there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iommufd_fd: Option<Value>,
}

/// A network device's place at the destination.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NetPlace {
    /// The device's name.
    pub id: String,
    /// The host's tap interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tap: Option<String>,
    /// The socket to the process that serves the packets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vhost_socket: Option<String>,
}

/// A NUMA node's place at the destination.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodePlace {
    /// The node at the source.
    pub from: u32,
    /// The node here.
    pub to: u32,
}

/// Host CPUs at the destination. What is given replaces what the config says
/// of the same name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct CpuPlaces {
    /// Host CPUs for each vCPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Vec<AffinityConfig>>,
    /// Host CPUs for every thread that is no vCPU's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub emulator_cpus: Option<Vec<u32>>,
    /// Host CPUs for migration threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub migration_cpus: Option<Vec<u32>>,
}

/// What happens when a guest writes faster than memory can be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TimeoutStrategy {
    /// The migration fails and the guest stays.
    #[default]
    Cancel,
    /// The guest stands still for as long as it takes.
    Ignore,
}

/// Whether zero lines in a page are left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ZeroLines {
    /// Where it saves time.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// A means of speed that can be done without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Means {
    /// Source: find what is present without touching memory.
    Discovery,
    /// Source: leave out huge pages that nobody has written since they were new.
    Untouched,
    /// Source: leave out pages that are zero.
    ZeroPages,
    /// Source: re-arm the dirty log right before a page is read.
    ClearBeforeRead,
    /// Source: leave pages that are dirty in every round to the last.
    HotPagesLast,
    /// Source: send the last pages over all connections.
    StripedFinal,
    /// Source: stop at the minimum of predicted downtime, not as soon as it fits.
    StopAtMinimum,
    /// Source: checksums of pages, which cost speed rather than bring it.
    ChecksumPages,
    /// Destination: allocate memory ahead of its content.
    PopulateAhead,
    /// Destination: write cold memory through its file.
    WriteThroughFile,
}

/// When memory moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MemoryMode {
    /// While the guest runs at the source.
    #[default]
    Precopy,
    /// While the guest runs at the destination.
    Postcopy,
}

const fn one() -> u32 {
    1
}

const fn default_downtime_ms() -> u64 {
    300
}

const fn default_timeout_s() -> u64 {
    3600
}

impl SendMigration {
    /// A migration to `destination_url` with every default.
    #[must_use]
    pub const fn to(destination_url: Endpoint) -> Self {
        Self {
            destination_url,
            connections: one(),
            downtime_ms: default_downtime_ms(),
            timeout_s: default_timeout_s(),
            timeout_strategy: TimeoutStrategy::Cancel,
            local: false,
            tls_dir: None,
            bandwidth_bps: None,
            zero_lines: ZeroLines::Auto,
            without: Vec::new(),
            preserve_source: false,
            memory_mode: MemoryMode::Precopy,
        }
    }

    /// Checks what can be checked without the machine.
    pub(crate) fn check(&self) -> Result<(), ApiError> {
        in_range("connections", self.connections.into(), 1..=128)?;
        in_range("downtime_ms", self.downtime_ms, 1..=u64::MAX)?;
        in_range("timeout_s", self.timeout_s, 1..=u64::MAX)?;
        in_range(
            "bandwidth_bps",
            self.bandwidth_bps.unwrap_or(1),
            1..=u64::MAX,
        )?;
        tls_over_tcp(&self.destination_url, self.tls_dir.is_some())?;
        if self.local && matches!(self.destination_url, Endpoint::Tcp { .. }) {
            return Err(ApiError::new(
                ErrorKind::BadRequest,
                "local: memory is handed over by a Unix socket only; \
                 write unix:<path> as destination_url, or leave local out",
            ));
        }
        if self.preserve_source {
            return Err(ApiError::not_supported(
                "preserve_source: a guest is never at two places; \
                 vm.pause and vm.snapshot keep a copy",
            ));
        }
        precopy(self.memory_mode)
    }
}

impl ReceiveMigration {
    /// A guest that comes to `receiver_url`, with every default.
    #[must_use]
    pub const fn at(receiver_url: Endpoint) -> Self {
        Self {
            receiver_url,
            tls_dir: None,
            net_fds: Vec::new(),
            net: Vec::new(),
            host_numa_nodes: Vec::new(),
            cpus: None,
            without: Vec::new(),
            memory_mode: MemoryMode::Precopy,
            zone_updates: Vec::new(),
            vfio_fds: Vec::new(),
            iommufd_fd: None,
        }
    }

    /// Checks what can be checked without the machine.
    pub(crate) fn check(&self) -> Result<(), ApiError> {
        tls_over_tcp(&self.receiver_url, self.tls_dir.is_some())?;
        if !self.zone_updates.is_empty() {
            return Err(ApiError::not_supported(
                "zone_updates: write host_numa_nodes: [{\"from\": 0, \"to\": 1}] instead",
            ));
        }
        if !self.vfio_fds.is_empty() || self.iommufd_fd.is_some() {
            return Err(ApiError::not_supported(
                "vfio_fds, iommufd_fd: VFIO devices are not migrated",
            ));
        }
        precopy(self.memory_mode)
    }
}

fn in_range(name: &str, value: u64, range: std::ops::RangeInclusive<u64>) -> Result<(), ApiError> {
    if range.contains(&value) {
        return Ok(());
    }
    let bounds = match *range.end() {
        u64::MAX => format!("from {}", range.start()),
        end => format!("from {} to {end}", range.start()),
    };
    Err(ApiError::new(
        ErrorKind::BadRequest,
        format!("{name}: {value} is out of range: expected an integer {bounds}"),
    ))
}

fn tls_over_tcp(endpoint: &Endpoint, tls: bool) -> Result<(), ApiError> {
    if tls && matches!(endpoint, Endpoint::Unix(_)) {
        return Err(ApiError::new(
            ErrorKind::BadRequest,
            "tls_dir: TLS is for tcp: endpoints; a Unix socket has its file's permissions",
        ));
    }
    Ok(())
}

fn precopy(mode: MemoryMode) -> Result<(), ApiError> {
    match mode {
        MemoryMode::Precopy => Ok(()),
        MemoryMode::Postcopy => Err(ApiError::not_supported(
            "memory_mode: Postcopy would lose the guest with the network; use Precopy",
        )),
    }
}

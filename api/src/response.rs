//! What a request is answered with.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::VmConfig;
use crate::error::ErrorChain;

/// The answer to a request that was granted.
#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    /// It is done, and there is nothing to tell.
    Done,
    /// To `vmm.ping`.
    Ping(Ping),
    /// To `vm.info`.
    Info(Box<Info>),
    /// To `vm.counters`.
    Counters(Counters),
    /// To `vm.add-net` on a machine that runs.
    DeviceAdded(DeviceAdded),
    /// To `vm.migration-progress`.
    Progress(Box<Progress>),
    /// To `/metrics`.
    Text(String),
}

/// Who answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Ping {
    /// The version with the commit it was built from.
    pub build_version: String,
    /// The version.
    pub version: String,
    /// The process.
    pub pid: i64,
    /// What this build has that another may lack.
    pub features: Vec<String>,
}

/// A machine and how it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Info {
    /// The machine as asked for, with defaults and names filled in.
    pub config: Box<VmConfig>,
    /// How it is.
    pub state: VmState,
    /// Guest memory in bytes.
    pub memory_actual_size: u64,
    /// Devices by name, once the machine is built.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_tree: Option<BTreeMap<String, DeviceNode>>,
}

/// How a machine is. A migration is no state: see `vm.migration-progress`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum VmState {
    /// It is described and not built.
    Created,
    /// Its vCPUs run.
    Running,
    /// Its vCPUs are stopped and can go on.
    Paused,
    /// It was shut down.
    Shutdown,
}

/// A device of a machine that is built.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeviceNode {
    /// The device's name.
    pub id: String,
    /// Address ranges and interrupts that the device has.
    pub resources: Vec<Value>,
    /// Names of the devices below it.
    pub children: Vec<String>,
    /// Where it is on the PCI bus, as `0000:00:05.0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pci_bdf: Option<String>,
}

/// Counters by device and name; and KVM's own under their names there, those of the machine as
/// device `__vm`, those of a vCPU as `__vcpu0` and so on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Counters(pub BTreeMap<String, BTreeMap<String, u64>>);

impl Counters {
    /// Where KVM's counters of the machine are. No device's name begins so.
    pub const VM: &str = "__vm";
    /// Where those of a vCPU are, before its number.
    pub const VCPU: &str = "__vcpu";
    /// How often a vCPU came out of KVM, among its counters: the only one that is not KVM's.
    pub const EXITS_TO_USER_SPACE: &str = "exits_to_user_space";

    /// Those of devices.
    pub fn devices(&self) -> impl Iterator<Item = (&String, &BTreeMap<String, u64>)> {
        let device = |id: &str| id != Self::VM && !id.starts_with(Self::VCPU);
        self.0.iter().filter(move |(id, _)| device(id))
    }
}

/// A device that was added to a running machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeviceAdded {
    /// The device's name, given or made.
    pub id: String,
    /// Where it is on the PCI bus, as `0000:00:05.0`.
    pub bdf: String,
}

/// How far a migration is, or how the last one ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Progress {
    /// Which side this process is.
    pub role: MigrationRole,
    /// Whether it goes on, and how it ended.
    pub status: MigrationStatus,
    /// The phase it is in, or ended in.
    pub phase: String,
    /// Each phase so far with its time, in order.
    pub phases: Vec<PhaseTime>,
    /// Rounds over the memory that the guest wrote meanwhile.
    pub rounds: u64,
    /// Guest memory that is backed by pages at all, in bytes.
    pub present_bytes: u64,
    /// Memory that was read to find zeros, in bytes.
    pub scanned_bytes: u64,
    /// Memory that was found zero and not sent, in bytes.
    pub zero_bytes: u64,
    /// Bytes on the wire.
    pub sent_bytes: u64,
    /// Memory that the round under way has still to send, in bytes; what the
    /// guest writes meanwhile is not among it.
    pub remaining_bytes: u64,
    /// How fast the guest writes pages, as seen in the last round.
    pub dirty_pages_per_second: u64,
    /// How long the guest would stand still if it stopped now, in
    /// microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted_downtime_us: Option<u64>,
    /// From the first vCPU's stop at the source to the first run at the
    /// destination, in microseconds, once the guest runs there; at the
    /// destination give or take half of a round trip.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downtime_us: Option<u64>,
    /// From the request to now or to the end, in microseconds; at the
    /// destination from the source's first word.
    pub total_us: u64,
    /// Why it failed, root cause last; empty while it has not.
    #[serde(default)]
    pub error: ErrorChain,
}

/// A side of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MigrationRole {
    /// The guest leaves.
    Source,
    /// The guest comes.
    Destination,
}

/// Whether a migration goes on, and how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MigrationStatus {
    /// It goes on.
    Ongoing,
    /// The guest is at the destination.
    Finished,
    /// It failed; the guest is at the source.
    Failed,
    /// It was cancelled; the guest is at the source.
    Cancelled,
}

/// A phase of a migration and its time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PhaseTime {
    /// The phase.
    pub phase: String,
    /// Its time, in microseconds.
    pub us: u64,
}

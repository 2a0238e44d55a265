//! What a client can ask for: one variant for each route.
//!
//! A request that is built here was checked as far as it can be without the
//! machine. Whether it is allowed now is the machine's to say.

mod endpoint;
mod migration;
mod snapshot;

use std::os::fd::OwnedFd;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::{NetConfig, VmConfig};

pub use endpoint::{Endpoint, EndpointError};
pub use migration::{
    CpuPlaces, Means, MemoryMode, NetPlace, NodePlace, ReceiveMigration, SendMigration,
    TimeoutStrategy, ZeroLines,
};
pub use snapshot::{FolderUrl, FolderUrlError, Restore, Snapshot};

/// One request.
#[derive(Debug)]
pub enum Request {
    /// `vmm.ping`: who is there?
    Ping,
    /// `vmm.shutdown`: delete the machine and end the process.
    ShutdownVmm,
    /// `vm.create`: describe a machine.
    Create(Box<VmConfig>),
    /// `vm.boot`: build it and start its vCPUs.
    Boot,
    /// `vm.shutdown`: power it off; its description stays.
    Shutdown,
    /// `vm.reboot`: power it off and on.
    Reboot,
    /// `vm.delete`: power it off and forget its description.
    Delete,
    /// `vm.pause`: stop its vCPUs.
    Pause,
    /// `vm.resume`: let them go on.
    Resume,
    /// `vm.power-button`: ask the guest to power itself off.
    PowerButton,
    /// `vm.info`: its description and state.
    Info,
    /// `vm.counters`: what its devices counted.
    Counters,
    /// `vm.add-net`: add a network device; the descriptors are the tap's
    /// queues, one for each pair, and none when the tap is named.
    AddNet(Box<NetConfig>, Vec<OwnedFd>),
    /// `vm.remove-device`: take a device away.
    RemoveDevice(RemoveDevice),
    /// `vm.send-migration`: move the guest to another host.
    SendMigration(Box<SendMigration>),
    /// `vm.receive-migration`: take a guest that comes from another host.
    ReceiveMigration(Box<ReceiveMigration>, Vec<NetFds>),
    /// `vm.migration-progress`: how far is it?
    MigrationProgress,
    /// `vm.cancel-migration`: keep the guest here.
    CancelMigration,
    /// `vm.snapshot`: write the paused machine to a folder.
    Snapshot(Snapshot),
    /// `vm.restore`: make a machine from such a folder.
    Restore(Restore, Vec<NetFds>),
    /// `/metrics`: all figures as text for Prometheus.
    Metrics,
}

/// The device that is taken away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RemoveDevice {
    /// The device's name.
    pub id: String,
}

/// How many of the descriptors beside the request belong to one network
/// device. They are handed out in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NetFdsConfig {
    /// The device's name.
    pub id: String,
    /// Descriptors: one for each queue pair.
    #[serde(default)]
    pub num_fds: Option<u32>,
    /// Numbers of descriptors in the client; they mean nothing here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fds: Option<Vec<i32>>,
}

/// The tap's queues of one network device.
#[derive(Debug)]
pub struct NetFds {
    /// The device's name.
    pub id: String,
    /// One descriptor for each queue pair.
    pub fds: Vec<OwnedFd>,
}

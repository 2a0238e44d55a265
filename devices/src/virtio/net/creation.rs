//! What a network device is made from, and why it cannot be.

use nix::sched::CpuSet;

use super::{Offloads, config};
use crate::tap::{TapError, TapSource};
use crate::virtio::vhost::VhostError;
use crate::virtio::vhost::workers::WorkerError;

/// Smallest MTU a device may have (virtio 1.2, 5.1.4.1).
const MIN_MTU: u16 = 68;

/// What a network device is made from.
#[derive(Debug)]
pub struct NetDeviceConfig {
    /// The device's id, such as `_net0`.
    pub id: String,
    /// The guest's MAC address: unicast, not zero.
    pub mac: [u8; 6],
    /// Queue pairs, 1 to [`crate::tap::MAX_QUEUES`].
    pub queue_pairs: u16,
    /// Entries in each receive and transmit queue: a power of two, 2 to 32768.
    pub queue_size: u16,
    /// MTU in bytes, at least 68, which the tap is set to. `None` takes that of
    /// the tap.
    pub mtu: Option<u16>,
    /// The offloads to offer.
    pub offloads: Offloads,
    /// The host's end.
    pub tap: TapSource,
    /// The CPUs for the vhost workers; `None` leaves them where this thread may
    /// run.
    pub worker_cpus: Option<CpuSet>,
}

/// A network device could not be made.
#[derive(Debug, thiserror::Error)]
#[error("Could not make the network device {id}")]
pub struct NetError {
    /// The device's id in the machine's config.
    pub id: String,
    /// Why.
    #[source]
    pub reason: NetErrorReason,
}

/// Why a network device could not be made.
#[derive(Debug, thiserror::Error)]
pub enum NetErrorReason {
    /// A multicast MAC address, or none.
    #[error("The MAC address {} is {}: a device has a unicast address, such as 52:54:00:12:34:56",
        config::show_mac(*mac), if mac[0] & 1 == 1 { "a multicast address" } else { "all zeros" })]
    Mac {
        /// The address.
        mac: [u8; 6],
    },
    /// A queue size that no split ring has.
    #[error("The queue size {size} is not a power of two from 2 to 32768")]
    QueueSize {
        /// The size.
        size: u16,
    },
    /// An MTU below what IPv4 needs.
    #[error("The MTU {mtu} is below {MIN_MTU} bytes, the least a device may have")]
    Mtu {
        /// The MTU in bytes.
        mtu: u16,
    },
    /// The tap.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// The kernel's vhost-net.
    #[error(transparent)]
    Vhost(#[from] VhostError),
    /// Its worker threads.
    #[error(transparent)]
    Worker(#[from] WorkerError),
}

/// Whether what is asked for can be had anywhere.
pub(super) fn check(config: &NetDeviceConfig) -> Result<(), NetErrorReason> {
    let mac = config.mac;
    if mac[0] & 1 == 1 || mac == [0; 6] {
        return Err(NetErrorReason::Mac { mac });
    }
    let size = config.queue_size;
    if !size.is_power_of_two() || size < 2 {
        return Err(NetErrorReason::QueueSize { size });
    }
    match config.mtu {
        Some(mtu) if mtu < MIN_MTU => Err(NetErrorReason::Mtu { mtu }),
        _ => Ok(()),
    }
}

//! The virtio device model (virtio 1.2), as seen from a device.
//!
//! ```text
//!             activate(Activation { memory, features, rings, config_change })
//!   transport ------------------------------------------------------> device
//!             <------------------------------------------------------
//!                              stop() -> ring positions
//! ```
//!
//! Four needs, one mechanism: *reset* is `stop` and forget; *pause* is `stop`
//! and keep the positions; *resume* and *restore* are `activate` from kept
//! positions. The transport owns everything the driver negotiates (status,
//! features, queue addresses, vectors); the device owns what it does.
//!
//! A device is called by one thread at a time. `activate` and `stop` run on the
//! vCPU thread that wrote the status register, or on the thread that controls
//! the machine: they may block for as long as a system call, not longer.

pub mod block;
pub mod net;
pub mod pci;
mod queue;
pub mod rng;
mod saved;
pub mod vhost;

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::EventFd;

use crate::GuestRam;
use crate::dirty::PageSink;

pub use saved::{DeviceStateError, DeviceV1, stateless};

/// The kind of a device: its number in virtio 1.2, clause 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Network device (5.1).
    Net,
    /// Block device (5.2).
    Block,
    /// Console device (5.3).
    Console,
    /// Entropy device (5.4).
    Rng,
    /// Traditional memory balloon device (5.5).
    Balloon,
}

impl Kind {
    /// The virtio device id.
    #[must_use]
    pub const fn id(self) -> u16 {
        match self {
            Self::Net => 1,
            Self::Block => 2,
            Self::Console => 3,
            Self::Rng => 4,
            Self::Balloon => 5,
        }
    }
}

/// Where the device's side of a ring stands, in ring counts modulo 2^16.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingPosition {
    /// The next entry of the available ring that the device will take.
    pub next_avail: u16,
    /// The next entry of the used ring that the device will write.
    pub next_used: u16,
}

/// One enabled split virtqueue, as the driver set it up.
///
/// The transport checked that `size` is a power of two not above the device's
/// maximum, that the three parts are aligned as virtio 1.2, 2.7 asks, and that
/// each lies whole within guest RAM.
#[derive(Debug)]
pub struct Ring {
    /// Index of the queue in the device.
    pub index: u16,
    /// Number of descriptors, a power of two.
    pub size: u16,
    /// Descriptor area.
    pub desc: GuestAddress,
    /// Driver area (available ring).
    pub avail: GuestAddress,
    /// Device area (used ring).
    pub used: GuestAddress,
    /// Where to start.
    pub start: RingPosition,
    /// Signalled by the driver's notification.
    pub kick: EventFd,
    /// To be signalled to interrupt the driver. Without a vector it leads
    /// nowhere, and signalling it does no harm.
    pub call: EventFd,
}

/// What a device tells its driver outside of the rings, from any thread.
pub trait ConfigChange: Send + Sync + fmt::Debug {
    /// The configuration changed: raises the configuration interrupt.
    fn notify(&self);

    /// The device cannot go on until its driver resets it (virtio 1.2, 2.1.2):
    /// sets DEVICE_NEEDS_RESET and raises the configuration interrupt.
    fn needs_reset(&self);
}

/// Everything a device gets when the driver sets DRIVER_OK.
#[derive(Debug)]
pub struct Activation {
    /// The guest's RAM.
    pub memory: Arc<GuestRam>,
    /// The features that both sides agreed on.
    pub features: u64,
    /// The rings that the driver enabled, ordered by index.
    pub rings: Vec<Ring>,
    /// How to announce a change of the configuration space.
    pub config_change: Arc<dyn ConfigChange>,
}

/// The device could not start on what the driver set up.
#[derive(Debug, thiserror::Error)]
#[error("Could not activate device {device}: {attempt}")]
pub struct ActivateError {
    /// The device's id in the machine's config.
    pub device: String,
    /// What was attempted.
    pub attempt: String,
    /// Why it failed.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// The device could not be stopped cleanly.
#[derive(Debug, thiserror::Error)]
#[error("Could not stop device {device}: {attempt}")]
pub struct StopError {
    /// The device's id in the machine's config.
    pub device: String,
    /// What was attempted.
    pub attempt: String,
    /// Why it failed.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// What is written for a device cannot be logged.
#[derive(Debug, thiserror::Error)]
#[error("Could not log the memory that device {device} writes")]
pub struct DirtyLogError {
    /// The device's id in the machine's config.
    pub device: String,
    /// Why.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// A virtio device without its transport.
pub trait VirtioDevice: Send + fmt::Debug {
    /// The device's id in the machine's config, such as `_net0`.
    fn id(&self) -> &str;

    /// What kind of device it is.
    fn kind(&self) -> Kind;

    /// The largest size of each queue, each a power of two up to 32768.
    fn queue_sizes(&self) -> &[u16];

    /// The features it offers. The transport adds its own (VERSION_1).
    fn features(&self) -> u64;

    /// Fills `data` from the device configuration space at `offset`; beyond its
    /// end, zeros.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Takes a write to the device configuration space. Most devices have
    /// nothing writable there.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    /// Starts to serve the rings.
    ///
    /// # Errors
    /// What stood in the way; the device is as stopped as before.
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError>;

    /// Does what [`activate`](Self::activate) would do for the same rings as far as
    /// nobody touches guest RAM yet, so that it takes less then. It may do nothing,
    /// and what fails here is met again, and told, there. `None`: what was prepared
    /// counts no more.
    fn prepare(&mut self, _activation: Option<&Activation>) {}

    /// Stops to serve the rings and tells where each stands, in the order in
    /// which `activate` got them. Requests taken from a ring are finished
    /// first. Stopping a device that is not active answers an empty list.
    ///
    /// # Errors
    /// A ring's position could not be learnt; the device serves nothing all
    /// the same.
    fn stop(&mut self) -> Result<Vec<RingPosition>, StopError>;

    /// What the device keeps itself, apart from its rings. What it is to
    /// outlive is a stop and a start from where the rings stood.
    fn save(&self) -> DeviceV1;

    /// Takes over what another instance of this device saved; it trusts none of
    /// it. Called while the device is stopped; it counts for the next
    /// `activate`, which continues that instance's rings.
    ///
    /// # Errors
    /// The state does not fit this device, which is as it was.
    fn restore(&mut self, saved: &DeviceV1) -> Result<(), DeviceStateError>;

    /// Lets go of what only one machine may hold, such as the lock of a disk's
    /// image, so that another can [`acquire`](Self::acquire) it. Called while
    /// the device is stopped, right before the guest is another machine's.
    ///
    /// # Errors
    /// The device holds it still.
    fn release(&mut self) -> Result<(), StopError> {
        Ok(())
    }

    /// Takes it: before a guest that moved here goes on, and again where a move
    /// failed. `activate` does the same for what is not held.
    ///
    /// # Errors
    /// Another machine holds it.
    fn acquire(&mut self) -> Result<(), ActivateError> {
        Ok(())
    }

    /// Starts to log what is written to guest RAM for this device outside of
    /// this process. What the device itself writes is in the log of
    /// [`crate::dirty`], so that most have nothing to do here.
    ///
    /// # Errors
    /// Whoever serves the rings cannot log.
    fn start_dirty_log(&mut self) -> Result<(), DirtyLogError> {
        Ok(())
    }

    /// Takes what was logged since the last time. After [`stop`](Self::stop)
    /// nothing is added any more.
    fn sync_dirty_log(&mut self, _sink: &mut PageSink<'_>) {}

    /// Ends the log.
    fn stop_dirty_log(&mut self) {}

    /// Tells the network, if the device has one, where the guest is now. For a
    /// guest that has moved, as soon as it runs and again later, since frames
    /// get lost.
    fn announce(&mut self) {}

    /// Open files that another process of this host needs to serve the device in
    /// our place, while we still do: the queues of a tap.
    ///
    /// # Errors
    /// No descriptor left.
    fn files(&self) -> io::Result<Vec<OwnedFd>> {
        Ok(Vec::new())
    }

    /// What the device counts, each by its name; names do not change. Found out
    /// when asked, so that a packet costs nothing. A device need not count.
    fn counters(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}

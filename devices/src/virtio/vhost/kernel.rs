//! The kernel's vhost-net: one open file serves one queue pair.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use vhost::VhostBackend;
use vhost::net::VhostNet;
use vhost::vhost_kern::VhostKernBackend;
use vhost::vhost_kern::net::Net;
use vm_memory::GuestAddress;

use super::{RingBackend, SharedLog, VhostError};
use crate::GuestRam;

/// An open `/dev/vhost-net` with the tap queue that it moves packets to: ring 0
/// receives (towards the guest), ring 1 transmits.
///
/// Several queue pairs take one each, so that each pair has a worker thread of
/// its own.
pub struct KernelNet {
    device: Net<Arc<GuestRam>>,
    memory: Arc<GuestRam>,
    tap: File,
}

impl fmt::Debug for KernelNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KernelNet")
            .field("fd", &self.device.as_raw_fd())
            .field("tap", &self.tap.as_raw_fd())
            .finish_non_exhaustive()
    }
}

impl KernelNet {
    /// Opens vhost-net for a queue of a tap.
    ///
    /// # Errors
    /// The module is not loaded, or no permission.
    pub fn open(memory: Arc<GuestRam>, tap: File) -> Result<Self, VhostError> {
        let device = Net::new(Arc::clone(&memory)).map_err(|error| match error {
            vhost::Error::VhostOpen(error) => match error.raw_os_error() {
                // ENODEV, ENXIO: the node is there, the driver is not.
                Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => VhostError::NoDriver(error),
                _ => VhostError::Open(error),
            },
            other => VhostError::Open(io::Error::other(other)),
        })?;
        Ok(Self {
            device,
            memory,
            tap,
        })
    }
}

impl AsRawFd for KernelNet {
    fn as_raw_fd(&self) -> RawFd {
        self.device.as_raw_fd()
    }
}

impl VhostKernBackend for KernelNet {
    type AS = Arc<GuestRam>;

    fn mem(&self) -> &Self::AS {
        &self.memory
    }

    /// [`super::Rings`] checked each part of the ring more strictly than the
    /// provided method, which also refuses a ring that ends where RAM ends.
    fn is_valid(&self, ring: &vhost::VringConfigData) -> bool {
        ring.queue_size.is_power_of_two() && ring.is_log_addr_valid()
    }
}

impl RingBackend for KernelNet {
    /// The crate translates into our address space itself.
    fn ring_address(&self, _: &GuestRam, address: GuestAddress) -> vhost::Result<u64> {
        Ok(address.0)
    }

    fn enable(&self, ring: usize) -> vhost::Result<()> {
        self.device.set_backend(ring, Some(&self.tap))
    }

    fn disable(&self, ring: usize) -> vhost::Result<()> {
        self.device.set_backend(ring, None)
    }

    /// The kernel writes through our mapping.
    fn set_log(&self, log: &SharedLog) -> vhost::Result<()> {
        self.set_log_base(log.address(), None)
    }
}

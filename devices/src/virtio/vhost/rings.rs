//! Handing rings to a vhost back end and taking them back.

use std::fmt;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::{SharedLog, VhostError};
use crate::GuestRam;
use crate::dirty::DirtyMap;
use crate::virtio::{Ring, RingPosition};

/// The back end logs what it writes (`VHOST_F_LOG_ALL`).
const LOG_ALL: u64 = 1 << 26;
/// Bit of the flags of a ring's addresses: its used ring is logged.
const VHOST_VRING_F_LOG: u32 = 0;

/// What differs between one vhost back end and another.
pub trait RingBackend: VhostBackend + fmt::Debug {
    /// A guest address as `set_vring_addr` of this back end wants it: the
    /// kernel's takes guest addresses, a vhost-user one those of our mapping.
    ///
    /// # Errors
    /// The address is not in guest RAM.
    fn ring_address(&self, memory: &GuestRam, address: GuestAddress) -> vhost::Result<u64>;

    /// Lets the back end serve `ring`: from here on it may touch guest RAM.
    ///
    /// # Errors
    /// The back end's answer.
    fn enable(&self, ring: usize) -> vhost::Result<()>;

    /// Ends that: when it returns the back end has put down what it held.
    ///
    /// # Errors
    /// The back end's answer.
    fn disable(&self, ring: usize) -> vhost::Result<()>;

    /// Tells the back end where to log what it writes, which it does while
    /// `VHOST_F_LOG_ALL` is among its features.
    ///
    /// # Errors
    /// The back end's answer.
    fn set_log(&self, log: &SharedLog) -> vhost::Result<()>;
}

/// The rings of one vhost back end.
///
/// The acknowledged features are set at every start. `VHOST_F_LOG_ALL` is added
/// to them and taken away while rings are served (vhost re-reads them for each
/// ring under its lock), so the dirty log of a migration needs no restart.
pub struct Rings<B: RingBackend> {
    backend: B,
    memory: Arc<GuestRam>,
    /// What it offers.
    features: u64,
    /// What driver and back end agreed on, while rings are served.
    agreed: u64,
    serving: Vec<Serving>,
    /// Set up and not served.
    prepared: Vec<Serving>,
    log: Option<Arc<SharedLog>>,
}

struct Serving {
    ring: usize,
    used: GuestAddress,
    start: RingPosition,
    /// Of descriptor table and available ring.
    guest_addresses: (GuestAddress, GuestAddress),
    /// As the back end has them.
    addresses: VringConfigData,
    error: EventFd,
}

impl Serving {
    /// Whether it is `ring`, at `index` of the back end, where it stands now. Its
    /// eventfds are the transport's, and stay the same.
    fn is(&self, index: usize, ring: &Ring) -> bool {
        self.ring == index
            && self.start == ring.start
            && self.used == ring.used
            && self.addresses.queue_size == ring.size
            && self.guest_addresses == (ring.desc, ring.avail)
    }
}

impl<B: RingBackend> fmt::Debug for Rings<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rings")
            .field("backend", &self.backend)
            .field("features", &format_args!("{:#x}", self.features))
            .field("serving", &self.serving.len())
            .finish_non_exhaustive()
    }
}

impl<B: RingBackend> Rings<B> {
    /// Becomes the owner of `backend`, which makes its worker, and shows it the
    /// guest's RAM, so that whatever it refuses shows before the guest starts.
    ///
    /// # Errors
    /// A request was refused.
    pub fn open(backend: B, memory: Arc<GuestRam>) -> Result<Self, VhostError> {
        backend.set_owner().map_err(request("become its owner"))?;
        let features = backend
            .get_features()
            .map_err(request("tell its features"))?;
        let rings = Self {
            backend,
            memory,
            features,
            agreed: 0,
            serving: Vec::new(),
            prepared: Vec::new(),
            log: None,
        };
        rings.set_memory()?;
        Ok(rings)
    }

    /// The features that the back end offers.
    #[must_use]
    pub fn features(&self) -> u64 {
        self.features
    }

    /// Sets up all that `start` needs for the same rings, but lets the back end
    /// touch none: what is left to do then is one request a ring.
    ///
    /// # Errors
    /// A request was refused; nothing is prepared then.
    pub fn prepare(&mut self, features: u64, rings: &[(usize, &Ring)]) -> Result<(), VhostError> {
        let both = self.prepared.iter().zip(rings);
        if self.agreed == features
            && self.prepared.len() == rings.len()
            && both
                .into_iter()
                .all(|(p, (index, ring))| p.is(*index, ring))
        {
            return Ok(());
        }
        self.prepared.clear();
        self.agreed = features;
        self.set_features()?;
        self.set_memory()?;
        let prepared = rings
            .iter()
            .map(|(index, ring)| self.prepare_ring(*index, ring));
        self.prepared = prepared.collect::<Result<_, _>>()?;
        Ok(())
    }

    /// What was prepared counts no more.
    pub fn forget(&mut self) {
        self.prepared.clear();
    }

    /// Starts to serve `rings`, each with its index in the back end, with the
    /// features that driver and back end agreed on.
    ///
    /// # Errors
    /// A request was refused; then no ring is served.
    pub fn start(&mut self, features: u64, rings: &[(usize, &Ring)]) -> Result<(), VhostError> {
        self.prepare(features, rings)?;
        let prepared = std::mem::take(&mut self.prepared);
        let started = prepared
            .into_iter()
            .zip(rings)
            .try_for_each(|(one, (_, ring))| {
                let index = one.ring;
                self.backend
                    .enable(index)
                    .map_err(on_ring(index, "start the service"))?;
                self.serving.push(one);
                // The driver's last notification may have been spent on whoever
                // served the ring before.
                ring.kick.write(1).map_err(|source| VhostError::EventFd {
                    ring: index,
                    attempt: "signal",
                    source,
                })
            });
        if started.is_err() {
            for serving in self.serving.drain(..) {
                if let Err(error) = self.backend.disable(serving.ring) {
                    tracing::warn!(
                        "Could not take ring {} back from vhost: {error}",
                        serving.ring
                    );
                }
            }
        }
        started
    }

    /// Stops to serve, and tells where each ring stands, in the order in which
    /// `start` got them. Without rings being served the answer is empty.
    ///
    /// # Errors
    /// The position of a ring could not be learnt. All the same no ring is
    /// served any more, unless it was the back end that refused that.
    pub fn stop(&mut self) -> Result<Vec<RingPosition>, VhostError> {
        // Whoever starts next may have other eventfds.
        self.forget();
        let serving = std::mem::take(&mut self.serving);
        // All first: receive and transmit share one worker and one tap queue.
        let mut disabled = Ok(());
        for Serving { ring, .. } in &serving {
            let result = self.backend.disable(*ring);
            disabled = disabled.and(result.map_err(on_ring(*ring, "stop the service")));
        }
        let positions = serving
            .iter()
            .map(|s| self.position(s.ring, s.used))
            .collect::<Result<Vec<_>, _>>();
        disabled.and(positions)
    }

    /// The eventfds on which the back end tells that a ring is broken, each
    /// with the ring's index: of rings that are served, or prepared.
    pub fn error_fds(&self) -> impl Iterator<Item = (usize, &EventFd)> {
        let either = self.serving.iter().chain(&self.prepared);
        either.map(|s| (s.ring, &s.error))
    }

    /// Logs into `log` from now on what the back end writes, also in rings that
    /// are served already: it re-reads features and addresses under the lock of
    /// each ring.
    ///
    /// # Errors
    /// The back end cannot, or a request was refused; it does not log then.
    pub fn start_log(&mut self, log: &Arc<SharedLog>) -> Result<(), VhostError> {
        if self.features & LOG_ALL == 0 {
            return Err(VhostError::NoLog);
        }
        self.backend
            .set_log(log)
            .map_err(request("take the dirty log"))?;
        self.log = Some(Arc::clone(log));
        self.forget();
        let started = self.apply_log();
        if started.is_err()
            && let Err(error) = self.stop_log()
        {
            tracing::warn!("Could not take a dirty log back from vhost: {error}");
        }
        started
    }

    /// Ends the log.
    ///
    /// # Errors
    /// A request was refused: the back end may still write to the log, which is
    /// kept for that.
    pub fn stop_log(&mut self) -> Result<(), VhostError> {
        let Some(log) = self.log.take() else {
            return Ok(());
        };
        self.forget();
        let stopped = self.apply_log();
        if stopped.is_err() {
            self.log = Some(log);
        }
        stopped
    }

    /// The guest's RAM.
    #[must_use]
    pub fn memory(&self) -> &Arc<GuestRam> {
        &self.memory
    }

    /// Brings features and rings in line with whether there is a log. Without
    /// rings there is nothing to log, and `start` does it.
    fn apply_log(&self) -> Result<(), VhostError> {
        if self.serving.is_empty() {
            return Ok(());
        }
        self.set_features()?;
        self.serving
            .iter()
            .try_for_each(|s| self.set_addresses(s.ring, s.addresses))
    }

    fn set_features(&self) -> Result<(), VhostError> {
        let log = if self.log.is_some() { LOG_ALL } else { 0 };
        self.backend
            .set_features(self.agreed & !LOG_ALL | log)
            .map_err(request("take the features"))
    }

    /// The used ring is logged by its guest address, apart from what its
    /// descriptors lead to.
    fn set_addresses(&self, ring: usize, mut addresses: VringConfigData) -> Result<(), VhostError> {
        if self.log.is_none() {
            addresses.flags = 0;
            addresses.log_addr = None;
        }
        self.backend
            .set_vring_addr(ring, &addresses)
            .map_err(on_ring(ring, "set the addresses"))
    }

    fn set_memory(&self) -> Result<(), VhostError> {
        let regions: Vec<_> = self.memory.iter().map(memory_region).collect();
        self.backend
            .set_mem_table(&regions)
            .map(drop)
            .map_err(request("map the guest's RAM"))
    }

    fn prepare_ring(&self, index: usize, ring: &Ring) -> Result<Serving, VhostError> {
        let on = |request| on_ring(index, request);
        let size = u64::from(ring.size);
        // Sizes of the parts with event index: virtio 1.2, 2.7.
        let desc = self.part(index, "descriptor table", ring.desc, 16 * size)?;
        let avail = self.part(index, "available ring", ring.avail, 6 + 2 * size)?;
        let used = self.part(index, "used ring", ring.used, 6 + 8 * size)?;
        let backend = &self.backend;
        backend
            .set_vring_num(index, ring.size)
            .map_err(on("set the size"))?;
        backend
            .set_vring_base(index, ring.start.next_avail)
            .map_err(on("set the position"))?;
        let addresses = VringConfigData {
            queue_max_size: ring.size,
            queue_size: ring.size,
            flags: 1 << VHOST_VRING_F_LOG,
            desc_table_addr: desc,
            used_ring_addr: used,
            avail_ring_addr: avail,
            log_addr: Some(ring.used.raw_value()),
        };
        self.set_addresses(index, addresses)?;
        let error =
            EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(|source| VhostError::EventFd {
                ring: index,
                attempt: "create",
                source,
            })?;
        backend
            .set_vring_err(index, &error)
            .map_err(on("take the error eventfd"))?;
        backend
            .set_vring_call(index, &ring.call)
            .map_err(on("take the call eventfd"))?;
        backend
            .set_vring_kick(index, &ring.kick)
            .map_err(on("take the kick eventfd"))?;
        Ok(Serving {
            ring: index,
            used: ring.used,
            start: ring.start,
            guest_addresses: (ring.desc, ring.avail),
            addresses,
            error,
        })
    }

    /// A part of a ring in the back end's address space. It must lie in one
    /// region: the back end gets one pointer, and what follows a region in the
    /// address space of this process is not the guest's.
    fn part(
        &self,
        ring: usize,
        part: &'static str,
        address: GuestAddress,
        size: u64,
    ) -> Result<u64, VhostError> {
        let layout = || VhostError::Layout {
            ring,
            part,
            address: address.raw_value(),
        };
        let size = usize::try_from(size).map_err(|_| layout())?;
        GuestMemoryBackend::get_slice(&*self.memory, address, size).map_err(|_| layout())?;
        self.backend
            .ring_address(&self.memory, address)
            .map_err(on_ring(ring, "translate an address"))
    }

    fn position(&self, ring: usize, used: GuestAddress) -> Result<RingPosition, VhostError> {
        let base = self
            .backend
            .get_vring_base(ring)
            .map_err(on_ring(ring, "tell the position"))?;
        // `struct virtq_used`: flags, then idx (virtio 1.2, 2.7.8). It is the
        // back end's own count, so nobody has to tell it.
        let next_used = self
            .memory
            .load::<u16>(used.unchecked_add(2), Ordering::Acquire)
            .map_err(|source| VhostError::UsedIndex { ring, source })?;
        Ok(RingPosition {
            // The upper half belongs to packed rings.
            next_avail: (base & 0xffff).try_into().unwrap_or_default(),
            next_used: u16::from_le(next_used),
        })
    }
}

fn memory_region(region: &vm_memory::GuestRegionMmap<DirtyMap>) -> VhostUserMemoryRegionInfo {
    let file = region.file_offset();
    VhostUserMemoryRegionInfo {
        guest_phys_addr: region.start_addr().raw_value(),
        memory_size: region.len(),
        userspace_addr: region.as_ptr() as u64,
        mmap_offset: file.map_or(0, vm_memory::FileOffset::start),
        // Only a vhost-user back end maps the file, and it refuses RAM without one.
        mmap_handle: file.map_or(-1, |f| -> RawFd { f.file().as_raw_fd() }),
    }
}

fn request(request: &'static str) -> impl FnOnce(vhost::Error) -> VhostError {
    move |source| VhostError::Request { request, source }
}

fn on_ring(ring: usize, request: &'static str) -> impl FnOnce(vhost::Error) -> VhostError {
    move |source| VhostError::Ring {
        ring,
        request,
        source,
    }
}

#[cfg(test)]
pub(crate) mod tests;

//! A ring that we serve ourselves, over `virtio-queue`.
//!
//! What is common to all our own devices: where a ring starts and stands, what
//! to do when its driver breaks the rules, and who is interrupted when.

#[cfg(test)]
pub(super) mod driver;

use std::sync::Arc;

use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::EventFd;

use super::{ConfigChange, Ring, RingPosition};
use crate::GuestRam;

/// The ring features that every device of ours offers.
pub(super) const RING_FEATURES: u64 =
    1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC;

/// A chain of descriptors whose buffers lie in `&GuestRam`.
pub(super) type Chain<'a> = DescriptorChain<&'a GuestRam>;

/// One buffer of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Buffer {
    pub(super) address: GuestAddress,
    pub(super) len: u32,
}

/// The buffers of one chain, in order.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    /// What the device reads.
    pub(super) readable: Vec<Buffer>,
    /// What the device writes.
    pub(super) writable: Vec<Buffer>,
    /// The last buffer that the device writes, also when there were too many.
    pub(super) last_writable: Option<Buffer>,
    /// More buffers than are kept, or a readable one after a writable one
    /// (virtio 1.2, 2.7.4.2).
    pub(super) malformed: bool,
}

/// The chain loops, leads out of its table, or its table out of RAM: where it
/// ends is not known.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Endless;

impl Buffers {
    /// Walks `chain` and keeps at most `limit` buffers of each kind. Empty
    /// buffers are left out.
    pub(super) fn gather(&mut self, chain: Chain<'_>, limit: usize) -> Result<(), Endless> {
        self.readable.clear();
        self.writable.clear();
        self.last_writable = None;
        self.malformed = false;
        let mut ended = false;
        for descriptor in chain {
            ended = !descriptor.has_next();
            if descriptor.len() == 0 {
                continue;
            }
            let buffer = Buffer {
                address: descriptor.addr(),
                len: descriptor.len(),
            };
            let list = if descriptor.is_write_only() {
                self.last_writable = Some(buffer);
                &mut self.writable
            } else {
                self.malformed |= self.last_writable.is_some();
                &mut self.readable
            };
            if list.len() < limit {
                list.push(buffer);
            } else {
                self.malformed = true;
            }
        }
        if ended { Ok(()) } else { Err(Endless) }
    }
}

/// A ring while it is served.
#[derive(Debug)]
pub(super) struct ServedRing {
    queue: Queue,
    kick: EventFd,
    call: EventFd,
    /// The driver broke the rules so that nothing can be answered: the ring is
    /// left alone until the driver resets the device.
    left: bool,
    used: bool,
    change: Arc<dyn ConfigChange>,
}

impl ServedRing {
    /// Takes the ring as the driver set it up.
    pub(super) fn new(
        ring: Ring,
        features: u64,
        change: &Arc<dyn ConfigChange>,
    ) -> Result<Self, virtio_queue::Error> {
        let mut queue = Queue::new(ring.size)?;
        queue.try_set_size(ring.size)?;
        queue.try_set_desc_table_address(ring.desc)?;
        queue.try_set_avail_ring_address(ring.avail)?;
        queue.try_set_used_ring_address(ring.used)?;
        queue.set_event_idx(features & (1 << VIRTIO_RING_F_EVENT_IDX) != 0);
        queue.set_next_avail(ring.start.next_avail);
        queue.set_next_used(ring.start.next_used);
        queue.set_ready(true);
        Ok(Self {
            queue,
            kick: ring.kick,
            call: ring.call,
            left: false,
            used: false,
            change: Arc::clone(change),
        })
    }

    /// What the driver's notification signals.
    pub(super) fn kick(&self) -> &EventFd {
        &self.kick
    }

    /// Number of descriptors.
    pub(super) fn size(&self) -> u16 {
        self.queue.size()
    }

    /// Where the ring stands.
    pub(super) fn position(&self) -> RingPosition {
        RingPosition {
            next_avail: self.queue.next_avail(),
            next_used: self.queue.next_used(),
        }
    }

    /// Leaves the ring alone from now on, and tells the driver so.
    pub(super) fn leave(&mut self, why: &dyn std::fmt::Display) {
        if !std::mem::replace(&mut self.left, true) {
            tracing::error!(
                "A virtio ring is not served any more until its driver resets the device: {why}"
            );
            self.change.needs_reset();
        }
    }

    /// Whether the ring was left alone.
    #[cfg(test)]
    pub(super) fn is_left(&self) -> bool {
        self.left
    }

    /// Takes the next chain that the driver made available.
    pub(super) fn take<'a>(&mut self, memory: &'a GuestRam) -> Option<Chain<'a>> {
        if self.left {
            return None;
        }
        match self.queue.iter(memory) {
            Ok(mut available) => available.next(),
            Err(error) => {
                self.leave(&error);
                None
            }
        }
    }

    /// Tells the driver that it need not notify us.
    pub(super) fn hush(&mut self, memory: &GuestRam) {
        if let Err(error) = self.queue.disable_notification(memory) {
            self.leave(&error);
        }
    }

    /// Asks the driver to notify us; answers whether more was made available
    /// meanwhile.
    pub(super) fn listen(&mut self, memory: &GuestRam) -> bool {
        match self.queue.enable_notification(memory) {
            Ok(more) => more && !self.left,
            Err(error) => {
                self.leave(&error);
                false
            }
        }
    }

    /// Gives a chain back, with `written` bytes in its device-writable part.
    pub(super) fn give_back(&mut self, memory: &GuestRam, head: u16, written: u32) {
        match self.queue.add_used(memory, head, written) {
            Ok(()) => self.used = true,
            Err(error) => self.leave(&error),
        }
    }

    /// Interrupts the driver if chains were given back since the last time and
    /// it wants to know.
    pub(super) fn interrupt(&mut self, memory: &GuestRam) {
        if !std::mem::replace(&mut self.used, false) {
            return;
        }
        match self.queue.needs_notification(memory) {
            Ok(true) => {
                if let Err(error) = self.call.write(1) {
                    tracing::error!("Could not interrupt the driver of a virtio ring: {error}");
                }
            }
            Ok(false) => (),
            Err(error) => self.leave(&error),
        }
    }
}

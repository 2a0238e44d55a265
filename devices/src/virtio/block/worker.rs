//! What serves a disk's rings on the device loop.
//!
//! ```text
//!   kick ---> take chain ---> parse ---> slot ---> io_uring ---> completed
//!                |              |                                   |
//!                | no status    | refused, or done at once          v
//!                v              +----------------------------> status, used,
//!           ring is left                                       interrupt
//! ```
//!
//! Every request in flight has one of a fixed number of slots; without a free
//! slot no chain is taken, so that a driver cannot make us hold more.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use vm_memory::{Bytes, GuestAddress};

use super::counters::Counters;
use super::engine::{DEPTH, Uring};
use super::image::Image;
use super::request::{ID_LEN, IoVectors, Operation, Parser, Request, Status};
use super::transfer::{self, Durability, is_unsupported};
use crate::GuestRam;
use crate::dirty;
use crate::virtio::RingPosition;
use crate::virtio::queue::{Buffer, Chain, ServedRing};

/// What an event of io_uring carries instead of a ring's number.
const COMPLETED: u32 = u32::MAX;

/// What is known of a request in flight.
#[derive(Debug)]
struct Slot {
    ring: usize,
    head: u16,
    status: GuestAddress,
    operation: Operation,
    vectors: IoVectors,
    /// What the device writes, apart from the status.
    writable: Vec<Buffer>,
    durability: Durability,
    taken: Instant,
}

/// What a worker is made of.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) image: Arc<Image>,
    pub(super) identity: [u8; ID_LEN],
    pub(super) memory: Arc<GuestRam>,
    pub(super) rings: Vec<ServedRing>,
    pub(super) engine: Option<Uring>,
    /// The driver's choice between write-back and write-through.
    pub(super) writeback: Arc<AtomicBool>,
    pub(super) counters: Arc<Counters>,
}

/// Serves the rings of one disk.
#[derive(Debug)]
pub(super) struct Worker {
    parts: Parts,
    parser: Parser,
    slots: Vec<Slot>,
    free: Vec<u16>,
}

impl Worker {
    pub(super) fn new(parts: Parts) -> Self {
        let slot = |_| Slot {
            ring: 0,
            head: 0,
            status: GuestAddress(0),
            operation: Operation::Flush,
            vectors: IoVectors::default(),
            writable: Vec::new(),
            durability: Durability::Flushed,
            taken: Instant::now(),
        };
        Self {
            parts,
            parser: Parser::default(),
            slots: (0..DEPTH).map(slot).collect(),
            free: (0..DEPTH).collect(),
        }
    }

    /// Takes what is available on all rings, as far as there are slots.
    pub(super) fn serve(&mut self) {
        for ring in 0..self.parts.rings.len() {
            self.serve_ring(ring);
        }
        if let Some(engine) = &mut self.parts.engine {
            engine.submit();
        }
        for ring in &mut self.parts.rings {
            ring.interrupt(&self.parts.memory);
        }
    }

    fn serve_ring(&mut self, index: usize) {
        let memory = Arc::clone(&self.parts.memory);
        // As many as the ring holds; a driver that keeps it full must not keep
        // the loop from its other devices.
        let mut budget = self.parts.rings.get(index).map_or(0, ServedRing::size);
        loop {
            self.with_ring(index, |ring| ring.hush(&memory));
            while budget > 0
                && let Some(&slot) = self.free.last()
                && let Some(chain) = self.with_ring(index, |ring| ring.take(&memory)).flatten()
            {
                budget -= 1;
                self.start(index, slot, chain);
            }
            if self.free.is_empty() {
                // A completion frees a slot, and we are back.
                return;
            }
            if self.with_ring(index, |ring| ring.listen(&memory)) != Some(true) {
                return;
            }
            if budget == 0 {
                // Full means that we are called again anyway.
                self.with_ring(index, |ring| ring.kick().write(1).is_ok());
                return;
            }
        }
    }

    fn with_ring<T>(&mut self, index: usize, act: impl FnOnce(&mut ServedRing) -> T) -> Option<T> {
        self.parts.rings.get_mut(index).map(act)
    }

    fn start(&mut self, index: usize, at: u16, chain: Chain<'_>) {
        let head = chain.head_index();
        let memory = Arc::clone(&self.parts.memory);
        let image = Arc::clone(&self.parts.image);
        let Some(slot) = self.slots.get_mut(usize::from(at)) else {
            return;
        };
        let parsed = self.parser.parse(chain, &memory, &image, &mut slot.vectors);
        let Request { status, operation } = match parsed {
            Ok(request) => request,
            Err(error) => {
                self.with_ring(index, |ring| ring.leave(&error));
                return;
            }
        };
        self.parser.take_writable(&mut slot.writable);
        slot.ring = index;
        slot.head = head;
        slot.taken = Instant::now();
        slot.status = status;
        slot.durability = if self.parts.writeback.load(Ordering::Acquire) {
            Durability::Flushed
        } else {
            Durability::Immediate
        };
        slot.operation = match operation {
            Ok(operation) => operation,
            Err(refused) => {
                self.parts.counters.failed();
                self.answer(index, head, status, refused, 0);
                return;
            }
        };
        if matches!(operation, Ok(Operation::GetId)) {
            let (outcome, written) = self.tell_identity(at);
            self.mark_written(at);
            self.answer(index, head, status, outcome, written);
            return;
        }
        if transfer::fits(&image, &slot.vectors)
            && let Some(engine) = &mut self.parts.engine
        {
            let Slot {
                operation,
                vectors,
                durability,
                ..
            } = slot;
            // SAFETY: off the free list, the slot is not touched until `finish` has its result. The
            // worker holds memory and image, and waits for all results before it ends.
            let pushed = unsafe { engine.push(&image, *operation, vectors, *durability, at) };
            if pushed {
                self.free.pop();
                return;
            }
        }
        self.carry_out(at, 0);
    }

    /// Writes the disk's serial number into the request's memory.
    fn tell_identity(&self, at: u16) -> (Status, u32) {
        let Some(slot) = self.slots.get(usize::from(at)) else {
            return (Status::IoErr, 0);
        };
        let mut rest: &[u8] = &self.parts.identity;
        for vector in &slot.vectors.0 {
            let (now, later) = rest.split_at(rest.len().min(vector.iov_len));
            // SAFETY: the vector was found in guest RAM, which we hold, and is
            // at least as long as what is copied. Volatile, because the guest
            // may use it meanwhile.
            let guest = unsafe { vm_memory::VolatileSlice::new(vector.iov_base.cast(), now.len()) };
            guest.copy_from(now);
            rest = later;
        }
        (Status::Ok, u32::try_from(ID_LEN).unwrap_or(0))
    }

    /// Tells the dirty log what the kernel, or we past vm-memory, wrote for a
    /// request; also when it failed half way.
    fn mark_written(&self, at: u16) {
        let Some(slot) = self.slots.get(usize::from(at)) else {
            return;
        };
        if matches!(slot.operation, Operation::Read { .. } | Operation::GetId) {
            for buffer in &slot.writable {
                dirty::mark(&self.parts.memory, buffer.address, buffer.len as usize);
            }
        }
    }

    /// Does what is left of a request by system calls that wait, and answers it.
    fn carry_out(&mut self, at: u16, done: usize) {
        let Some(slot) = self.slots.get(usize::from(at)) else {
            return;
        };
        let result = transfer::carry_out(
            &self.parts.image,
            slot.operation,
            &slot.vectors,
            done,
            slot.durability,
        );
        self.mark_written(at);
        let outcome = match result {
            Ok(()) => Status::Ok,
            Err(error) => {
                tracing::warn!("A disk request failed: {:?}: {error}", slot.operation);
                Status::IoErr
            }
        };
        let written = match (slot.operation, outcome) {
            (Operation::Read { .. }, Status::Ok) => {
                u32::try_from(slot.vectors.len()).unwrap_or(u32::MAX)
            }
            _ => 0,
        };
        let (ring, head, status) = (slot.ring, slot.head, slot.status);
        self.count(at, outcome);
        self.answer(ring, head, status, outcome, written);
    }

    fn count(&self, at: u16, outcome: Status) {
        match (self.slots.get(usize::from(at)), outcome) {
            (Some(slot), Status::Ok) => {
                let (bytes, took) = (slot.vectors.len(), slot.taken.elapsed());
                self.parts.counters.done(slot.operation, bytes, took);
            }
            _ => self.parts.counters.failed(),
        }
    }

    fn answer(
        &mut self,
        ring: usize,
        head: u16,
        status: GuestAddress,
        outcome: Status,
        written: u32,
    ) {
        let memory = Arc::clone(&self.parts.memory);
        if let Err(error) = memory.write_obj(outcome.byte(), status) {
            // Not reached: the parser checked the address, and RAM stays.
            tracing::error!("Could not write a disk request's status: {error}");
        }
        self.with_ring(ring, |ring| {
            ring.give_back(&memory, head, written.saturating_add(1));
        });
    }

    /// Takes one result of io_uring.
    fn finish(&mut self, at: u16, result: i32) {
        let Some(slot) = self.slots.get(usize::from(at)) else {
            return;
        };
        self.free.push(at);
        self.mark_written(at);
        let transferred = match slot.operation {
            Operation::Read { .. } | Operation::Write { .. } => slot.vectors.len(),
            _ => 0,
        };
        match usize::try_from(result) {
            Ok(done) if done >= transferred => {
                let written = match slot.operation {
                    Operation::Read { .. } => u32::try_from(transferred).unwrap_or(u32::MAX),
                    _ => 0,
                };
                let (ring, head, status) = (slot.ring, slot.head, slot.status);
                self.count(at, Status::Ok);
                self.answer(ring, head, status, Status::Ok, written);
            }
            // A short transfer: the system call says why, or does the rest.
            Ok(done) => self.carry_out(at, done),
            Err(_) => {
                let retry = match slot.operation {
                    Operation::Discard { .. } | Operation::WriteZeroes { .. } => {
                        is_unsupported(-result)
                    }
                    _ => false,
                } || matches!(-result, libc::EAGAIN | libc::EINTR | libc::ECANCELED);
                if retry {
                    self.carry_out(at, 0);
                } else {
                    let error = io::Error::from_raw_os_error(-result);
                    tracing::warn!("A disk request failed: {:?}: {error}", slot.operation);
                    let (ring, head, status) = (slot.ring, slot.head, slot.status);
                    self.count(at, Status::IoErr);
                    self.answer(ring, head, status, Status::IoErr, 0);
                }
            }
        }
    }

    fn reap(&mut self) {
        while let Some((at, result)) = self.parts.engine.as_mut().and_then(Uring::reap) {
            self.finish(at, result);
        }
    }

    /// Waits until no request is in flight; takes no new one.
    pub(super) fn drain(&mut self) -> io::Result<()> {
        self.reap();
        while let Some(engine) = &mut self.parts.engine
            && engine.in_flight() > 0
        {
            engine.wait()?;
            self.reap();
        }
        for ring in &mut self.parts.rings {
            ring.interrupt(&self.parts.memory);
        }
        Ok(())
    }

    /// Where the rings stand.
    pub(super) fn positions(&self) -> Vec<RingPosition> {
        self.parts.rings.iter().map(ServedRing::position).collect()
    }

    /// Gives io_uring back, for the next activation. To be called when nothing
    /// is in flight.
    pub(super) fn take_engine(&mut self) -> Option<Uring> {
        self.parts.engine.take()
    }

    /// Whether some ring was left alone because of what its driver did.
    #[cfg(test)]
    pub(super) fn has_left_a_ring(&self) -> bool {
        self.parts.rings.iter().any(ServedRing::is_left)
    }
}

impl MutEventSubscriber for Worker {
    fn process(&mut self, events: Events, _: &mut EventOps) {
        // Non-blocking or just polled as readable; what they count is of no use.
        if events.data() == COMPLETED {
            if let Some(engine) = &self.parts.engine {
                let _ = engine.completed().read();
            }
            self.reap();
        } else if let Some(ring) = self.parts.rings.get(events.data() as usize) {
            let _ = ring.kick().read();
        }
        self.serve();
    }

    fn init(&mut self, ops: &mut EventOps) {
        if let Some(engine) = &mut self.parts.engine {
            engine.settle();
        }
        let kicks = self.parts.rings.iter().zip(0..);
        let mut watched: Vec<_> = kicks
            .map(|(ring, data)| Events::with_data(ring.kick(), data, EventSet::IN))
            .collect();
        if let Some(engine) = &self.parts.engine {
            watched.push(Events::with_data(
                engine.completed(),
                COMPLETED,
                EventSet::IN,
            ));
        }
        for events in watched {
            if let Err(error) = ops.add(events) {
                tracing::error!("Could not wait for a disk: {error}");
            }
        }
        // What was made available before has been notified before.
        self.serve();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // The kernel may still write to guest RAM and read our vectors: neither
        // may go before it has finished.
        if let Err(error) = self.drain() {
            tracing::error!("Could not wait for a disk's requests: {error}");
            std::mem::forget(std::mem::take(&mut self.slots));
            std::mem::forget(Arc::clone(&self.parts.memory));
        }
    }
}

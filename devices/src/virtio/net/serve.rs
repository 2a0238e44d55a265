//! What the device loop does for a network device: serve the control queue, and
//! hear when vhost gives a ring up.

use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use virtio_bindings::virtio_net::{VIRTIO_NET_ERR, VIRTIO_NET_OK};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vmm_sys_util::eventfd::EventFd;

use super::control::{Command, CommandError, Control};
use super::{bit, lock};
use crate::GuestRam;
use crate::virtio::{Ring, RingPosition};

/// Event data of the control queue's kick; a ring's error has its index.
const KICK: u32 = u32::MAX;

/// The loop's part of the device could not be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServeError {
    #[error("The control queue (size {size}) is not a valid ring")]
    Queue {
        size: u16,
        #[source]
        source: virtio_queue::Error,
    },
    #[error("Could not duplicate an eventfd")]
    Duplicate(#[source] io::Error),
}

/// The subscriber that an active device leaves with the loop.
pub(super) struct Served {
    device: String,
    control: Option<ControlQueue>,
    errors: Vec<(usize, EventFd)>,
}

impl Served {
    /// `errors` are, for each pair, the eventfds of its rings.
    pub(super) fn new<'a, E>(
        device: &str,
        memory: Arc<GuestRam>,
        features: u64,
        ring: Option<&Ring>,
        control: &Arc<Mutex<Control>>,
        errors: impl Iterator<Item = E>,
    ) -> Result<Self, ServeError>
    where
        E: Iterator<Item = (usize, &'a EventFd)>,
    {
        let rings = errors
            .enumerate()
            .flat_map(|(pair, rings)| rings.map(move |(ring, fd)| (2 * pair + ring, fd)));
        Ok(Self {
            device: device.to_owned(),
            control: ring
                .map(|ring| ControlQueue::new(memory, features, ring, control))
                .transpose()?,
            errors: rings
                .map(|(ring, fd)| Ok((ring, fd.try_clone()?)))
                .collect::<io::Result<_>>()
                .map_err(ServeError::Duplicate)?,
        })
    }

    fn vhost_error(&mut self, data: u32, ops: &mut EventOps) {
        let at = self
            .errors
            .iter()
            .position(|(ring, _)| u32::try_from(*ring) == Ok(data));
        // Heard once: a guest must not fill the log.
        if let Some(at) = at {
            let (ring, fd) = self.errors.swap_remove(at);
            tracing::warn!(
                "{}: vhost found ring {ring} broken (the kernel's log may say how); \
                 its packets stop until the guest resets the device",
                self.device
            );
            let _ = ops.remove(Events::with_data(&fd, data, EventSet::IN));
        }
    }
}

impl MutEventSubscriber for Served {
    fn init(&mut self, ops: &mut EventOps) {
        let rings = self
            .errors
            .iter()
            .filter_map(|(ring, fd)| Some((u32::try_from(*ring).ok()?, fd)));
        let kick = self.control.iter().map(|queue| (KICK, &queue.kick));
        for (data, fd) in rings.chain(kick) {
            if let Err(error) = ops.add(Events::with_data(fd, data, EventSet::IN)) {
                tracing::error!("{}: could not watch an eventfd: {error:?}", self.device);
            }
        }
        // What was made available before may have been notified already.
        if let Some(queue) = &self.control {
            let _ = queue.kick.write(1);
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        if events.data() != KICK {
            self.vhost_error(events.data(), ops);
            return;
        }
        let Some(queue) = &mut self.control else {
            return;
        };
        if let Err(error) = queue.serve() {
            tracing::warn!(
                "{}: the driver broke the control queue, which is not served until it resets the device: {error}",
                self.device
            );
            let _ = ops.remove(Events::with_data(&queue.kick, KICK, EventSet::IN));
        }
    }
}

/// The driver broke the rules of a split ring: no position in it can be trusted.
#[derive(Debug, thiserror::Error)]
pub(super) enum BrokenRing {
    #[error("{0}")]
    Queue(#[from] virtio_queue::Error),
    #[error("An eventfd failed: {0}")]
    EventFd(#[from] io::Error),
}

/// The control queue, with the driver's half in guest RAM.
pub(super) struct ControlQueue {
    memory: Arc<GuestRam>,
    queue: Queue,
    kick: EventFd,
    call: EventFd,
    control: Arc<Mutex<Control>>,
}

impl fmt::Debug for ControlQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlQueue")
            .field("queue", &self.queue)
            .finish_non_exhaustive()
    }
}

impl ControlQueue {
    pub(super) fn new(
        memory: Arc<GuestRam>,
        features: u64,
        ring: &Ring,
        control: &Arc<Mutex<Control>>,
    ) -> Result<Self, ServeError> {
        let invalid = |source| ServeError::Queue {
            size: ring.size,
            source,
        };
        let mut queue = Queue::new(ring.size).map_err(invalid)?;
        queue.try_set_size(ring.size).map_err(invalid)?;
        queue
            .try_set_desc_table_address(ring.desc)
            .map_err(invalid)?;
        queue
            .try_set_avail_ring_address(ring.avail)
            .map_err(invalid)?;
        queue
            .try_set_used_ring_address(ring.used)
            .map_err(invalid)?;
        queue.set_event_idx(features & bit(VIRTIO_RING_F_EVENT_IDX) != 0);
        queue.set_next_avail(ring.start.next_avail);
        queue.set_next_used(ring.start.next_used);
        queue.set_ready(true);
        lock(control).set_ring_position(ring.start);
        Ok(Self {
            memory,
            queue,
            kick: ring.kick.try_clone().map_err(ServeError::Duplicate)?,
            call: ring.call.try_clone().map_err(ServeError::Duplicate)?,
            control: Arc::clone(control),
        })
    }

    #[cfg(any(test, feature = "test-utils"))]
    pub(super) fn used(&self) -> u16 {
        self.queue.next_used()
    }

    /// Answers what is available, at most one queue full: the loop has other
    /// devices, and a driver could make chains available without end. What is
    /// left is served after them.
    pub(super) fn serve(&mut self) -> Result<(), BrokenRing> {
        self.kick.read()?;
        let memory = Arc::clone(&self.memory);
        let memory = &*memory;
        self.queue.disable_notification(memory)?;
        let mut answered = false;
        let mut emptied = false;
        // Rounds, not chains: indices that the driver keeps changing end too.
        for _ in 0..self.queue.size() {
            let Some(chain) = self.queue.iter(memory)?.next() else {
                // Tells whether something came in between.
                if self.queue.enable_notification(memory)? {
                    self.queue.disable_notification(memory)?;
                    continue;
                }
                emptied = true;
                break;
            };
            let head = chain.head_index();
            let written = answer(chain, memory, &self.control);
            match self.queue.add_used(memory, head, written) {
                Ok(()) => answered = true,
                // No descriptor that could be given back.
                Err(virtio_queue::Error::InvalidDescriptorIndex) => {}
                Err(error) => return Err(error.into()),
            }
            lock(&self.control).set_ring_position(RingPosition {
                next_avail: self.queue.next_avail(),
                next_used: self.queue.next_used(),
            });
        }
        if !emptied {
            self.kick.write(1)?;
        }
        if answered && self.queue.needs_notification(memory)? {
            self.call.write(1)?;
        }
        Ok(())
    }
}

/// Runs the command in `chain` and writes its status; answers how many bytes
/// were written.
fn answer(chain: DescriptorChain<&GuestRam>, memory: &GuestRam, control: &Mutex<Control>) -> u32 {
    // First the status byte's place: a command that cannot be answered is not run.
    let Ok(mut status) = chain.clone().writer(memory) else {
        return 0;
    };
    if status.available_bytes() == 0 {
        return 0;
    }
    let done = run(chain, memory, control);
    let code = match done {
        Ok(()) => VIRTIO_NET_OK,
        Err(error) => {
            tracing::debug!("Control command refused: {error}");
            VIRTIO_NET_ERR
        }
    };
    match status.write_all(&[u8::try_from(code).unwrap_or(u8::MAX)]) {
        Ok(()) => 1,
        Err(_) => 0,
    }
}

fn run(
    chain: DescriptorChain<&GuestRam>,
    memory: &GuestRam,
    control: &Mutex<Control>,
) -> Result<(), CommandError> {
    let mut reader = chain
        .reader(memory)
        .map_err(|error| CommandError::Truncated(io::Error::other(error)))?;
    let command = Command::parse(&mut reader)?;
    lock(control).execute(command)
}

//! The entropy device (virtio 1.2, 5.4): fills what the driver offers with
//! random bytes of the host.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber, SubscriberId};
use vm_memory::Bytes;

use super::queue::{Buffers, RING_FEATURES, ServedRing};
use super::{
    ActivateError, Activation, DeviceStateError, DeviceV1, Kind, RingPosition, StopError,
    VirtioDevice, stateless,
};
use crate::GuestRam;
use crate::device_loop::LoopHandle;

#[cfg(test)]
mod tests;

/// How much one request is given at most, in bytes. A driver that asks for more
/// gets this much, which the specification allows, and asks again.
const REQUEST_LIMIT: usize = 4096;

/// How many buffers of one request are looked at.
const BUFFERS_LIMIT: usize = 32;

const QUEUE_SIZE: u16 = 64;

/// What an entropy device is made of.
#[derive(Clone, Debug)]
pub struct RngConfig {
    /// The device's id in the machine's config.
    pub id: String,
    /// Where the bytes come from; `/dev/urandom` is read by `getrandom(2)`. It
    /// is read on the device loop, so it should not be slow.
    pub src: PathBuf,
}

/// The entropy device could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RngError {
    /// Its source could not be opened.
    #[error("Could not open {path}, the entropy source of {id}; /dev/urandom is always there")]
    Open {
        /// The device's id.
        id: String,
        /// The source's path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

#[derive(Debug)]
enum Source {
    Kernel,
    File(File),
}

impl Source {
    fn fill(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.read(bytes),
            Self::Kernel => {
                // SAFETY: the pointer and the length are those of one slice.
                let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
                usize::try_from(got).map_err(|_| io::Error::last_os_error())
            }
        }
    }
}

#[derive(Debug)]
struct Worker {
    memory: Arc<GuestRam>,
    rings: Vec<ServedRing>,
    source: Arc<Mutex<Source>>,
    given: Arc<AtomicU64>,
    buffers: Buffers,
}

impl Worker {
    fn serve(&mut self) {
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        let memory: &GuestRam = &self.memory;
        for ring in &mut self.rings {
            // As many as the ring holds; a driver that keeps it full must not
            // keep the loop from its other devices.
            let mut budget = ring.size();
            loop {
                ring.hush(memory);
                while budget > 0
                    && let Some(chain) = ring.take(memory)
                {
                    budget -= 1;
                    let head = chain.head_index();
                    match self.buffers.gather(chain, BUFFERS_LIMIT) {
                        Ok(()) => {
                            let written = fill(&mut source, memory, &self.buffers);
                            self.given.fetch_add(written.into(), Ordering::Relaxed);
                            ring.give_back(memory, head, written);
                        }
                        Err(_) => ring.leave(&"a chain of descriptors has no end"),
                    }
                }
                if !ring.listen(memory) {
                    break;
                }
                if budget == 0 {
                    // Full means that we are called again anyway.
                    let _ = ring.kick().write(1);
                    break;
                }
            }
            ring.interrupt(memory);
        }
    }
}

/// Fills the writable buffers up to the limit; answers how much was written.
fn fill(source: &mut Source, memory: &GuestRam, buffers: &Buffers) -> u32 {
    let mut random = [0; REQUEST_LIMIT];
    let wanted: u64 = buffers.writable.iter().map(|b| u64::from(b.len)).sum();
    let wanted = usize::try_from(wanted).map_or(REQUEST_LIMIT, |w| w.min(REQUEST_LIMIT));
    let got = match source.fill(random.get_mut(..wanted).unwrap_or_default()) {
        Ok(got) => got,
        Err(error) => {
            tracing::warn!("Could not read the entropy source: {error}");
            return 0;
        }
    };
    let mut rest = random.get(..got).unwrap_or_default();
    let mut written = 0;
    for buffer in &buffers.writable {
        let len = (buffer.len as usize).min(rest.len());
        let (now, later) = rest.split_at(len);
        if now.is_empty() || memory.write_slice(now, buffer.address).is_err() {
            break;
        }
        written += u32::try_from(len).unwrap_or(0);
        rest = later;
    }
    written
}

impl MutEventSubscriber for Worker {
    fn process(&mut self, events: Events, _: &mut EventOps) {
        if let Some(ring) = self.rings.get(events.data() as usize) {
            let _ = ring.kick().read();
        }
        self.serve();
    }

    fn init(&mut self, ops: &mut EventOps) {
        for (ring, data) in self.rings.iter().zip(0..) {
            let events = Events::with_data(ring.kick(), data, EventSet::IN);
            if let Err(error) = ops.add(events) {
                tracing::error!("Could not wait for a virtio ring: {error}");
            }
        }
        // What was made available before has been notified before.
        self.serve();
    }
}

/// An entropy device.
#[derive(Debug)]
pub struct Rng {
    id: String,
    source: Arc<Mutex<Source>>,
    /// Bytes given to the guest.
    given: Arc<AtomicU64>,
    device_loop: LoopHandle,
    active: Option<(SubscriberId, Arc<Mutex<Worker>>)>,
}

impl Rng {
    /// Opens the source.
    ///
    /// # Errors
    /// The source cannot be opened.
    pub fn new(config: RngConfig, device_loop: LoopHandle) -> Result<Self, RngError> {
        let source = if config.src.as_os_str() == "/dev/urandom" {
            Source::Kernel
        } else {
            Source::File(File::open(&config.src).map_err(|source| RngError::Open {
                id: config.id.clone(),
                path: config.src.clone(),
                source,
            })?)
        };
        Ok(Self {
            id: config.id,
            source: Arc::new(Mutex::new(source)),
            given: Arc::default(),
            device_loop,
            active: None,
        })
    }
}

impl VirtioDevice for Rng {
    fn id(&self) -> &str {
        &self.id
    }

    fn kind(&self) -> Kind {
        Kind::Rng
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn features(&self) -> u64 {
        RING_FEATURES
    }

    fn read_config(&self, _: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let failed =
            |attempt: &str, source: Box<dyn std::error::Error + Send + Sync>| ActivateError {
                device: self.id.clone(),
                attempt: attempt.to_owned(),
                source,
            };
        let rings = activation
            .rings
            .into_iter()
            .map(|ring| ServedRing::new(ring, activation.features))
            .collect::<Result<_, _>>()
            .map_err(|e| failed("take its ring", Box::new(e)))?;
        let worker = Arc::new(Mutex::new(Worker {
            memory: activation.memory,
            rings,
            source: Arc::clone(&self.source),
            given: Arc::clone(&self.given),
            buffers: Buffers::default(),
        }));
        let subscriber = self
            .device_loop
            .add(Box::new(Arc::clone(&worker)))
            .map_err(|e| failed("serve its ring", Box::new(e)))?;
        self.active = Some((subscriber, worker));
        Ok(())
    }

    fn stop(&mut self) -> Result<Vec<RingPosition>, StopError> {
        let Some((subscriber, worker)) = self.active.take() else {
            return Ok(Vec::new());
        };
        if let Err(error) = self.device_loop.remove(subscriber) {
            tracing::warn!("{}: {error}", self.id);
        }
        let worker = worker.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(worker.rings.iter().map(ServedRing::position).collect())
    }

    fn save(&self) -> DeviceV1 {
        DeviceV1::Stateless
    }

    fn restore(&mut self, saved: &DeviceV1) -> Result<(), DeviceStateError> {
        stateless(saved)
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        vec![("bytes", self.given.load(Ordering::Relaxed))]
    }
}

impl Drop for Rng {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

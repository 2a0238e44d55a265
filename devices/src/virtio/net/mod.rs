//! Network device (virtio 1.2, 5.1), served by the kernel's vhost-net.
//!
//! ```text
//!  queues:   rx0 tx0   rx1 tx1   …   control
//!              |         |              |
//!          vhost-net  vhost-net     device loop          (who serves them)
//!              |         |              |
//!          tap queue  tap queue      Control             (what they change)
//! ```
//!
//! Packets never pass through this process. The control queue does: it
//! switches queue pairs, offloads and the MAC address, which `control` keeps
//! and applies to the tap.
//!
//! Everything that can fail for reasons of the host (tap, vhost-net, worker
//! CPUs) is done in [`Net::new`], before the guest starts.

mod config;
mod control;
mod creation;
mod features;
mod pairs;
mod rarp;
mod serve;
#[cfg(any(test, feature = "test-utils"))]
mod testing;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::unistd::Pid;
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_GUEST_ANNOUNCE, VIRTIO_NET_F_MQ,
};

use crate::GuestRam;
use crate::device_loop::{Joined, Leaving, LoopError, LoopHandle};
use crate::dirty::PageSink;
use crate::tap::{Tap, TapError, TapSource};
use crate::virtio::vhost::workers::{self, Search};
use crate::virtio::vhost::{KernelNet, RingBackend, Rings, SharedLog, VhostError};
use crate::virtio::{
    ActivateError, Activation, ConfigChange, DeviceStateError, DeviceV1, DirtyLogError, Kind,
    RingPosition, StopError, VirtioDevice,
};

use control::Control;
pub use control::{NetV1, StateError};
use creation::check;
pub use creation::{NetDeviceConfig, NetError, NetErrorReason};
pub use features::Offloads;
#[cfg(any(test, feature = "test-utils"))]
pub use testing::ControlGuest;

/// Size of the control queue. The driver keeps one command in flight; Linux
/// and DPDK both take what they get.
const CONTROL_QUEUE_SIZE: u16 = 64;

/// The network device.
#[derive(Debug)]
pub struct Net<B: RingBackend = KernelNet> {
    id: String,
    queue_sizes: Vec<u16>,
    features: u64,
    pairs: Vec<Rings<B>>,
    control: Arc<Mutex<Control>>,
    device_loop: LoopHandle,
    workers: Vec<Pid>,
    /// What vhost wrote, while a migration wants to know.
    log: Option<Arc<SharedLog>>,
    active: Option<Active>,
}

/// What is there between `activate` and `stop`.
#[derive(Debug)]
struct Active {
    subscriber: Joined,
    features: u64,
    config_change: Arc<dyn ConfigChange>,
    /// Of each ring of the activation: who serves it.
    places: Vec<(Place, RingPosition)>,
}

/// Who serves a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The back end of a queue pair.
    Pair(usize),
    /// The device loop.
    Control,
    /// Nobody: the ring has no meaning with the negotiated features.
    Nowhere,
}

impl Net {
    /// Opens tap and vhost-net, places the workers, and so makes the device.
    ///
    /// Call it on the thread and with the CPU affinity that vhost workers may
    /// inherit.
    ///
    /// # Errors
    /// See [`NetErrorReason`].
    pub fn new(
        config: NetDeviceConfig,
        memory: Arc<GuestRam>,
        device_loop: LoopHandle,
    ) -> Result<Self, NetError> {
        let id = config.id.clone();
        Self::open(config, &memory, device_loop).map_err(|reason| NetError { id, reason })
    }

    fn open(
        mut config: NetDeviceConfig,
        memory: &Arc<GuestRam>,
        device_loop: LoopHandle,
    ) -> Result<Self, NetErrorReason> {
        check(&config)?;
        let tap = Tap::open(
            std::mem::replace(&mut config.tap, TapSource::Fds(Vec::new())),
            config.queue_pairs,
        )?;
        let search = match config.worker_cpus {
            Some(_) => Search::Everywhere,
            None => Search::OwnThreads,
        };
        let (pairs, workers) = workers::made_by(search, || open_pairs(&tap, memory));
        let pairs = pairs?;
        if let Some(cpus) = &config.worker_cpus {
            workers::pin(&workers, cpus)?;
        }
        Self::assemble(&config, tap, pairs, workers, device_loop)
    }
}

impl<B: RingBackend> Net<B> {
    /// Puts a device together from its open parts: one back end for each queue
    /// of the tap.
    fn assemble(
        config: &NetDeviceConfig,
        mut tap: Tap,
        pairs: Vec<Rings<B>>,
        workers: Vec<Pid>,
        device_loop: LoopHandle,
    ) -> Result<Self, NetErrorReason> {
        let mtu = match config.mtu {
            Some(mtu) if tap.is_in_use() => mtu,
            Some(mtu) => {
                tap.set_mtu(mtu)?;
                mtu
            }
            // Descriptors may be of an interface in another network namespace.
            None => tap.mtu().unwrap_or(1500),
        };
        if !tap.is_in_use() {
            if let Err(error) = tap.set_up() {
                tracing::warn!(
                    "{}: {error}; until someone does it, no packet passes",
                    config.id
                );
            }
            tap.set_active_queues(1)?;
        }
        let backend = pairs.iter().fold(u64::MAX, |all, p| all & p.features());
        let features = features::offered(config, backend, |offloads| tap.knows_offloads(offloads));
        let mut queue_sizes = vec![config.queue_size; 2 * usize::from(config.queue_pairs)];
        queue_sizes.push(CONTROL_QUEUE_SIZE);
        Ok(Self {
            id: config.id.clone(),
            queue_sizes,
            features,
            pairs,
            control: Arc::new(Mutex::new(Control::new(
                tap,
                config.mac,
                config.queue_pairs,
                mtu,
            ))),
            device_loop,
            workers,
            log: None,
            active: None,
        })
    }

    /// The kernel threads that move this device's packets, as far as they could
    /// be found.
    #[must_use]
    pub fn worker_threads(&self) -> &[Pid] {
        &self.workers
    }

    /// Name of the tap.
    #[must_use]
    pub fn tap_name(&self) -> String {
        self.control().tap().name().to_owned()
    }

    fn control(&self) -> MutexGuard<'_, Control> {
        lock(&self.control)
    }

    fn place(&self, index: u16, features: u64) -> Place {
        let multi_queue = features & bit(VIRTIO_NET_F_MQ) != 0;
        // Without MQ the control queue is queue 2, however many pairs there
        // could be (virtio 1.2, 5.1.2).
        let pairs = if multi_queue { self.pairs.len() } else { 1 };
        let index = usize::from(index);
        if index < 2 * pairs {
            Place::Pair(index / 2)
        } else if index == 2 * pairs && features & bit(VIRTIO_NET_F_CTRL_VQ) != 0 {
            Place::Control
        } else {
            Place::Nowhere
        }
    }

    fn start(&mut self, activation: Activation) -> Result<(), StartError> {
        let features = activation.features;
        if features & bit(VIRTIO_F_VERSION_1) == 0 {
            return Err(StartError::Legacy);
        }
        if self.active.is_some() {
            return Err(StartError::Active);
        }
        // A driver's first start is from zero. What a driver set before must be
        // gone then, and still be there when a paused guest goes on.
        let fresh = activation
            .rings
            .iter()
            .all(|ring| ring.start == RingPosition::default());
        self.control().start(features, fresh)?;

        let places: Vec<_> = activation
            .rings
            .iter()
            .map(|ring| (self.place(ring.index, features), ring.start))
            .collect();
        let of_place = |wanted: Place| {
            let both = activation.rings.iter().zip(&places);
            both.filter(move |(_, (place, _))| *place == wanted)
                .map(|(ring, _)| ring)
        };
        // Rings last: their worker has frames at once, and takes this thread's CPU.
        let of_vhost = features & features::of_vhost();
        let pairs = self.pairs_of(&activation);
        self.each_of(&pairs, |pair, rings| pair.prepare(of_vhost, rings))?;
        let control_ring = of_place(Place::Control).next();
        let served = serve::Served::new(
            &self.id,
            &activation,
            control_ring,
            &self.control,
            self.pairs.iter().map(Rings::error_fds),
        )?;
        let subscriber = self.device_loop.join(Box::new(served))?;
        if let Err(error) = self.each_of(&pairs, |pair, rings| pair.start(of_vhost, rings)) {
            let _ = self.device_loop.leave(subscriber).map(Leaving::wait);
            return Err(error.into());
        }
        self.active = Some(Active {
            subscriber,
            features,
            config_change: activation.config_change,
            places,
        });
        Ok(())
    }
}

/// A start that failed.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("The driver did not accept VIRTIO_F_VERSION_1: only modern drivers are served")]
    Legacy,
    #[error("It is active already")]
    Active,
    #[error(transparent)]
    Tap(#[from] TapError),
    #[error(transparent)]
    Vhost(#[from] VhostError),
    #[error(transparent)]
    Control(#[from] serve::ServeError),
    #[error(transparent)]
    Loop(#[from] LoopError),
}

impl<B: RingBackend + Send> VirtioDevice for Net<B> {
    fn id(&self) -> &str {
        &self.id
    }

    fn kind(&self) -> Kind {
        Kind::Net
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        config::read(&self.control().config_space(), offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        self.start(activation).map_err(|error| {
            if !matches!(error, StartError::Active) {
                // The pairs that had started; their positions are of no use.
                let _ = self.stop_pairs();
            }
            ActivateError {
                device: self.id.clone(),
                attempt: "starting its rings".to_owned(),
                source: Box::new(error),
            }
        })
    }

    fn prepare(&mut self, activation: Option<&Activation>) {
        let Some(activation) = activation else {
            return self.pairs.iter_mut().for_each(Rings::forget);
        };
        let features = activation.features & features::of_vhost();
        let pairs = self.pairs_of(activation);
        if let Err(error) = self.each_of(&pairs, |pair, rings| pair.prepare(features, rings)) {
            tracing::debug!("{}: {error}", self.id);
        }
    }

    fn stop(&mut self) -> Result<Vec<RingPosition>, StopError> {
        let Some(active) = self.active.take() else {
            return Ok(Vec::new());
        };
        let leaving = self.device_loop.leave(active.subscriber);
        let pairs = self.stop_pairs();
        let removed = leaving.and_then(Leaving::wait);
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| StopError {
            device: self.id.clone(),
            attempt: "learning where its rings stand".to_owned(),
            source,
        };
        removed.map_err(|error| failed(error.into()))?;
        let mut pairs: Vec<_> = pairs
            .map_err(|error| failed(error.into()))?
            .into_iter()
            .map(Vec::into_iter)
            .collect();
        let control = self.control().ring_position();
        let positions = active.places.iter().map(|(place, start)| match place {
            // A pair answers in the order in which it got its rings, which is
            // that of the activation.
            Place::Pair(pair) => pairs
                .get_mut(*pair)
                .and_then(Iterator::next)
                .unwrap_or(*start),
            Place::Control => control,
            Place::Nowhere => *start,
        });
        Ok(positions.collect())
    }

    fn save(&self) -> DeviceV1 {
        DeviceV1::Net(self.control().state())
    }

    fn restore(&mut self, saved: &DeviceV1) -> Result<(), DeviceStateError> {
        match saved {
            DeviceV1::Net(state) => {
                let restored = self.control().restore(*state);
                restored.map_err(|error| DeviceStateError::Device(error.into()))
            }
            other => Err(DeviceStateError::kind(other)),
        }
    }

    fn start_dirty_log(&mut self) -> Result<(), DirtyLogError> {
        self.start_log().map_err(|error| {
            self.stop_dirty_log();
            DirtyLogError {
                device: self.id.clone(),
                source: error.into(),
            }
        })
    }

    fn sync_dirty_log(&mut self, sink: &mut PageSink<'_>) {
        if let (Some(log), Some(pair)) = (&self.log, self.pairs.first()) {
            log.harvest(pair.memory(), sink);
        }
    }

    /// As the guest sees it: received is what the tap sent.
    fn files(&self) -> io::Result<Vec<OwnedFd>> {
        self.control().tap().clone_queues()
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let statistics = self.control().tap().statistics();
        let Ok(tap) = statistics.inspect_err(|error| tracing::debug!("{}: {error}", self.id))
        else {
            return Vec::new();
        };
        vec![
            ("rx_packets", tap.tx_packets),
            ("rx_bytes", tap.tx_bytes),
            ("rx_dropped", tap.tx_dropped),
            ("tx_packets", tap.rx_packets),
            ("tx_bytes", tap.rx_bytes),
            ("tx_dropped", tap.rx_dropped),
        ]
    }

    /// Twice: a frame from outside, at once and whatever the driver is, and the
    /// driver's own announcement (virtio 1.2, 5.1.6.5.4), which knows the
    /// guest's addresses and VLANs. Before the driver is there, and where the
    /// device is stopped, nothing is sent.
    fn announce(&mut self) {
        let mut control = self.control();
        let frame = rarp::frame(control.state().mac);
        if let Err(error) = control.tap().send(&frame) {
            tracing::warn!("{}: could not announce the guest: {error}", self.id);
        }
        // The guest can be asked to do so itself once it is served.
        let Some(active) = &self.active else {
            return;
        };
        let features = bit(VIRTIO_NET_F_GUEST_ANNOUNCE) | bit(VIRTIO_NET_F_CTRL_VQ);
        if active.features & features == features {
            control.set_announce();
            drop(control);
            active.config_change.notify();
        }
    }

    fn stop_dirty_log(&mut self) {
        for pair in &mut self.pairs {
            if let Err(error) = pair.stop_log() {
                tracing::warn!("{}: {error}", self.id);
            }
        }
        self.log = None;
    }
}

impl<B: RingBackend> Drop for Net<B> {
    fn drop(&mut self) {
        if let Some(active) = self.active.take() {
            // Back ends and tap close themselves; the loop has to be told.
            let _ = self.device_loop.leave(active.subscriber).map(Leaving::wait);
        }
    }
}

fn open_pairs(tap: &Tap, memory: &Arc<GuestRam>) -> Result<Vec<Rings<KernelNet>>, NetErrorReason> {
    (0..tap.queue_count())
        .map(|index| {
            let backend = KernelNet::open(Arc::clone(memory), tap.clone_queue(index)?)?;
            Ok(Rings::open(backend, Arc::clone(memory))?)
        })
        .collect()
}

fn lock(control: &Mutex<Control>) -> MutexGuard<'_, Control> {
    // Nothing panics while it holds the lock; if it did, each field would still
    // be a valid one.
    control.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The bit of a feature.
const fn bit(feature: u32) -> u64 {
    1 << feature
}

#[cfg(test)]
mod tests;

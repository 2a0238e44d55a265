//! The block device (virtio 1.2, 5.2) over a raw image.

mod counters;
mod engine;
mod image;
mod request;
mod state;
#[cfg(test)]
mod tests;
mod transfer;
mod worker;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use event_manager::SubscriberId;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH,
    VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_TOPOLOGY,
    VIRTIO_BLK_F_WRITE_ZEROES,
};

use super::queue::{RING_FEATURES, ServedRing};
use super::{
    ActivateError, Activation, DeviceStateError, DeviceV1, Kind, RingPosition, StopError,
    VirtioDevice,
};
use crate::device_loop::LoopHandle;
use counters::Counters;
use engine::Uring;
use image::{Access, Image};
use request::ID_LEN;
use worker::{Parts, Worker};

pub use image::ImageError;
pub use state::{BlockStateError, BlockV1};

/// The unit of the protocol, in bytes (5.2.5): not the disk's block size.
const SECTOR: u32 = 512;

/// The longest discard, in sectors: 1 GiB.
const MAX_DISCARD_SECTORS: u32 = 1 << 21;

/// The longest write-zeroes, in sectors: 16 MiB, because it may have to be
/// written byte by byte.
const MAX_WRITE_ZEROES_SECTORS: u32 = 1 << 15;

/// Offset of `writeback` in the configuration space (5.2.4).
const WRITEBACK: usize = 32;

/// Length of the configuration space that we have.
const CONFIG_LEN: usize = 60;

/// The most queues of a disk.
pub const MAX_QUEUES: u16 = 64;

/// What a disk is made of.
#[derive(Clone, Debug)]
pub struct BlockConfig {
    /// The device's id in the machine's config.
    pub id: String,
    /// A raw image file or a block device.
    pub path: PathBuf,
    /// Open it for reading only. Several machines may share such an image.
    pub readonly: bool,
    /// Bypass the host's page cache (`O_DIRECT`).
    pub direct: bool,
    /// Number of queues, 1 to [`MAX_QUEUES`].
    pub num_queues: u16,
    /// Descriptors per queue: a power of two, 4 to 32768.
    pub queue_size: u16,
    /// Serial number that the guest sees, up to 20 bytes of printable ASCII; the
    /// id (its first 20 bytes) when there is none.
    pub serial: Option<String>,
}

/// The disk could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// The number of queues is out of range.
    #[error("Disk {id} has {num_queues} queues; 1 to {MAX_QUEUES} are possible")]
    Queues {
        /// The device's id.
        id: String,
        /// What was asked for.
        num_queues: u16,
    },
    /// The size of the queues is none that a ring can have.
    #[error(
        "Disk {id} has queues of {queue_size} descriptors; it must be a power of two from 4 to 32768"
    )]
    QueueSize {
        /// The device's id.
        id: String,
        /// What was asked for.
        queue_size: u16,
    },
    /// The serial number cannot be told to a guest.
    #[error(
        "Disk {id} has the serial number {serial:?}; at most 20 printable ASCII characters are possible"
    )]
    Serial {
        /// The device's id.
        id: String,
        /// What was asked for.
        serial: String,
    },
    /// Its image could not be used.
    #[error("Could not make disk {id}")]
    Image {
        /// The device's id.
        id: String,
        /// Why.
        #[source]
        source: ImageError,
    },
}

/// A disk.
#[derive(Debug)]
pub struct Block {
    id: String,
    image: Arc<Image>,
    locked: bool,
    identity: [u8; ID_LEN],
    queue_sizes: Vec<u16>,
    device_loop: LoopHandle,
    /// `None` where io_uring is not permitted, and while a worker has it.
    engine: Option<Uring>,
    writeback: Arc<AtomicBool>,
    counters: Arc<Counters>,
    active: Option<(SubscriberId, Arc<Mutex<Worker>>)>,
}

impl Block {
    /// Opens and locks the image, and sets io_uring up.
    ///
    /// # Errors
    /// A value is out of range, or the image cannot be used.
    pub fn new(config: BlockConfig, device_loop: LoopHandle) -> Result<Self, BlockError> {
        let mut disk = Self::incoming(config, device_loop)?;
        match disk.lock() {
            Ok(()) => Ok(disk),
            Err(source) => {
                let id = disk.id.clone();
                Err(BlockError::Image { id, source })
            }
        }
    }

    /// The same without the lock, which the machine that the guest comes from
    /// still has: [`acquire`](VirtioDevice::acquire) takes it.
    ///
    /// # Errors
    /// A value is out of range, or the image cannot be used.
    pub fn incoming(config: BlockConfig, device_loop: LoopHandle) -> Result<Self, BlockError> {
        let BlockConfig { id, serial, .. } = config;
        if !(1..=MAX_QUEUES).contains(&config.num_queues) {
            return Err(BlockError::Queues {
                id,
                num_queues: config.num_queues,
            });
        }
        if !config.queue_size.is_power_of_two() || !(4..=32768).contains(&config.queue_size) {
            return Err(BlockError::QueueSize {
                id,
                queue_size: config.queue_size,
            });
        }
        let mut identity = [0; ID_LEN];
        if let Some(serial) = &serial
            && (serial.len() > ID_LEN || !serial.bytes().all(|b| (b' '..=b'~').contains(&b)))
        {
            return Err(BlockError::Serial {
                id,
                serial: serial.clone(),
            });
        }
        for (to, from) in identity
            .iter_mut()
            .zip(serial.as_ref().unwrap_or(&id).bytes())
        {
            *to = from;
        }
        let access = Access {
            readonly: config.readonly,
            direct: config.direct,
        };
        let image = match Image::open(&config.path, access) {
            Ok(image) => Arc::new(image),
            Err(source) => return Err(BlockError::Image { id, source }),
        };
        let engine = match Uring::new() {
            Ok(engine) => Some(engine),
            Err(error) => {
                tracing::warn!("Disk {id} does without io_uring, and is slower for it: {error}");
                None
            }
        };
        Ok(Self {
            id,
            image,
            locked: false,
            identity,
            queue_sizes: vec![config.queue_size; usize::from(config.num_queues)],
            device_loop,
            engine,
            writeback: Arc::new(AtomicBool::new(true)),
            counters: Arc::default(),
            active: None,
        })
    }

    fn lock(&mut self) -> Result<(), ImageError> {
        if !self.locked {
            self.image.lock()?;
            self.locked = true;
        }
        Ok(())
    }

    /// Size of the disk, in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.image.sectors * u64::from(SECTOR)
    }

    /// The configuration space (5.2.4).
    fn config(&self) -> [u8; CONFIG_LEN] {
        let queue_size = self.queue_sizes.first().copied().unwrap_or(4);
        // Header and status take a descriptor each.
        let seg_max = u32::from(queue_size - 2).min(254);
        let block = self.image.block;
        let exponent = (self.image.physical_block / block).trailing_zeros();
        let alignment = block / SECTOR;
        let mut config = [0; CONFIG_LEN];
        let mut put = |offset: usize, bytes: &[u8]| {
            if let Some(to) = config.get_mut(offset..offset + bytes.len()) {
                to.copy_from_slice(bytes);
            }
        };
        put(0, &self.image.sectors.to_le_bytes());
        put(12, &seg_max.to_le_bytes());
        put(20, &block.to_le_bytes());
        put(24, &exponent.to_le_bytes()[..1]);
        put(26, &1u16.to_le_bytes());
        put(
            WRITEBACK,
            &[u8::from(self.writeback.load(Ordering::Acquire))],
        );
        let queues = u16::try_from(self.queue_sizes.len()).unwrap_or(1);
        put(34, &queues.to_le_bytes());
        if !self.image.readonly {
            put(36, &MAX_DISCARD_SECTORS.to_le_bytes());
            put(40, &1u32.to_le_bytes());
            put(44, &alignment.to_le_bytes());
            put(48, &MAX_WRITE_ZEROES_SECTORS.to_le_bytes());
            put(52, &1u32.to_le_bytes());
            put(56, &[1]);
        }
        config
    }
}

impl VirtioDevice for Block {
    fn id(&self) -> &str {
        &self.id
    }

    fn kind(&self) -> Kind {
        Kind::Block
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn features(&self) -> u64 {
        let mut bits = vec![
            VIRTIO_BLK_F_SEG_MAX,
            VIRTIO_BLK_F_BLK_SIZE,
            VIRTIO_BLK_F_FLUSH,
            VIRTIO_BLK_F_TOPOLOGY,
            VIRTIO_BLK_F_CONFIG_WCE,
        ];
        if self.queue_sizes.len() > 1 {
            bits.push(VIRTIO_BLK_F_MQ);
        }
        if self.image.readonly {
            bits.push(VIRTIO_BLK_F_RO);
        } else {
            bits.extend([VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES]);
        }
        bits.iter().fold(RING_FEATURES, |all, bit| all | 1 << bit)
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = self.config();
        let start = usize::try_from(offset).map_or(CONFIG_LEN, |o| o.min(CONFIG_LEN));
        let (_, rest) = config.split_at(start);
        for (i, byte) in data.iter_mut().enumerate() {
            *byte = rest.get(i).copied().unwrap_or(0);
        }
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        if let (Ok(WRITEBACK), [value, ..]) = (usize::try_from(offset), data) {
            self.writeback.store(value & 1 != 0, Ordering::Release);
        }
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        self.acquire()?;
        let id = self.id.clone();
        let failed =
            |attempt: &str, source: Box<dyn std::error::Error + Send + Sync>| ActivateError {
                device: id.clone(),
                attempt: attempt.to_owned(),
                source,
            };
        let rings = activation
            .rings
            .into_iter()
            .map(|ring| ServedRing::new(ring, activation.features, &activation.config_change))
            .collect::<Result<_, _>>()
            .map_err(|e| failed("take its rings", Box::new(e)))?;
        // Without FLUSH a driver cannot make its writes last, so each has to
        // (5.2.6.2).
        let writeback = if activation.features & (1 << VIRTIO_BLK_F_FLUSH) == 0 {
            Arc::new(AtomicBool::new(false))
        } else {
            Arc::clone(&self.writeback)
        };
        let worker = Arc::new(Mutex::new(Worker::new(Parts {
            image: Arc::clone(&self.image),
            identity: self.identity,
            memory: activation.memory,
            rings,
            engine: self.engine.take(),
            writeback,
            counters: Arc::clone(&self.counters),
        })));
        match self.device_loop.add(Box::new(Arc::clone(&worker))) {
            Ok(subscriber) => {
                self.active = Some((subscriber, worker));
                Ok(())
            }
            Err(error) => {
                let mut worker = worker.lock().unwrap_or_else(PoisonError::into_inner);
                self.engine = worker.take_engine();
                Err(failed("serve its rings", Box::new(error)))
            }
        }
    }

    fn stop(&mut self) -> Result<Vec<RingPosition>, StopError> {
        let Some((subscriber, worker)) = self.active.take() else {
            return Ok(Vec::new());
        };
        if let Err(error) = self.device_loop.remove(subscriber) {
            // The loop has ended, so it serves nothing either.
            tracing::warn!("{}: {error}", self.id);
        }
        let mut worker = worker.lock().unwrap_or_else(PoisonError::into_inner);
        worker.drain().map_err(|source| StopError {
            device: self.id.clone(),
            attempt: "finish the requests in flight".to_owned(),
            source: Box::new(source),
        })?;
        self.engine = worker.take_engine();
        Ok(worker.positions())
    }

    fn save(&self) -> DeviceV1 {
        DeviceV1::Block(self.state())
    }

    fn restore(&mut self, saved: &DeviceV1) -> Result<(), DeviceStateError> {
        match saved {
            DeviceV1::Block(state) => {
                let restored = self.take_state(*state);
                restored.map_err(|error| DeviceStateError::Device(error.into()))
            }
            other => Err(DeviceStateError::kind(other)),
        }
    }

    fn release(&mut self) -> Result<(), StopError> {
        self.image.unlock().map_err(|source| StopError {
            device: self.id.clone(),
            attempt: "let go of its image".to_owned(),
            source: Box::new(source),
        })?;
        self.locked = false;
        Ok(())
    }

    fn acquire(&mut self) -> Result<(), ActivateError> {
        self.lock().map_err(|source| ActivateError {
            device: self.id.clone(),
            attempt: "take its image".to_owned(),
            source: Box::new(source),
        })
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        self.counters.list()
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            tracing::error!("{error}: {}", error.source);
        }
    }
}

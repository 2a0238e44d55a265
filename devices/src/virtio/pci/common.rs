//! The common configuration structure (virtio 1.2, 4.1.4.3) as a table.

use std::sync::Arc;

use super::notifier::Notifier;
use super::queue::{NO_VECTOR, Queue, QueueError};
use super::status;
use crate::GuestRam;

/// Size of the structure in bytes, up to and with `queue_reset`.
pub const SIZE: u32 = 0x3c;

/// VIRTIO_F_VERSION_1: without it a driver cannot use this transport (6.1).
pub const VERSION_1: u64 = 1 << 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Register {
    DeviceFeatureSelect,
    DeviceFeature,
    DriverFeatureSelect,
    DriverFeature,
    ConfigVector,
    NumQueues,
    DeviceStatus,
    ConfigGeneration,
    QueueSelect,
    QueueSize,
    QueueVector,
    QueueEnable,
    QueueNotifyOff,
    QueueDesc,
    QueueDriver,
    QueueDevice,
    QueueNotifyData,
    QueueReset,
}

use Register as R;

/// Offset, width in bytes, register. The last two belong to features that are
/// not offered (VIRTIO_F_NOTIF_CONFIG_DATA, VIRTIO_F_RING_RESET): they read as
/// zero.
const REGISTERS: [(u64, u64, Register); 18] = [
    (0x00, 4, R::DeviceFeatureSelect),
    (0x04, 4, R::DeviceFeature),
    (0x08, 4, R::DriverFeatureSelect),
    (0x0c, 4, R::DriverFeature),
    (0x10, 2, R::ConfigVector),
    (0x12, 2, R::NumQueues),
    (0x14, 1, R::DeviceStatus),
    (0x15, 1, R::ConfigGeneration),
    (0x16, 2, R::QueueSelect),
    (0x18, 2, R::QueueSize),
    (0x1a, 2, R::QueueVector),
    (0x1c, 2, R::QueueEnable),
    (0x1e, 2, R::QueueNotifyOff),
    (0x20, 8, R::QueueDesc),
    (0x28, 8, R::QueueDriver),
    (0x30, 8, R::QueueDevice),
    (0x38, 2, R::QueueNotifyData),
    (0x3a, 2, R::QueueReset),
];

/// What a write asks of the transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Effect {
    /// Nothing.
    None,
    /// The driver reset the device; the registers are reset already.
    Reset,
    /// The driver is ready.
    DriverOk,
    /// This queue has another vector.
    Vector(u16),
    /// The driver enabled a queue that cannot work.
    BadQueue(u16, QueueError),
}

/// What the driver negotiates.
#[derive(Debug)]
pub struct Common {
    pub offered: u64,
    pub accepted: u64,
    pub status: u8,
    pub device_feature_select: u32,
    pub driver_feature_select: u32,
    pub queue_select: u16,
    pub queues: Vec<Queue>,
    pub notifier: Arc<Notifier>,
    pub vectors: u16,
}

impl Common {
    /// All registers as after a reset.
    pub fn reset(&mut self) {
        self.accepted = 0;
        self.status = 0;
        self.device_feature_select = 0;
        self.driver_feature_select = 0;
        self.queue_select = 0;
        for queue in &mut self.queues {
            *queue = Queue::new(queue.max_size);
        }
        self.notifier.set(NO_VECTOR, 0, 0);
        self.notifier.set_broken(false);
    }

    /// The status as the driver reads it: what it wrote, and whether the device
    /// gave up meanwhile.
    pub fn status(&self) -> u8 {
        if self.notifier.is_broken() {
            self.status | status::NEEDS_RESET
        } else {
            self.status
        }
    }

    /// Whether the driver is ready and nothing is broken.
    pub fn is_live(&self) -> bool {
        self.status() & (status::DRIVER_OK | status::NEEDS_RESET) == status::DRIVER_OK
    }

    /// The enabled queues with their indices, in order.
    pub fn enabled(&self) -> impl Iterator<Item = (u16, &Queue)> {
        (0..).zip(&self.queues).filter(|(_, queue)| queue.enabled)
    }

    /// Whether the driver may have this set of features.
    pub fn may_accept(&self, features: u64) -> bool {
        features & !self.offered == 0 && features & VERSION_1 != 0
    }

    /// `vector`, if there is one of that number.
    pub fn checked_vector(&self, vector: u16) -> u16 {
        if vector < self.vectors {
            vector
        } else {
            NO_VECTOR
        }
    }

    /// Fills `data` from `offset`; between and beyond the registers, zeros.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        for (at, byte) in (offset..=u64::MAX).zip(data) {
            let row = REGISTERS
                .iter()
                .find(|(start, width, _)| (*start..start + width).contains(&at));
            *byte = row.map_or(0, |(start, _, register)| {
                let bytes = self.get(*register).to_le_bytes();
                let byte = usize::try_from(at - start).ok();
                byte.and_then(|b| bytes.get(b)).copied().unwrap_or(0)
            });
        }
    }

    /// Takes a write of exactly one register, or of one half of a 64-bit one
    /// (4.1.3.1). Others are ignored.
    pub fn write(&mut self, offset: u64, data: &[u8], memory: &GuestRam) -> Effect {
        let length = data.len() as u64;
        let row = REGISTERS.iter().find(|(start, width, _)| {
            offset == *start && length == *width
                || *width == 8 && length == 4 && (offset == *start || offset == start + 4)
        });
        let Some((start, _, register)) = row else {
            tracing::debug!("Ignored write of {length} bytes at {offset:#x} of the common config");
            return Effect::None;
        };
        let mut bytes = self.get(*register).to_le_bytes();
        let skip = usize::try_from(offset - start).unwrap_or(0);
        let places = bytes.iter_mut().skip(skip).zip(data);
        places.for_each(|(byte, new)| *byte = *new);
        self.set(*register, u64::from_le_bytes(bytes), memory)
    }

    fn selected(&self) -> Option<&Queue> {
        self.queues.get(usize::from(self.queue_select))
    }

    /// The selected queue, while the driver may still change it.
    fn open_queue(&mut self) -> Option<&mut Queue> {
        let running = self.status & status::DRIVER_OK != 0;
        let queue = self.queues.get_mut(usize::from(self.queue_select));
        queue.filter(|queue| !queue.enabled && !running)
    }

    fn get(&self, register: Register) -> u64 {
        let queue = |field: fn(&Queue) -> u64| self.selected().map_or(0, field);
        match register {
            R::DeviceFeatureSelect => self.device_feature_select.into(),
            R::DeviceFeature => half(self.offered, self.device_feature_select),
            R::DriverFeatureSelect => self.driver_feature_select.into(),
            R::DriverFeature => half(self.accepted, self.driver_feature_select),
            R::ConfigVector => self.notifier.vector().into(),
            R::NumQueues => self.queues.len() as u64,
            R::DeviceStatus => self.status().into(),
            R::ConfigGeneration => self.notifier.generation().into(),
            R::QueueSelect => self.queue_select.into(),
            R::QueueSize => queue(|q| q.size.into()),
            R::QueueVector => self.selected().map_or(NO_VECTOR, |q| q.vector).into(),
            R::QueueEnable => queue(|q| q.enabled.into()),
            R::QueueNotifyOff => self.selected().map_or(0, |_| self.queue_select.into()),
            R::QueueDesc => queue(|q| q.desc),
            R::QueueDriver => queue(|q| q.driver),
            R::QueueDevice => queue(|q| q.device),
            R::QueueNotifyData | R::QueueReset => 0,
        }
    }

    // The table gives each register its width: no bit above it is ever set.
    #[allow(clippy::cast_possible_truncation)]
    fn set(&mut self, register: Register, value: u64, memory: &GuestRam) -> Effect {
        match register {
            R::DeviceFeatureSelect => self.device_feature_select = value as u32,
            R::DriverFeatureSelect => self.driver_feature_select = value as u32,
            R::DriverFeature => self.set_driver_feature(value),
            R::ConfigVector => self.notifier.set_vector(self.checked_vector(value as u16)),
            R::DeviceStatus => return self.set_status(value as u8),
            R::QueueSelect => self.queue_select = value as u16,
            R::QueueSize => self.change(|queue| queue.size = value as u16),
            R::QueueDesc => self.change(|queue| queue.desc = value),
            R::QueueDriver => self.change(|queue| queue.driver = value),
            R::QueueDevice => self.change(|queue| queue.device = value),
            R::QueueVector => return self.set_queue_vector(value as u16),
            R::QueueEnable => return self.enable_queue(value, memory),
            R::DeviceFeature
            | R::NumQueues
            | R::ConfigGeneration
            | R::QueueNotifyOff
            | R::QueueNotifyData
            | R::QueueReset => {}
        }
        Effect::None
    }

    fn change(&mut self, change: impl FnOnce(&mut Queue)) {
        if let Some(queue) = self.open_queue() {
            change(queue);
        }
    }

    fn set_driver_feature(&mut self, value: u64) {
        if self.status & status::FEATURES_OK != 0 {
            return;
        }
        let kept = match self.driver_feature_select {
            0 => self.accepted & !0xffff_ffff | value,
            1 => self.accepted & 0xffff_ffff | value << 32,
            _ => return,
        };
        self.accepted = kept;
    }

    fn set_queue_vector(&mut self, value: u16) -> Effect {
        let vector = self.checked_vector(value);
        let index = self.queue_select;
        match self.queues.get_mut(usize::from(index)) {
            Some(queue) if queue.vector != vector => {
                queue.vector = vector;
                Effect::Vector(index)
            }
            _ => Effect::None,
        }
    }

    fn enable_queue(&mut self, value: u64, memory: &GuestRam) -> Effect {
        let index = self.queue_select;
        // The driver must not write 0 (4.1.4.3.2).
        let Some(queue) = self.open_queue().filter(|_| value == 1) else {
            return Effect::None;
        };
        match queue.check(memory) {
            Ok(()) => {
                queue.enabled = true;
                Effect::None
            }
            Err(error) => Effect::BadQueue(index, error),
        }
    }

    fn set_status(&mut self, value: u8) -> Effect {
        if value == 0 {
            self.reset();
            return Effect::Reset;
        }
        let old = self.status;
        let Some(mut new) = status::step(old, value) else {
            tracing::debug!("Refused to move the device status from {old:#x} to {value:#x}");
            return Effect::None;
        };
        let rises = new & !old;
        if rises & status::FEATURES_OK != 0 && !self.may_accept(self.accepted) {
            // The driver reads the bit back and sees that it is not set (3.1.1).
            new &= !status::FEATURES_OK;
        }
        self.status = new;
        if rises & status::DRIVER_OK != 0 {
            Effect::DriverOk
        } else {
            Effect::None
        }
    }
}

/// The 32 bits of `features` that `select` names.
const fn half(features: u64, select: u32) -> u64 {
    match select {
        0 => features & 0xffff_ffff,
        1 => features >> 32,
        _ => 0,
    }
}

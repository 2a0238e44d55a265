//! The configuration interrupt.
//!
//! A device calls this from its own thread while a vCPU may hold the function's
//! lock and wait for that very thread (in `activate` or `stop`), so there is no
//! lock here: atomics and an eventfd.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, Ordering};

use super::queue::NO_VECTOR;
use crate::irq::MsiVectors;
use crate::virtio::ConfigChange;

/// Bit of the ISR status: the configuration changed (virtio 1.2, 4.1.4.5).
const ISR_CONFIG: u8 = 2;

#[derive(Debug)]
pub struct Notifier {
    isr: AtomicU8,
    generation: AtomicU8,
    vector: AtomicU16,
    /// The device gave up. Part of the status, kept here because the device's
    /// thread says so.
    broken: AtomicBool,
    vectors: Arc<dyn MsiVectors>,
}

impl Notifier {
    pub fn new(vectors: Arc<dyn MsiVectors>) -> Self {
        Self {
            isr: AtomicU8::new(0),
            generation: AtomicU8::new(0),
            vector: AtomicU16::new(NO_VECTOR),
            broken: AtomicBool::new(false),
            vectors,
        }
    }

    /// Sets all registers: vector, ISR status, generation.
    pub fn set(&self, vector: u16, isr: u8, generation: u8) {
        self.set_vector(vector);
        self.isr.store(isr & ISR_CONFIG, Ordering::Release);
        self.generation.store(generation, Ordering::Release);
    }

    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    pub fn set_broken(&self, broken: bool) {
        self.broken.store(broken, Ordering::Release);
    }

    pub fn set_vector(&self, vector: u16) {
        self.vector.store(vector, Ordering::Release);
    }

    pub fn vector(&self) -> u16 {
        self.vector.load(Ordering::Acquire)
    }

    pub fn generation(&self) -> u8 {
        self.generation.load(Ordering::Acquire)
    }

    pub fn isr(&self) -> u8 {
        self.isr.load(Ordering::Acquire)
    }

    /// The ISR status as the driver reads it, which clears it.
    pub fn take_isr(&self) -> u8 {
        self.isr.swap(0, Ordering::AcqRel)
    }
}

impl ConfigChange for Notifier {
    fn notify(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.isr.fetch_or(ISR_CONFIG, Ordering::AcqRel);
        if let Some(fd) = self.vectors.eventfd(self.vector())
            && let Err(error) = fd.write(1)
        {
            tracing::error!("Could not raise a configuration interrupt: {error}");
        }
    }

    fn needs_reset(&self) {
        if !self.broken.swap(true, Ordering::AcqRel) {
            self.notify();
        }
    }
}

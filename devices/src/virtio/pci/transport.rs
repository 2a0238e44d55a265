//! The life of the device behind the transport: started when the driver is
//! ready, stopped and forgotten by a reset, stopped and kept by a pause.

use std::fmt;
use std::sync::Arc;

use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::EventFd;

use super::bells::Bells;
use super::common::{Common, Effect};
use super::status;
use crate::GuestRam;
use crate::irq::MsiVectors;
use crate::virtio::{Activation, ConfigChange, Ring, StopError, VirtioDevice};

/// What a driver did with a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriverMove {
    /// It has set the device up, and the device serves its rings.
    Activated,
    /// It has reset the device, which it had set up before.
    Reset,
}

/// Who is told, from the thread of a vCPU, which it must not hold up.
pub type DriverWatch = Box<dyn Fn(&str, DriverMove) + Send + Sync>;

pub struct Transport {
    pub device: Box<dyn VirtioDevice>,
    pub memory: Arc<GuestRam>,
    pub common: Common,
    pub bells: Bells,
    pub vectors: Arc<dyn MsiVectors>,
    /// Signalled by queues without a vector; nobody listens.
    pub nowhere: EventFd,
    /// Where the BAR is decoded.
    pub bar: Option<GuestAddress>,
    /// The indices of the queues that the device serves, while it does.
    pub running: Option<Vec<u16>>,
    pub paused: bool,
    pub watch: Option<DriverWatch>,
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport")
            .field("device", &self.device)
            .field("common", &self.common)
            .field("running", &self.running)
            .field("paused", &self.paused)
            .finish_non_exhaustive()
    }
}

impl Transport {
    /// Takes a write to the common configuration.
    pub fn write_common(&mut self, offset: u64, data: &[u8]) {
        match self.common.write(offset, data, &self.memory) {
            Effect::None => {}
            Effect::Reset => self.reset(),
            Effect::DriverOk => {
                self.start();
                self.place_bells();
                if self.running.is_some() {
                    self.tell(DriverMove::Activated);
                }
            }
            Effect::Vector(queue) => self.move_vector(queue),
            Effect::BadQueue(queue, error) => {
                let id = self.device.id();
                tracing::warn!("Device {id} cannot use queue {queue}: {error}");
                self.give_up();
            }
        }
    }

    /// The driver's notification, when it did not take the doorbell.
    pub fn notify(&self, queue: u16) {
        let enabled = self.common.queues.get(usize::from(queue));
        if enabled.is_some_and(|q| q.enabled)
            && let Some(kick) = self.bells.kick(queue)
        {
            signal(kick, "kick", queue);
        }
    }

    /// Doorbells lead to the device while the driver uses it and the BAR is
    /// decoded. A pause keeps them: kicks gather in the eventfds.
    pub fn place_bells(&mut self) {
        let bar = self.bar.filter(|_| self.common.is_live());
        let queues = self.common.enabled().map(|(index, _)| index);
        self.bells.set(bar, queues);
    }

    /// Starts the device where its rings stand, if the driver is ready.
    pub fn start(&mut self) {
        if self.paused || self.running.is_some() || !self.common.is_live() {
            return;
        }
        let activation = match self.activation() {
            Ok(activation) => activation,
            Err(error) => {
                tracing::error!("Device {} got no eventfd: {error}", self.device.id());
                return self.give_up();
            }
        };
        let indices = activation.rings.iter().map(|ring| ring.index).collect();
        match self.device.activate(activation) {
            Ok(()) => self.running = Some(indices),
            Err(error) => {
                let cause = &error.source;
                tracing::error!("{error}: {cause}");
                self.give_up();
            }
        }
    }

    /// Does ahead what a start needs, while the device is paused.
    pub fn prepare(&mut self) {
        if !self.paused || self.running.is_some() || !self.common.is_live() {
            return;
        }
        if let Ok(activation) = self.activation() {
            self.device.prepare(Some(&activation));
        }
    }

    fn activation(&self) -> std::io::Result<Activation> {
        let notifier: Arc<dyn ConfigChange> = self.common.notifier.clone();
        Ok(Activation {
            memory: Arc::clone(&self.memory),
            features: self.common.accepted,
            rings: self.rings()?,
            config_change: notifier,
        })
    }

    fn rings(&self) -> std::io::Result<Vec<Ring>> {
        let ring = |(index, queue): (u16, &super::queue::Queue)| {
            let kick = self.bells.kick(index).unwrap_or(&self.nowhere);
            Ok(Ring {
                index,
                size: queue.size,
                desc: GuestAddress(queue.desc),
                avail: GuestAddress(queue.driver),
                used: GuestAddress(queue.device),
                start: queue.position,
                kick: kick.try_clone()?,
                call: self.call(queue.vector).try_clone()?,
            })
        };
        self.common.enabled().map(ring).collect()
    }

    fn call(&self, vector: u16) -> &EventFd {
        self.vectors.eventfd(vector).unwrap_or(&self.nowhere)
    }

    /// Stops the device and keeps where its rings stand.
    pub fn halt(&mut self) -> Result<(), StopError> {
        let Some(indices) = self.running.take() else {
            return Ok(());
        };
        let positions = self.device.stop();
        let complete = positions.as_ref().is_ok_and(|p| p.len() == indices.len());
        for (index, position) in indices.into_iter().zip(positions.iter().flatten()) {
            if let Some(queue) = self.common.queues.get_mut(usize::from(index)) {
                queue.position = *position;
            }
        }
        if !complete {
            // Without positions the rings cannot go on.
            self.give_up();
        }
        positions.map(drop)
    }

    fn halt_and_log(&mut self) {
        if let Err(error) = self.halt() {
            let cause = &error.source;
            tracing::error!("{error}: {cause}");
        }
    }

    fn tell(&self, driver_move: DriverMove) {
        if let Some(watch) = &self.watch {
            watch(self.device.id(), driver_move);
        }
    }

    /// The registers are reset already; so is the device after this.
    fn reset(&mut self) {
        if self.running.is_some() {
            self.tell(DriverMove::Reset);
        }
        self.halt_and_log();
        // Stopping may have failed, and written registers again.
        self.common.reset();
        self.place_bells();
        for queue in 0..self.common.queues.len() {
            let kick = u16::try_from(queue).ok().and_then(|q| self.bells.kick(q));
            // Nothing to read: nobody kicked.
            let _ = kick.map(EventFd::read);
        }
    }

    /// A vector that moves under a running device: the device gets the new call
    /// descriptor by a stop and a start.
    fn move_vector(&mut self, queue: u16) {
        if self.running.as_ref().is_some_and(|r| r.contains(&queue)) {
            self.halt_and_log();
            self.start();
            self.place_bells();
        }
    }

    /// The device cannot go on (virtio 1.2, 2.1.2).
    fn give_up(&mut self) {
        self.common.status |= status::NEEDS_RESET;
        if self.common.status & status::DRIVER_OK != 0 {
            self.common.notifier.notify();
        }
        self.place_bells();
    }

    pub fn pause(&mut self) -> Result<(), StopError> {
        self.paused = true;
        self.halt()
    }

    /// A kick or a call that was on its way when the device stopped may be
    /// lost; one too many does no harm. So both are signalled once.
    pub fn resume(&mut self) {
        self.paused = false;
        self.start();
        for index in self.running.iter().flatten() {
            if let Some(queue) = self.common.queues.get(usize::from(*index)) {
                signal(self.call(queue.vector), "call", *index);
            }
            self.notify(*index);
        }
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.halt_and_log();
    }
}

fn signal(fd: &EventFd, what: &str, queue: u16) {
    match fd.write(1) {
        Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => {
            tracing::error!("Could not signal the {what} of queue {queue}: {error}");
        }
        // A full counter is a signal that waits already.
        _ => {}
    }
}

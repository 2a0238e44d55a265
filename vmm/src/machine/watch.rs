//! The devices of a machine, for whoever reads what they count, and who follows
//! what drivers do with them.
//!
//! A reset takes each device out of its function, and for that must be the last
//! owner. So a watcher owns one only under this lock, and [`end`](DeviceWatch::end)
//! waits for it.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use godwit_api::events::{Event, EventKind, EventSender};
use godwit_devices::virtio::pci::{DriverMove, VirtioPci};

use super::Function;

/// See the module.
#[derive(Debug, Default)]
pub struct DeviceWatch {
    devices: Mutex<Vec<(String, Weak<VirtioPci>)>>,
    monitor: OnceLock<EventSender>,
}

/// What a device counts, each by its name.
pub type DeviceCounters = Vec<(&'static str, u64)>;

impl DeviceWatch {
    pub(crate) fn of(functions: &[Function]) -> Self {
        let watch = Self::default();
        for function in functions {
            watch.add(function);
        }
        watch
    }

    /// One more. Those that are gone are forgotten.
    pub(crate) fn add(&self, function: &Function) {
        if let Some(monitor) = self.monitor.get() {
            follow(&function.device, monitor.clone());
        }
        let mut devices = self.lock();
        devices.retain(|(_, device)| device.strong_count() != 0);
        devices.push((function.id.clone(), Arc::downgrade(&function.device)));
    }

    /// Tells `monitor` what drivers do with the devices, also with those to come.
    pub(crate) fn tell(&self, monitor: EventSender) {
        for (_, device) in self.lock().iter() {
            if let Some(device) = device.upgrade() {
                follow(&device, monitor.clone());
            }
        }
        // Once a machine.
        let _ = self.monitor.set(monitor);
    }

    /// The machine is taken apart: nobody has a device when this returns.
    pub(crate) fn end(&self) {
        self.lock().clear();
    }

    /// What the devices that are there count.
    #[must_use]
    pub fn counters(&self) -> Vec<(String, DeviceCounters)> {
        let devices = self.lock();
        let counters = devices.iter().filter_map(|(id, device)| {
            let counters = device.upgrade()?.with_device(|device| device.counters());
            Some((id.clone(), counters))
        });
        counters.collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(String, Weak<VirtioPci>)>> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn follow(device: &VirtioPci, monitor: EventSender) {
    device.watch_driver(Box::new(move |id, driver_move| {
        let kind = match driver_move {
            DriverMove::Activated => EventKind::DeviceActivated,
            DriverMove::Reset => EventKind::DeviceReset,
        };
        monitor.send(Event::from(kind).with("id", id));
    }));
}

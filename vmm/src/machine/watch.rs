//! The devices of a machine, for whoever reads what they count.
//!
//! A reset takes each device out of its function, and for that must be the last
//! owner. So a watcher owns one only under this lock, and [`end`](DeviceWatch::end)
//! waits for it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use godwit_devices::virtio::pci::VirtioPci;

use super::Function;

/// See the module.
#[derive(Debug, Default)]
pub struct DeviceWatch(Mutex<Vec<(String, Weak<VirtioPci>)>>);

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
        let mut devices = self.lock();
        devices.retain(|(_, device)| device.strong_count() != 0);
        devices.push((function.id.clone(), Arc::downgrade(&function.device)));
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
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! The host bridge at 00:00.0: software looks for it, nothing else.

use std::sync::{Mutex, PoisonError};

use vm_memory::GuestAddress;

use super::config::RestoreConfigError;
use super::{ConfigSpace, Identity, PciFunction, ids};
use crate::bus::Action;

#[derive(Debug)]
pub(super) struct HostBridge {
    config: Mutex<ConfigSpace>,
}

impl HostBridge {
    pub fn new() -> Self {
        Self {
            config: Mutex::new(ConfigSpace::new(Identity {
                vendor: ids::VENDOR_REDHAT,
                device: ids::DEVICE_HOST_BRIDGE,
                revision: 0,
                class: ids::CLASS_HOST_BRIDGE,
                subsystem_vendor: 0,
                subsystem: 0,
            })),
        }
    }
}

impl HostBridge {
    pub fn save(&self) -> Vec<u8> {
        let config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        config.bytes().to_vec()
    }

    pub fn restore(&self, saved: &[u8]) -> Result<(), RestoreConfigError> {
        let mut config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        config.restore(saved)
    }
}

impl PciFunction for HostBridge {
    fn config_read(&self, offset: u16, data: &mut [u8]) {
        let config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        config.read(offset, data);
    }

    fn config_write(&self, offset: u16, data: &[u8]) -> Action {
        let mut config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        config.write(offset, data);
        Action::Continue
    }

    fn bar_read(&self, _: u8, _: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn bar_write(&self, _: u8, _: u64, _: &[u8]) -> Action {
        Action::Continue
    }

    fn bar_moved(&self, _: u8, _: Option<GuestAddress>) {}
}

//! Which pages were written: by vCPUs, as KVM logs them.

use std::sync::{Arc, Mutex, PoisonError};

use godwit_devices::GuestRam;
use godwit_migration::bitmap::Bitmap;
use godwit_migration::guest::{Cause, DirtyLog, LogStart};
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use crate::kvm::{KvmError, LogKind, Vm};

const PAGE: u64 = 4096;

/// The dirty log of a machine; dropping it switches the log off.
#[derive(Debug)]
pub(super) struct MachineLog {
    vm: Vm,
    ram: Arc<GuestRam>,
    slots: Vec<Slot>,
}

#[derive(Debug)]
struct Slot {
    pages: u64,
    /// For KVM to write to, kept from one reading to the next.
    buffer: Mutex<Vec<u64>>,
}

impl MachineLog {
    /// Switches the log on.
    pub(super) fn start(vm: &Vm, ram: &Arc<GuestRam>) -> Result<Self, KvmError> {
        let slots = ram
            .iter()
            .map(|region| {
                let pages = region.len() / PAGE;
                let words = usize::try_from(pages.div_ceil(64)).unwrap_or(usize::MAX);
                Slot {
                    pages,
                    buffer: Mutex::new(vec![0; words]),
                }
            })
            .collect();
        let log = Self {
            vm: vm.clone(),
            ram: Arc::clone(ram),
            slots,
        };
        vm.log_dirty_pages(ram, true)?;
        Ok(log)
    }

    /// What it says at first.
    pub(super) fn beginning(&self) -> LogStart {
        match self.vm.log_kind() {
            LogKind::Manual => LogStart::AllDirty,
            LogKind::ReadClears => LogStart::Clean,
        }
    }

    fn slot(&self, region: usize) -> Result<(u32, &Slot), Cause> {
        let slot = self.slots.get(region).ok_or("no such region")?;
        Ok((u32::try_from(region)?, slot))
    }
}

impl DirtyLog for MachineLog {
    fn dirty(&self, region: usize, into: &mut Bitmap) -> Result<(), Cause> {
        let (number, slot) = self.slot(region)?;
        let mut words = slot.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        self.vm.dirty_log(number, &mut words)?;
        into.add_words(&words);
        Ok(())
    }

    fn clear(&self, region: usize, first_page: u64, pages: &[u64]) -> Result<(), Cause> {
        if self.vm.log_kind() == LogKind::ReadClears {
            return Ok(());
        }
        let (number, slot) = self.slot(region)?;
        let rest = slot.pages.saturating_sub(first_page);
        let count = u32::try_from(rest.min(pages.len() as u64 * 64))?;
        self.vm.clear_dirty_log(number, first_page, count, pages)?;
        Ok(())
    }
}

impl Drop for MachineLog {
    fn drop(&mut self) {
        if let Err(error) = self.vm.log_dirty_pages(&self.ram, false) {
            tracing::warn!("The dirty log stays on: {error}");
        }
    }
}

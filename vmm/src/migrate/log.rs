//! Which pages were written, by anybody.
//!
//! ```text
//!  vCPUs: KVM's log, one for each slot        --\
//!  vhost: its log, when a device is asked      ---> union, per region
//!  our own devices: godwit_devices::dirty     --/
//! ```
//!
//! KVM's log is read without being cleared. The other two forget what they told,
//! so it is kept here until the region it belongs to is asked for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use godwit_devices::virtio::pci::VirtioPci;
use godwit_devices::{GuestRam, dirty};
use godwit_migration::bitmap::Bitmap;
use godwit_migration::guest::{Cause, DirtyLog, LogStart};
use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use crate::kvm::{LogKind, Vm};

const PAGE: u64 = 4096;

/// The dirty log of a machine; dropping it switches the log off.
#[derive(Debug)]
pub(super) struct MachineLog {
    vm: Vm,
    ram: Arc<GuestRam>,
    functions: Vec<Arc<VirtioPci>>,
    slots: Vec<Slot>,
    /// The machine is about to go, and its logs with it.
    ends: AtomicBool,
    /// What devices wrote and nobody has asked for yet, one for each slot.
    pending: Mutex<Vec<Bitmap>>,
}

#[derive(Debug)]
struct Slot {
    start: u64,
    pages: u64,
    /// For KVM to write to, kept from one reading to the next.
    buffer: Mutex<Vec<u64>>,
}

impl MachineLog {
    /// Switches the log on.
    ///
    /// # Errors
    /// Somebody who writes guest memory cannot log; all logs are off then.
    pub(super) fn start(
        vm: &Vm,
        ram: &Arc<GuestRam>,
        functions: Vec<Arc<VirtioPci>>,
    ) -> Result<Self, Cause> {
        let slots: Vec<_> = ram
            .iter()
            .map(|region| {
                let pages = region.len() / PAGE;
                let words = usize::try_from(pages.div_ceil(64)).unwrap_or(usize::MAX);
                Slot {
                    start: region.start_addr().raw_value(),
                    pages,
                    buffer: Mutex::new(vec![0; words]),
                }
            })
            .collect();
        let pending = slots.iter().map(|slot| Bitmap::new(slot.pages)).collect();
        // From here on, dropping it switches off whatever is on.
        let log = Self {
            vm: vm.clone(),
            ram: Arc::clone(ram),
            functions,
            slots,
            ends: AtomicBool::new(false),
            pending: Mutex::new(pending),
        };
        dirty::start(ram);
        for function in &log.functions {
            function.with_device(|device| device.start_dirty_log())?;
        }
        vm.log_dirty_pages(ram, true)?;
        Ok(log)
    }

    /// Takes over what devices wrote, and gives what belongs to `region`.
    fn add_devices(&self, region: usize, into: &mut Bitmap) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sink = |address: GuestAddress, mut bits: u64| {
            while bits != 0 {
                let page = address.0 / PAGE + u64::from(bits.trailing_zeros());
                bits &= bits - 1;
                let place = self.slots.iter().zip(pending.iter_mut());
                for (slot, pages) in place {
                    let first = slot.start / PAGE;
                    if (first..first + slot.pages).contains(&page) {
                        pages.add(page - first);
                    }
                }
            }
        };
        for function in &self.functions {
            function.with_device(|device| device.sync_dirty_log(&mut sink));
        }
        dirty::harvest(&self.ram, &mut sink);
        if let Some(pages) = pending.get_mut(region) {
            into.union(pages);
            pages.empty();
        }
    }

    /// Leaves the logs on: switching KVM's off takes milliseconds, and the machine
    /// that it is of goes away.
    pub(super) fn leave_on(&self) {
        self.ends.store(true, Ordering::Relaxed);
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
        drop(words);
        self.add_devices(region, into);
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
        if self.ends.load(Ordering::Relaxed) {
            return;
        }
        if let Err(error) = self.vm.log_dirty_pages(&self.ram, false) {
            tracing::warn!("The dirty log stays on: {error}");
        }
        for function in &self.functions {
            function.with_device(|device| device.stop_dirty_log());
        }
        dirty::stop(&self.ram);
    }
}

//! The PCI root: bus 0 with its 32 slots, and all ways into it.

mod ports;

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use serde::{Deserialize, Serialize};
use vm_memory::GuestAddress;

use super::bar::{self, Found, Width};
use super::bridge::HostBridge;
use super::config::{CONFIG_SIZE, RestoreConfigError};
use super::routes::{Routes, Target, place};
use super::{Bdf, PciFunction, ids};
use crate::bus::{Action, Bus, BusDevice, OverlapError};

use ports::Ports;

/// Slots of a bus, the host bridge's included.
const SLOTS: usize = 32;

/// Port of the configuration address register.
const PORTS: Range<u64> = 0xcf8..0xd00;

/// Bytes of an ECAM window with one bus (PCI Express Base 3.0, 7.2.2).
pub const ECAM_BUS_SIZE: u64 = 1 << 20;

/// Where in guest-physical memory PCI lives. Ends are exclusive; a window may
/// be empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Configuration space of bus 0: [`ECAM_BUS_SIZE`] bytes, aligned to that.
    pub ecam: u64,
    /// For base address registers, below 4 GiB.
    pub low: Range<u64>,
    /// For 64-bit base address registers, within what the guest's processor can
    /// address.
    pub high: Range<u64>,
}

/// A function could not be put behind the root.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The slot is the host bridge's, or there is no such slot.
    #[error("PCI slot {0} cannot be used: slots are 1 to 31")]
    NoSuchSlot(u8),
    /// Another function is there.
    #[error("PCI slot {0} is taken already")]
    SlotTaken(u8),
    /// All slots are taken.
    #[error("All 31 PCI slots are taken: remove a device")]
    Full,
    /// A base address register found no place.
    #[error(
        "No room for base address register {bar} of {size:#x} bytes in PCI windows {windows:x?}"
    )]
    NoRoom {
        /// Number of the register.
        bar: u8,
        /// Its size in bytes.
        size: u64,
        /// The windows that were tried.
        windows: Vec<Range<u64>>,
    },
}

struct Slot {
    function: Arc<dyn PciFunction>,
    bars: Vec<Found>,
}

#[derive(Default)]
struct Table {
    slots: [Option<Slot>; SLOTS],
    routes: Routes,
}

/// The root's own registers, first version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciRootV1 {
    /// The configuration address register, port 0xcf8.
    pub address: u32,
    /// The reset control register, port 0xcf9.
    pub reset: u8,
    /// Configuration space of the host bridge.
    pub bridge: Vec<u8>,
}

/// Bus 0 and the ways into it.
///
/// Functions may come and go while vCPUs run: the table has a lock of its own,
/// and each access holds the function itself, not the lock.
pub struct PciRoot {
    windows: Windows,
    bridge: Arc<HostBridge>,
    ports: Mutex<Ports>,
    table: RwLock<Table>,
}

impl fmt::Debug for PciRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PciRoot")
            .field("windows", &self.windows)
            .field("functions", &self.functions())
            .finish()
    }
}

impl PciRoot {
    /// A root with nothing behind it but the host bridge.
    #[must_use]
    pub fn new(windows: Windows) -> Arc<Self> {
        let bridge = Arc::new(HostBridge::new());
        let mut table = Table::default();
        table.slots[0] = Some(Slot {
            function: bridge.clone(),
            bars: Vec::new(),
        });
        Arc::new(Self {
            windows,
            bridge,
            ports: Mutex::default(),
            table: RwLock::new(table),
        })
    }

    /// Puts the root on the machine's buses: ports 0xcf8 to 0xcff (the reset
    /// control register 0xcf9 included), ECAM, and the windows.
    ///
    /// # Errors
    /// Something is there already.
    pub fn connect(
        self: &Arc<Self>,
        ports: &mut Bus,
        memory: &mut Bus,
    ) -> Result<(), OverlapError> {
        let door = |kind| {
            Arc::new(Door {
                root: Arc::clone(self),
                kind,
            })
        };
        ports.add(PORTS, door(Kind::Ports))?;
        let ecam = self.windows.ecam;
        memory.add(ecam..ecam.saturating_add(ECAM_BUS_SIZE), door(Kind::Ecam))?;
        for window in self.memory_windows() {
            if !window.is_empty() {
                memory.add(window.clone(), door(Kind::Window(window.start)))?;
            }
        }
        Ok(())
    }

    /// Where PCI lives.
    #[must_use]
    pub fn windows(&self) -> &Windows {
        &self.windows
    }

    /// Puts `function` into `slot`, or into the first free one, and places its
    /// base address registers in the windows, as firmware would: 64-bit ones
    /// high if there is room. Memory decoding stays off until the guest's driver
    /// switches it on.
    ///
    /// # Errors
    /// No such slot, no free slot, or no room in the windows.
    pub fn attach(
        &self,
        slot: Option<u8>,
        function: Arc<dyn PciFunction>,
    ) -> Result<Bdf, AttachError> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let bdf = table.free_slot(slot)?;
        let bars = bar::find(function.as_ref());
        let mut taken = table.taken();
        for found in &bars {
            let windows = match found.width {
                Width::Bits32 => vec![self.windows.low.clone()],
                Width::Bits64 => vec![self.windows.high.clone(), self.windows.low.clone()],
            };
            let address = windows
                .iter()
                .find_map(|window| place(window, found.size, &taken))
                .ok_or_else(|| AttachError::NoRoom {
                    bar: found.index,
                    size: found.size,
                    windows: windows.clone(),
                })?;
            found.place(function.as_ref(), address);
            taken.push(address..address.saturating_add(found.size));
        }
        table.fill(bdf, Slot { function, bars }, &self.windows);
        Ok(bdf)
    }

    /// Puts a restored function into the slot that it had: its base address
    /// registers stay as they are.
    ///
    /// # Errors
    /// No such slot, or it is taken.
    pub fn attach_restored(
        &self,
        slot: u8,
        function: Arc<dyn PciFunction>,
    ) -> Result<Bdf, AttachError> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let bdf = table.free_slot(Some(slot))?;
        let bars = bar::find(function.as_ref());
        table.fill(bdf, Slot { function, bars }, &self.windows);
        Ok(bdf)
    }

    /// Takes a function out of its slot: from now on nothing answers there, and
    /// its base address registers are free. An access that is under way on
    /// another thread may still end after this returned. The host bridge stays.
    pub fn detach(&self, bdf: Bdf) -> Option<Arc<dyn PciFunction>> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if bdf.device() == 0 || bdf.number() & 0xff07 != 0 {
            return None;
        }
        let slot = table.slots.get_mut(usize::from(bdf.device()))?.take()?;
        for found in &slot.bars {
            slot.function.bar_moved(found.index, None);
        }
        table.remap(&self.windows);
        Some(slot.function)
    }

    /// Takes over what functions were told by others than the guest: where the
    /// base address registers of restored functions point.
    pub fn refresh(&self) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        table.remap(&self.windows);
    }

    /// The root's own registers; those of the functions are saved with them.
    #[must_use]
    pub fn save(&self) -> PciRootV1 {
        let ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        PciRootV1 {
            address: ports.address(),
            reset: ports.reset(),
            bridge: self.bridge.save(),
        }
    }

    /// Takes over saved registers.
    ///
    /// # Errors
    /// The host bridge was another one; nothing changed.
    pub fn restore(&self, saved: &PciRootV1) -> Result<(), RestoreConfigError> {
        self.bridge.restore(&saved.bridge)?;
        let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        *ports = Ports::restored(saved.address, saved.reset);
        Ok(())
    }

    /// The functions behind the root, the host bridge first.
    #[must_use]
    pub fn functions(&self) -> Vec<(Bdf, Arc<dyn PciFunction>)> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let functions = (0..).zip(&table.slots).filter_map(|(number, slot)| {
            Some((
                Bdf::from_slot(number)?,
                Arc::clone(&slot.as_ref()?.function),
            ))
        });
        functions.collect()
    }

    fn memory_windows(&self) -> [Range<u64>; 2] {
        [self.windows.low.clone(), self.windows.high.clone()]
    }

    fn function(&self, bdf: Bdf) -> Option<Arc<dyn PciFunction>> {
        // Bus 0 only, single-function devices only.
        if bdf.number() & 0xff07 != 0 {
            return None;
        }
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let slot = table.slots.get(usize::from(bdf.device()))?.as_ref()?;
        Some(Arc::clone(&slot.function))
    }

    fn config_read(&self, bdf: Bdf, offset: u16, data: &mut [u8]) {
        match self.function(bdf) {
            Some(function) if within_config(offset, data) => function.config_read(offset, data),
            _ => data.fill(0xff),
        }
    }

    fn config_write(&self, bdf: Bdf, offset: u16, data: &[u8]) -> Action {
        let Some(function) = self.function(bdf).filter(|_| within_config(offset, data)) else {
            return Action::Continue;
        };
        let action = function.config_write(offset, data);
        // What may change which addresses are decoded.
        if offset < ids::BARS_END {
            let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
            table.remap(&self.windows);
        }
        action
    }

    fn find(&self, address: u64) -> Option<(Arc<dyn PciFunction>, u8, u64)> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let (target, offset) = table.routes.find(address)?;
        let slot = table.slots.get(usize::from(target.slot))?.as_ref()?;
        Some((Arc::clone(&slot.function), target.bar, offset))
    }
}

fn within_config(offset: u16, data: &[u8]) -> bool {
    usize::from(offset) + data.len() <= usize::from(CONFIG_SIZE)
}

impl Table {
    fn free_slot(&self, wanted: Option<u8>) -> Result<Bdf, AttachError> {
        let is_free = |slot: &u8| {
            let slot = self.slots.get(usize::from(*slot));
            slot.is_some_and(Option::is_none)
        };
        let slot = match wanted {
            None => (1..32).find(is_free).ok_or(AttachError::Full)?,
            Some(slot @ 1..32) if is_free(&slot) => slot,
            Some(slot @ 1..32) => return Err(AttachError::SlotTaken(slot)),
            Some(slot) => return Err(AttachError::NoSuchSlot(slot)),
        };
        Bdf::from_slot(slot).ok_or(AttachError::NoSuchSlot(slot))
    }

    /// Where base address registers point, decoded or not.
    fn taken(&self) -> Vec<Range<u64>> {
        let slots = self.slots.iter().flatten();
        let ranges = slots.flat_map(|slot| {
            let bars = slot.bars.iter();
            bars.map(|found| found.range(slot.function.as_ref()))
        });
        ranges.collect()
    }

    fn fill(&mut self, bdf: Bdf, slot: Slot, windows: &Windows) {
        if let Some(place) = self.slots.get_mut(usize::from(bdf.device())) {
            *place = Some(slot);
        }
        self.remap(windows);
    }

    /// Brings the routes in line with the registers, and tells the functions.
    fn remap(&mut self, windows: &Windows) {
        let mut wanted = Vec::new();
        for (number, slot) in (0..).zip(&self.slots) {
            let Some(slot) = slot else { continue };
            let function = slot.function.as_ref();
            if !slot.bars.is_empty() && bar::memory_enabled(function) {
                wanted.extend(slot.bars.iter().map(|found| {
                    let target = Target {
                        slot: number,
                        bar: found.index,
                    };
                    (found.range(function), target)
                }));
            }
        }
        let windows = [windows.low.clone(), windows.high.clone()];
        for change in self.routes.update(&windows, &wanted) {
            let slot = self.slots.get(usize::from(change.target.slot));
            if let Some(Some(slot)) = slot {
                let address = change.address.map(GuestAddress);
                slot.function.bar_moved(change.target.bar, address);
            }
        }
    }
}

enum Kind {
    Ports,
    Ecam,
    /// The window that starts at this address.
    Window(u64),
}

/// One way into the root, as the buses see it.
struct Door {
    root: Arc<PciRoot>,
    kind: Kind,
}

/// The function and the offset of an ECAM access: 4 KiB for each function.
fn ecam_target(offset: u64) -> Option<(Bdf, u16)> {
    let number = u16::try_from(offset >> 12).ok()?;
    Some((
        Bdf::from_number(number),
        u16::try_from(offset & 0xfff).ok()?,
    ))
}

impl BusDevice for Door {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let root = &self.root;
        let target = match self.kind {
            Kind::Ports => {
                let ports = root.ports.lock().unwrap_or_else(PoisonError::into_inner);
                if offset < 4 {
                    return ports.read(offset, data);
                }
                ports.target(offset)
            }
            Kind::Ecam => ecam_target(offset),
            Kind::Window(start) => {
                match start.checked_add(offset).and_then(|a| root.find(a)) {
                    Some((function, bar, offset)) => function.bar_read(bar, offset, data),
                    None => data.fill(0xff),
                }
                return;
            }
        };
        match target {
            Some((bdf, offset)) => root.config_read(bdf, offset, data),
            None => data.fill(0xff),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Action {
        let root = &self.root;
        let target = match self.kind {
            Kind::Ports => {
                let mut ports = root.ports.lock().unwrap_or_else(PoisonError::into_inner);
                if offset < 4 {
                    return ports.write(offset, data);
                }
                ports.target(offset)
            }
            Kind::Ecam => ecam_target(offset),
            Kind::Window(start) => {
                return match start.checked_add(offset).and_then(|a| root.find(a)) {
                    Some((function, bar, offset)) => function.bar_write(bar, offset, data),
                    None => Action::Continue,
                };
            }
        };
        match target {
            Some((bdf, offset)) => root.config_write(bdf, offset, data),
            None => Action::Continue,
        }
    }
}

#[cfg(test)]
mod tests;

//! Hot-plug of PCI functions by ACPI.
//!
//! ```text
//!  plug ----> root.attach, UP bit ----\                        /--> UP: Notify(slot, 1), "device check"
//!  request_unplug ----> DOWN bit -----+--> line --> GED, _EVT -+
//!                                                              \--> DOWN: Notify(slot, 3), "eject request"
//!  ejected, take_ejected <-- root.detach <-- EJECT register <-- _EJ0 of the slot
//! ```
//!
//! ACPI and not the native hot-plug of PCI Express: that needs a bridge for each
//! slot, and functions here sit on the root bus, where a guest finds them with
//! no bus in between. A hardware-reduced machine has no general-purpose events;
//! its Generic Event Device ([ACPI 6.5, 5.6.9]) runs a method on an interrupt.
//!
//! The registers hold what the guest has not noticed yet. Reading changes
//! nothing, so that an interrupt too many does no harm, and after a move the
//! line is raised again for what was pending. There is one bit for each slot.
//!
//! | offset | register | read | write |
//! |---|---|---|---|
//! | 0 | UP | a function came | ones clear |
//! | 4 | DOWN | the function is asked to leave | ones clear |
//! | 8 | EJECT | 0 | the guest let go of the slot |
//!
//! Each is 32 bits wide and little-endian; other accesses read as ones and are
//! ignored.
//!
//! [ACPI 6.5, 5.6.9]: https://uefi.org/specs/ACPI/6.5/05_ACPI_Software_Programming_Model.html

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::bus::{Action, BusDevice};
use crate::irq::IrqLine;
use crate::pci::{AttachError, Bdf, PciFunction, PciRoot};

/// Offset of the register of slots with a function that came.
pub const UP: u64 = 0;
/// Offset of the register of slots whose function is asked to leave.
pub const DOWN: u64 = 4;
/// Offset of the register by which the guest lets go of slots.
pub const EJECT: u64 = 8;

/// The registers, first version. Functions are saved by themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HotPlugV1 {
    /// Slots with a function that the guest has not noticed.
    pub up: u32,
    /// Slots whose function is to leave, which the guest has not noticed.
    pub down: u32,
}

/// A function cannot be asked to leave.
#[derive(Debug, thiserror::Error)]
pub enum UnplugError {
    /// The host bridge, or no slot of bus 0.
    #[error("There is no PCI slot at {0} that a function could leave")]
    NoSlot(Bdf),
    /// Nothing is there.
    #[error("There is no function in PCI slot {0}")]
    Empty(u8),
}

#[derive(Debug, Default)]
struct State {
    registers: HotPlugV1,
    ejected: Vec<(Bdf, Arc<dyn PciFunction>)>,
}

/// The hot-plug controller of one PCI root.
#[derive(Debug)]
pub struct HotPlug {
    root: Arc<PciRoot>,
    line: Arc<dyn IrqLine>,
    ejected: EventFd,
    state: Mutex<State>,
}

impl HotPlug {
    /// Bytes that the registers take.
    pub const SIZE: u64 = 16;

    /// A controller that interrupts by `line`, the Generic Event Device's.
    ///
    /// # Errors
    /// No more descriptors.
    pub fn new(root: Arc<PciRoot>, line: Arc<dyn IrqLine>) -> io::Result<Self> {
        Ok(Self {
            root,
            line,
            ejected: EventFd::new(EFD_NONBLOCK)?,
            state: Mutex::default(),
        })
    }

    /// Puts `function` into `slot`, or the first free one, and tells the guest.
    ///
    /// # Errors
    /// As [`PciRoot::attach`].
    pub fn plug(
        &self,
        slot: Option<u8>,
        function: Arc<dyn PciFunction>,
    ) -> Result<Bdf, AttachError> {
        let bdf = {
            // Under the lock: an ejection of the slot's last function must not
            // come between and take this one.
            let mut state = self.lock();
            let bdf = self.root.attach(slot, function)?;
            state.registers.up |= bit(bdf);
            state.registers.down &= !bit(bdf);
            bdf
        };
        self.interrupt();
        Ok(bdf)
    }

    /// Asks the guest to let go of a function; it may refuse, or take its time.
    /// Asking again is no harm.
    ///
    /// # Errors
    /// No function is there.
    pub fn request_unplug(&self, bdf: Bdf) -> Result<(), UnplugError> {
        if bdf.number() & 0xff07 != 0 || bdf.device() == 0 {
            return Err(UnplugError::NoSlot(bdf));
        }
        if self.present() & bit(bdf) == 0 {
            return Err(UnplugError::Empty(bdf.device()));
        }
        self.lock().registers.down |= bit(bdf);
        self.interrupt();
        Ok(())
    }

    /// Signalled when the guest has let go of functions.
    #[must_use]
    pub fn ejected(&self) -> &EventFd {
        &self.ejected
    }

    /// The functions that the guest has let go of since the last call. They are
    /// out of their slots already; who drops them ends their devices.
    pub fn take_ejected(&self) -> Vec<(Bdf, Arc<dyn PciFunction>)> {
        let _ = self.ejected.read();
        std::mem::take(&mut self.lock().ejected)
    }

    /// The registers, to be saved.
    #[must_use]
    pub fn save(&self) -> HotPlugV1 {
        self.lock().registers
    }

    /// Takes over saved registers, as far as they are about functions that are
    /// attached: those come first. What is pending interrupts again.
    pub fn restore(&self, saved: HotPlugV1) {
        let present = self.present();
        let pending = HotPlugV1 {
            up: saved.up & present,
            down: saved.down & present,
        };
        self.lock().registers = pending;
        if pending != HotPlugV1::default() {
            self.interrupt();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Slots with a function, but the host bridge's.
    fn present(&self) -> u32 {
        let functions = self.root.functions();
        let bits = functions.iter().map(|(bdf, _)| bit(*bdf));
        bits.fold(0, |all, bit| all | bit) & !1
    }

    fn eject(&self, slots: u32) {
        let mut state = self.lock();
        state.registers.up &= !slots;
        state.registers.down &= !slots;
        let bdfs = (1..32).filter(|slot| slots >> slot & 1 == 1);
        for bdf in bdfs.filter_map(Bdf::from_slot) {
            if let Some(function) = self.root.detach(bdf) {
                state.ejected.push((bdf, function));
            }
        }
        let any = !state.ejected.is_empty();
        drop(state);
        if any && let Err(error) = self.ejected.write(1) {
            tracing::error!("Could not tell that a PCI function was ejected: {error}");
        }
    }

    fn interrupt(&self) {
        if let Err(error) = self.line.trigger() {
            tracing::error!("Could not raise the interrupt of PCI hot-plug: {error}");
        }
    }
}

fn bit(bdf: Bdf) -> u32 {
    1 << bdf.device()
}

impl BusDevice for HotPlug {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let registers = self.lock().registers;
        match (offset, data) {
            (UP, data) if data.len() == 4 => data.copy_from_slice(&registers.up.to_le_bytes()),
            (DOWN, data) if data.len() == 4 => data.copy_from_slice(&registers.down.to_le_bytes()),
            (EJECT, data) if data.len() == 4 => data.fill(0),
            (_, data) => data.fill(0xff),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Action {
        let Ok(value) = data.try_into().map(u32::from_le_bytes) else {
            return Action::Continue;
        };
        match offset {
            UP => self.lock().registers.up &= !value,
            DOWN => self.lock().registers.down &= !value,
            EJECT => self.eject(value),
            _ => {}
        }
        Action::Continue
    }
}

#[cfg(test)]
mod tests;

//! Address ranges and the devices behind them.
//!
//! A [`Bus`] is built once and never changes while the machine lives, so that a
//! vCPU looks a device up without a lock. What moves at run time (PCI base
//! address registers) moves behind one fixed range, inside [`crate::pci`].

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// What a device asks of the machine when the guest wrote to it.
///
/// A device holds no pointer upward: it says what is to happen, and the loop
/// that called it acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Action {
    /// Nothing: the guest goes on.
    Continue,
    /// The guest switched itself off (ACPI S5).
    PowerOff,
    /// The guest asked for a reset (ACPI reset register, i8042, port 0xcf9).
    Reset,
}

/// A device on a bus: it sees offsets into its own range, never addresses.
///
/// Accesses of any length (1 to 8 bytes) and any alignment reach the device;
/// what its specification does not define reads as all ones and is ignored
/// when written, it never panics.
pub trait BusDevice: Send + Sync {
    /// Fills `data` with what the guest reads at `offset`.
    fn read(&self, offset: u64, data: &mut [u8]);

    /// Takes what the guest wrote at `offset`.
    fn write(&self, offset: u64, data: &[u8]) -> Action;
}

/// Two devices claim the same addresses.
#[derive(Debug, thiserror::Error)]
#[error("Address range {new:#x?} overlaps {old:#x?}, which is taken already")]
pub struct OverlapError {
    /// The range that was to be added.
    pub new: Range<u64>,
    /// The range that stands in its way.
    pub old: Range<u64>,
}

struct Entry {
    range: Range<u64>,
    device: Arc<dyn BusDevice>,
}

/// A sorted table from address ranges to devices: one for port I/O, one for
/// memory-mapped I/O.
#[derive(Default)]
pub struct Bus {
    entries: Vec<Entry>,
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.entries.iter().map(|e| &e.range))
            .finish()
    }
}

impl Bus {
    /// An empty bus.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts `device` behind `range`.
    ///
    /// # Errors
    /// The range overlaps one that is taken already.
    pub fn add(
        &mut self,
        range: Range<u64>,
        device: Arc<dyn BusDevice>,
    ) -> Result<(), OverlapError> {
        let at = self
            .entries
            .partition_point(|e| e.range.start < range.start);
        let before = at.checked_sub(1).and_then(|i| self.entries.get(i));
        let clash = before
            .filter(|e| e.range.end > range.start)
            .or_else(|| self.entries.get(at).filter(|e| e.range.start < range.end));
        if let Some(old) = clash {
            return Err(OverlapError {
                old: old.range.clone(),
                new: range,
            });
        }
        self.entries.insert(at, Entry { range, device });
        Ok(())
    }

    fn find(&self, address: u64) -> Option<(&dyn BusDevice, u64)> {
        let at = self.entries.partition_point(|e| e.range.start <= address);
        let entry = self.entries.get(at.checked_sub(1)?)?;
        entry
            .range
            .contains(&address)
            .then(|| (entry.device.as_ref(), address - entry.range.start))
    }

    /// Reads at `address`; where nothing answers, all bits are one.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        match self.find(address) {
            Some((device, offset)) => device.read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// Writes at `address`; where nothing answers, nothing happens.
    pub fn write(&self, address: u64, data: &[u8]) -> Action {
        match self.find(address) {
            Some((device, offset)) => device.write(offset, data),
            None => Action::Continue,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo(u8);

    impl BusDevice for Echo {
        fn read(&self, offset: u64, data: &mut [u8]) {
            data.fill(self.0 + u8::try_from(offset).unwrap());
        }
        fn write(&self, _: u64, _: &[u8]) -> Action {
            Action::Reset
        }
    }

    #[test]
    fn an_access_reaches_the_device_with_its_offset() {
        let mut bus = Bus::new();
        bus.add(0x20..0x30, Arc::new(Echo(10))).unwrap();
        bus.add(0x10..0x18, Arc::new(Echo(20))).unwrap();
        let mut byte = [0];
        bus.read(0x22, &mut byte);
        assert_eq!(byte, [12]);
        bus.read(0x17, &mut byte);
        assert_eq!(byte, [27]);
        bus.read(0x18, &mut byte);
        assert_eq!(byte, [0xff], "nobody answers between the two");
        assert_eq!(bus.write(0x2f, &[0]), Action::Reset);
        assert_eq!(bus.write(0x30, &[0]), Action::Continue);
    }

    #[test]
    fn overlaps_are_refused_from_both_sides() {
        let mut bus = Bus::new();
        bus.add(0x20..0x30, Arc::new(Echo(0))).unwrap();
        for range in [0x1f..0x21, 0x2f..0x31, 0x20..0x30, 0x24..0x25, 0x10..0x40] {
            assert!(bus.add(range, Arc::new(Echo(0))).is_err());
        }
        bus.add(0x30..0x31, Arc::new(Echo(0))).unwrap();
        bus.add(0x1f..0x20, Arc::new(Echo(0))).unwrap();
    }
}

//! Configuration space with a type 0 header (PCI Local Bus 3.0, 6.1).
//!
//! Each byte has a mask of the bits that a guest may change. Base address
//! registers need nothing else: their low bits are fixed, so all ones read back
//! as the size (6.2.5.1).

use super::bar::Bar;
use super::ids;

/// Bytes of configuration space, extended space included.
pub const CONFIG_SIZE: u16 = 4096;

/// Bytes that hold anything: header and capability list. Extended space (PCI
/// Express) is behind them, and reads as zero: no extended capability.
const USED: u16 = 256;

/// What a function says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Revision id.
    pub revision: u8,
    /// Class, subclass and programming interface: 24 bits.
    pub class: u32,
    /// Subsystem vendor id.
    pub subsystem_vendor: u16,
    /// Subsystem id.
    pub subsystem: u16,
}

/// The capability does not fit into the 192 bytes that the list has.
#[derive(Debug, thiserror::Error)]
#[error("PCI capability {id:#04x} of {size} bytes does not fit behind offset {next:#x}")]
pub struct CapabilityError {
    /// The capability's id.
    pub id: u8,
    /// Its size in bytes, id and next pointer included.
    pub size: usize,
    /// Where it would have to start.
    pub next: u16,
}

/// A saved configuration space is not one of this function.
#[derive(Debug, thiserror::Error)]
pub enum RestoreConfigError {
    /// The wrong number of bytes.
    #[error("Saved PCI configuration space has {0} bytes, not {USED}")]
    Size(usize),
    /// A byte that no guest can change differs.
    #[error(
        "Saved PCI configuration space has {saved:#04x} at offset {offset:#x}, this function \
         {here:#04x}: it was saved by another kind of device"
    )]
    Differs {
        /// Where they differ first.
        offset: usize,
        /// The saved byte.
        saved: u8,
        /// The byte here.
        here: u8,
    },
}

/// The configuration space of one function.
#[derive(Debug)]
pub struct ConfigSpace {
    bytes: Vec<u8>,
    writable: Vec<u8>,
    bars: Vec<Bar>,
    next_capability: u16,
    last_capability: Option<u16>,
}

impl ConfigSpace {
    /// A header without base address registers and capabilities. The guest may
    /// write the command register's memory, bus master and INTx disable bits,
    /// and the interrupt line.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        let mut space = Self {
            bytes: vec![0; usize::from(USED)],
            writable: vec![0; usize::from(USED)],
            bars: Vec::new(),
            next_capability: 0x40,
            last_capability: None,
        };
        let class = identity.class << 8 | u32::from(identity.revision);
        space.set(ids::VENDOR_ID, &identity.vendor.to_le_bytes());
        space.set(ids::VENDOR_ID + 2, &identity.device.to_le_bytes());
        space.set(ids::REVISION_ID, &class.to_le_bytes());
        space.set(
            ids::SUBSYSTEM_VENDOR_ID,
            &identity.subsystem_vendor.to_le_bytes(),
        );
        space.set(
            ids::SUBSYSTEM_VENDOR_ID + 2,
            &identity.subsystem.to_le_bytes(),
        );
        let command = ids::COMMAND_MEMORY | ids::COMMAND_BUS_MASTER | ids::COMMAND_INTX_DISABLE;
        space.allow(ids::COMMAND, &command.to_le_bytes());
        space.allow(ids::INTERRUPT_LINE, &[0xff]);
        space
    }

    /// Adds a base address register, at address 0.
    pub fn add_bar(&mut self, bar: Bar) {
        let [low, high] = bar.fixed_bits();
        let [low_mask, high_mask] = bar.writable_bits();
        self.set(bar.register(), &low.to_le_bytes());
        self.allow(bar.register(), &low_mask.to_le_bytes());
        if bar.is_64bit() {
            self.set(bar.register() + 4, &high.to_le_bytes());
            self.allow(bar.register() + 4, &high_mask.to_le_bytes());
        }
        self.bars.push(bar);
    }

    /// Appends a capability to the list: `body` is what follows its id and next
    /// pointer, `writable` the bits of it that a guest may change (missing
    /// bytes: none). Answers the capability's offset.
    ///
    /// # Errors
    /// The list is full.
    pub fn add_capability(
        &mut self,
        id: u8,
        body: &[u8],
        writable: &[u8],
    ) -> Result<u16, CapabilityError> {
        let at = self.next_capability;
        let size = body.len().saturating_add(2);
        let end = usize::from(at).saturating_add(size);
        let full = || CapabilityError { id, size, next: at };
        let pointer = u8::try_from(at).map_err(|_| full())?;
        // Capabilities are aligned to four bytes (6.7).
        let next = u16::try_from(end.next_multiple_of(4)).map_err(|_| full())?;
        if next > USED {
            return Err(full());
        }
        self.set(at, &[id, 0]);
        self.set(at + 2, body);
        self.allow(at + 2, writable.get(..body.len()).unwrap_or(writable));
        match self.last_capability {
            Some(last) => self.set(last + 1, &[pointer]),
            None => {
                self.set(ids::CAPABILITIES, &[pointer]);
                self.set(ids::STATUS, &ids::STATUS_CAPABILITIES.to_le_bytes());
            }
        }
        self.last_capability = Some(at);
        self.next_capability = next;
        Ok(at)
    }

    /// Fills `data` from `offset`; beyond header and capabilities, zeros.
    pub fn read(&self, offset: u16, data: &mut [u8]) {
        data.fill(0);
        let stored = self.bytes.iter().skip(usize::from(offset));
        stored.zip(data).for_each(|(byte, to)| *to = *byte);
    }

    /// Changes the bits that a guest may change.
    pub fn write(&mut self, offset: u16, data: &[u8]) {
        let slots = self.bytes.iter_mut().zip(&self.writable);
        for ((byte, mask), new) in slots.skip(usize::from(offset)).zip(data) {
            *byte = *byte & !mask | new & mask;
        }
    }

    /// Sets bytes whatever their mask: for the function itself.
    pub fn set(&mut self, offset: u16, data: &[u8]) {
        let slots = self.bytes.iter_mut().skip(usize::from(offset));
        slots.zip(data).for_each(|(byte, new)| *byte = *new);
    }

    fn allow(&mut self, offset: u16, mask: &[u8]) {
        let slots = self.writable.iter_mut().skip(usize::from(offset));
        slots.zip(mask).for_each(|(byte, new)| *byte = *new);
    }

    /// The command register.
    #[must_use]
    pub fn command(&self) -> u16 {
        u16::from_le_bytes(self.array(ids::COMMAND))
    }

    /// The `N` bytes at `offset`; beyond header and capabilities, zeros.
    #[must_use]
    pub fn array<const N: usize>(&self, offset: u16) -> [u8; N] {
        let mut data = [0; N];
        self.read(offset, &mut data);
        data
    }

    /// Header and capabilities, to be saved.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Takes over saved bytes: bits that a guest may change are taken, all
    /// others have to be as they are here.
    ///
    /// # Errors
    /// The bytes are those of another function; nothing changed.
    pub fn restore(&mut self, saved: &[u8]) -> Result<(), RestoreConfigError> {
        if saved.len() != self.bytes.len() {
            return Err(RestoreConfigError::Size(saved.len()));
        }
        let both = self.bytes.iter().zip(saved).zip(&self.writable);
        for (offset, ((&here, &saved), mask)) in both.enumerate() {
            if (here ^ saved) & !mask != 0 {
                return Err(RestoreConfigError::Differs {
                    offset,
                    saved,
                    here,
                });
            }
        }
        self.bytes.copy_from_slice(saved);
        Ok(())
    }
}

#[cfg(test)]
mod tests;

//! MSI-X: the vector table, the pending bits and message control
//! (PCI Local Bus 3.0, 6.8.2).
//!
//! A vector is *live* while MSI-X is enabled, the function is not masked and
//! the vector's own mask bit is clear. Only the change of that, or of the
//! message of a live vector, reaches the hypervisor.

use std::sync::Arc;

use super::ConfigSpace;
use super::config::CapabilityError;
use super::ids;
use crate::irq::{MsiMessage, MsiVectors};

/// Bytes of a table entry: address, data, vector control (6.8.2.6 to 6.8.2.9).
pub const ENTRY_SIZE: u64 = 16;

/// Most vectors a function can have (6.8.2.3).
pub const MAX_VECTORS: u16 = 2048;

const CONTROL_FUNCTION_MASK: u16 = 1 << 14;
const CONTROL_ENABLE: u16 = 1 << 15;
const VECTOR_MASKED: u32 = 1;

/// Where table and pending bits lie: a register number and an offset that is
/// aligned to 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Base address register, 0 to 5.
    pub bar: u8,
    /// Offset from its start in bytes.
    pub offset: u32,
}

impl Place {
    fn register(self) -> [u8; 4] {
        (self.offset & !7 | u32::from(self.bar & 7)).to_le_bytes()
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    message: MsiMessage,
    masked: bool,
    live: Option<MsiMessage>,
}

/// A saved vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct VectorV1 {
    /// Message address.
    pub address: u64,
    /// Message data.
    pub data: u32,
    /// The vector's own mask bit.
    pub masked: bool,
    /// A signal was waiting for the vector to become live.
    pub pending: bool,
}

/// The MSI-X structures of one function.
#[derive(Debug)]
pub struct Msix {
    vectors: Arc<dyn MsiVectors>,
    entries: Vec<Entry>,
    control_at: u16,
    enabled: bool,
    function_masked: bool,
}

impl Msix {
    /// Adds the capability to `config`; all vectors are masked and MSI-X is
    /// disabled. Vectors above [`MAX_VECTORS`] are not used.
    ///
    /// # Errors
    /// The capability list is full.
    pub fn new(
        vectors: Arc<dyn MsiVectors>,
        config: &mut ConfigSpace,
        table: Place,
        pending: Place,
    ) -> Result<Self, CapabilityError> {
        let count = vectors.count().clamp(1, MAX_VECTORS);
        let mut body = [0; 10];
        body[..2].copy_from_slice(&(count - 1).to_le_bytes());
        body[2..6].copy_from_slice(&table.register());
        body[6..].copy_from_slice(&pending.register());
        let writable = (CONTROL_ENABLE | CONTROL_FUNCTION_MASK).to_le_bytes();
        let at = config.add_capability(ids::CAPABILITY_MSIX, &body, &writable)?;
        let entry = Entry {
            message: MsiMessage::default(),
            masked: true,
            live: None,
        };
        Ok(Self {
            entries: vec![entry; usize::from(vectors.count().min(MAX_VECTORS))],
            vectors,
            control_at: at + 2,
            enabled: false,
            function_masked: false,
        })
    }

    /// The vectors behind the table.
    #[must_use]
    pub fn vectors(&self) -> &Arc<dyn MsiVectors> {
        &self.vectors
    }

    /// Takes over message control from the configuration space: to be called
    /// after each write to it.
    pub fn config_written(&mut self, config: &ConfigSpace) {
        let control = u16::from_le_bytes(config.array(self.control_at));
        let enabled = control & CONTROL_ENABLE != 0;
        let function_masked = control & CONTROL_FUNCTION_MASK != 0;
        if (enabled, function_masked) != (self.enabled, self.function_masked) {
            (self.enabled, self.function_masked) = (enabled, function_masked);
            self.update(0..self.entries.len());
        }
    }

    /// Fills `data` from the table at `offset`; beyond its end, zeros.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        for (at, byte) in (offset..=u64::MAX).zip(data) {
            let entry = index(at / ENTRY_SIZE).and_then(|i| self.entries.get(i));
            *byte = entry
                .zip(index(at % ENTRY_SIZE))
                .and_then(|(entry, at)| entry.bytes().get(at).copied())
                .unwrap_or(0);
        }
    }

    /// Takes a write to the table. Software writes naturally aligned 32 or 64
    /// bits; all else is undefined (6.8.2) and ignored here.
    pub fn write_table(&mut self, offset: u64, data: &[u8]) {
        let length = data.len() as u64;
        if !(length == 4 || length == 8) || !offset.is_multiple_of(length) {
            return;
        }
        let Some(at) = index(offset / ENTRY_SIZE) else {
            return;
        };
        let Some(entry) = self.entries.get_mut(at) else {
            return;
        };
        let mut bytes = entry.bytes();
        let fields = bytes
            .iter_mut()
            .skip(index(offset % ENTRY_SIZE).unwrap_or(0));
        fields.zip(data).for_each(|(byte, new)| *byte = *new);
        entry.take(&bytes);
        self.update(at..at + 1);
    }

    /// Fills `data` from the pending bits at `offset` (6.8.2.10); beyond their
    /// end, zeros.
    pub fn read_pending(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        for (at, byte) in (offset..=u64::MAX).zip(data) {
            *byte = (0..8).fold(0, |bits, bit| {
                let vector = at.checked_mul(8).and_then(|v| u16::try_from(v + bit).ok());
                bits | u8::from(vector.is_some_and(|v| self.is_pending(v))) << bit
            });
        }
    }

    fn is_pending(&self, vector: u16) -> bool {
        let entry = self.entries.get(usize::from(vector));
        entry.is_some_and(|e| e.live.is_none()) && self.vectors.is_pending(vector)
    }

    /// Brings the hypervisor in line with the table: what becomes live in one
    /// batch, since each change of a route may cost a whole table of them.
    fn update(&mut self, range: std::ops::Range<usize>) {
        let open = self.enabled && !self.function_masked;
        let mut routes = Vec::new();
        for (vector, entry) in (0..).zip(&mut self.entries) {
            if !range.contains(&usize::from(vector)) {
                continue;
            }
            let wanted = (open && !entry.masked).then_some(entry.message);
            if wanted == entry.live {
                continue;
            }
            match wanted {
                Some(message) => routes.push((vector, message)),
                None => match self.vectors.disable(vector) {
                    Ok(()) => entry.live = None,
                    Err(error) => {
                        tracing::error!("Could not hold MSI-X vector {vector} back: {error}");
                    }
                },
            }
        }
        if routes.is_empty() {
            return;
        }
        match self.vectors.enable_many(&routes) {
            Ok(()) => {
                for (vector, message) in routes {
                    if let Some(entry) = self.entries.get_mut(usize::from(vector)) {
                        entry.live = Some(message);
                    }
                }
            }
            // The guest's next write to an entry tries again.
            Err(error) => {
                tracing::error!("Could not route MSI-X vectors to {routes:x?}: {error}");
            }
        }
    }

    /// All vectors, to be saved.
    #[must_use]
    pub fn save(&self) -> Vec<VectorV1> {
        let save = |(vector, entry): (u16, &Entry)| VectorV1 {
            address: entry.message.address,
            data: entry.message.data,
            masked: entry.masked,
            pending: self.is_pending(vector),
        };
        (0..).zip(&self.entries).map(save).collect()
    }

    /// Takes over saved vectors, and message control from the restored
    /// `config`. Pending vectors are signalled again. `false` when the number
    /// of vectors differs; nothing changed then.
    #[must_use]
    pub fn restore(&mut self, saved: &[VectorV1], config: &ConfigSpace) -> bool {
        if saved.len() != self.entries.len() {
            return false;
        }
        for ((vector, entry), saved) in (0..).zip(&mut self.entries).zip(saved) {
            // Bits 1 and 0 of the address are zero (6.8.2.9).
            entry.message.address = saved.address & !3;
            entry.message.data = saved.data;
            entry.masked = saved.masked;
            if saved.pending
                && let Some(fd) = self.vectors.eventfd(vector)
                && let Err(error) = fd.write(1)
            {
                tracing::error!("Could not signal MSI-X vector {vector} again: {error}");
            }
        }
        self.config_written(config);
        true
    }
}

impl Entry {
    fn bytes(&self) -> [u8; 16] {
        let control = u128::from(u32::from(self.masked));
        let data = u128::from(self.message.data);
        (control << 96 | data << 64 | u128::from(self.message.address)).to_le_bytes()
    }

    fn take(&mut self, bytes: &[u8; 16]) {
        let all = u128::from_le_bytes(*bytes);
        // Each field is cut out of the 128 bits.
        #[allow(clippy::cast_possible_truncation)]
        {
            // Bits 1 and 0 of the address are zero (6.8.2.9).
            self.message.address = all as u64 & !3;
            self.message.data = (all >> 64) as u32;
            self.masked = (all >> 96) as u32 & VECTOR_MASKED != 0;
        }
    }
}

fn index(offset: u64) -> Option<usize> {
    usize::try_from(offset).ok()
}

#[cfg(test)]
mod tests;

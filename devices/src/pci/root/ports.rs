//! Ports 0xcf8 to 0xcff: another way into configuration space, and the reset control register.

use crate::bus::Action;
use crate::pci::Bdf;

const ADDRESS_ENABLE: u32 = 1 << 31;
/// Bits 30 to 24 and 1 to 0 are reserved and read as zero.
const ADDRESS_BITS: u32 = 0x80ff_fffc;
/// Bits of the reset control register that read back: the kind of the reset,
/// and the reset itself, which happens as it goes from 0 to 1.
const RESET_KIND: u8 = 0x0a;
const RESET_CPU: u8 = 0x04;

/// The host bridge's port registers.
#[derive(Default)]
pub(super) struct Ports {
    /// The configuration address register (PCI Local Bus 3.0, 3.2.2.3.2).
    address: u32,
    /// The reset control register, a byte within it (Intel chipsets, port 0xcf9).
    reset: u8,
}

impl Ports {
    /// As they were saved; reserved bits stay zero.
    pub(super) fn restored(address: u32, reset: u8) -> Self {
        Self {
            address: address & ADDRESS_BITS,
            reset: reset & (RESET_KIND | RESET_CPU),
        }
    }

    pub(super) fn address(&self) -> u32 {
        self.address
    }

    pub(super) fn reset(&self) -> u8 {
        self.reset
    }

    /// The function and the offset that a data port access at `port` (4 to 7
    /// from the window's start) leads to.
    pub(super) fn target(&self, port: u64) -> Option<(Bdf, u16)> {
        let number = u16::try_from(self.address >> 8 & 0xffff).ok()?;
        let low = u16::try_from(u64::from(self.address & 0xfc) + (port & 3)).ok()?;
        (self.address & ADDRESS_ENABLE != 0).then(|| (Bdf::from_number(number), low))
    }

    /// Ports 0xcf8 to 0xcfb: the address register answers 32-bit accesses only;
    /// a byte at 0xcf9 is the reset control register.
    pub(super) fn read(&self, port: u64, data: &mut [u8]) {
        match (port, data) {
            (0, data) if data.len() == 4 => data.copy_from_slice(&self.address.to_le_bytes()),
            (1, [byte]) => *byte = self.reset,
            (_, data) => data.fill(0xff),
        }
    }

    pub(super) fn write(&mut self, port: u64, data: &[u8]) -> Action {
        match (port, data) {
            (0, &[a, b, c, d]) => {
                self.address = u32::from_le_bytes([a, b, c, d]) & ADDRESS_BITS;
                Action::Continue
            }
            (1, &[byte]) => {
                let rises = byte & !self.reset & RESET_CPU != 0;
                self.reset = byte & (RESET_KIND | RESET_CPU);
                if rises {
                    Action::Reset
                } else {
                    Action::Continue
                }
            }
            _ => Action::Continue,
        }
    }
}

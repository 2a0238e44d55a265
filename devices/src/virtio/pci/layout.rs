//! What lies where in the one memory BAR, and the capabilities that say so
//! (virtio 1.2, 4.1.4).
//!
//! Every part has pages of its own: a driver may map a part without the others,
//! and VFIO in the guest hides the page of the MSI-X table.

use std::ops::Range;

use crate::pci::bar::{Bar, Width};
use crate::pci::config::CapabilityError;
use crate::pci::msix::Place;
use crate::pci::{ConfigSpace, ids};

use super::CreateError;

/// Number of the BAR, which is 64 bits wide.
pub const BAR: u8 = 0;
/// Its size in bytes.
pub const BAR_SIZE: u32 = 0x8000;

/// Most queues: with one vector more, the MSI-X table fills its page.
pub const MAX_QUEUES: usize = 255;

/// Distance between the doorbells of two queues in bytes.
pub const NOTIFY_MULTIPLIER: u32 = 4;
/// Where the doorbell of queue 0 is.
pub const NOTIFY: u32 = 0x3000;

const PAGE: u32 = 0x1000;
const MSIX_TABLE: u32 = 0x4000;
const MSIX_PENDING: u32 = 0x5000;

/// A part of the BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Common,
    Isr,
    Device,
    Notify,
    MsixTable,
    MsixPending,
}

const PARTS: [(u32, Part); 6] = [
    (0x0000, Part::Common),
    (0x1000, Part::Isr),
    (0x2000, Part::Device),
    (NOTIFY, Part::Notify),
    (MSIX_TABLE, Part::MsixTable),
    (MSIX_PENDING, Part::MsixPending),
];

/// Types of capabilities (4.1.4): what, where, how long.
const CAPABILITIES: [(u8, u32, u32); 3] = [
    (1, 0x0000, super::common::SIZE),
    (3, 0x1000, 1),
    (4, 0x2000, PAGE),
];
const TYPE_NOTIFY: u8 = 2;
const TYPE_WINDOW: u8 = 5;

/// The part at `offset`, and the offset into it.
pub fn find(offset: u64) -> Option<(Part, u64)> {
    let part = |&(start, part): &(u32, Part)| {
        let into = offset.checked_sub(u64::from(start))?;
        (into < u64::from(PAGE)).then_some((part, into))
    };
    PARTS.iter().find_map(part)
}

/// Where table and pending bits of MSI-X lie.
pub const fn msix() -> (Place, Place) {
    let table = Place {
        bar: BAR,
        offset: MSIX_TABLE,
    };
    let pending = Place {
        bar: BAR,
        offset: MSIX_PENDING,
    };
    (table, pending)
}

/// The capability's bytes after its id and next pointer.
fn body(kind: u8, offset: u32, length: u32, more: &[u8]) -> Vec<u8> {
    // 16 bytes, and the few that follow.
    let size = u8::try_from(16 + more.len()).unwrap_or(u8::MAX);
    let mut body = vec![size, kind, BAR, 0, 0, 0];
    body.extend(offset.to_le_bytes());
    body.extend(length.to_le_bytes());
    body.extend(more);
    body
}

/// Adds BAR and capabilities to `config`.
pub fn declare(config: &mut ConfigSpace, queues: usize) -> Result<Window, CreateError> {
    config.add_bar(Bar::new(BAR, u64::from(BAR_SIZE), Width::Bits64)?);
    let mut add = |body: &[u8], writable: &[u8]| -> Result<u16, CapabilityError> {
        config.add_capability(ids::CAPABILITY_VENDOR, body, writable)
    };
    for (kind, offset, length) in CAPABILITIES {
        add(&body(kind, offset, length, &[]), &[])?;
    }
    let doorbells = u32::try_from(queues)
        .unwrap_or(1)
        .saturating_mul(NOTIFY_MULTIPLIER);
    let multiplier = NOTIFY_MULTIPLIER.to_le_bytes();
    add(&body(TYPE_NOTIFY, NOTIFY, doorbells, &multiplier), &[])?;
    // The driver chooses BAR, offset and length of its window.
    let mut writable = [0; 14];
    writable[2] = 0xff;
    writable[6..].fill(0xff);
    let at = add(&body(TYPE_WINDOW, 0, 0, &[0; 4]), &writable)?;
    Ok(Window { at })
}

/// The window in configuration space through which a driver reaches the BAR
/// without decoding it (4.1.4.9).
#[derive(Debug)]
pub struct Window {
    at: u16,
}

impl Window {
    /// The bytes in configuration space that are the window.
    pub fn range(&self) -> Range<u16> {
        self.at + 16..self.at + 20
    }

    /// Where in the BAR an access of `length` bytes at `offset` of the
    /// configuration space leads; `None` when it is not one to the window, or
    /// the driver did not set it up as 4.1.4.9.2 asks.
    pub fn target(&self, config: &ConfigSpace, offset: u16, length: usize) -> Option<u64> {
        if offset != self.range().start {
            return None;
        }
        let [bar] = config.array(self.at + 4);
        let to = u32::from_le_bytes(config.array(self.at + 8));
        let set = u32::from_le_bytes(config.array(self.at + 12));
        let fits = bar == BAR
            && matches!(set, 1 | 2 | 4)
            && usize::try_from(set) == Ok(length)
            && to.is_multiple_of(set)
            && to < BAR_SIZE;
        fits.then_some(u64::from(to))
    }
}

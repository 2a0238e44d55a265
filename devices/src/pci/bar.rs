//! Base address registers (PCI Local Bus 3.0, 6.2.5), from both sides: what a
//! function declares, and what software finds out with configuration cycles.

use std::ops::Range;

use super::PciFunction;
use super::ids;
use crate::bus::Action;

/// Number of base address registers in a type 0 header.
pub const COUNT: u8 = 6;

const IO_SPACE: u32 = 1;
const TYPE_64BIT: u32 = 2 << 1;
const MEMORY_FLAGS: u32 = 0xf;

/// How wide a memory base address register is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// Below 4 GiB.
    Bits32,
    /// Anywhere; takes two registers.
    Bits64,
}

/// One memory base address register, not prefetchable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    index: u8,
    size: u64,
    width: Width,
}

/// There is no such base address register.
#[derive(Debug, thiserror::Error)]
#[error(
    "Base address register {index} ({width:?}) cannot be {size:#x} bytes: the size is a power of \
     two from 16 bytes up to half the address space, the register one of 0 to 5 (0 to 4 with 64 bits)"
)]
pub struct BarError {
    /// Number of the register.
    pub index: u8,
    /// Size in bytes.
    pub size: u64,
    /// Width.
    pub width: Width,
}

impl Bar {
    /// A register of `size` bytes.
    ///
    /// # Errors
    /// The size is not a power of two of at least 16 bytes, does not leave two
    /// places in the address space, or there is no such register.
    pub fn new(index: u8, size: u64, width: Width) -> Result<Self, BarError> {
        let (registers, limit) = match width {
            Width::Bits32 => (1, 1 << 31),
            Width::Bits64 => (2, 1 << 63),
        };
        let fits = size.is_power_of_two() && (16..=limit).contains(&size);
        if !fits || index > COUNT - registers {
            return Err(BarError { index, size, width });
        }
        Ok(Self { index, size, width })
    }

    pub(super) const fn is_64bit(&self) -> bool {
        matches!(self.width, Width::Bits64)
    }

    pub(super) fn register(&self) -> u16 {
        ids::BAR0 + u16::from(self.index) * 4
    }

    pub(super) const fn fixed_bits(&self) -> [u32; 2] {
        match self.width {
            Width::Bits32 => [0, 0],
            Width::Bits64 => [TYPE_64BIT, 0],
        }
    }

    pub(super) fn writable_bits(&self) -> [u32; 2] {
        let mask = !(self.size - 1);
        // Both halves of a 64-bit number.
        #[allow(clippy::cast_possible_truncation)]
        [mask as u32 & !MEMORY_FLAGS, (mask >> 32) as u32]
    }
}

/// A base address register as software sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub index: u8,
    pub size: u64,
    pub width: Width,
}

fn read32(function: &dyn PciFunction, offset: u16) -> u32 {
    let mut data = [0; 4];
    function.config_read(offset, &mut data);
    u32::from_le_bytes(data)
}

fn write32(function: &dyn PciFunction, offset: u16, value: u32) -> Action {
    function.config_write(offset, &value.to_le_bytes())
}

/// Writes all ones to a register, reads it back and puts the old value back.
fn probe(function: &dyn PciFunction, offset: u16) -> u32 {
    let old = read32(function, offset);
    // A function that is being found asks the machine for nothing.
    let _ = write32(function, offset, u32::MAX);
    let answer = read32(function, offset);
    let _ = write32(function, offset, old);
    answer
}

/// Finds the memory base address registers of `function` and their sizes
/// (6.2.5.1). Nobody else may access the function meanwhile.
pub(super) fn find(function: &dyn PciFunction) -> Vec<Found> {
    let mut found = Vec::new();
    let mut index = 0;
    while index < COUNT {
        let offset = ids::BAR0 + u16::from(index) * 4;
        let answer = probe(function, offset);
        let is_64bit = answer & (TYPE_64BIT | IO_SPACE) == TYPE_64BIT && index + 1 < COUNT;
        let high = if is_64bit {
            probe(function, offset + 4)
        } else {
            u32::MAX
        };
        let mask = u64::from(high) << 32 | u64::from(answer & !MEMORY_FLAGS);
        let width = if is_64bit {
            Width::Bits64
        } else {
            Width::Bits32
        };
        // The lowest bit that can be set is the size; 32 bits that cannot be
        // set are a register that is not there.
        let bits = mask.trailing_zeros();
        if answer & IO_SPACE == 0 && bits < if is_64bit { 64 } else { 32 } {
            let size = 1 << bits;
            found.push(Found { index, size, width });
        }
        index += if is_64bit { 2 } else { 1 };
    }
    found
}

impl Found {
    fn register(&self) -> u16 {
        ids::BAR0 + u16::from(self.index) * 4
    }

    /// Writes `address` into the register.
    pub fn place(&self, function: &dyn PciFunction, address: u64) {
        let bytes = address.to_le_bytes();
        let registers = match self.width {
            Width::Bits32 => &bytes[..4],
            Width::Bits64 => &bytes[..],
        };
        for (at, half) in (self.register()..).step_by(4).zip(registers.chunks(4)) {
            let _ = function.config_write(at, half);
        }
    }

    /// Where the register points now, whether it is decoded or not.
    pub fn range(&self, function: &dyn PciFunction) -> Range<u64> {
        let low = u64::from(read32(function, self.register()) & !MEMORY_FLAGS);
        let high = match self.width {
            Width::Bits32 => 0,
            Width::Bits64 => u64::from(read32(function, self.register() + 4)),
        };
        // An aligned range may end at 2^64, which the guest cannot use either.
        let start = high << 32 | low;
        start..start.saturating_add(self.size)
    }
}

/// Whether the function answers memory accesses.
pub(super) fn memory_enabled(function: &dyn PciFunction) -> bool {
    let mut data = [0; 2];
    function.config_read(ids::COMMAND, &mut data);
    u16::from_le_bytes(data) & ids::COMMAND_MEMORY != 0
}

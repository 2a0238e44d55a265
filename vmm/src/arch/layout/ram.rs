//! Where RAM lies, and how memory zones fall into it.

use vm_memory::GuestAddress;

use super::{GIB, HOLE_END, HOLE_START, RAM_MAX};

/// Memory of one kind as the config asks for it: a host backing with one page size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Zone {
    /// Size in bytes, a multiple of the page size.
    pub size: u64,
    /// Page size of the backing in bytes, a power of two, at most 1 GiB.
    pub page_size: u64,
}

/// A piece of guest RAM without a hole in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamRegion {
    /// First guest-physical address.
    pub start: GuestAddress,
    /// Size in bytes.
    pub size: u64,
    /// Index of the zone that backs it.
    pub zone: usize,
    /// Offset in the zone's backing, in bytes; a multiple of its page size.
    pub offset: u64,
}

impl RamRegion {
    /// First address behind the region.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.start.0.saturating_add(self.size)
    }
}

/// Why memory cannot be laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// The guest would have no memory.
    #[error("memory size is 0: give the guest memory, for example 512 MiB")]
    Empty,
    /// A page size that no x86-64 host has.
    #[error(
        "memory zone {zone}: page size {page_size} is not a power of two from 4096 to 1073741824"
    )]
    PageSize {
        /// Index of the zone.
        zone: usize,
        /// The page size asked for, in bytes.
        page_size: u64,
    },
    /// A zone that is not a whole number of pages.
    #[error(
        "memory zone {zone}: size {size} is not a multiple of its page size {page_size}: use {} or {}",
        size / page_size * page_size,
        (size / page_size).saturating_add(1).saturating_mul(*page_size)
    )]
    NotWholePages {
        /// Index of the zone.
        zone: usize,
        /// Size asked for, in bytes.
        size: u64,
        /// Page size asked for, in bytes.
        page_size: u64,
    },
    /// More memory than the address map has room for.
    #[error("memory size is more than {RAM_MAX} bytes (1 TiB), the most a guest can have")]
    TooLarge,
}

/// RAM of `size` bytes in one zone of 4 KiB pages: up to 3 GiB from address 0, the rest
/// from 4 GiB.
///
/// # Errors
///
/// As [`place_zones`].
pub fn ram_regions(size: u64) -> Result<Vec<RamRegion>, LayoutError> {
    place_zones(&[Zone {
        size,
        page_size: 4096,
    }])
}

/// Lays `zones` out in their order around the hole below 4 GiB.
///
/// A zone that meets the hole is split there, so one zone gives one or two regions.
/// Every zone starts at a multiple of its page size: this keeps both the offset of its
/// second part a whole number of pages and guest and host addresses congruent, without
/// which KVM cannot map a huge page as one. The price is a gap in the address map (never
/// in memory) where a zone of larger pages follows one of smaller pages.
///
/// # Errors
///
/// When a zone is not a whole number of pages, or all of them together are empty or
/// larger than 1 TiB.
pub fn place_zones(zones: &[Zone]) -> Result<Vec<RamRegion>, LayoutError> {
    let mut regions = Vec::with_capacity(zones.len() + 1);
    let mut next = 0_u64;
    let mut total = 0_u64;
    for (index, zone) in zones.iter().enumerate() {
        check(index, zone)?;
        total = total.saturating_add(zone.size);
        if total > RAM_MAX {
            return Err(LayoutError::TooLarge);
        }
        // No overflow: `next` is below 2 TiB, whatever gaps there are.
        let mut start = next.next_multiple_of(zone.page_size);
        if (HOLE_START..HOLE_END).contains(&start) {
            start = HOLE_END;
        }
        let low = if start < HOLE_START {
            zone.size.min(HOLE_START - start)
        } else {
            zone.size
        };
        let mut push = |start: u64, size: u64, offset: u64| {
            if size > 0 {
                regions.push(RamRegion {
                    start: GuestAddress(start),
                    size,
                    zone: index,
                    offset,
                });
                next = start + size;
            }
        };
        push(start, low, 0);
        push(HOLE_END, zone.size - low, low);
    }
    if total == 0 {
        return Err(LayoutError::Empty);
    }
    Ok(regions)
}

fn check(index: usize, zone: &Zone) -> Result<(), LayoutError> {
    let &Zone { size, page_size } = zone;
    if !page_size.is_power_of_two() || !(4096..=GIB).contains(&page_size) {
        return Err(LayoutError::PageSize {
            zone: index,
            page_size,
        });
    }
    if !size.is_multiple_of(page_size) {
        return Err(LayoutError::NotWholePages {
            zone: index,
            size,
            page_size,
        });
    }
    Ok(())
}

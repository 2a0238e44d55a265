//! Chunks of memory, and the checksum of each.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::StoreError;
use crate::memory::{PAGE, PAGE_BYTES, Region};

/// What one checksum covers: little enough to be read while a vCPU waits for a
/// page of it, and enough that checksums take a 16,384th of memory.
pub const CHUNK_BYTES: u64 = 64 << 10;

/// The same, in pages.
pub(super) const CHUNK_PAGES: u64 = CHUNK_BYTES / PAGE;

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// A piece of one region; only the last of a region is shorter than the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chunk {
    /// Its number, counted over all regions.
    pub(super) index: usize,
    /// Its first page in the region.
    pub(super) first: u64,
    /// How many pages it has.
    pub(super) pages: u64,
    /// Where it is in the file.
    pub(super) offset: u64,
}

impl Chunk {
    pub(super) fn bytes(&self) -> u64 {
        self.pages * PAGE
    }
}

/// Where a region's chunks are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// The number of its first chunk.
    index: usize,
    /// Where it begins in the file.
    offset: u64,
    pages: u64,
}

impl Place {
    /// That of each region.
    pub(super) fn of(regions: &[Region]) -> Vec<Self> {
        let (mut index, mut offset) = (0, 0);
        let places = regions.iter().map(|region| {
            let place = Self {
                index,
                offset,
                pages: region.pages(),
            };
            index += place.count();
            offset += place.pages * PAGE;
            place
        });
        places.collect()
    }

    /// How many chunks it has.
    pub(super) fn count(&self) -> usize {
        usize::try_from(self.pages.div_ceil(CHUNK_PAGES)).unwrap_or(usize::MAX)
    }

    /// Its part of the file.
    pub(super) fn file_range(&self) -> Range<u64> {
        self.offset..self.offset + self.pages * PAGE
    }

    /// Its chunk `number`, counted from its first.
    pub(super) fn chunk(&self, number: usize) -> Chunk {
        let first = number as u64 * CHUNK_PAGES;
        Chunk {
            index: self.index + number,
            first,
            pages: self.pages.saturating_sub(first).min(CHUNK_PAGES),
            offset: self.offset + first * PAGE,
        }
    }

    /// The chunks that a range of the file touches.
    pub(super) fn touched(&self, file: Range<u64>) -> Range<usize> {
        let number = |bytes: u64| usize::try_from(bytes / CHUNK_BYTES).unwrap_or(usize::MAX);
        let start = number(file.start.saturating_sub(self.offset));
        let end = (file.end.saturating_sub(self.offset)).next_multiple_of(CHUNK_BYTES);
        start..number(end).min(self.count())
    }
}

/// What memory was when it was stored: the CRC-32C of each chunk, region by
/// region.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checksums(pub(super) Vec<u32>);

impl Checksums {
    /// Compares their number with that of the chunks of `places`.
    pub(super) fn check_count(&self, places: &[Place]) -> Result<(), StoreError> {
        let expected = places.iter().map(Place::count).sum();
        let found = self.0.len();
        if expected == found {
            Ok(())
        } else {
            Err(StoreError::Checksums { expected, found })
        }
    }

    /// Compares what was read of a chunk with what was stored.
    pub(super) fn check(&self, chunk: &Chunk, bytes: &[u8]) -> Result<(), StoreError> {
        self.compare(chunk, crc32c::crc32c(bytes))
    }

    /// A chunk that is a hole in the file must have been one.
    pub(super) fn check_hole(&self, chunk: &Chunk) -> Result<(), StoreError> {
        self.compare(chunk, of_zeros(chunk.bytes()))
    }

    fn compare(&self, chunk: &Chunk, found: u32) -> Result<(), StoreError> {
        match self.0.get(chunk.index) {
            Some(&expected) if expected == found => Ok(()),
            expected => Err(StoreError::Damaged {
                offset: chunk.offset,
                bytes: chunk.bytes(),
                expected: expected.copied().unwrap_or_default(),
                found,
            }),
        }
    }
}

/// The checksum of a chunk of zeros.
pub(super) fn of_zeros(bytes: u64) -> u32 {
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    crc32c::crc32c(ZEROS.get(..bytes).unwrap_or(&ZEROS))
}

/// The runs of pages of `bytes` that are not zero, as ranges of bytes.
pub(super) fn runs(bytes: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let mut pages = bytes.chunks(PAGE_BYTES).enumerate().peekable();
    let is_zero = |page: &[u8]| ZEROS.get(..page.len()) == Some(page);
    std::iter::from_fn(move || {
        let (first, _) = pages.find(|(_, page)| !is_zero(page))?;
        let mut end = first + 1;
        while let Some((number, _)) = pages.next_if(|(_, page)| !is_zero(page)) {
            end = number + 1;
        }
        Some(first * PAGE_BYTES..(end * PAGE_BYTES).min(bytes.len()))
    })
}

//! From memory to the file.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::chunks::{CHUNK_PAGES, Place, of_zeros, runs};
use super::{Checksums, StoreError, Stored, failed};
use crate::bitmap::Bitmap;
use crate::discover::{self, Fresh};
use crate::memory::{PAGE_BYTES, Region};

/// Chunks that are looked at and written together: 1 MiB.
const TOGETHER: usize = 16;

/// Writes memory that nobody changes to `file`, which is empty.
///
/// # Errors
/// The file system is full, or fails.
pub fn save(regions: &[Region], file: &File) -> Result<(Stored, Checksums), StoreError> {
    let places = Place::of(regions);
    let mut stored = Stored {
        size_bytes: places.last().map_or(0, |place| place.file_range().end),
        data_bytes: 0,
    };
    file.set_len(stored.size_bytes)
        .map_err(failed("set the size of", stored.size_bytes))?;
    let mut sums = Vec::new();
    let mut buffer = Vec::new();
    let present = discover::present(regions, Fresh::LeaveOut);
    for ((region, place), present) in regions.iter().zip(places).zip(present) {
        for number in (0..place.count()).step_by(TOGETHER) {
            let chunks = number..place.count().min(number + TOGETHER);
            let first = place.chunk(number).first;
            let pages = first..region.pages().min(first + TOGETHER as u64 * CHUNK_PAGES);
            if is_absent(&present, first) {
                sums.extend(chunks.map(|number| of_zeros(place.chunk(number).bytes())));
                continue;
            }
            buffer.clear();
            for page in pages {
                copy(region, &present, page, &mut buffer);
            }
            let chunk_bytes = usize::try_from(super::CHUNK_BYTES).unwrap_or(usize::MAX);
            sums.extend(buffer.chunks(chunk_bytes).map(crc32c::crc32c));
            for run in runs(&buffer) {
                let offset = place.chunk(number).offset + run.start as u64;
                let bytes = buffer.get(run).unwrap_or_default();
                file.write_all_at(bytes, offset)
                    .map_err(failed("write", offset))?;
                stored.data_bytes += bytes.len() as u64;
            }
        }
    }
    Ok((stored, Checksums(sums)))
}

/// Whether none of the pages that are looked at together is there.
fn is_absent(present: &Bitmap, first: u64) -> bool {
    const WORDS: usize = TOGETHER * 16 / 64;
    let start = usize::try_from(first / 64).unwrap_or(usize::MAX);
    let words = present.words().get(start..).unwrap_or_default();
    words.iter().take(WORDS).all(|word| *word == 0)
}

/// Appends what a page holds, without touching one that is absent.
fn copy(region: &Region, present: &Bitmap, page: u64, to: &mut Vec<u8>) {
    let length = to.len() + PAGE_BYTES;
    if present.contains(page) && region.is_zero(page) == Some(false) {
        region.append_to(page, to);
    }
    to.resize(length, 0);
}

//! From the file to memory.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use super::chunks::{Chunk, Place, runs};
use super::{Checksums, StoreError, Stored, failed};
use crate::memory::{PAGE, Region};

/// Reads memory that reads as zero so far from `file`. `sums` are those that
/// [`save`](super::save) gave; without them, what the file holds is believed.
///
/// # Errors
/// The file is another guest's, damaged, or cannot be read.
pub fn load(
    regions: &[Region],
    file: &File,
    sums: Option<&Checksums>,
) -> Result<Stored, StoreError> {
    let places = Place::of(regions);
    let mut stored = check(&places, file, sums)?;
    let mut buffer = Vec::new();
    for (region, place) in regions.iter().zip(&places) {
        for chunks in data(place, file, sums)? {
            for chunk in chunks.map(|number| place.chunk(number)) {
                buffer.clear();
                read(file, &chunk, sums, &mut buffer)?;
                for run in runs(&buffer) {
                    let first = chunk.first + run.start as u64 / PAGE;
                    let bytes = buffer.get(run).unwrap_or_default();
                    region.write(first, bytes).ok_or_else(|| {
                        failed("place", chunk.offset)(io::ErrorKind::InvalidInput.into())
                    })?;
                    stored.data_bytes += bytes.len() as u64;
                }
            }
        }
    }
    Ok(stored)
}

/// Whether the file and the checksums are those of such regions.
pub(super) fn check(
    places: &[Place],
    file: &File,
    sums: Option<&Checksums>,
) -> Result<Stored, StoreError> {
    let expected = places.last().map_or(0, |place| place.file_range().end);
    let found = file.metadata().map_err(failed("look at", 0))?.len();
    if found != expected {
        return Err(StoreError::Size { expected, found });
    }
    if let Some(sums) = sums {
        sums.check_count(places)?;
    }
    Ok(Stored {
        size_bytes: expected,
        data_bytes: 0,
    })
}

/// The chunks of a region that have data in the file, by their numbers. The
/// others are holes, and must have been.
pub(super) fn data(
    place: &Place,
    file: &File,
    sums: Option<&Checksums>,
) -> Result<Vec<Range<usize>>, StoreError> {
    let mut found: Vec<Range<usize>> = Vec::new();
    let mut next = 0;
    let whole = place.file_range();
    let mut at = whole.start;
    while let Some(data) = seek(file, at, whole.end, Whence::SeekData)? {
        let hole = seek(file, data, whole.end, Whence::SeekHole)?.unwrap_or(whole.end);
        let touched = place.touched(data..hole);
        check_holes(place, next..touched.start, sums)?;
        next = touched.end;
        at = place.chunk(touched.end).offset.max(hole);
        found.push(touched);
    }
    check_holes(place, next..place.count(), sums)?;
    Ok(found)
}

fn check_holes(
    place: &Place,
    numbers: Range<usize>,
    sums: Option<&Checksums>,
) -> Result<(), StoreError> {
    let Some(sums) = sums else { return Ok(()) };
    for number in numbers {
        sums.check_hole(&place.chunk(number))?;
    }
    Ok(())
}

/// Appends a chunk to `buffer`, and judges it.
pub(super) fn read(
    file: &File,
    chunk: &Chunk,
    sums: Option<&Checksums>,
    buffer: &mut Vec<u8>,
) -> Result<(), StoreError> {
    let start = buffer.len();
    buffer.resize(start + usize::try_from(chunk.bytes()).unwrap_or(0), 0);
    let bytes = buffer.get_mut(start..).unwrap_or_default();
    file.read_exact_at(bytes, chunk.offset)
        .map_err(failed("read", chunk.offset))?;
    sums.map_or(Ok(()), |sums| sums.check(chunk, bytes))
}

/// The next data or hole from `at` on, before `end`.
fn seek(file: &File, at: u64, end: u64, what: Whence) -> Result<Option<u64>, StoreError> {
    if at >= end {
        return Ok(None);
    }
    let from = i64::try_from(at)
        .map_err(io::Error::other)
        .map_err(failed("seek in", at))?;
    match lseek(file.as_fd(), from, what) {
        Ok(found) => Ok(u64::try_from(found).ok().filter(|found| *found < end)),
        Err(Errno::ENXIO) => Ok(None),
        Err(error) => Err(failed("seek in", at)(error.into())),
    }
}

//! Guest memory in a file: what a snapshot keeps of it.
//!
//! The regions lie one after the other. What is absent or zero in memory is a
//! hole in the file, and what is a hole in the file is not touched in memory: so
//! neither is allocated for nothing.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use crate::discover;
use crate::memory::{PAGE, Region};

/// Pages that are read or written at a time: 1 MiB.
const CHUNK: u64 = 256;

/// What was stored or loaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stored {
    /// Bytes of memory, absent ones included.
    pub size_bytes: u64,
    /// Bytes that were written to the file, or read from it.
    pub data_bytes: u64,
}

/// Memory could not be stored or loaded.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file.
    #[error("Could not {attempt} the memory file at offset {offset:#x}")]
    File {
        /// What was attempted.
        attempt: &'static str,
        /// Where.
        offset: u64,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// It is not of this memory.
    #[error("The memory file has {found} bytes, and the guest {expected} bytes of memory")]
    Size {
        /// What the guest has.
        expected: u64,
        /// What the file has.
        found: u64,
    },
}

fn failed(attempt: &'static str, offset: u64) -> impl FnOnce(io::Error) -> StoreError {
    move |source| StoreError::File {
        attempt,
        offset,
        source,
    }
}

fn total(regions: &[Region]) -> u64 {
    regions.iter().map(|region| region.pages() * PAGE).sum()
}

/// Writes memory that nobody changes to `file`, which is empty.
///
/// # Errors
/// The file system is full, or fails.
pub fn save(regions: &[Region], file: &File) -> Result<Stored, StoreError> {
    let mut stored = Stored {
        size_bytes: total(regions),
        data_bytes: 0,
    };
    file.set_len(stored.size_bytes)
        .map_err(failed("set the size of", stored.size_bytes))?;
    let mut start = 0;
    let mut buffer = Vec::new();
    for (region, present) in regions.iter().zip(discover::present(regions)) {
        for extent in present.extents() {
            let mut page = extent.start;
            while page < extent.end {
                // As many as hold something, up to a chunk; zeros end a run.
                buffer.clear();
                let first = page;
                while page < extent.end
                    && page - first < CHUNK
                    && region.is_zero(page) == Some(false)
                    && region.append_to(page, &mut buffer).is_some()
                {
                    page += 1;
                }
                if page == first {
                    page += 1;
                    continue;
                }
                let offset = start + first * PAGE;
                file.write_all_at(&buffer, offset)
                    .map_err(failed("write", offset))?;
                stored.data_bytes += buffer.len() as u64;
            }
        }
        start += region.pages() * PAGE;
    }
    Ok(stored)
}

/// Reads memory that reads as zero so far from `file`.
///
/// # Errors
/// The file is another guest's, or cannot be read.
pub fn load(regions: &[Region], file: &File) -> Result<Stored, StoreError> {
    let expected = total(regions);
    let found = file.metadata().map_err(failed("look at", 0))?.len();
    if found != expected {
        return Err(StoreError::Size { expected, found });
    }
    let mut stored = Stored {
        size_bytes: expected,
        data_bytes: 0,
    };
    let mut start = 0;
    let mut buffer = Vec::new();
    for region in regions {
        let end = start + region.pages() * PAGE;
        let mut at = start;
        while let Some(data) = seek(file, at, end, Whence::SeekData)? {
            let hole = seek(file, data, end, Whence::SeekHole)?.unwrap_or(end);
            let mut page = (data - start) / PAGE;
            let last = (hole - start).div_ceil(PAGE);
            while page < last {
                let count = CHUNK.min(last - page);
                let offset = start + page * PAGE;
                buffer.resize(usize::try_from(count * PAGE).unwrap_or(0), 0);
                file.read_exact_at(&mut buffer, offset)
                    .map_err(failed("read", offset))?;
                region
                    .write(page, &buffer)
                    .ok_or_else(|| failed("place", offset)(io::ErrorKind::InvalidInput.into()))?;
                stored.data_bytes += buffer.len() as u64;
                page += count;
            }
            at = hole;
        }
        start = end;
    }
    Ok(stored)
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::sync::Arc;

    use super::*;
    use crate::memory::Layout;

    fn memfd(bytes: u64) -> Arc<File> {
        let fd = nix::sys::memfd::memfd_create(c"store", nix::sys::memfd::MFdFlags::empty());
        let file = File::from(fd.unwrap());
        file.set_len(bytes).unwrap();
        Arc::new(file)
    }

    fn memory(pages: &[u64]) -> Vec<Region> {
        let mut address = 0;
        pages
            .iter()
            .map(|&pages| {
                let layout = Layout {
                    guest_address: address,
                    size_bytes: pages * PAGE,
                    page_bytes: PAGE,
                    file_offset: 0,
                };
                address += pages * PAGE;
                Region::map(layout, memfd(pages * PAGE)).unwrap()
            })
            .collect()
    }

    fn page(byte: u8) -> Vec<u8> {
        vec![byte; usize::try_from(PAGE).unwrap()]
    }

    fn content(regions: &[Region]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for region in regions {
            for page in 0..region.pages() {
                region.append_to(page, &mut bytes).unwrap();
            }
        }
        bytes
    }

    #[test]
    fn what_is_stored_is_loaded_and_nothing_is_allocated_for_zeros() {
        let from = memory(&[1000, 3000]);
        for (region, at, byte) in [(0, 0, 1), (0, 999, 2), (1, 0, 3), (1, 700, 4), (1, 2999, 5)] {
            from[region].write(at, &page(byte)).unwrap();
        }
        // Present, and zero.
        from[1].write(5, &page(0)).unwrap();
        let file = memfd(0);
        let stored = save(&from, &file).unwrap();
        assert_eq!(stored.size_bytes, 4000 * PAGE);
        assert_eq!(stored.data_bytes, 5 * PAGE);

        let to = memory(&[1000, 3000]);
        let loaded = load(&to, &file).unwrap();
        assert_eq!(loaded.data_bytes, 5 * PAGE);
        let blocks = |region: &Region| region.file().metadata().unwrap().blocks() * 512 / PAGE;
        assert_eq!(to.iter().map(blocks).sum::<u64>(), 5);
        assert!(content(&from) == content(&to));
    }

    #[test]
    fn the_file_of_another_guest_is_refused() {
        let file = memfd(10 * PAGE);
        let refused = load(&memory(&[11]), &file);
        assert!(matches!(refused, Err(StoreError::Size { .. })));
    }

    #[test]
    fn a_run_longer_than_a_chunk_is_whole() {
        let from = memory(&[600]);
        for at in 0..600 {
            let byte = u8::try_from(at % 251 + 1).unwrap();
            from[0].write(at, &page(byte)).unwrap();
        }
        let (file, to) = (memfd(0), memory(&[600]));
        save(&from, &file).unwrap();
        load(&to, &file).unwrap();
        assert!(content(&from) == content(&to));
    }
}

//! Reads that are whole: a file's bytes into guest memory, by way of a buffer of ours.
//!
//! `vm_memory` asks a reader once for each region, and takes fewer bytes than asked for as the
//! file's end. But a read may be short in the middle of a file, above all over a network: 9p gives
//! at most a message's worth when it cannot pin the pages that it is to read into, as those of a
//! huge page. A buffer in ordinary memory is what every file system can read into.

use std::io::{self, Read, Seek, SeekFrom};

use vm_memory::bitmap::BitmapSlice;
use vm_memory::{ReadVolatile, VolatileMemoryError, VolatileSlice};

/// Large enough that the copy costs more than the calls, small enough for the cache.
const BUFFER_SIZE: usize = 256 << 10;

/// A reader whose `read_volatile` gives all it is asked for, up to the end of `source`.
#[derive(Debug)]
pub(super) struct WholeReads<R> {
    source: R,
    buffer: Vec<u8>,
    failure: Option<io::Error>,
}

impl<R: Read> WholeReads<R> {
    pub(super) fn new(source: R) -> Self {
        Self {
            source,
            buffer: vec![0; BUFFER_SIZE],
            failure: None,
        }
    }

    /// Why a read failed: loaders drop the reason.
    pub(super) fn into_failure(self) -> Option<io::Error> {
        self.failure
    }

    /// Fills the first `wanted` bytes of the buffer, or as many as there are.
    fn fill(&mut self, wanted: usize) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(rest @ [_, ..]) = self.buffer.get_mut(filled..wanted) {
            match self.source.read(rest) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }
}

impl<R: Read> ReadVolatile for WholeReads<R> {
    fn read_volatile<B: BitmapSlice>(
        &mut self,
        slice: &mut VolatileSlice<'_, B>,
    ) -> Result<usize, VolatileMemoryError> {
        let mut done = 0;
        while done < slice.len() {
            let wanted = (slice.len() - done).min(BUFFER_SIZE);
            let filled = match self.fill(wanted) {
                Ok(filled) => filled,
                Err(error) => {
                    let kind = error.kind();
                    self.failure = Some(error);
                    return Err(VolatileMemoryError::IOError(kind.into()));
                }
            };
            let bytes = self.buffer.get(..filled).unwrap_or_default();
            slice.subslice(done, filled)?.copy_from(bytes);
            done += filled;
            if filled < wanted {
                break;
            }
        }
        Ok(done)
    }
}

/// Headers are read as they always are.
impl<R: Read> Read for WholeReads<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.source.read(buffer)
    }
}

impl<R: Seek> Seek for WholeReads<R> {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.source.seek(position)
    }
}

#[cfg(test)]
mod tests;

//! Guest memory in a file: what a snapshot keeps of it.
//!
//! ```text
//!  memory   | region 0                 | region 1            |
//!  file     |#####....##|.......|..####|####.......|.........|   # data  . hole
//!  sums      chunk 0     1       2      3           4
//! ```
//!
//! The regions lie one after the other. What is absent or zero in memory is a
//! hole in the file, and what is a hole in the file is not touched in memory: so
//! neither is allocated for nothing. Each region is cut into chunks, and each
//! chunk has a checksum of what it holds, holes as zeros: a byte that changed in
//! the file, data that became a hole and a hole that became data are all found.

mod chunks;
mod fill;
mod load;
mod save;

use std::io;

pub use chunks::{CHUNK_BYTES, Checksums};
pub use fill::{Fill, FillError, Lost, Told, Unfilled};
pub use load::load;
pub use save::save;

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
    /// The checksums are not of this memory.
    #[error("There are {found} checksums for {expected} chunks of memory")]
    Checksums {
        /// Chunks of the guest's memory.
        expected: usize,
        /// How many there are.
        found: usize,
    },
    /// The file does not hold what was written.
    #[error(
        "The memory file is damaged in the {bytes} bytes from offset {offset:#x} on: \
         their checksum is {found:#010x}, not {expected:#010x}"
    )]
    Damaged {
        /// Where the damaged chunk begins.
        offset: u64,
        /// How long it is.
        bytes: u64,
        /// What was noted when it was written.
        expected: u32,
        /// What the bytes give.
        found: u32,
    },
}

fn failed(attempt: &'static str, offset: u64) -> impl FnOnce(io::Error) -> StoreError {
    move |source| StoreError::File {
        attempt,
        offset,
        source,
    }
}

#[cfg(test)]
mod tests;

//! The machine's pool of 2 MiB pages, grown for a while.

use std::fs;
use std::io;

const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
const FREE: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";

/// Why the pool has not the pages.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// A file of the pool could not be used.
    #[error("cannot use {path}: is this root, on a kernel with huge pages?")]
    File {
        /// The file.
        path: &'static str,
        /// The reason.
        source: io::Error,
    },
    /// The kernel found fewer pages.
    #[error(
        "{free} of {wanted} huge pages of 2 MiB are free: memory is too scattered or too small"
    )]
    TooFew {
        /// Free pages.
        free: u64,
        /// Pages asked for.
        wanted: u64,
    },
}

/// Free huge pages, as long as this lives; then the pool has its old size again.
#[derive(Debug)]
pub struct HugePagePool {
    before: u64,
}

impl HugePagePool {
    /// Grows the pool until `pages` are free.
    ///
    /// # Errors
    /// When the pool cannot be read or written, or does not grow so far.
    pub fn with_free(pages: u64) -> Result<Self, PoolError> {
        let before = read(POOL)?;
        let pool = Self { before };
        let missing = pages.saturating_sub(read(FREE)?);
        fs::write(POOL, (before + missing).to_string())
            .map_err(|source| PoolError::File { path: POOL, source })?;
        let free = read(FREE)?;
        if free < pages {
            return Err(PoolError::TooFew {
                free,
                wanted: pages,
            });
        }
        Ok(pool)
    }
}

impl Drop for HugePagePool {
    fn drop(&mut self) {
        if let Err(error) = fs::write(POOL, self.before.to_string()) {
            eprintln!(
                "warning: {POOL} was {} and could not be set back: {error}",
                self.before
            );
        }
    }
}

fn read(path: &'static str) -> Result<u64, PoolError> {
    let text = fs::read_to_string(path).map_err(|source| PoolError::File { path, source })?;
    text.trim().parse().map_err(|_| PoolError::File {
        path,
        source: io::ErrorKind::InvalidData.into(),
    })
}

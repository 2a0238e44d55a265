//! A guest of plain memory: threads are its vCPUs, a bitmap is its dirty log.
//!
//! Everything that migration promises of a guest can be checked on it: it records
//! each call, fails where it is told to, and its memory can be compared page by
//! page with what arrived.

mod destination;
mod proxy;
mod replay;
mod source;

use std::fs::File;
use std::sync::Arc;

use nix::sys::memfd::{MFdFlags, memfd_create};

pub use destination::FakeDestination;
pub use proxy::{Directory, Fault, Proxy, Way};
pub use replay::{frame, play};
pub use source::{FakeSource, Memory};

use crate::discover::{self, Fresh};
use crate::memory::{Layout, PAGE, PAGE_BYTES, Region};

/// A step that a fake is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// [`crate::guest::Source::description`].
    Description,
    /// [`crate::guest::Source::start_log`].
    StartLog,
    /// The `n`th look at the log.
    Dirty(u32),
    /// [`crate::guest::Source::stop`].
    Stop,
    /// [`crate::guest::Source::save`].
    Save,
    /// [`crate::guest::Source::resume`].
    Resume,
    /// [`crate::guest::Source::release`].
    Release,
    /// [`crate::guest::Destination::prepare`], either kind.
    Prepare,
    /// [`crate::guest::Destination::restore`].
    Restore,
    /// [`crate::guest::Destination::run`].
    Run,
    /// [`crate::guest::Destination::abandon`].
    Abandon,
}

/// Called at each step; an error makes the step fail.
pub type Hook = Box<dyn FnMut(Step) -> Result<(), String> + Send>;

/// A hook that lets everything pass.
#[must_use]
pub fn no_hook() -> Hook {
    Box::new(|_| Ok(()))
}

/// A memory file of `size_bytes`, all hole.
///
/// # Panics
/// The system has no descriptors or address space left.
#[must_use]
pub fn memory_file(size_bytes: u64) -> Arc<File> {
    let fd = memfd_create(c"fake-guest", MFdFlags::MFD_CLOEXEC).expect("a memfd");
    let file = File::from(fd);
    file.set_len(size_bytes).expect("a size");
    Arc::new(file)
}

/// Memory of several regions, one after the other in one file, apart in guest
/// addresses.
///
/// # Panics
/// As [`memory_file`].
#[must_use]
pub fn memory(sizes: &[u64]) -> Vec<Region> {
    let file = memory_file(sizes.iter().sum());
    regions_of(&vec![file; sizes.len()], sizes)
}

/// Maps regions of `sizes` onto files, one file a region.
///
/// # Panics
/// The files cannot be mapped.
#[must_use]
pub fn regions_of(files: &[Arc<File>], sizes: &[u64]) -> Vec<Region> {
    let mut address = 0;
    let mut offset = 0;
    files
        .iter()
        .zip(sizes)
        .map(|(file, &size_bytes)| {
            let layout = Layout {
                guest_address: address,
                size_bytes,
                page_bytes: PAGE,
                file_offset: offset,
            };
            address += size_bytes + (1 << 30);
            offset += size_bytes;
            Region::map(layout, Arc::clone(file)).expect("a mapping")
        })
        .collect()
}

/// Where two memories differ; pages that neither has are not looked at.
#[must_use]
pub fn first_difference(a: &[Region], b: &[Region]) -> Option<(usize, u64)> {
    let mut present = discover::present(a, Fresh::Count);
    for (map, other) in present.iter_mut().zip(discover::present(b, Fresh::Count)) {
        map.union(&other);
    }
    for (index, map) in present.iter().enumerate() {
        let (a, b) = (a.get(index)?, b.get(index)?);
        for page in map.extents().flatten() {
            let (mut left, mut right) = ([0; PAGE_BYTES], [0; PAGE_BYTES]);
            a.read(page, &mut left)?;
            b.read(page, &mut right)?;
            if left != right {
                return Some((index, page));
            }
        }
    }
    None
}

/// How many pages are allocated in all.
#[must_use]
pub fn allocated_pages(regions: &[Region]) -> u64 {
    discover::present(regions, Fresh::Count)
        .iter()
        .map(crate::bitmap::Bitmap::count)
        .sum()
}

/// A stream of numbers that look random, from a seed (xorshift).
#[derive(Debug, Clone)]
pub struct Numbers(u64);

impl Numbers {
    /// Numbers from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// The next, below `below`.
    pub fn below(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below.max(1)
    }
}

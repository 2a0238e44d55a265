//! Which pages are present, without touching any: reading an absent page of
//! shared memory allocates it.
//!
//! - tmpfs (memfd): `SEEK_DATA` and `SEEK_HOLE` walk the page cache, so pages that
//!   only another process touched count too.
//! - hugetlbfs: the same calls succeed but say that the file is dense; see
//!   [`hugetlb`]. Pages that are present and that nobody has written since they
//!   were new hold nothing: they can be left out ([`Fresh`]).
//! - anything else, or any failure: all of it counts as present. That is slow
//!   but never wrong.

mod hugetlb;
mod probe;

use std::io;
use std::ops::Range;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::sys::statfs::{HUGETLBFS_MAGIC, TMPFS_MAGIC, fstatfs};
use nix::unistd::{Whence, lseek};

use crate::bitmap::Bitmap;
use crate::memory::{PAGE, Region};

/// What becomes of pages that are present, and known to hold zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fresh {
    /// They are left out, as if they were absent.
    LeaveOut,
    /// They count as present.
    Count,
}

/// The pages of each region that are present, as of some moment of the call.
pub(crate) fn present(regions: &[Region], fresh: Fresh) -> Vec<Bitmap> {
    let mut maps: Vec<_> = regions.iter().map(|r| Bitmap::new(r.pages())).collect();
    add_present(regions, fresh, &mut maps);
    maps
}

/// Adds to `maps` the pages that are present and not in them: what is known to
/// be present is not walked over again.
pub(crate) fn add_present(regions: &[Region], fresh: Fresh, maps: &mut [Bitmap]) {
    let mut huge = Vec::new();
    for (index, (region, map)) in regions.iter().zip(maps.iter_mut()).enumerate() {
        let kind = fstatfs(region.file().as_fd()).map(|s| s.filesystem_type());
        let found = match kind {
            Ok(HUGETLBFS_MAGIC) => {
                huge.push(index);
                continue;
            }
            Ok(TMPFS_MAGIC) => walk(region, map),
            Ok(_) | Err(_) => Err(io::ErrorKind::Unsupported.into()),
        };
        if let Err(error) = found {
            tracing::debug!(
                region = index,
                %error,
                "present pages cannot be told apart: all of the region counts"
            );
            map.add_range(0..region.pages());
        }
    }
    hugetlb::present(regions, &huge, fresh, maps);
}

/// All pages, present or not: what a peer without discovery does.
pub(crate) fn everything(regions: &[Region]) -> Vec<Bitmap> {
    regions
        .iter()
        .map(|region| {
            let mut map = Bitmap::new(region.pages());
            map.add_range(0..region.pages());
            map
        })
        .collect()
}

/// Walks the file's data where `map` has no page.
fn walk(region: &Region, map: &mut Bitmap) -> io::Result<()> {
    let offset = region.layout().file_offset;
    for absent in map.complement().extents() {
        let end = offset + absent.end * PAGE;
        let mut at = offset + absent.start * PAGE;
        while at < end {
            let data = match seek(region, at, Whence::SeekData)? {
                Some(data) if data < end => data,
                Some(_) | None => break,
            };
            let hole = seek(region, data, Whence::SeekHole)?
                .unwrap_or(end)
                .min(end);
            map.add_range(pages(data - offset..hole - offset));
            at = hole;
        }
    }
    Ok(())
}

/// The pages that a range of bytes touches.
fn pages(bytes: Range<u64>) -> Range<u64> {
    bytes.start / PAGE..bytes.end.div_ceil(PAGE)
}

/// Where the next data or hole begins; `None` past the last data.
fn seek(region: &Region, from: u64, what: Whence) -> io::Result<Option<u64>> {
    let from = i64::try_from(from).map_err(io::Error::other)?;
    match lseek(region.file(), from, what) {
        Ok(at) => u64::try_from(at).map(Some).map_err(io::Error::other),
        Err(Errno::ENXIO) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests;

//! What is present on hugetlbfs, where `SEEK_DATA` calls every file dense.
//!
//! 1. `fstat` counts all huge pages of the file, whoever touched them. If this
//!    process has mapped as many and its writes are marked
//!    ([`untouched`](crate::untouched)), the written ones are it: the others hold
//!    zeros.
//! 2. If the file has as many as it is long, all is present.
//! 3. `mincore` sees what this process has mapped. If that is as many, those are it.
//! 4. Otherwise another process (a vhost-user back end) touched pages that we have
//!    not mapped. [`probe`](super::probe) finds them through userfaultfd.
//! 5. Where that is not permitted, every page counts as present.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;

use super::Fresh;
use super::probe::probe;
use crate::bitmap::Bitmap;
use crate::memory::{PAGE, Region};
use crate::pagemap::{self, Marked};

/// The unit of `st_blocks`, whatever the file system's (inode(7)).
const BLOCK_BYTES: u64 = 512;

/// Fills in `maps` of the regions `huge`, file by file: `fstat` counts a file's
/// pages, not a region's.
pub(super) fn present(regions: &[Region], huge: &[usize], fresh: Fresh, maps: &mut [Bitmap]) {
    let mut files: BTreeMap<(u64, u64), Vec<usize>> = BTreeMap::new();
    for &index in huge {
        let id = regions
            .get(index)
            .and_then(|region| region.file().metadata().ok())
            .map_or((0, index as u64), |m| (m.dev(), m.ino()));
        files.entry(id).or_default().push(index);
    }
    for indices in files.into_values() {
        if fresh == Fresh::LeaveOut && add_written(regions, &indices, maps) {
            continue;
        }
        if let Err(error) = of_file(regions, &indices, maps) {
            tracing::debug!(
                ?indices,
                %error,
                "present huge pages cannot be told apart: all of them count"
            );
            for index in indices {
                if let (Some(region), Some(map)) = (regions.get(index), maps.get_mut(index)) {
                    map.add_range(0..region.pages());
                }
            }
        }
    }
}

/// Adds the pages of a file that were written since they were new. False: that is
/// not known, and nothing was added.
fn add_written(regions: &[Region], indices: &[usize], maps: &mut [Bitmap]) -> bool {
    /// The guest may take new pages between two looks.
    const ATTEMPTS: usize = 3;
    let of_file: Vec<_> = indices.iter().filter_map(|&i| regions.get(i)).collect();
    let Some(file) = of_file.first().map(|region| region.file()) else {
        return false;
    };
    for _ in 0..ATTEMPTS {
        let marked = of_file.iter().map(|region| pagemap::marked(region));
        let Ok(marked) = marked.collect::<Result<Vec<_>, _>>() else {
            return false;
        };
        let mapped: u64 = marked.iter().map(|marked| marked.mapped_bytes).sum();
        // After the marks: a page that somebody brought in since is one too many.
        if !file
            .metadata()
            .is_ok_and(|facts| facts.blocks() * BLOCK_BYTES == mapped)
        {
            continue;
        }
        for (&index, Marked { written, .. }) in indices.iter().zip(marked) {
            if let Some(map) = maps.get_mut(index) {
                map.union(&written);
            }
        }
        return true;
    }
    false
}

fn of_file(regions: &[Region], indices: &[usize], maps: &mut [Bitmap]) -> io::Result<()> {
    let mut allocated = 0;
    let mut size = 0;
    let mut mapped = 0;
    for &index in indices {
        let (Some(region), Some(map)) = (regions.get(index), maps.get_mut(index)) else {
            continue;
        };
        let facts = region.file().metadata()?;
        allocated = facts.blocks() * BLOCK_BYTES;
        size = facts.size();
        if allocated == size {
            map.add_range(0..region.pages());
            mapped += region.layout().size_bytes;
            continue;
        }
        add_mapped(region, map)?;
        mapped += map.count() * PAGE;
    }
    if allocated == size || allocated == mapped {
        return Ok(());
    }
    for &index in indices {
        if let (Some(region), Some(map)) = (regions.get(index), maps.get_mut(index)) {
            probe(region, map)?;
        }
    }
    Ok(())
}

/// Adds the huge pages that this process has mapped.
///
/// `mincore` is asked about the first 4 KiB of each: where nothing is mapped it
/// looks into the page cache for every 4 KiB of what it is asked about, which
/// takes 150 ms for 8 GiB of holes.
fn add_mapped(region: &Region, map: &mut Bitmap) -> io::Result<()> {
    let step = (region.layout().page_bytes / PAGE).max(1);
    let step_usize = usize::try_from(step).map_err(io::Error::other)?;
    for page in (0..region.pages()).step_by(step_usize) {
        if region.is_mapped(page)? {
            map.add_range(page..page + step);
        }
    }
    Ok(())
}

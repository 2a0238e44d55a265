//! Asking the page cache for one huge page after the other, with userfaultfd in
//! minor mode (Linux 5.13).
//!
//! In a second view of the memory, where nothing is mapped, `UFFDIO_CONTINUE` maps
//! a page that the file has and answers `EFAULT` for one that it has not; it
//! allocates nothing. The view goes away again, and nobody else ever touched it.

use std::io;

use crate::bitmap::Bitmap;
use crate::memory::{PAGE, Region};
use crate::userfault::Userfault;

/// Adds to `map` the pages of `region` that its file has.
pub(super) fn probe(region: &Region, map: &mut Bitmap) -> io::Result<()> {
    // The fields of a layout that was mapped once can be mapped again.
    let view = Region::map(*region.layout(), region.file().clone()).map_err(io::Error::other)?;
    let faults = Userfault::of_unmapped()?;
    faults.watch_unmapped(&view)?;
    let step = view.layout().page_bytes / PAGE;
    let mut page = 0;
    while page < view.pages() {
        if faults.has(&view, page)? {
            map.add_range(page..page + step);
        }
        page += step;
    }
    Ok(())
}

//! What this process's page tables say of guest memory (`PAGEMAP_SCAN`, Linux 6.7;
//! kernel: Documentation/admin-guide/mm/pagemap.rst).
#![allow(unsafe_code, reason = "the ioctl of pagemap is fenced here")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use crate::bitmap::Bitmap;
use crate::memory::{PAGE, Region};

/// Fail where writes are not marked, rather than call every page written.
const PM_SCAN_CHECK_WPASYNC: u64 = 1 << 1;
const PAGE_IS_WRITTEN: u64 = 1 << 1;
const PAGE_IS_PRESENT: u64 = 1 << 3;
/// Stretches that one call answers.
const STRETCHES: usize = 256;

/// `struct page_region`: addresses in this process.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Stretch {
    start: u64,
    end: u64,
    categories: u64,
}

/// `struct pm_scan_arg`.
#[repr(C)]
#[derive(Default)]
struct Scan {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

nix::ioctl_readwrite!(pagemap_scan, b'f', 16, Scan);

/// What is mapped of a region whose writes are marked.
#[derive(Debug)]
pub(crate) struct Marked {
    /// How many bytes this process has mapped.
    pub(crate) mapped_bytes: u64,
    /// The pages of 4 KiB that were written through its mapping.
    pub(crate) written: Bitmap,
}

/// Reads the marks of a region that [`Untouched`](crate::untouched::Untouched)
/// watches.
///
/// # Errors
/// It does not, or the kernel is older than 6.7.
pub(crate) fn marked(region: &Region) -> io::Result<Marked> {
    let pagemap = File::open("/proc/self/pagemap")?;
    let host = region.host_range();
    let mut marked = Marked {
        mapped_bytes: 0,
        written: Bitmap::new(region.pages()),
    };
    let mut found = [Stretch::default(); STRETCHES];
    let mut at = host.start;
    while at < host.end {
        let mut scan = Scan {
            size: size_of::<Scan>() as u64,
            flags: PM_SCAN_CHECK_WPASYNC,
            start: at,
            end: host.end,
            vec: found.as_mut_ptr().expose_provenance() as u64,
            vec_len: found.len() as u64,
            category_mask: PAGE_IS_PRESENT,
            return_mask: PAGE_IS_PRESENT | PAGE_IS_WRITTEN,
            ..Scan::default()
        };
        // SAFETY: the kernel reads and writes one `Scan` of the size it says, and
        // writes up to `vec_len` stretches into `found`; any content is valid.
        let count = unsafe { pagemap_scan(pagemap.as_raw_fd(), &mut scan) }?;
        let count = usize::try_from(count).unwrap_or_default();
        for stretch in found.iter().take(count) {
            marked.mapped_bytes += stretch.end - stretch.start;
            if stretch.categories & PAGE_IS_WRITTEN != 0 {
                let first = (stretch.start - host.start) / PAGE;
                let end = (stretch.end - host.start).div_ceil(PAGE);
                marked.written.add_range(first..end.min(region.pages()));
            }
        }
        if scan.walk_end <= at {
            return Err(io::Error::other("the scan of the page tables stands still"));
        }
        at = scan.walk_end;
    }
    Ok(marked)
}

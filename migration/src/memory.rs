//! Guest memory as migration sees it: mapped, shared with others, and written
//! by the guest at any moment.
//!
//! All access is by raw pointer and copies: no Rust reference to guest memory
//! is ever made, since the guest (or a vhost-user back end) may write while we
//! read. What was read is judged only from the copy. A torn page does no harm:
//! whoever wrote it after the dirty log was cleared gets it sent again.
#![allow(unsafe_code, reason = "the mapping of guest memory is fenced here")]

use std::any::Any;
use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use crate::scan;

/// The page of the dirty log and of the wire, whatever pages back the memory.
pub const PAGE_BYTES: usize = 4096;
/// A page as a 64-bit count of bytes.
pub const PAGE: u64 = PAGE_BYTES as u64;

/// A stretch of guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Its guest physical address.
    pub guest_address: u64,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// The size of the host's pages behind it, in bytes.
    pub page_bytes: u64,
    /// Where it begins in its file.
    pub file_offset: u64,
}

/// The numbers of a region do not fit together.
#[derive(Debug, thiserror::Error)]
pub enum RegionError {
    /// Not whole pages of 4 KiB, or no page at all, or past the end of the address space.
    #[error(
        "A region of {size_bytes} bytes at {guest_address:#x} is not made of whole 4 KiB pages"
    )]
    Alignment {
        /// The guest address.
        guest_address: u64,
        /// The size.
        size_bytes: u64,
    },
    /// The file could not be mapped.
    #[error("Could not map {size_bytes} bytes of guest memory")]
    Map {
        /// The size.
        size_bytes: u64,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
}

/// A mapped region of guest memory. Clones share the mapping and keep it alive.
#[derive(Debug, Clone)]
pub struct Region {
    layout: Layout,
    base: NonNull<u8>,
    file: Arc<File>,
    _keep: Arc<dyn Any + Send + Sync>,
}

// SAFETY: the pointer is to a shared mapping that `_keep` keeps alive in any
// thread; all access copies through raw pointers.
unsafe impl Send for Region {}
// SAFETY: as above; concurrent access to guest memory is expected, see the
// module's text.
unsafe impl Sync for Region {}

/// A mapping that is ours, and goes with the last region that uses it.
#[derive(Debug)]
struct Owned {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the range belongs to this value alone; unmapping works in any thread.
unsafe impl Send for Owned {}
// SAFETY: it has no methods.
unsafe impl Sync for Owned {}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `Region::map`, and nobody uses it any
        // more: each user holds an `Arc` of this value.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

impl Region {
    /// A region that is mapped already.
    ///
    /// # Safety
    /// `host` must be the start of a shared mapping, readable and writable, of
    /// `layout.size_bytes` bytes of `file` at `layout.file_offset`, that stays
    /// where it is as long as `keep` lives. No Rust reference may be made to its
    /// content as long as this region or a clone lives.
    ///
    /// # Errors
    /// The layout is not made of whole pages.
    pub unsafe fn new(
        layout: Layout,
        host: NonNull<u8>,
        file: Arc<File>,
        keep: Arc<dyn Any + Send + Sync>,
    ) -> Result<Self, RegionError> {
        check(&layout)?;
        Ok(Self {
            layout,
            base: host,
            file,
            _keep: keep,
        })
    }

    /// Maps a region of `file`, beside whatever other mapping there is.
    ///
    /// # Errors
    /// The layout is not made of whole pages, or the mapping is refused.
    pub fn map(layout: Layout, file: Arc<File>) -> Result<Self, RegionError> {
        let bytes = check(&layout)?;
        let map_error = |source| RegionError::Map {
            size_bytes: layout.size_bytes,
            source,
        };
        let offset = libc::off_t::try_from(layout.file_offset)
            .map_err(|_| map_error(io::ErrorKind::InvalidInput.into()))?;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                offset,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(map_error(io::Error::last_os_error()));
        }
        let base = NonNull::new(base.cast())
            .ok_or_else(|| map_error(io::ErrorKind::AddrNotAvailable.into()))?;
        let keep = Arc::new(Owned { base, bytes });
        // SAFETY: just mapped so; `keep` unmaps it when it goes, and nobody else
        // has the address.
        unsafe { Self::new(layout, base, file, keep) }
    }

    /// Where it lies.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The file behind it.
    #[must_use]
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// How many pages of 4 KiB it has.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.layout.size_bytes / PAGE
    }

    /// The size of the pages that the kernel puts behind it: that of hugetlbfs's
    /// pages; shared memory is filled by 4 KiB whatever it says of itself.
    pub(crate) fn host_page_bytes(&self) -> u64 {
        use nix::sys::statfs::{HUGETLBFS_MAGIC, fstatfs};
        match fstatfs(&*self.file).map(|about| about.filesystem_type()) {
            Ok(HUGETLBFS_MAGIC) => self.layout.page_bytes,
            Ok(_) | Err(_) => PAGE,
        }
    }

    /// The mapping as bytes from `first` page on; `None` if any lies outside.
    fn span_of(&self, first: u64, count: u64) -> Option<(NonNull<u8>, usize)> {
        let end = first.checked_add(count)?;
        if end > self.pages() {
            return None;
        }
        let offset = usize::try_from(first * PAGE).ok()?;
        let bytes = usize::try_from(count * PAGE).ok()?;
        // SAFETY: `offset` is at most the length of the mapping, checked above.
        Some((unsafe { self.base.add(offset) }, bytes))
    }

    /// Pages for a system call to read or write in place.
    pub(crate) fn span(&self, first: u64, count: u64) -> Option<Span<'_>> {
        let (base, bytes) = self.span_of(first, count)?;
        Some(Span {
            base,
            bytes,
            _region: PhantomData,
        })
    }

    /// True if the page holds only zeros now.
    pub(crate) fn is_zero(&self, page: u64) -> Option<bool> {
        let (at, _) = self.span_of(page, 1)?;
        // SAFETY: one whole, page-aligned page of the mapping.
        Some(unsafe { scan::page_is_zero(at.as_ptr()) })
    }

    /// Appends a copy of the page as it is now.
    pub(crate) fn append_to(&self, page: u64, to: &mut Vec<u8>) -> Option<()> {
        let (at, bytes) = self.span_of(page, 1)?;
        to.reserve(bytes);
        // SAFETY: the page lies inside the mapping; the vector has room for it,
        // which is initialised by the copy before the length says so.
        unsafe {
            let end = to.as_mut_ptr().add(to.len());
            ptr::copy_nonoverlapping(at.as_ptr(), end, bytes);
            to.set_len(to.len() + bytes);
        }
        Some(())
    }

    /// Copies the page as it is now.
    #[cfg(any(test, feature = "test-utils"))]
    pub(crate) fn read(&self, page: u64, to: &mut [u8; PAGE_BYTES]) -> Option<()> {
        let (at, bytes) = self.span_of(page, 1)?;
        // SAFETY: one page inside the mapping, and an array of one page.
        unsafe { ptr::copy_nonoverlapping(at.as_ptr(), to.as_mut_ptr(), bytes) };
        Some(())
    }

    /// Writes pages, which `from` must hold exactly.
    pub(crate) fn write(&self, first: u64, from: &[u8]) -> Option<()> {
        let (at, bytes) = self.span_of(first, from.len() as u64 / PAGE)?;
        if bytes != from.len() {
            return None;
        }
        // SAFETY: `bytes` bytes lie inside the mapping and inside `from`, which
        // is no guest memory.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), at.as_ptr(), bytes) };
        Some(())
    }

    /// Writes one page; `None` if there is no such page.
    #[cfg(any(test, feature = "test-utils"))]
    #[must_use]
    pub fn write_page(&self, page: u64, content: &[u8; PAGE_BYTES]) -> Option<()> {
        self.write(page, content)
    }

    /// Makes pages zero.
    pub(crate) fn write_zeros(&self, first: u64, count: u64) -> Option<()> {
        let (at, bytes) = self.span_of(first, count)?;
        // SAFETY: `bytes` bytes inside the mapping.
        unsafe { ptr::write_bytes(at.as_ptr(), 0, bytes) };
        Some(())
    }

    /// Has the kernel allocate and map pages, as a write to each would, without
    /// a change to what they hold (`MADV_POPULATE_WRITE`, Linux 5.14).
    pub(crate) fn populate(&self, first: u64, count: u64) -> io::Result<()> {
        const MADV_POPULATE_WRITE: libc::c_int = 23;
        let (at, bytes) = self
            .span_of(first, count)
            .ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: a range inside the mapping; its content stays as it is.
        let rc = unsafe { libc::madvise(at.as_ptr().cast(), bytes, MADV_POPULATE_WRITE) };
        if rc == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Whether this process has mapped the page (`mincore(2)`).
    pub(crate) fn is_mapped(&self, page: u64) -> io::Result<bool> {
        let (at, bytes) = self.span_of(page, 1).ok_or(io::ErrorKind::InvalidInput)?;
        let mut answer = [0_u8];
        // SAFETY: one page inside the mapping, and one byte for its answer.
        let rc = unsafe { libc::mincore(at.as_ptr().cast(), bytes, answer.as_mut_ptr()) };
        if rc == 0 {
            Ok(answer[0] & 1 == 1)
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// The mapping, for system calls about it.
    pub(crate) fn host_range(&self) -> Range<u64> {
        let start = self.base.as_ptr().addr() as u64;
        start..start + self.layout.size_bytes
    }
}

fn check(layout: &Layout) -> Result<usize, RegionError> {
    let wrong = || RegionError::Alignment {
        guest_address: layout.guest_address,
        size_bytes: layout.size_bytes,
    };
    let aligned = layout.guest_address.is_multiple_of(PAGE)
        && layout.size_bytes.is_multiple_of(PAGE)
        && layout.size_bytes != 0
        && layout.file_offset.is_multiple_of(PAGE)
        && layout
            .guest_address
            .checked_add(layout.size_bytes)
            .is_some();
    let bytes = usize::try_from(layout.size_bytes)
        .ok()
        .filter(|b| isize::try_from(*b).is_ok());
    bytes.filter(|_| aligned).ok_or_else(wrong)
}

/// Pages of a region, to be read or written by the kernel in place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span<'a> {
    base: NonNull<u8>,
    bytes: usize,
    _region: PhantomData<&'a Region>,
}

impl Span<'_> {
    /// The range as `readv(2)` wants it.
    pub(crate) fn iovec(&self) -> libc::iovec {
        libc::iovec {
            iov_base: self.base.as_ptr().cast(),
            iov_len: self.bytes,
        }
    }

    /// The checksum of what is there now, continuing `crc`. Only for memory that
    /// nobody else writes.
    pub(crate) fn checksum(&self, crc: u32) -> u32 {
        // SAFETY: the range lies in a live mapping. The caller is a destination
        // whose guest does not run yet, so nobody writes while the slice lives.
        let bytes = unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.bytes) };
        crc32c::crc32c_append(crc, bytes)
    }
}

#[cfg(test)]
mod tests;

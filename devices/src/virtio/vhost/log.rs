//! The dirty log of a vhost back end: memory in which it sets one bit for each
//! page of guest RAM that it writes.
//!
//! ```text
//!  guest address / 4096 = page      bit page % 64 of word page / 64
//! ```
//!
//! The back end sets bits atomically, byte by byte (`log_write` in
//! `drivers/vhost/vhost.c`; the same in the vhost-user protocol, "Migration");
//! we take whole words. The memory is a file, since a vhost-user back end maps
//! it too.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use vm_memory::{
    Address, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, MmapRegion,
};

use crate::GuestRam;
use crate::dirty::{PAGE_SIZE, PageSink};

const WORD: usize = size_of::<u64>();
/// Bytes of guest memory for which one word stands.
const WORD_SPAN: u64 = PAGE_SIZE as u64 * u64::BITS as u64;

/// A log for all of guest RAM. Several back ends may share it.
pub struct SharedLog {
    memory: MmapRegion<()>,
}

impl fmt::Debug for SharedLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedLog")
            .field("size", &self.memory.size())
            .finish_non_exhaustive()
    }
}

impl SharedLog {
    /// A log with nothing in it, up to the last address of `ram`.
    ///
    /// # Errors
    /// No memory, or no descriptor left.
    pub fn new(ram: &GuestRam) -> io::Result<Self> {
        let words = (ram.last_addr().raw_value() / WORD_SPAN).saturating_add(1);
        let size = usize::try_from(words)
            .ok()
            .and_then(|words| words.checked_mul(WORD))
            .and_then(|size| size.checked_next_multiple_of(PAGE_SIZE))
            .ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: the name is a string that ends.
        let fd = unsafe { libc::memfd_create(c"vhost-log".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and belongs to nobody else.
        let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        file.set_len(size as u64)?;
        let memory = MmapRegion::from_file(FileOffset::new(file, 0), size);
        Ok(Self {
            memory: memory.map_err(io::Error::other)?,
        })
    }

    /// Where it is in this process.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.memory.as_ptr() as u64
    }

    /// Its size in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.memory.size()
    }

    /// The file behind it, from offset 0.
    #[must_use]
    pub fn file(&self) -> Option<&File> {
        self.memory.file_offset().map(FileOffset::file)
    }

    /// Takes what was logged since the last time.
    pub fn harvest(&self, ram: &GuestRam, sink: &mut PageSink<'_>) {
        const GROUP: usize = 8;
        let words = self.words();
        for region in ram.iter() {
            let first = region.start_addr().raw_value() / WORD_SPAN;
            let last = region.last_addr().raw_value() / WORD_SPAN;
            let (Ok(from), Ok(to)) = (usize::try_from(first), usize::try_from(last)) else {
                return;
            };
            // All words of RAM are there: that is how the size was found.
            let of_region = words.get(from..=to).unwrap_or_default();
            for (group, number) in of_region.chunks(GROUP).zip((first..).step_by(GROUP)) {
                // A cache line at once: most are zero, and a load leaves them shared.
                let any = |all, word: &AtomicU64| all | word.load(Ordering::Relaxed);
                if group.iter().fold(0, any) == 0 {
                    continue;
                }
                for (word, number) in group.iter().zip(number..) {
                    if word.load(Ordering::Relaxed) != 0 {
                        // Bytes in the order of addresses, whatever the host's.
                        let bits = u64::from_le(word.swap(0, Ordering::AcqRel));
                        sink(GuestAddress(number * WORD_SPAN), bits);
                    }
                }
            }
        }
    }

    /// The log, word by word.
    fn words(&self) -> &[AtomicU64] {
        let count = self.memory.size() / WORD;
        // SAFETY: the mapping is there as long as `self`, begins at a page and is
        // readable and writable; back ends write it too, by atomic operations.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast(), count) }
    }

    /// Marks a page as a back end does.
    #[cfg(test)]
    pub(crate) fn set(&self, page: u64) {
        use std::sync::atomic::AtomicU8;
        use vm_memory::VolatileMemory;
        let slice = self.memory.as_volatile_slice();
        let byte = usize::try_from(page / 8).unwrap();
        let byte = slice.get_atomic_ref::<AtomicU8>(byte).unwrap();
        byte.fetch_or(1 << (page % 8), Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::guest_ram;

    #[test]
    fn a_page_is_where_vhost_puts_it_and_told_once() {
        let ram = guest_ram(&[(0, 0x10_0000), (0x1_0000_0000, 0x2_0000)]);
        let log = SharedLog::new(&ram).unwrap();
        assert_eq!(log.size(), 0x2_1000, "a bit for each page, in whole pages");
        let harvest = || {
            let mut found = Vec::new();
            log.harvest(&ram, &mut |address, bits| found.push((address.0, bits)));
            found
        };
        assert_eq!(harvest(), []);
        for page in [0, 63, 64, 0x10_0000, 0x10_001f] {
            log.set(page);
        }
        let expected = [
            (0, 1 << 63 | 1),
            (0x4_0000, 1),
            (0x1_0000_0000, 1 << 31 | 1),
        ];
        assert_eq!(harvest(), expected);
        assert_eq!(harvest(), []);
    }
}

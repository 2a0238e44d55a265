//! Which pages of guest RAM this process wrote, while a migration wants to know.
//!
//! ```text
//!  our devices --- vm-memory's writes ----> DirtyMap of the region  \
//!              \-- kernel's reads into RAM, marked when they end ->  > harvest
//!  vhost -------- its own log ([`crate::virtio::vhost::SharedLog`])  /
//! ```
//!
//! Every region of guest RAM has a [`DirtyMap`], and vm-memory marks in it what
//! is written through it. While nobody logs, a mark is one load of a flag, and
//! there is no map. Whoever hands guest memory to the kernel (io_uring, readv)
//! calls [`mark`] when the kernel is done with it, not before: the harvest that
//! takes the mark reads the page after it.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{OnceLock, PoisonError, RwLock};

use vm_memory::bitmap::{Bitmap, BitmapSlice, NewBitmap, WithBitmapSlice};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use crate::GuestRam;

/// What one bit stands for, in bytes, as for KVM and vhost.
pub const PAGE_SIZE: usize = 4096;

/// Pages of one word.
const WORD_PAGES: usize = 64;
/// Words of one piece of a map: 16 MiB of guest memory.
const PIECE_WORDS: usize = 64;
const PIECE_PAGES: usize = PIECE_WORDS * WORD_PAGES;

/// A piece of a map, made when the first of its pages is marked: our devices
/// write to few places, and a harvest while the guest stands still is to take as
/// long as what they wrote, not as long as the guest is large.
type Piece = OnceLock<Box<[AtomicU64; PIECE_WORDS]>>;

/// Takes dirty pages, 64 at a time: bit *n* is the page *n* pages after the
/// address, which lies on a page of RAM. The same page may come twice.
pub type PageSink<'a> = dyn FnMut(GuestAddress, u64) + 'a;

/// Starts to log, with nothing dirty. What is written from now on is in the
/// next [`harvest`]; a write that ends before this returned need not be, so
/// pages are to be read after it.
pub fn start(ram: &GuestRam) {
    for region in ram.iter() {
        map(region).start();
    }
    // A thread that looked at the flag before has its write still under way to
    // the other CPUs. After this it has arrived.
    barrier();
}

/// Takes what was written since the last harvest.
pub fn harvest(ram: &GuestRam, sink: &mut PageSink<'_>) {
    for region in ram.iter() {
        map(region).harvest(region.start_addr(), sink);
    }
}

/// Ends the log and gives its memory back.
pub fn stop(ram: &GuestRam) {
    for region in ram.iter() {
        map(region).stop();
    }
}

/// Marks `len` bytes from `address` as written; what is not RAM is left out.
pub fn mark(ram: &GuestRam, address: GuestAddress, len: usize) {
    let end = address.0.saturating_add(len as u64);
    for region in ram.iter() {
        let start = region.start_addr().0;
        let from = address.0.max(start);
        let to = end.min(start.saturating_add(region.len()));
        if from < to
            && let (Ok(offset), Ok(len)) =
                (usize::try_from(from - start), usize::try_from(to - from))
        {
            map(region).mark_dirty(offset, len);
        }
    }
}

fn map(region: &vm_memory::GuestRegionMmap<DirtyMap>) -> &DirtyMap {
    vm_memory::MmapRegion::bitmap(region)
}

/// Registers this process for the barrier that [`start`] needs. Early, while there
/// is one thread, it costs nothing; later the kernel waits until every CPU has
/// switched tasks, which takes milliseconds.
pub fn prepare() {
    membarrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED);
}

/// Makes all threads of this process see each other's writes, at a cost that
/// only this thread has (membarrier(2)).
fn barrier() {
    if !membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED) {
        // Not registered yet.
        prepare();
        if !membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED) {
            let error = std::io::Error::last_os_error();
            tracing::debug!("No barrier for all threads: {error}");
        }
    }
}

fn membarrier(command: libc::c_int) -> bool {
    // SAFETY: the call takes numbers only.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
}

/// The dirty pages of one region of guest RAM.
#[derive(Default)]
pub struct DirtyMap {
    /// Size of the region in bytes.
    len: usize,
    logging: AtomicBool,
    /// Empty while nobody logs. The lock is for its coming and going only:
    /// marks and harvests share it.
    pieces: RwLock<Box<[Piece]>>,
}

impl fmt::Debug for DirtyMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirtyMap")
            .field("len", &self.len)
            .field("logging", &self.logging)
            .finish_non_exhaustive()
    }
}

impl DirtyMap {
    fn start(&self) {
        let count = self.len.div_ceil(PAGE_SIZE * PIECE_PAGES);
        let empty = (0..count).map(|_| Piece::new()).collect();
        *self.pieces.write().unwrap_or_else(PoisonError::into_inner) = empty;
        self.logging.store(true, Ordering::SeqCst);
    }

    fn stop(&self) {
        self.logging.store(false, Ordering::SeqCst);
        *self.pieces.write().unwrap_or_else(PoisonError::into_inner) = Box::default();
    }

    fn harvest(&self, start: GuestAddress, sink: &mut PageSink<'_>) {
        let pieces = self.pieces.read().unwrap_or_else(PoisonError::into_inner);
        let firsts = (start.0..).step_by(PAGE_SIZE * PIECE_PAGES);
        for (piece, first) in pieces.iter().zip(firsts) {
            let Some(words) = piece.get() else { continue };
            for (word, address) in words.iter().zip((first..).step_by(PAGE_SIZE * WORD_PAGES)) {
                // Most words are zero; a load leaves their cache lines shared.
                if word.load(Ordering::Relaxed) != 0 {
                    sink(GuestAddress(address), word.swap(0, Ordering::AcqRel));
                }
            }
        }
    }

    #[cold]
    fn mark(&self, offset: usize, len: usize) {
        let pieces = self.pieces.read().unwrap_or_else(PoisonError::into_inner);
        let Some(last) = len.checked_sub(1).map(|l| offset.saturating_add(l)) else {
            return;
        };
        for page in offset / PAGE_SIZE..=last / PAGE_SIZE {
            let Some(piece) = pieces.get(page / PIECE_PAGES) else {
                return;
            };
            let words = piece.get_or_init(|| Box::new([const { AtomicU64::new(0) }; PIECE_WORDS]));
            if let Some(word) = words.get(page / WORD_PAGES % PIECE_WORDS) {
                word.fetch_or(1 << (page % WORD_PAGES), Ordering::AcqRel);
            }
        }
    }
}

impl NewBitmap for DirtyMap {
    fn with_len(len: usize) -> Self {
        Self {
            len,
            ..Self::default()
        }
    }
}

impl<'a> WithBitmapSlice<'a> for DirtyMap {
    type S = DirtySlice<'a>;
}

impl Bitmap for DirtyMap {
    fn mark_dirty(&self, offset: usize, len: usize) {
        if self.logging.load(Ordering::Relaxed) {
            self.mark(offset, len);
        }
    }

    fn dirty_at(&self, offset: usize) -> bool {
        let pieces = self.pieces.read().unwrap_or_else(PoisonError::into_inner);
        let page = offset / PAGE_SIZE;
        let piece = pieces.get(page / PIECE_PAGES).and_then(OnceLock::get);
        let word = piece.and_then(|words| words.get(page / WORD_PAGES % PIECE_WORDS));
        word.is_some_and(|w| w.load(Ordering::Acquire) >> (page % WORD_PAGES) & 1 == 1)
    }

    fn slice_at(&self, offset: usize) -> DirtySlice<'_> {
        DirtySlice { map: self, offset }
    }
}

/// The part of a region's map from some offset on: what vm-memory carries with
/// a slice of memory.
#[derive(Clone, Copy, Debug)]
pub struct DirtySlice<'a> {
    map: &'a DirtyMap,
    offset: usize,
}

impl WithBitmapSlice<'_> for DirtySlice<'_> {
    type S = Self;
}

impl BitmapSlice for DirtySlice<'_> {}

impl Bitmap for DirtySlice<'_> {
    fn mark_dirty(&self, offset: usize, len: usize) {
        self.map.mark_dirty(self.offset.saturating_add(offset), len);
    }

    fn dirty_at(&self, offset: usize) -> bool {
        self.map.dirty_at(self.offset.saturating_add(offset))
    }

    fn slice_at(&self, offset: usize) -> Self {
        Self {
            map: self.map,
            offset: self.offset.saturating_add(offset),
        }
    }
}

#[cfg(test)]
mod tests;

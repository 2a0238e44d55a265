//! Filling memory with pages before the guest runs, on several threads.
//!
//! `MADV_POPULATE_WRITE` (Linux 5.14) allocates and clears pages without
//! touching what they hold, and reports a shortage as an error where a store
//! would raise SIGBUS.
//!
//! The call holds the lock of the address space (`mmap_lock`) for reading until
//! it is done, and a new thread needs that lock for writing before it comes to
//! its first line, to map its signal stack. So a thread that is started beside
//! one that populates waits for it: here all are up before the first begins,
//! and no call is long, for whoever else maps memory meanwhile.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};
use std::thread;

use crate::affinity;
use crate::spec::{CpuSet, PageSize};

/// What a thread takes at a time, if a page is not larger: some milliseconds'
/// work, so that the threads end together and other calls get their turn.
const CHUNK: usize = 32 << 20;
/// Below this the start of a thread costs more than it saves.
const WORTH_A_THREAD: usize = 64 << 20;

#[derive(Clone, Copy)]
struct Span {
    start: usize,
    size: usize,
}

/// Populates `size` bytes from `start`, which must be a mapping of this process
/// in pages of `page_size`.
pub(super) fn populate(
    start: *mut u8,
    size: usize,
    page_size: PageSize,
    cpus: &CpuSet,
) -> io::Result<()> {
    let span = Span {
        start: start as usize,
        size,
    };
    let page_bytes = usize::try_from(page_size.bytes()).map_err(io::Error::other)?;
    let chunk = CHUNK.max(page_bytes);
    let threads = cpus
        .len()
        .min(size / WORTH_A_THREAD)
        .min(size / chunk)
        .max(1);
    let next = AtomicUsize::new(0);
    let gate = Mutex::new(());
    thread::scope(|scope| {
        let closed = gate.lock();
        let (starting, all_up) = mpsc::channel::<()>();
        let (next, gate) = (&next, &gate);
        let workers: Vec<_> = (1..threads)
            .map_while(|_| {
                let starting = starting.clone();
                let body = move || {
                    // A thread that cannot be moved fills memory all the same.
                    let _ = affinity::pin_current(cpus);
                    drop(starting);
                    drop(gate.lock());
                    populate_chunks(span, chunk, next)
                };
                // Fewer threads fill all of it, too.
                thread::Builder::new().spawn_scoped(scope, body).ok()
            })
            .collect();
        drop(starting);
        // Nothing is ever sent: this waits until each has dropped its end.
        let _ = all_up.recv();
        drop(closed);
        let own = populate_chunks(span, chunk, next);
        workers
            .into_iter()
            .map(|w| {
                w.join()
                    .unwrap_or_else(|_| Err(io::Error::other("a filling thread ended early")))
            })
            .fold(own, io::Result::and)
    })
}

fn populate_chunks(span: Span, chunk: usize, next: &AtomicUsize) -> io::Result<()> {
    loop {
        let offset = next.fetch_add(chunk, Ordering::Relaxed);
        if offset >= span.size {
            return Ok(());
        }
        let size = chunk.min(span.size - offset);
        populate_one(span.start + offset, size, Access::Write).inspect_err(|_| {
            // The others need not go on: what they fill is freed at once.
            next.store(span.size, Ordering::Relaxed);
        })?;
    }
}

/// As what access the pages are taken: a write is marked where writes are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

pub(super) fn populate_one(address: usize, size: usize, access: Access) -> io::Result<()> {
    let advice = match access {
        Access::Read => libc::MADV_POPULATE_READ,
        Access::Write => libc::MADV_POPULATE_WRITE,
    };
    loop {
        // SAFETY: the range lies in a mapping of this process (see `populate`);
        // populating it leaves its content as it is.
        let rc = unsafe { libc::madvise(address as *mut _, size, advice) };
        if rc == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if !matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) {
            return Err(error);
        }
    }
}

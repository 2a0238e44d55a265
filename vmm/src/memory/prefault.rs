//! Filling memory with pages before the guest runs, on several threads.
//!
//! `MADV_POPULATE_WRITE` (Linux 5.14) allocates and clears pages without
//! touching what they hold, and reports a shortage as an error where a store
//! would raise SIGBUS.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::affinity;
use crate::spec::CpuSet;

/// What a thread takes at a time: large enough to be cheap to hand out, small
/// enough that the threads end together, and a multiple of 1 GiB pages' share.
const CHUNK: usize = 1 << 30;
/// Below this the start of a thread costs more than it saves.
const WORTH_A_THREAD: usize = 64 << 20;

#[derive(Clone, Copy)]
struct Span {
    start: usize,
    size: usize,
}

/// Populates `size` bytes from `start`, which must be a mapping of this process.
pub(super) fn populate(start: *mut u8, size: usize, cpus: &CpuSet) -> io::Result<()> {
    let span = Span {
        start: start as usize,
        size,
    };
    let threads = cpus.len().min(size / WORTH_A_THREAD).max(1);
    let chunk = CHUNK.min(size.div_ceil(threads).next_multiple_of(2 << 20));
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        let workers: Vec<_> = (1..threads)
            .map(|_| {
                scope.spawn(|| {
                    // A thread that cannot be moved fills memory all the same.
                    let _ = affinity::pin_current(cpus);
                    populate_chunks(span, chunk, &next)
                })
            })
            .collect();
        let own = populate_chunks(span, chunk, &next);
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

//! A cancel that wakes whoever waits.
//!
//! The descriptor is never read, so it stays readable once the flag is up:
//! every thread that polls it, now or later, sees the cancel.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// Asks a migration to end. Clones are the same request.
#[derive(Debug, Clone)]
pub struct Cancel(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    asked: AtomicBool,
    wake: EventFd,
}

impl Cancel {
    /// A cancel nobody has asked for yet.
    ///
    /// # Errors
    /// No descriptor is left for the event.
    pub fn new() -> io::Result<Self> {
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self(Arc::new(Inner {
            asked: AtomicBool::new(false),
            wake,
        })))
    }

    /// Asks. What was handed over already stays handed over.
    pub fn cancel(&self) {
        self.0.asked.store(true, Ordering::SeqCst);
        // It fails only when the counter is full, and then it is readable.
        let _ = self.0.wake.write(1);
    }

    /// True once asked.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.asked.load(Ordering::SeqCst)
    }
}

impl AsFd for Cancel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.wake.as_fd()
    }
}

//! A cancel that wakes whoever waits, and may say why.
//!
//! The descriptor is never read, so it stays readable once the flag is up:
//! every thread that polls it, now or later, sees the cancel.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// Asks a migration to end. Clones are the same request.
#[derive(Debug, Clone)]
pub struct Cancel(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    asked: AtomicBool,
    wake: EventFd,
    reason: OnceLock<String>,
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
            reason: OnceLock::new(),
        })))
    }

    /// Asks. What was handed over already stays handed over.
    pub fn cancel(&self) {
        self.0.asked.store(true, Ordering::SeqCst);
        // It fails only when the counter is full, and then it is readable.
        let _ = self.0.wake.write(1);
    }

    /// Asks because of `reason`, a sentence without its full stop, which both sides
    /// then tell: nobody called the migration off, something made it pointless. The
    /// first reason stays, and so does an earlier cancel without one.
    pub fn because(&self, reason: impl Into<String>) {
        if !self.is_cancelled() {
            // Another thread's reason is as good.
            let _ = self.0.reason.set(reason.into());
        }
        self.cancel();
    }

    /// Why it was asked for, if that was not somebody's wish.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.0.reason.get().map(String::as_str)
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

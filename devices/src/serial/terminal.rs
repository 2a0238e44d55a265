//! Raw mode on the user's terminal, and the way back from it.
//!
//! The way back must be found whatever ends the process: a normal return (the
//! guard's drop), `exit` and a panic (which aborts in release builds, so that
//! no drop runs), and the signals that end a process. One process has one
//! controlling terminal, so what is to be restored is held once per process.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::Once;
use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::termios::{self, SetArg};

/// The descriptor in raw mode; -1 when there is none.
static FD: AtomicI32 = AtomicI32::new(-1);

/// Its settings before; leaked once per entry into raw mode, because a signal
/// may look at them at any time.
static BEFORE: AtomicPtr<libc::termios> = AtomicPtr::new(std::ptr::null_mut());

static HOOKS: Once = Once::new();

/// Signals that end a process unless it handles them.
const FATAL: [Signal; 6] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGABRT,
    Signal::SIGBUS,
];

/// A terminal in raw mode; dropping it restores its settings.
#[derive(Debug)]
pub(super) struct RawTerminal(());

impl RawTerminal {
    /// Puts the terminal behind `fd` into raw mode. Output processing stays on,
    /// so that our own log lines still start at the left margin.
    pub(super) fn enter(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let before = termios::tcgetattr(fd)?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        raw.output_flags |= termios::OutputFlags::OPOST;
        HOOKS.call_once(install_hooks);
        BEFORE.store(Box::into_raw(Box::new(before.into())), Ordering::Release);
        FD.store(fd.as_raw_fd(), Ordering::Release);
        if let Err(error) = termios::tcsetattr(fd, SetArg::TCSANOW, &raw) {
            FD.store(-1, Ordering::Release);
            return Err(error.into());
        }
        Ok(Self(()))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore();
    }
}

/// Restores the terminal that a serial port put into raw mode; does nothing
/// when there is none. Safe to call from a signal handler, and more than once.
pub fn restore() {
    let fd: RawFd = FD.swap(-1, Ordering::AcqRel);
    let before = BEFORE.load(Ordering::Acquire);
    if fd >= 0 && !before.is_null() {
        // SAFETY: `before` was made by `Box::into_raw` and is never freed, and
        // tcsetattr is async-signal-safe (POSIX.1-2017, 2.4.3). A descriptor
        // that was closed meanwhile fails with EBADF.
        unsafe { libc::tcsetattr(fd, libc::TCSANOW, before) };
    }
}

extern "C" fn restore_at_exit() {
    restore();
}

extern "C" fn restore_and_die(signal: libc::c_int) {
    restore();
    // SAFETY: raise is async-signal-safe. SA_RESETHAND put the default action
    // back before this handler ran, so the signal now does what it would have.
    unsafe { libc::raise(signal) };
}

fn install_hooks() {
    let previous = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        restore();
        previous(info);
    }));
    // SAFETY: the function takes no arguments, returns nothing, cannot unwind.
    unsafe { libc::atexit(restore_at_exit) };
    let action = SigAction::new(
        SigHandler::Handler(restore_and_die),
        SaFlags::SA_RESETHAND,
        SigSet::empty(),
    );
    for signal in FATAL {
        if has_default_action(signal) {
            // SAFETY: the handler calls async-signal-safe functions only.
            let _ = unsafe { sigaction(signal, &action) };
        }
    }
}

/// Whether nobody in this process handles `signal`; theirs stays in place.
fn has_default_action(signal: Signal) -> bool {
    let mut current = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: with no new action this only fills `current`, which is read only
    // when the call succeeded.
    unsafe {
        libc::sigaction(
            signal as libc::c_int,
            std::ptr::null(),
            current.as_mut_ptr(),
        ) == 0
            && current.assume_init().sa_sigaction == libc::SIG_DFL
    }
}

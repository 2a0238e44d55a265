//! Signals that end the process, as events of the control loop.
//!
//! They are blocked in every thread before the first one starts, and one thread
//! waits for them: no handler runs in the middle of anything.

use std::io;
use std::sync::mpsc::Sender;
use std::thread;

use nix::sys::signal::{SigSet, Signal};

use crate::control::Event;

/// The signals that end the process.
#[must_use]
pub fn ending() -> SigSet {
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]
        .into_iter()
        .collect()
}

/// Blocks the signals in the calling thread and all that it starts.
///
/// # Errors
/// The operating system's.
pub fn block() -> nix::Result<()> {
    ending().thread_block()
}

/// Starts a thread that turns the blocked signals into events, until nobody
/// takes them any more.
///
/// # Errors
/// No thread.
pub fn relay(events: Sender<Event>) -> io::Result<()> {
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            while let Ok(signal) = ending().wait() {
                let signal = signal as i32;
                if events.send(Event::Terminate { signal }).is_err() {
                    break;
                }
            }
        })
        .map(drop)
}

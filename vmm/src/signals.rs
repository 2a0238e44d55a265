//! Signals that end the process, as events of the control loop.
//!
//! They are blocked in every thread before the first one starts, and read from
//! a signalfd on the device loop: no handler runs in the middle of anything.

use std::os::fd::AsRawFd;
use std::sync::mpsc::Sender;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::control::Event;

fn ending() -> SigSet {
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

/// Turns the blocked signals into events.
#[derive(Debug)]
pub struct SignalRelay {
    fd: SignalFd,
    events: Sender<Event>,
}

impl SignalRelay {
    /// A relay to `events`, to be put on the device loop.
    ///
    /// # Errors
    /// No more descriptors.
    pub fn new(events: Sender<Event>) -> nix::Result<Self> {
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let fd = SignalFd::with_flags(&ending(), flags)?;
        Ok(Self { fd, events })
    }
}

impl MutEventSubscriber for SignalRelay {
    fn process(&mut self, _: Events, _: &mut EventOps<'_>) {
        while let Ok(Some(info)) = self.fd.read_signal() {
            let signal = i32::try_from(info.ssi_signo).unwrap_or(0);
            // Without a receiver the process is ending already.
            let _ = self.events.send(Event::Terminate { signal });
        }
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        if let Err(error) = ops.add(Events::new_raw(self.fd.as_raw_fd(), EventSet::IN)) {
            tracing::error!("Signals cannot be watched: {error:?}");
        }
    }
}

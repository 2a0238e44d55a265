//! Signals while something is watched: taken between two looks, never in the
//! middle of one.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::Failure;

/// The signals that end a watch, as a descriptor.
#[derive(Debug)]
pub(super) struct Interrupts(SignalFd);

/// What ended a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Woken {
    /// The time is over.
    Time,
    /// A signal that ends the watch.
    Signal,
    /// The terminal has another size.
    Resized,
    /// A key, or the end of the input.
    Key(Option<u8>),
}

impl Interrupts {
    /// Takes the signals of this thread; the process has no other yet.
    pub(super) fn take() -> Result<Self, Failure> {
        let signals: SigSet = [
            Signal::SIGINT,
            Signal::SIGTERM,
            Signal::SIGHUP,
            Signal::SIGWINCH,
        ]
        .into_iter()
        .collect();
        let failed = |errno: Errno| Failure::Signals(errno.into());
        signals.thread_block().map_err(failed)?;
        SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .map(Self)
            .map_err(failed)
    }

    /// Waits for a signal until `deadline`.
    pub(super) fn wait(&self, deadline: Instant) -> Result<Woken, Failure> {
        self.wait_for(deadline, None)
    }

    /// Waits for a signal or a key until `deadline`.
    pub(super) fn wait_with_keys(&self, deadline: Instant) -> Result<Woken, Failure> {
        let stdin = io::stdin();
        self.wait_for(deadline, stdin.is_terminal().then_some(&stdin))
    }

    fn wait_for(&self, deadline: Instant, keys: Option<&io::Stdin>) -> Result<Woken, Failure> {
        let failed = |errno: Errno| Failure::Signals(errno.into());
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // Rounded up: a wait of 0 ms would turn in circles.
            let left = left + Duration::from_micros(999);
            let mut fds = vec![PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            fds.extend(keys.map(|keys| PollFd::new(keys.as_fd(), PollFlags::POLLIN)));
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut fds, timeout) {
                Ok(0) if Instant::now() >= deadline => return Ok(Woken::Time),
                Ok(0) | Err(Errno::EINTR) => continue,
                Ok(_) => (),
                Err(errno) => return Err(failed(errno)),
            }
            match self.0.read_signal().map_err(failed)? {
                Some(info) if info.ssi_signo == Signal::SIGWINCH as u32 => {
                    return Ok(Woken::Resized);
                }
                Some(_) => return Ok(Woken::Signal),
                None => (),
            }
            let Some(keys) = keys else { continue };
            let mut key = [0];
            match nix::unistd::read(keys, &mut key) {
                Ok(0) => return Ok(Woken::Key(None)),
                Ok(_) => return Ok(Woken::Key(key.first().copied())),
                Err(Errno::EINTR | Errno::EAGAIN) => (),
                // The terminal is gone.
                Err(_) => return Ok(Woken::Signal),
            }
        }
    }
}

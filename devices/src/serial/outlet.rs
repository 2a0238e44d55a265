//! Where the guest's output goes: written through when the other side is ready,
//! kept and sent later when it is not.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vmm_sys_util::eventfd::EventFd;

/// How many bytes of output are kept for a side that does not read, in bytes.
pub const PENDING_LIMIT: usize = 256 << 10;

/// How much is written at once. What polls as writable takes this much without
/// blocking: a pipe 4096 bytes, a socket a third of its buffer; terminals are
/// opened non-blocking.
const CHUNK: usize = 256;

/// The other side of the output.
#[derive(Debug)]
pub(super) enum Sink {
    /// Everything is thrown away, which is what was asked for.
    Null,
    /// Nobody is there: everything is dropped.
    Nobody,
    /// A regular file: always ready.
    File(File),
    /// Something whose reader may be slow.
    Stream(File),
}

/// The output of a serial port.
#[derive(Debug)]
pub(super) struct Outlet {
    sink: Sink,
    pending: VecDeque<u8>,
    /// The other side has gone; the pump is to take the sink away.
    broken: bool,
    wake: Arc<EventFd>,
    sent: u64,
    dropped: u64,
    warned: bool,
}

impl Outlet {
    pub(super) fn new(sink: Sink, wake: Arc<EventFd>) -> Self {
        Self {
            sink,
            pending: VecDeque::new(),
            broken: false,
            wake,
            sent: 0,
            dropped: 0,
            warned: false,
        }
    }

    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Whether the other side has gone.
    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    /// What to poll for room, while output waits.
    pub(super) fn waits_for(&self) -> Option<RawFd> {
        match &self.sink {
            Sink::Stream(file) if !self.pending.is_empty() && !self.broken => {
                Some(file.as_raw_fd())
            }
            _ => None,
        }
    }

    /// The descriptor of the other side, ready or not.
    pub(super) fn stream_fd(&self) -> Option<RawFd> {
        match &self.sink {
            Sink::Stream(file) => Some(file.as_raw_fd()),
            _ => None,
        }
    }

    /// Puts another side in place; what the old one did not take is dropped.
    pub(super) fn replace(&mut self, sink: Sink) {
        self.dropped += self.pending.len() as u64;
        self.pending = VecDeque::new();
        self.broken = false;
        self.sink = sink;
    }

    /// Takes away what waits.
    pub(super) fn take_pending(&mut self) -> VecDeque<u8> {
        std::mem::take(&mut self.pending)
    }

    /// Puts `bytes` before what waits.
    pub(super) fn put_back(&mut self, mut bytes: VecDeque<u8>) {
        bytes.append(&mut self.pending);
        self.pending = bytes;
    }

    /// Sends what waits, as far as the other side takes it now.
    pub(super) fn drain(&mut self) {
        while !self.pending.is_empty() && !self.broken {
            let Sink::Stream(file) = &mut self.sink else {
                return;
            };
            let (front, _) = self.pending.as_slices();
            match write_ready(file, front) {
                Ok(0) => return,
                Ok(written) => {
                    self.pending.drain(..written);
                    self.sent += written as u64;
                }
                Err(error) => self.broke(&error),
            }
        }
        // Give the memory back: a console is silent most of the time.
        self.pending = VecDeque::new();
    }

    /// Sends what waits, for at most `patience`.
    pub(super) fn finish(&mut self, patience: Duration) {
        let deadline = Instant::now() + patience;
        loop {
            self.drain();
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return;
            };
            let (Sink::Stream(file), Some(_)) = (&self.sink, self.waits_for()) else {
                return;
            };
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            // Whatever poll says, the next drain finds out.
            let _ = poll(
                &mut [PollFd::new(file.as_fd(), PollFlags::POLLOUT)],
                timeout,
            );
        }
    }

    fn broke(&mut self, error: &io::Error) {
        tracing::debug!("Serial port: the other side has gone: {error}");
        self.dropped += self.pending.len() as u64;
        self.pending = VecDeque::new();
        self.broken = true;
        self.wake();
    }

    fn wake(&self) {
        // Full means that the pump is awake already.
        let _ = self.wake.write(1);
    }

    fn drop_bytes(&mut self, count: usize, why: &str) {
        self.dropped += count as u64;
        if !std::mem::replace(&mut self.warned, true) {
            tracing::warn!("Serial port: output is dropped: {why}");
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        match &mut self.sink {
            Sink::Null => {
                self.sent += bytes.len() as u64;
                return;
            }
            Sink::Nobody => {
                self.dropped += bytes.len() as u64;
                return;
            }
            Sink::File(file) => {
                match file.write_all(bytes) {
                    Ok(()) => self.sent += bytes.len() as u64,
                    Err(error) => self.drop_bytes(bytes.len(), &error.to_string()),
                }
                return;
            }
            Sink::Stream(file) => {
                while !rest.is_empty() && self.pending.is_empty() && !self.broken {
                    match write_ready(file, rest) {
                        Ok(0) => break,
                        Ok(written) => {
                            self.sent += written as u64;
                            rest = rest.get(written..).unwrap_or_default();
                        }
                        Err(error) => {
                            self.broke(&error);
                            break;
                        }
                    }
                }
            }
        }
        if self.broken {
            self.dropped += rest.len() as u64;
        } else if !rest.is_empty() {
            if self.pending.is_empty() {
                self.wake();
            }
            self.pending.extend(rest);
            let excess = self.pending.len().saturating_sub(PENDING_LIMIT);
            if excess > 0 {
                self.pending.drain(..excess);
                self.drop_bytes(excess, "nobody reads it");
            }
        }
    }
}

impl Write for Outlet {
    /// Takes everything: what cannot be sent is kept or counted as dropped.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.push(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes what `file` takes now, without blocking: 0 when it takes nothing.
fn write_ready(file: &mut File, bytes: &[u8]) -> io::Result<usize> {
    let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLOUT)];
    match poll(&mut fds, PollTimeout::ZERO) {
        Ok(_) => (),
        Err(nix::errno::Errno::EINTR) => return Ok(0),
        Err(error) => return Err(error.into()),
    }
    let [ready] = fds;
    let events = ready.revents().unwrap_or(PollFlags::empty());
    if !events.contains(PollFlags::POLLOUT) {
        return if events.is_empty() {
            Ok(0)
        } else {
            Err(io::ErrorKind::BrokenPipe.into())
        };
    }
    let chunk = bytes.get(..CHUNK).unwrap_or(bytes);
    match file.write(chunk) {
        Ok(written) => Ok(written),
        Err(error) => match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(0),
            _ => Err(error),
        },
    }
}

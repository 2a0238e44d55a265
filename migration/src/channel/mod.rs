//! Connections between source and destination.
//!
//! Every socket is non-blocking, and whoever waits polls three descriptors: the
//! socket, the operator's cancel and the failure of another thread. So nothing
//! blocks a cancel, and a peer that goes silent is a time-out and never a hang.

mod connect;
mod listen;
mod resolve;
mod rights;
mod stop;
mod vectored;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{Shutdown, shutdown};

pub(crate) use connect::connect;
pub use listen::{BindError, Listener};
pub(crate) use rights::{receive_with_files, send_with_files};
pub(crate) use stop::Stop;
pub(crate) use vectored::{Incoming, Outgoing};

use crate::wire::message::Message;
use crate::wire::{BadBody, FrameError, HEADER_BYTES, Header, Kind};

/// A connection failed, or what came over it was wrong.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The operator asked for the end.
    #[error("The migration was cancelled")]
    Cancelled,
    /// Something happened that made it pointless.
    #[error("{0}")]
    Pointless(String),
    /// Another thread failed; its error tells more.
    #[error("Another connection of this migration failed")]
    Stopped,
    /// Nobody answers there.
    #[error("Could not connect to {address}")]
    Connect {
        /// The address.
        address: String,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// The peer closed.
    #[error("The peer closed the connection while {doing}")]
    Closed {
        /// What was being waited for.
        doing: &'static str,
    },
    /// The peer was silent for too long.
    #[error("The peer made no progress for {} ms while {doing}: is the network cut?", .limit.as_millis())]
    Stalled {
        /// What was being waited for.
        doing: &'static str,
        /// How long was waited.
        limit: Duration,
    },
    /// The operating system says so.
    #[error("Input or output failed while {doing}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// The bytes are no frame.
    #[error("The peer sent a bad frame")]
    Frame(#[from] FrameError),
    /// The frame says nothing that makes sense.
    #[error("The peer sent a bad {kind:?} frame")]
    Body {
        /// Its kind.
        kind: Kind,
        /// What is wrong.
        #[source]
        source: BadBody,
    },
    /// A frame at the wrong time.
    #[error("The peer sent {got:?} where {wanted} was due")]
    Unexpected {
        /// What came.
        got: Kind,
        /// What should have.
        wanted: &'static str,
    },
    /// The peer gave up and said why.
    #[error("The peer ended the migration: {0}")]
    Aborted(String),
    /// Pages that the guest does not have, or that memory refuses.
    #[error("Region {region} has no pages {first} to {}", .first.saturating_add(*.count))]
    NoSuchPages {
        /// The region's number.
        region: usize,
        /// The first page.
        first: u64,
        /// How many.
        count: u64,
    },
    /// The guest's dirty log failed.
    #[error("Could not re-arm the dirty log")]
    Log(#[source] crate::guest::Cause),
    /// A thread panicked: a defect of ours, contained.
    #[error("A worker thread panicked")]
    Panicked,
}

impl ChannelError {
    /// True when our own side asked for the end.
    pub(crate) fn is_asked_for(&self) -> bool {
        matches!(self, Self::Cancelled | Self::Pointless(_))
    }
}

/// How long to wait for a peer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Patience {
    /// This long without any progress.
    For(Duration),
    /// As long as the session lives: something else watches the peer.
    Session,
    /// This long, and no cancel is heeded: ownership is moving.
    Committed(Duration),
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Link {
    socket: OwnedFd,
    stop: Stop,
    stall: Duration,
    /// Bytes that came.
    received: AtomicU64,
}

impl Link {
    /// Takes a connected stream socket. `stall` bounds any silence in a frame.
    pub(crate) fn new(socket: OwnedFd, stop: Stop, stall: Duration) -> Result<Self, ChannelError> {
        use nix::fcntl::{FcntlArg, OFlag, fcntl};
        connect::tune(&socket, stall);
        fcntl(&socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|e| ChannelError::Io {
            doing: "preparing a connection",
            source: e.into(),
        })?;
        Ok(Self {
            socket,
            stop,
            stall,
            received: AtomicU64::new(0),
        })
    }

    pub(crate) fn stop(&self) -> &Stop {
        &self.stop
    }

    pub(crate) fn stall(&self) -> Duration {
        self.stall
    }

    /// Bytes that came so far: a peer that is slow is told from one that is silent by them.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Ends both directions; the peer and our own waiting threads notice.
    pub(crate) fn close(&self) {
        let _ = shutdown(
            std::os::fd::AsRawFd::as_raw_fd(&self.socket),
            Shutdown::Both,
        );
    }

    /// Says why it ends, and closes. The peer need not hear it; but closing TCP
    /// with bytes unread resets the connection, and takes from the peer what it
    /// has not read: so what it still sends is read for a moment.
    pub(crate) fn part(&self, reason: String) {
        const MOMENT: Duration = Duration::from_millis(200);
        let patience = Patience::Committed(MOMENT);
        let said = self.send_patiently(&Message::Abort(reason), patience, "ending");
        let _ = shutdown(
            std::os::fd::AsRawFd::as_raw_fd(&self.socket),
            Shutdown::Write,
        );
        let deadline = Instant::now() + MOMENT;
        let mut bytes = vec![0; 64 << 10];
        while said.is_ok() && Instant::now() < deadline {
            let mut into = Incoming::default();
            into.bytes(&mut bytes);
            match into.receive(self.socket.as_fd()) {
                Ok(0) => break,
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if self.wait(PollFlags::POLLIN, patience, "ending").is_err() {
                        break;
                    }
                }
                Err(_) => break,
            }
        }
        self.close();
    }

    /// Sends all of it.
    pub(crate) fn send_all(
        &self,
        mut out: Outgoing<'_>,
        patience: Patience,
        doing: &'static str,
    ) -> Result<(), ChannelError> {
        while !out.is_done() {
            match out.send(self.socket.as_fd()) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(PollFlags::POLLOUT, patience, doing)?;
                }
                Err(source) => return Err(ChannelError::Io { doing, source }),
            }
        }
        Ok(())
    }

    /// Fills all of it.
    pub(crate) fn receive_all(
        &self,
        mut into: Incoming<'_>,
        patience: Patience,
        doing: &'static str,
    ) -> Result<(), ChannelError> {
        while !into.is_done() {
            match into.receive(self.socket.as_fd()) {
                Ok(0) => return Err(ChannelError::Closed { doing }),
                Ok(bytes) => {
                    self.received.fetch_add(bytes as u64, Ordering::Relaxed);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(PollFlags::POLLIN, patience, doing)?;
                }
                Err(source) => return Err(ChannelError::Io { doing, source }),
            }
        }
        Ok(())
    }

    /// Waits until the socket is ready, the session ends, or patience does.
    pub(crate) fn wait(
        &self,
        events: PollFlags,
        patience: Patience,
        doing: &'static str,
    ) -> Result<(), ChannelError> {
        if self.poll(&[], events, patience, doing)? {
            return Ok(());
        }
        let (Patience::For(limit) | Patience::Committed(limit)) = patience else {
            return Ok(());
        };
        Err(ChannelError::Stalled { doing, limit })
    }

    /// Waits for the socket, for one of `others` to become readable, for the
    /// end of the session, or for the end of patience: then it answers false.
    pub(crate) fn poll(
        &self,
        others: &[BorrowedFd<'_>],
        events: PollFlags,
        patience: Patience,
        doing: &'static str,
    ) -> Result<bool, ChannelError> {
        let (limit, heed) = match patience {
            Patience::For(limit) => (Some(limit), true),
            Patience::Session => (None, true),
            Patience::Committed(limit) => (Some(limit), false),
        };
        let deadline = limit.map(|limit| Instant::now() + limit);
        let wakers = if heed { &self.stop.wakers()[..] } else { &[] };
        let mut fds = vec![PollFd::new(self.socket.as_fd(), events)];
        fds.extend(
            others
                .iter()
                .chain(wakers)
                .map(|fd| PollFd::new(*fd, PollFlags::POLLIN)),
        );
        loop {
            if heed {
                self.stop.check()?;
            }
            let left = match deadline {
                None => PollTimeout::NONE,
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    // Rounded up: a wait of less than 1 ms must not spin.
                    let millis = left.as_micros().div_ceil(1000);
                    PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
                }
            };
            match poll(&mut fds, left) {
                Ok(0) => return Ok(false),
                Ok(_) => {
                    if heed {
                        self.stop.check()?;
                    }
                    return Ok(true);
                }
                Err(nix::errno::Errno::EINTR) => {}
                Err(e) => {
                    return Err(ChannelError::Io {
                        doing,
                        source: e.into(),
                    });
                }
            }
        }
    }

    /// True if something can be read now, or the peer has closed.
    pub(crate) fn is_readable(&self) -> bool {
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1))
    }

    /// Sends a message.
    pub(crate) fn send(&self, message: &Message, doing: &'static str) -> Result<(), ChannelError> {
        self.send_patiently(message, Patience::For(self.stall), doing)
    }

    /// Sends a message with other patience than the link's.
    pub(crate) fn send_patiently(
        &self,
        message: &Message,
        patience: Patience,
        doing: &'static str,
    ) -> Result<(), ChannelError> {
        let bytes = message.to_bytes();
        let mut out = Outgoing::default();
        out.bytes(&bytes);
        self.send_all(out, patience, doing)
    }

    /// The next frame's header.
    pub(crate) fn receive_header(
        &self,
        patience: Patience,
        doing: &'static str,
    ) -> Result<Header, ChannelError> {
        let mut bytes = [0; HEADER_BYTES];
        let (first, rest) = bytes.split_at_mut(1);
        let mut into = Incoming::default();
        into.bytes(first);
        self.receive_all(into, patience, doing)?;
        // Once a frame has begun, its rest is due.
        let mut into = Incoming::default();
        into.bytes(rest);
        self.receive_all(into, self.within_frame(patience), doing)?;
        Ok(Header::parse(&bytes)?)
    }

    fn within_frame(&self, patience: Patience) -> Patience {
        match patience {
            Patience::Committed(_) => Patience::Committed(self.stall),
            Patience::For(_) | Patience::Session => Patience::For(self.stall),
        }
    }

    /// The body that belongs to `header`, verified. Room is made as bytes come,
    /// so that a length alone allocates little.
    pub(crate) fn receive_body(
        &self,
        header: &Header,
        patience: Patience,
        body: &mut Vec<u8>,
        doing: &'static str,
    ) -> Result<(), ChannelError> {
        const STEP: usize = 1 << 20;
        body.clear();
        let total = header.body as usize;
        while body.len() < total {
            let start = body.len();
            body.resize(total.min(start + STEP), 0);
            let mut into = Incoming::default();
            into.bytes(body.get_mut(start..).unwrap_or_default());
            self.receive_all(into, self.within_frame(patience), doing)?;
        }
        header.check_body(body)?;
        Ok(())
    }

    /// The better of several reasons: what another thread met first, and what the
    /// peer says of itself, over "the connection was closed". For the control
    /// connection of a session that has failed.
    pub(crate) fn explain(&self, mut error: ChannelError) -> ChannelError {
        if matches!(error, ChannelError::Stopped) {
            error = self.stop.take_failure().unwrap_or(error);
        }
        let is_silent = matches!(
            error,
            ChannelError::Closed { .. } | ChannelError::Io { .. } | ChannelError::Stopped
        );
        if is_silent && let Some(reason) = self.last_words() {
            error = ChannelError::Aborted(reason);
        }
        error
    }

    /// Why the peer gave up, if it says so soon.
    fn last_words(&self) -> Option<String> {
        const FRAMES: usize = 64;
        let patience = Patience::Committed(Duration::from_millis(200));
        for _ in 0..FRAMES {
            match self.receive(patience, "asking why") {
                Ok(_) => {}
                Err(ChannelError::Aborted(reason)) => return Some(reason),
                Err(_) => return None,
            }
        }
        None
    }

    /// The next message; an ABORT is an error.
    pub(crate) fn receive(
        &self,
        patience: Patience,
        doing: &'static str,
    ) -> Result<Message, ChannelError> {
        let header = self.receive_header(patience, doing)?;
        let mut body = Vec::new();
        self.receive_body(&header, patience, &mut body, doing)?;
        message_of(&header, &body)
    }
}

/// The message that a frame holds; an ABORT is an error.
pub(crate) fn message_of(header: &Header, body: &[u8]) -> Result<Message, ChannelError> {
    let kind = header.kind;
    match Message::parse(kind, body).map_err(|source| ChannelError::Body { kind, source })? {
        Message::Abort(reason) => Err(ChannelError::Aborted(reason)),
        message => Ok(message),
    }
}

//! Reaching the destination.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrLike, SockaddrStorage, UnixAddr,
    connect as connect_socket, getsockopt, setsockopt, socket, sockopt,
};

use super::resolve::resolve;
use super::{ChannelError, Stop};
use crate::address::Address;

/// Connects to `address`, trying each address that its name has.
pub(crate) fn connect(
    address: &Address,
    stop: &Stop,
    limit: Duration,
) -> Result<OwnedFd, ChannelError> {
    let wrap = |source| match source {
        Trouble::Ended(error) => error,
        Trouble::Os(source) => ChannelError::Connect {
            address: address.to_string(),
            source,
        },
    };
    match address {
        Address::Unix(path) => connect_unix(path, stop, limit).map_err(wrap),
        Address::Tcp { host, port } => {
            let all = resolve(host, *port, stop, limit).map_err(wrap)?;
            let mut last = Trouble::Os(io::Error::new(
                io::ErrorKind::NotFound,
                "the name has no address",
            ));
            for one in all {
                match connect_tcp(one, stop, limit) {
                    Ok(socket) => return Ok(socket),
                    Err(Trouble::Ended(error)) => return Err(error),
                    Err(os) => last = os,
                }
            }
            Err(wrap(last))
        }
    }
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The session has ended.
    Ended(ChannelError),
    /// The operating system's reason.
    Os(io::Error),
}

impl From<Errno> for Trouble {
    fn from(errno: Errno) -> Self {
        Self::Os(errno.into())
    }
}

fn connect_tcp(to: SocketAddr, stop: &Stop, limit: Duration) -> Result<OwnedFd, Trouble> {
    let family = if to.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, SockType::Stream, flags, SockProtocol::Tcp)?;
    begin(socket, &SockaddrStorage::from(to), stop, limit)
}

fn connect_unix(to: &Path, stop: &Stop, limit: Duration) -> Result<OwnedFd, Trouble> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    begin(socket, &UnixAddr::new(to)?, stop, limit)
}

fn begin(
    socket: OwnedFd,
    to: &dyn SockaddrLike,
    stop: &Stop,
    limit: Duration,
) -> Result<OwnedFd, Trouble> {
    let deadline = Instant::now() + limit;
    loop {
        match connect_socket(socket.as_raw_fd(), to) {
            Ok(()) => return Ok(socket),
            Err(Errno::EINTR | Errno::EINPROGRESS) => break,
            // A Unix listener whose queue is full: try again soon.
            Err(Errno::EAGAIN) if Instant::now() < deadline => {
                wait(None, Duration::from_millis(5), stop)?;
            }
            Err(e) => return Err(e.into()),
        }
    }
    if !wait(Some(&socket), limit, stop)? {
        return Err(Errno::ETIMEDOUT.into());
    }
    match getsockopt(&socket, sockopt::SocketError)? {
        0 => Ok(socket),
        error => Err(Errno::from_raw(error).into()),
    }
}

/// Waits until `socket` can be written, the time is over, or the session ends.
fn wait(socket: Option<&OwnedFd>, limit: Duration, stop: &Stop) -> Result<bool, Trouble> {
    let [cancel, failed] = stop.wakers();
    let mut fds = vec![
        PollFd::new(cancel, PollFlags::POLLIN),
        PollFd::new(failed, PollFlags::POLLIN),
    ];
    fds.extend(socket.map(|s| PollFd::new(s.as_fd(), PollFlags::POLLOUT)));
    stop.check().map_err(Trouble::Ended)?;
    let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
    match poll(&mut fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(e) => return Err(e.into()),
    }
    stop.check().map_err(Trouble::Ended)?;
    Ok(fds
        .last()
        .and_then(PollFd::revents)
        .is_some_and(|events| !events.is_empty()))
}

/// Room for what is under way. Beyond what a system allows without privilege,
/// TCP's own tuning does better than a fixed size, which switches it off.
const BUFFER_BYTES: usize = 4 << 20;

/// Sets what helps, as far as the socket knows it: a Unix socket has no Nagle.
pub(super) fn tune(socket: &OwnedFd, stall: Duration) {
    let _ = setsockopt(socket, sockopt::TcpNoDelay, &true);
    let forced = setsockopt(socket, sockopt::SndBufForce, &BUFFER_BYTES).is_ok()
        && setsockopt(socket, sockopt::RcvBufForce, &BUFFER_BYTES).is_ok();
    let is_tcp = getsockopt(socket, sockopt::TcpNoDelay).is_ok();
    if !forced && !is_tcp {
        let _ = setsockopt(socket, sockopt::SndBuf, &BUFFER_BYTES);
    }
    if is_tcp {
        // A cut cable: unanswered data gives up after `stall`, an idle
        // connection after probes.
        let millis = u32::try_from(stall.as_millis()).unwrap_or(u32::MAX);
        let _ = setsockopt(socket, sockopt::TcpUserTimeout, &millis);
        let _ = setsockopt(socket, sockopt::KeepAlive, &true);
        let _ = setsockopt(socket, sockopt::TcpKeepIdle, &2);
        let _ = setsockopt(socket, sockopt::TcpKeepInterval, &1);
        let _ = setsockopt(socket, sockopt::TcpKeepCount, &5);
    }
}

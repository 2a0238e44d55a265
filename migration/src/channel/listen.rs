//! Waiting for a source.

use std::fs;
use std::io;
use std::net::{TcpListener, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{ChannelError, Stop};
use crate::address::Address;

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("Could not listen on {address}")]
pub struct BindError {
    /// The address.
    pub address: String,
    /// The operating system's reason.
    #[source]
    pub source: io::Error,
}

/// A destination's open door. A Unix socket's file goes when this does.
#[derive(Debug)]
pub struct Listener {
    socket: Door,
    address: Address,
}

#[derive(Debug)]
enum Door {
    Tcp(TcpListener),
    /// The file goes with the listener.
    Unix(
        UnixListener,
        #[expect(dead_code, reason = "held to be dropped")] SocketFile,
    ),
}

/// The file of a Unix socket of ours, known by device and inode: another's of
/// the same name is left alone.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    id: Option<(u64, u64)>,
}

impl SocketFile {
    fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            id: Self::id_of(path),
        }
    }

    fn id_of(path: &Path) -> Option<(u64, u64)> {
        fs::symlink_metadata(path).ok().map(|m| (m.dev(), m.ino()))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.id.is_some() && Self::id_of(&self.path) == self.id {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Listener {
    /// Listens on `address`. Port 0 lets the system choose. A Unix socket that
    /// nobody listens on any more is replaced, a live one refused.
    ///
    /// # Errors
    /// The address is taken, unknown or not allowed.
    pub fn bind(address: &Address) -> Result<Self, BindError> {
        Self::open(address).map_err(|source| BindError {
            address: address.to_string(),
            source,
        })
    }

    fn open(address: &Address) -> io::Result<Self> {
        match address {
            Address::Unix(path) => {
                let listener = match UnixListener::bind(path) {
                    Err(e) if e.kind() == io::ErrorKind::AddrInUse && is_stale(path) => {
                        fs::remove_file(path)?;
                        UnixListener::bind(path)?
                    }
                    other => other?,
                };
                listener.set_nonblocking(true)?;
                Ok(Self {
                    socket: Door::Unix(listener, SocketFile::new(path)),
                    address: address.clone(),
                })
            }
            Address::Tcp { host, port } => {
                let all: Vec<_> = (host.as_str(), *port).to_socket_addrs()?.collect();
                let listener = TcpListener::bind(&all[..])?;
                listener.set_nonblocking(true)?;
                let address = Address::Tcp {
                    host: host.clone(),
                    port: listener.local_addr()?.port(),
                };
                Ok(Self {
                    socket: Door::Tcp(listener),
                    address,
                })
            }
        }
    }

    /// Where it listens, with the port that the system chose.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The next connection, within `limit` if there is one.
    pub(crate) fn accept(
        &self,
        stop: &Stop,
        limit: Option<Duration>,
    ) -> Result<OwnedFd, ChannelError> {
        const DOING: &str = "waiting for the source to connect";
        loop {
            stop.check()?;
            let socket = match &self.socket {
                Door::Tcp(listener) => listener.accept().map(|(s, _)| OwnedFd::from(s)),
                Door::Unix(listener, _) => listener.accept().map(|(s, _)| OwnedFd::from(s)),
            };
            match socket {
                Ok(socket) => return Ok(socket),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                // The connection was gone before we took it (accept(2)).
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted
                    ) =>
                {
                    continue;
                }
                Err(source) => {
                    return Err(ChannelError::Io {
                        doing: DOING,
                        source,
                    });
                }
            }
            let [cancel, failed] = stop.wakers();
            let mut fds =
                [self.as_fd(), cancel, failed].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            let timeout = limit.map_or(PollTimeout::NONE, |limit| {
                PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX)
            });
            match poll(&mut fds, timeout) {
                Ok(0) => {
                    return Err(ChannelError::Stalled {
                        doing: DOING,
                        limit: limit.unwrap_or_default(),
                    });
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(e) => {
                    return Err(ChannelError::Io {
                        doing: DOING,
                        source: e.into(),
                    });
                }
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Door::Tcp(listener) => listener.as_fd(),
            Door::Unix(listener, _) => listener.as_fd(),
        }
    }
}

/// True for a socket's file that nobody listens on.
fn is_stale(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket())
        && UnixStream::connect(path).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused)
}

//! The socket that clients come to.
//!
//! Of two processes that are given the same path, one serves and the other is
//! told so. The lock file beside the socket decides it: the kernel lets go of
//! the lock however its process ended, so a socket whose lock is free is
//! stale, and is replaced.

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with, sockopt,
};
use thiserror::Error;

/// The most that wait to be accepted.
const BACKLOG: i32 = 128;

/// Where clients come from.
#[derive(Debug)]
pub struct ApiSocket {
    kind: Kind,
    file: Option<SocketFile>,
}

#[derive(Debug)]
pub(super) enum Kind {
    Listener(UnixListener),
    Connection(UnixStream),
}

/// Why there is no socket to serve.
#[derive(Debug, Error)]
pub enum SocketError {
    /// Another process serves it.
    #[error(
        "the API socket {} is in use by another process; stop it or choose another path",
        path.display()
    )]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something that is no socket has this name.
    #[error("{} exists and is no socket; it is not replaced", path.display())]
    NoSocket {
        /// The file.
        path: PathBuf,
    },
    /// A system call failed.
    #[error("cannot {attempt} the API socket {}", path.display())]
    File {
        /// What was attempted.
        attempt: &'static str,
        /// The socket.
        path: PathBuf,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// The descriptor is no Unix stream socket.
    #[error("the file descriptor for the API is no Unix stream socket")]
    Descriptor(#[source] io::Error),
}

impl ApiSocket {
    /// Makes a listening socket at `path`.
    ///
    /// Nobody but the owner and, if the umask lets it, the group may connect.
    ///
    /// # Errors
    ///
    /// [`SocketError`]: it is in use, or no socket, or the kernel refused.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let failed = |attempt| {
            move |source: io::Error| SocketError::File {
                attempt,
                path: path.to_owned(),
                source,
            }
        };
        let lock = Lock::take(path)?;
        remove_stale(path)?;
        let socket = socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )
        .map_err(|error| failed("create")(error.into()))?;
        let address = SocketAddrUnix::new(path).map_err(|error| failed("name")(error.into()))?;
        bind(&socket, &address).map_err(|error| failed("bind")(error.into()))?;
        let metadata = fs::symlink_metadata(path).map_err(failed("look at"))?;
        let file = SocketFile {
            path: path.to_owned(),
            inode: (metadata.dev(), metadata.ino()),
            _lock: lock,
        };
        // Before listen(2), nobody can connect yet.
        fs::set_permissions(path, Permissions::from_mode(metadata.mode() & 0o660))
            .map_err(failed("set the mode of"))?;
        listen(&socket, BACKLOG).map_err(|error| failed("listen on")(error.into()))?;
        Ok(Self {
            kind: Kind::Listener(UnixListener::from(socket)),
            file: Some(file),
        })
    }

    /// Takes a socket that is open: one that listens, or one connection.
    ///
    /// # Errors
    ///
    /// [`SocketError::Descriptor`]: it is no Unix stream socket.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, SocketError> {
        let wrong = |reason: &str| SocketError::Descriptor(io::Error::other(reason.to_owned()));
        let kernel = |error: rustix::io::Errno| SocketError::Descriptor(error.into());
        if sockopt::socket_type(&fd).map_err(kernel)? != SocketType::STREAM {
            return Err(wrong("its type is not SOCK_STREAM"));
        }
        if sockopt::socket_domain(&fd).map_err(kernel)? != AddressFamily::UNIX {
            return Err(wrong("its family is not AF_UNIX"));
        }
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC).map_err(kernel)?;
        let kind = if sockopt::socket_acceptconn(&fd).map_err(kernel)? {
            Kind::Listener(UnixListener::from(fd))
        } else {
            Kind::Connection(UnixStream::from(fd))
        };
        Ok(Self { kind, file: None })
    }

    pub(super) fn into_parts(self) -> (Kind, Option<SocketFile>) {
        (self.kind, self.file)
    }
}

/// Removes a socket that nobody listens on. The lock is held.
fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let failed = |attempt, source| SocketError::File {
        attempt,
        path: path.to_owned(),
        source,
    };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at", error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(SocketError::NoSocket {
                path: path.to_owned(),
            });
        }
        Ok(_) => (),
    }
    // A server that takes no lock.
    if UnixStream::connect(path).is_ok() {
        return Err(SocketError::InUse {
            path: path.to_owned(),
        });
    }
    tracing::info!(path = %path.display(), "replacing a stale API socket");
    fs::remove_file(path).map_err(|error| failed("replace", error))
}

/// A socket in the file system that is removed at the end.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
    /// Let go of last.
    _lock: Lock,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.inode);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the API socket");
        }
    }
}

/// The lock beside a socket.
#[derive(Debug)]
struct Lock {
    path: PathBuf,
    /// Held for the lock on it.
    _file: File,
}

impl Lock {
    fn take(socket: &Path) -> Result<Self, SocketError> {
        let mut path = socket.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        let failed = |source| SocketError::File {
            attempt: "lock",
            path: socket.to_owned(),
            source,
        };
        loop {
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)
                .map_err(failed)?;
            match file.try_lock() {
                Ok(()) => (),
                Err(TryLockError::WouldBlock) => {
                    return Err(SocketError::InUse {
                        path: socket.to_owned(),
                    });
                }
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
            // Its last holder may have removed the file after we opened it.
            if is_in_place(&file, &path).map_err(failed)? {
                return Ok(Self { path, _file: file });
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Still locked: whoever opened the file meanwhile sees that it is gone.
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the lock file");
        }
    }
}

fn is_in_place(file: &File, path: &Path) -> io::Result<bool> {
    let opened = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (opened.dev(), opened.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;

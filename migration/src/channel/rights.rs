//! File descriptors beside a frame (`SCM_RIGHTS`, unix(7)).
#![allow(unsafe_code, reason = "received descriptors become owned here")]

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

use super::{ChannelError, Link, Outgoing, Patience};

/// What the kernel passes in one message (`SCM_MAX_FD`).
const CALL_FILES: usize = 253;

/// Sends `bytes`, with `files` beside the first of them.
pub(crate) fn send_with_files(
    link: &Link,
    bytes: &[u8],
    files: &[BorrowedFd<'_>],
    doing: &'static str,
) -> Result<(), ChannelError> {
    if files.len() > CALL_FILES {
        return Err(ChannelError::Io {
            doing,
            source: io::Error::other(format!("{} files are too many", files.len())),
        });
    }
    let raw: Vec<RawFd> = files.iter().map(AsRawFd::as_raw_fd).collect();
    let (first, rest) = bytes.split_at(bytes.len().min(1));
    let pieces = [IoSlice::new(first)];
    let rights = [ControlMessage::ScmRights(&raw)];
    loop {
        let sent = sendmsg::<()>(
            link.socket.as_raw_fd(),
            &pieces,
            &rights,
            MsgFlags::MSG_NOSIGNAL,
            None,
        );
        match sent {
            Ok(_) => break,
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                link.wait(PollFlags::POLLOUT, Patience::For(link.stall), doing)?;
            }
            Err(e) => {
                return Err(ChannelError::Io {
                    doing,
                    source: e.into(),
                });
            }
        }
    }
    let mut out = Outgoing::default();
    out.bytes(rest);
    link.send_all(out, Patience::For(link.stall), doing)
}

/// Receives one byte and the files that came beside it.
pub(crate) fn receive_with_files(
    link: &Link,
    doing: &'static str,
) -> Result<(u8, Vec<OwnedFd>), ChannelError> {
    let mut byte = [0];
    let mut space = nix::cmsg_space!([RawFd; CALL_FILES]);
    loop {
        let mut pieces = [IoSliceMut::new(&mut byte)];
        let received = recvmsg::<()>(
            link.socket.as_fd().as_raw_fd(),
            &mut pieces,
            Some(&mut space),
            MsgFlags::MSG_CMSG_CLOEXEC,
        );
        let mut files = Vec::new();
        match received {
            Ok(message) => {
                for control in message.cmsgs().into_iter().flatten() {
                    if let ControlMessageOwned::ScmRights(list) = control {
                        // SAFETY: the kernel has just installed these descriptors in this
                        // process, and nobody else knows their numbers.
                        files.extend(list.iter().map(|fd| unsafe { OwnedFd::from_raw_fd(*fd) }));
                    }
                }
                if message.bytes == 0 {
                    return Err(ChannelError::Closed { doing });
                }
                return Ok((byte[0], files));
            }
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                link.wait(PollFlags::POLLIN, Patience::For(link.stall), doing)?;
            }
            Err(e) => {
                return Err(ChannelError::Io {
                    doing,
                    source: e.into(),
                });
            }
        }
    }
}

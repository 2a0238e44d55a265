//! One system call for many pieces: `sendmsg` and `recvmsg` straight from and to
//! guest memory.
#![allow(unsafe_code, reason = "system calls on raw ranges are fenced here")]

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::memory::Span;

/// The most pieces that one call takes (`UIO_MAXIOV`).
const CALL_PIECES: usize = 1024;

/// Pieces in the order they travel; what has travelled is dropped.
#[derive(Debug, Default)]
struct Pieces {
    list: Vec<libc::iovec>,
    next: usize,
}

impl Pieces {
    fn push(&mut self, piece: libc::iovec) {
        if piece.iov_len != 0 {
            self.list.push(piece);
        }
    }

    fn is_done(&self) -> bool {
        self.next == self.list.len()
    }

    fn advance(&mut self, mut bytes: usize) {
        while let Some(piece) = self.list.get_mut(self.next) {
            if bytes < piece.iov_len {
                piece.iov_base = piece.iov_base.wrapping_byte_add(bytes);
                piece.iov_len -= bytes;
                return;
            }
            bytes -= piece.iov_len;
            self.next += 1;
        }
    }

    /// The next call's message.
    fn message(&mut self) -> libc::msghdr {
        let rest = self.list.get_mut(self.next..).unwrap_or_default();
        // SAFETY: all-zero is a message header with no name, pieces or control data.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = rest.as_mut_ptr();
        message.msg_iovlen = rest.len().min(CALL_PIECES);
        message
    }
}

fn moved(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// What goes out.
#[derive(Debug, Default)]
pub(crate) struct Outgoing<'a> {
    pieces: Pieces,
    _life: PhantomData<&'a [u8]>,
}

impl<'a> Outgoing<'a> {
    pub(crate) fn bytes(&mut self, bytes: &'a [u8]) {
        self.pieces.push(libc::iovec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        });
    }

    pub(crate) fn span(&mut self, span: Span<'a>) {
        self.pieces.push(span.iovec());
    }

    pub(super) fn is_done(&self) -> bool {
        self.pieces.is_done()
    }

    /// Hands the kernel as much as it takes now; answers how much that was.
    pub(super) fn send(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let message = self.pieces.message();
        let socket = socket.as_raw_fd();
        // Guest memory may change meanwhile, which the kernel's copy bears.
        // SAFETY: each piece is a range that lives as long as `'a` and that the kernel only reads;
        // the list lives through the call.
        let sent = unsafe { libc::sendmsg(socket, &message, libc::MSG_NOSIGNAL) };
        let sent = moved(sent)?;
        self.pieces.advance(sent);
        Ok(sent)
    }
}

/// Where what comes in goes.
#[derive(Debug, Default)]
pub(crate) struct Incoming<'a> {
    pieces: Pieces,
    _life: PhantomData<&'a mut [u8]>,
}

impl<'a> Incoming<'a> {
    pub(crate) fn bytes(&mut self, bytes: &'a mut [u8]) {
        self.pieces.push(libc::iovec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: bytes.len(),
        });
    }

    pub(crate) fn span(&mut self, span: Span<'a>) {
        self.pieces.push(span.iovec());
    }

    pub(super) fn is_done(&self) -> bool {
        self.pieces.is_done()
    }

    /// Takes what is there now; zero means that the peer has closed.
    pub(super) fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let mut message = self.pieces.message();
        // SAFETY: each piece is a range that lives as long as `'a`: bytes lent
        // exclusively, or guest memory, which is written by raw pointer only.
        let received = moved(unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, 0) })?;
        self.pieces.advance(received);
        Ok(received)
    }
}

//! A Unix socket as hyper reads and writes it.
//!
//! Reading is recvmsg(2): descriptors come with bytes. The kernel ends a read
//! after the piece that carries descriptors, so the last byte that was read
//! tells to which request they belong.

use std::cell::RefCell;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBufCursor, Write};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};
use tokio::io::{AsyncWrite, Interest};
use tokio::net::UnixStream;

use super::Limits;
use super::answer;
use super::deadline::Deadline;
use super::exchange::{Exchange, MAX_FDS};

const PIECE_BYTES: usize = 16 << 10;

/// One connection.
#[derive(Debug)]
pub(super) struct Stream {
    socket: UnixStream,
    exchange: Rc<RefCell<Exchange>>,
    piece: Piece,
    head: Deadline,
    write: Deadline,
    replaced: Option<Replaced>,
}

/// What is written in place of what hyper made up itself.
#[derive(Debug)]
struct Replaced {
    bytes: Vec<u8>,
    written: usize,
    /// How much of hyper's bytes it stands for.
    stands_for: usize,
}

/// What was received and not yet given out.
#[derive(Debug)]
struct Piece {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
    fds: Vec<OwnedFd>,
    /// More descriptors came than there is room for.
    truncated: bool,
}

impl Stream {
    pub(super) fn new(
        socket: UnixStream,
        exchange: Rc<RefCell<Exchange>>,
        limits: &Limits,
    ) -> Self {
        Self {
            socket,
            exchange,
            piece: Piece {
                bytes: vec![0; PIECE_BYTES].into(),
                start: 0,
                end: 0,
                fds: Vec::new(),
                truncated: false,
            },
            head: Deadline::new(limits.head),
            write: Deadline::new(limits.write),
            replaced: None,
        }
    }

    /// Ready when there is something in the piece, or the peer has ended.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.socket.poll_read_ready(cx))?;
            let piece = &mut self.piece;
            let socket = &self.socket;
            match socket.try_io(Interest::READABLE, || piece.receive(socket)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => (),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                result => return Poll::Ready(result),
            }
        }
    }

    /// hyper's own words have a reason phrase, and those to bytes that are no
    /// HTTP tell no reason.
    fn replacement(&self, buf: &[u8]) -> Option<Replaced> {
        let bytes = if self.exchange.borrow().is_outside_a_request() {
            answer::in_place_of_refusal(buf)
        } else {
            answer::in_place_of_interim(buf)
        };
        bytes.map(|bytes| Replaced {
            bytes,
            written: 0,
            stands_for: buf.len(),
        })
    }

    fn poll_write_replaced(
        socket: &mut UnixStream,
        replaced: &mut Replaced,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let rest = replaced.bytes.get(replaced.written..).unwrap_or_default();
            if rest.is_empty() {
                return Poll::Ready(Ok(replaced.stands_for));
            }
            replaced.written += ready!(Pin::new(&mut *socket).poll_write(cx, rest))?;
        }
    }
}

impl Piece {
    fn receive(&mut self, socket: &UnixStream) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            socket,
            &mut [IoSliceMut::new(&mut self.bytes)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        self.start = 0;
        self.end = received.bytes;
        self.truncated = received.flags.contains(ReturnFlags::CTRUNC);
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.fds.extend(fds);
            }
        }
        Ok(())
    }
}

impl Read for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.exchange.borrow().in_head() {
            this.head.stop();
        }
        if !this.exchange.borrow_mut().may_read(cx.waker()) {
            return Poll::Pending;
        }
        if this.piece.start == this.piece.end
            && let Poll::Pending = this.poll_receive(cx)?
        {
            if this.exchange.borrow().in_head() {
                this.head.start();
                ready!(this.head.poll(cx));
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            return Poll::Pending;
        }
        let mut exchange = this.exchange.borrow_mut();
        let piece = &mut this.piece;
        let bytes = piece.bytes.get(piece.start..piece.end).unwrap_or_default();
        let room = bytes.len().min(buf.remaining());
        let bytes = bytes.get(..room).unwrap_or_default();
        if bytes.is_empty() {
            // The peer will send no more.
            return Poll::Ready(Ok(()));
        }
        let count = exchange.advance(bytes);
        buf.put_slice(bytes.get(..count).unwrap_or(bytes));
        piece.start += count;
        if piece.start == piece.end {
            exchange.add_fds(&mut piece.fds, std::mem::take(&mut piece.truncated));
        }
        Poll::Ready(Ok(()))
    }
}

impl Write for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.replaced.is_none() {
            this.replaced = this.replacement(buf);
        }
        let result = match &mut this.replaced {
            Some(replaced) => Self::poll_write_replaced(&mut this.socket, replaced, cx),
            None => Pin::new(&mut this.socket).poll_write(cx, buf),
        };
        if result.is_ready() {
            this.replaced = None;
            this.write.stop();
            return result;
        }
        this.write.start();
        ready!(this.write.poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.exchange.borrow_mut().flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}

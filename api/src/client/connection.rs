//! Bytes out and an answer in.

use std::io::{self, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recv, sendmsg};

use super::{ClientError, MAX_FDS};

const MAX_HEAD_BYTES: usize = 64 << 10;
const MAX_BODY_BYTES: usize = 64 << 20;

#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    /// Received and not yet used.
    rest: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct Received {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
    /// The server ends the connection after this.
    pub(super) closes: bool,
}

impl Connection {
    pub(super) fn open(path: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path).map_err(|source| ClientError::Connect {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            stream,
            rest: Vec::new(),
        })
    }

    /// Whether the server ended it while nothing was asked.
    pub(super) fn is_over(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        match recv(&self.stream, &mut [0; 1][..], flags) {
            Ok(_) => true,
            Err(error) => error != rustix::io::Errno::AGAIN,
        }
    }

    pub(super) fn send(
        &mut self,
        head: &[u8],
        body: &[u8],
        fds: &[BorrowedFd<'_>],
        deadline: Option<Instant>,
    ) -> Result<(), ClientError> {
        let limit = left(deadline).map_err(ClientError::Send)?;
        self.stream
            .set_write_timeout(limit)
            .map_err(ClientError::Send)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(ClientError::TooManyFds(fds.len()));
        }
        let parts = [IoSlice::new(head), IoSlice::new(body)];
        let sent = sendmsg(&self.stream, &parts, &mut control, SendFlags::NOSIGNAL)
            .map_err(|error| ClientError::Send(error.into()))?;
        let head_rest = head.get(sent..).unwrap_or_default();
        let body_rest = body
            .get(sent.saturating_sub(head.len())..)
            .unwrap_or_default();
        match self
            .stream
            .write_all(head_rest)
            .and_then(|()| self.stream.write_all(body_rest))
        {
            // A server that refuses a request without reading all of it closes
            // the connection; its answer is there all the same.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(ClientError::Send(error))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn receive(&mut self, deadline: Option<Instant>) -> Result<Received, ClientError> {
        loop {
            let received = self.receive_one(deadline)?;
            // An interim answer says nothing.
            if received.status >= 200 {
                return Ok(received);
            }
        }
    }

    fn receive_one(&mut self, deadline: Option<Instant>) -> Result<Received, ClientError> {
        const END: &[u8] = b"\r\n\r\n";
        let end = loop {
            let found = self.rest.windows(END.len()).position(|bytes| bytes == END);
            if let Some(at) = found {
                break at + END.len();
            }
            if self.rest.len() > MAX_HEAD_BYTES {
                return Err(ClientError::Protocol("its headers do not end"));
            }
            self.fill(deadline)?;
        };
        let head: Vec<u8> = self.rest.drain(..end).collect();
        let head = Head::parse(&head)?;
        if head.length > MAX_BODY_BYTES {
            return Err(ClientError::Protocol("its body is larger than 64 MiB"));
        }
        while self.rest.len() < head.length {
            self.fill(deadline)?;
        }
        Ok(Received {
            status: head.status,
            body: self.rest.drain(..head.length).collect(),
            closes: head.closes,
        })
    }

    fn fill(&mut self, deadline: Option<Instant>) -> Result<(), ClientError> {
        let mut bytes = [0; 16 << 10];
        let limit = left(deadline).map_err(ClientError::Receive)?;
        self.stream
            .set_read_timeout(limit)
            .map_err(ClientError::Receive)?;
        match self.stream.read(&mut bytes) {
            Ok(0) => Err(ClientError::Closed),
            Ok(count) => {
                self.rest
                    .extend_from_slice(bytes.get(..count).unwrap_or_default());
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(ClientError::Receive(io::ErrorKind::TimedOut.into()))
            }
            Err(error) => Err(ClientError::Receive(error)),
        }
    }
}

/// The time that is left; none at all is an error.
fn left(deadline: Option<Instant>) -> io::Result<Option<Duration>> {
    let Some(deadline) = deadline else {
        return Ok(None);
    };
    match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
        left => Ok(Some(left)),
    }
}

struct Head {
    status: u16,
    length: usize,
    closes: bool,
}

impl Head {
    fn parse(bytes: &[u8]) -> Result<Self, ClientError> {
        let text = std::str::from_utf8(bytes)
            .map_err(|_| ClientError::Protocol("its headers are not UTF-8"))?;
        let mut lines = text.split("\r\n");
        let line = lines.next().unwrap_or_default();
        let mut head = Self {
            status: line
                .strip_prefix("HTTP/1.1 ")
                .or_else(|| line.strip_prefix("HTTP/1.0 "))
                .and_then(|rest| rest.split(' ').next())
                .and_then(|status| status.parse().ok())
                .ok_or(ClientError::Protocol("it has no status line"))?,
            length: 0,
            closes: line.starts_with("HTTP/1.0"),
        };
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                head.length = value
                    .parse()
                    .map_err(|_| ClientError::Protocol("its Content-Length is no number"))?;
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                return Err(ClientError::Protocol("it is sent in chunks"));
            } else if name.eq_ignore_ascii_case("connection") {
                head.closes |= value.eq_ignore_ascii_case("close");
            }
        }
        Ok(head)
    }
}

//! A client that sends what it is told, as it is told.

use std::fs::File;
use std::io::{self, IoSlice, Read, Seek, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::PATIENCE;

/// A connection.
pub(super) struct Raw {
    stream: UnixStream,
    /// Received and not yet taken.
    rest: Vec<u8>,
}

/// An answer as it came.
#[derive(Debug)]
pub(super) struct Got {
    pub(super) line: String,
    pub(super) headers: Vec<String>,
    pub(super) body: Vec<u8>,
}

pub(super) const PING: &[u8] = b"GET /api/v1/vmm.ping HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// A PUT with a body in one piece.
pub(super) fn put(name: &str, body: &str) -> Vec<u8> {
    format!(
        "PUT /api/v1/{name} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Files that can be told apart by what is in them.
pub(super) fn files(letters: &str) -> Vec<File> {
    letters
        .chars()
        .map(|letter| {
            let mut file = tempfile::tempfile().unwrap();
            write!(file, "{letter}").unwrap();
            file.rewind().unwrap();
            file
        })
        .collect()
}

impl Raw {
    pub(super) fn connect(path: &Path) -> Self {
        Self::new(UnixStream::connect(path).unwrap())
    }

    pub(super) fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self {
            stream,
            rest: Vec::new(),
        }
    }

    pub(super) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Sends what the server may not be there to read.
    pub(super) fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    pub(super) fn send_with(&mut self, bytes: &[u8], files: &[File]) {
        let fds: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        let sent = sendmsg(
            &self.stream,
            &[IoSlice::new(bytes)],
            &mut control,
            SendFlags::empty(),
        )
        .unwrap();
        self.send(&bytes[sent..]);
    }

    pub(super) fn finish(&mut self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// The next answer; `None` when the server has closed the connection.
    pub(super) fn next(&mut self) -> Option<Got> {
        let end = loop {
            if let Some(at) = self.rest.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if !self.fill() {
                assert_eq!(String::from_utf8_lossy(&self.rest), "", "half an answer");
                return None;
            }
        };
        let head: Vec<u8> = self.rest.drain(..end).collect();
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.trim_end().split("\r\n").map(str::to_owned);
        let mut got = Got {
            line: head.split("\r\n").next().unwrap().to_owned(),
            headers: lines.by_ref().skip(1).collect(),
            body: Vec::new(),
        };
        let length = got
            .header("Content-Length")
            .map_or(0, |length| length.parse().unwrap());
        while self.rest.len() < length {
            assert!(self.fill(), "half a body");
        }
        got.body = self.rest.drain(..length).collect();
        Some(got)
    }

    pub(super) fn answer(&mut self) -> Got {
        self.next().expect("an answer before the end")
    }

    pub(super) fn ask(&mut self, bytes: &[u8]) -> Got {
        self.send(bytes);
        self.answer()
    }

    /// Whether the server has closed the connection and sent nothing more.
    pub(super) fn is_closed(&mut self) -> bool {
        self.next().is_none()
    }

    /// Whatever comes until the server closes the connection.
    pub(super) fn drain(&mut self) -> Vec<u8> {
        while self.fill() {}
        std::mem::take(&mut self.rest)
    }

    fn fill(&mut self) -> bool {
        let mut bytes = [0; 4096];
        match self.stream.read(&mut bytes) {
            Ok(count) => {
                self.rest.extend_from_slice(&bytes[..count]);
                count > 0
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => false,
            Err(error) => panic!("no answer: {error}"),
        }
    }
}

impl Got {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let start = format!("{name}: ");
        self.headers
            .iter()
            .find_map(|line| line.strip_prefix(&start))
    }

    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The chain of reasons.
    pub(super) fn chain(&self) -> Vec<String> {
        assert_eq!(self.header("Content-Type"), Some("application/json"));
        serde_json::from_slice(&self.body).unwrap()
    }
}

//! Where a connection is in the exchange of a request and its answer.
//!
//! hyper does the framing. This follows it, for two questions that hyper
//! leaves open: which request do file descriptors belong to, and is what hyper
//! writes an answer of ours or its own to bytes that are no HTTP.
//!
//! ```text
//!          byte          blank line, service is called        all bytes read
//! Between ──────> Head ───────────────────────────────> Body ───────────────> Answering
//!    ^                                                                            │ answer made
//!    └─────────────────────────── flushed ──────────── Flushing <─────────────────┘
//! ```
//!
//! hyper is given no byte beyond the request that it works on: so everything
//! that was given out so far, descriptors too, belongs to that request, even
//! when the client sends the next one without waiting. The blank line is
//! looked for only to stop there. Should hyper see the end of the headers
//! elsewhere, it asks for more bytes and gets them: the search cannot change
//! what the request is.

use std::os::fd::OwnedFd;
use std::task::Waker;

/// The most descriptors that one request can have.
pub(super) const MAX_FDS: usize = 64;

/// Descriptors of one request.
#[derive(Debug, Default)]
pub(super) struct Fds {
    pub(super) fds: Vec<OwnedFd>,
    /// More came than are taken.
    pub(super) too_many: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Between,
    Head(Line),
    Body { left: Option<u64> },
    Answering,
    Flushing,
}

/// What the last byte of the head was part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    /// A line that is not empty.
    Text,
    /// An end of line.
    Ended,
    /// A carriage return after an end of line.
    Return,
    /// The blank line.
    Blank,
}

/// One connection's place.
#[derive(Debug)]
pub(super) struct Exchange {
    phase: Phase,
    fds: Fds,
    reader: Option<Waker>,
}

impl Exchange {
    pub(super) const fn new() -> Self {
        Self {
            phase: Phase::Between,
            fds: Fds {
                fds: Vec::new(),
                too_many: false,
            },
            reader: None,
        }
    }

    /// Whether bytes of the socket may be given out; else `waker` is woken
    /// when they may.
    pub(super) fn may_read(&mut self, waker: &Waker) -> bool {
        if matches!(self.phase, Phase::Answering | Phase::Flushing) {
            self.reader = Some(waker.clone());
            return false;
        }
        true
    }

    /// How many of the bytes may be given out now; at least one.
    pub(super) fn advance(&mut self, bytes: &[u8]) -> usize {
        match &mut self.phase {
            Phase::Body { left } => {
                let Some(left) = left else {
                    return bytes.len();
                };
                let count = usize::try_from(*left)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len());
                *left -= count as u64;
                if *left == 0 {
                    self.phase = Phase::Answering;
                }
                count
            }
            _ => self.advance_head(bytes),
        }
    }

    fn advance_head(&mut self, bytes: &[u8]) -> usize {
        let mut line = match self.phase {
            // hyper asks for more than the head that we saw: go on.
            Phase::Head(Line::Blank) => Line::Ended,
            Phase::Head(line) => line,
            _ => Line::Blank,
        };
        // Empty lines before a request are skipped (RFC 9112, 2.2).
        let mut started = line != Line::Blank;
        for (i, byte) in bytes.iter().enumerate() {
            line = match (byte, line) {
                (b'\r' | b'\n', _) if !started => Line::Blank,
                (b'\n', Line::Ended | Line::Return) => {
                    self.phase = Phase::Head(Line::Blank);
                    return i + 1;
                }
                (b'\n', _) => Line::Ended,
                (b'\r', Line::Ended) => Line::Return,
                _ => Line::Text,
            };
            started |= line != Line::Blank;
        }
        if started {
            self.phase = Phase::Head(line);
        }
        bytes.len()
    }

    /// Descriptors that came with bytes that were all given out.
    pub(super) fn add_fds(&mut self, fds: &mut Vec<OwnedFd>, truncated: bool) {
        let room = MAX_FDS - self.fds.fds.len();
        self.fds.too_many |= truncated || fds.len() > room;
        self.fds.fds.extend(fds.drain(..).take(room));
    }

    /// The headers are read; `length` is the body's, if it is known.
    pub(super) fn begin(&mut self, length: Option<u64>) {
        self.phase = match length {
            Some(0) => Phase::Answering,
            left => Phase::Body { left },
        };
    }

    /// The request is read to its end: its descriptors.
    pub(super) fn end(&mut self) -> Fds {
        self.phase = Phase::Answering;
        std::mem::take(&mut self.fds)
    }

    /// The answer is with hyper.
    pub(super) fn answered(&mut self) {
        self.phase = Phase::Flushing;
        self.fds = Fds::default();
    }

    /// All that hyper has is written.
    pub(super) fn flushed(&mut self) {
        if self.phase == Phase::Flushing {
            self.phase = Phase::Between;
            if let Some(reader) = self.reader.take() {
                reader.wake();
            }
        }
    }

    /// Whether a request has begun and its headers have not ended.
    pub(super) fn in_head(&self) -> bool {
        matches!(self.phase, Phase::Head(_))
    }

    /// Whether there is no request that we have to answer: what hyper writes
    /// now it has made up itself.
    pub(super) fn is_outside_a_request(&self) -> bool {
        matches!(self.phase, Phase::Between | Phase::Head(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(bytes: &[u8]) -> usize {
        Exchange::new().advance(bytes)
    }

    #[test]
    fn a_head_ends_at_its_blank_line() {
        assert_eq!(head(b"GET / HTTP/1.1\r\na: b\r\n\r\nGET"), 24);
        assert_eq!(head(b"GET / HTTP/1.1\n\nGET"), 16);
        assert_eq!(head(b"\r\n\r\nGET / HTTP/1.1\r\n\r\nGET"), 22);
        assert_eq!(head(b"\r\n"), 2);
    }

    #[test]
    fn a_head_in_single_bytes_ends_there_too() {
        let mut exchange = Exchange::new();
        for byte in b"\r\n\r\nGET / HTTP/1.1\r\na: b\r\n\r" {
            assert_eq!(exchange.advance(&[*byte]), 1);
            assert_ne!(exchange.phase, Phase::Head(Line::Blank));
        }
        assert_eq!(exchange.advance(b"\nrest"), 1);
        assert_eq!(exchange.phase, Phase::Head(Line::Blank));
    }

    #[test]
    fn a_body_ends_at_its_length_and_then_nothing_is_read() {
        let mut exchange = Exchange::new();
        exchange.advance(b"PUT / HTTP/1.1\r\n\r\n");
        exchange.begin(Some(3));
        assert_eq!(exchange.advance(b"ab"), 2);
        assert_eq!(exchange.advance(b"cGET"), 1);
        assert!(!exchange.may_read(Waker::noop()));
        exchange.answered();
        assert!(!exchange.may_read(Waker::noop()));
        exchange.flushed();
        assert!(exchange.may_read(Waker::noop()));
    }
}

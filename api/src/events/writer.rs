//! The thread that writes.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags, open, stat};
use rustix::io::{Errno, write};

use super::monitor::{Queued, Shared};
use super::{Event, EventKind};

/// Written at once at most. poll(2) tells that a pipe has room for so much.
const PIECE: usize = 4096;

/// How soon the end is noticed while a reader does not read.
const TICK: Duration = Duration::from_millis(50);

/// Where events go.
#[derive(Debug)]
pub(super) enum Sink {
    Open(OwnedFd),
    /// A FIFO that may not be read here, so that it can be opened only when
    /// somebody else reads it.
    Unread(PathBuf),
}

impl Sink {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let is_fifo = match stat(path) {
            Ok(stat) => FileType::from_raw_mode(stat.st_mode) == FileType::Fifo,
            Err(Errno::NOENT) => false,
            Err(error) => return Err(error.into()),
        };
        let opened = if is_fifo {
            open(path, flags | OFlags::RDWR, Mode::empty())
        } else {
            let flags = flags | OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND;
            open(path, flags, Mode::from_raw_mode(0o644))
        };
        match opened {
            Ok(fd) => Ok(Self::Open(fd)),
            Err(Errno::ACCESS) if is_fifo => Self::Unread(path.to_owned()).tried(),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens what waits for a reader, if there is one now.
    fn tried(self) -> io::Result<Self> {
        let Self::Unread(path) = self else {
            return Ok(self);
        };
        let flags = OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::WRONLY;
        match open(&path, flags, Mode::empty()) {
            Ok(fd) => Ok(Self::Open(fd)),
            Err(Errno::NXIO) => Ok(Self::Unread(path)),
            Err(error) => Err(error.into()),
        }
    }
}

/// Writes what comes out of the queue.
#[derive(Debug)]
pub(super) struct Writer {
    sink: Sink,
    shared: Arc<Shared>,
    farewell: Duration,
    /// When to wait no longer; set once the end is noticed.
    deadline: Option<Instant>,
    /// A failure was logged, and nothing was written since.
    failing: bool,
}

impl Writer {
    pub(super) fn new(sink: Sink, shared: Arc<Shared>, farewell: Duration) -> Self {
        Self {
            sink,
            shared,
            farewell,
            deadline: None,
            failing: false,
        }
    }

    pub(super) fn run(&mut self, queue: &Receiver<Queued>) {
        loop {
            let next = if self.shared.ending.load(Ordering::Relaxed) {
                queue.try_recv().ok()
            } else {
                queue.recv().ok()
            };
            let Some(Queued::Event { event, at, dropped }) = next else {
                break;
            };
            self.tell(&event, at, dropped);
        }
        let dropped = self.shared.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            tracing::warn!(dropped, "events were dropped: nobody read them");
        }
    }

    fn tell(&mut self, event: &Event, at: Duration, dropped: u64) {
        let mut text = Vec::new();
        if dropped > 0 {
            let lost = Event::from(EventKind::EventsDropped).with("count", dropped);
            text = lost.text(at);
        }
        text.extend(event.text(at));
        match self.write(&text) {
            Ok(()) => self.failing = false,
            Err(error) => {
                let lost = dropped + 1;
                self.shared.dropped.fetch_add(lost, Ordering::Relaxed);
                if !self.failing {
                    tracing::warn!(%error, "cannot write an event");
                }
                self.failing = true;
            }
        }
    }

    fn write(&mut self, mut text: &[u8]) -> io::Result<()> {
        while !text.is_empty() {
            self.wait()?;
            let Sink::Open(fd) = &self.sink else {
                continue;
            };
            let piece = text.get(..PIECE).unwrap_or(text);
            match write(fd, piece) {
                Ok(count) => text = text.get(count..).unwrap_or_default(),
                Err(Errno::AGAIN | Errno::INTR) => (),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Waits until something can be written.
    fn wait(&mut self) -> io::Result<()> {
        loop {
            self.check_the_time()?;
            match &self.sink {
                Sink::Open(fd) => {
                    let mut fds = [PollFd::new(fd, PollFlags::OUT)];
                    let tick = Timespec::try_from(TICK).ok();
                    match poll(&mut fds, tick.as_ref()) {
                        Ok(0) | Err(Errno::INTR) => (),
                        Ok(_) => return Ok(()),
                        Err(error) => return Err(error.into()),
                    }
                }
                Sink::Unread(path) => {
                    self.sink = Sink::Unread(path.clone()).tried()?;
                    if matches!(self.sink, Sink::Unread(_)) {
                        thread::sleep(TICK);
                    }
                }
            }
        }
    }

    fn check_the_time(&mut self) -> io::Result<()> {
        if !self.shared.ending.load(Ordering::Relaxed) {
            return Ok(());
        }
        let now = Instant::now();
        if now > *self.deadline.get_or_insert(now + self.farewell) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }
}

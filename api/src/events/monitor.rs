//! The queue between those who tell and the one who writes.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use thiserror::Error;

use super::Event;
use super::writer::{Sink, Writer};

/// Events that wait for the reader at most.
const QUEUE: usize = 1024;

/// Time for a reader to take up the last events at the end.
const FAREWELL: Duration = Duration::from_secs(1);

/// Why nobody can be told.
#[derive(Debug, Error)]
pub enum EventMonitorError {
    /// The file or FIFO cannot be opened.
    #[error("cannot open {} for events", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// The thread was not made.
    #[error("cannot start the thread for events")]
    Thread(#[source] io::Error),
}

/// Writes events, on a thread of its own, until it is dropped.
#[derive(Debug)]
pub struct EventMonitor {
    sender: EventSender,
    /// Turns to disconnected when the thread ends.
    ended: Receiver<()>,
}

/// Tells events; a clone for each part that has something to tell.
#[derive(Clone, Debug)]
pub struct EventSender {
    queue: SyncSender<Queued>,
    shared: Arc<Shared>,
}

/// What both ends of the queue see.
#[derive(Debug)]
pub(super) struct Shared {
    /// Events that were dropped and of which nothing was told yet.
    pub(super) dropped: AtomicU64,
    /// The end is near: wait for no reader much longer.
    pub(super) ending: AtomicBool,
    start: Instant,
}

/// What goes through the queue.
#[derive(Debug)]
pub(super) enum Queued {
    Event {
        event: Event,
        at: Duration,
        /// Events dropped before this one.
        dropped: u64,
    },
    /// Nothing more comes.
    End,
}

impl EventMonitor {
    /// Writes to a file, which is appended to, or a FIFO. `start` is when the
    /// process started; `on_start` is called first on the new thread, to pin
    /// it for example.
    ///
    /// # Errors
    ///
    /// [`EventMonitorError`]: it cannot be opened, or the thread not made.
    pub fn to_path(
        path: &Path,
        start: Instant,
        on_start: impl FnOnce() + Send + 'static,
    ) -> Result<Self, EventMonitorError> {
        let sink = Sink::open(path).map_err(|source| EventMonitorError::Open {
            path: path.to_owned(),
            source,
        })?;
        Self::to_sink(sink, start, on_start)
    }

    /// Writes to a descriptor that is open.
    ///
    /// # Errors
    ///
    /// [`EventMonitorError`]: the thread cannot be made.
    pub fn to_fd(
        fd: OwnedFd,
        start: Instant,
        on_start: impl FnOnce() + Send + 'static,
    ) -> Result<Self, EventMonitorError> {
        Self::to_sink(Sink::Open(fd), start, on_start)
    }

    fn to_sink(
        sink: Sink,
        start: Instant,
        on_start: impl FnOnce() + Send + 'static,
    ) -> Result<Self, EventMonitorError> {
        let (sender, receiver) = mpsc::sync_channel(QUEUE);
        let shared = Arc::new(Shared {
            dropped: AtomicU64::new(0),
            ending: AtomicBool::new(false),
            start,
        });
        let (end, ended) = mpsc::channel();
        let mut writer = Writer::new(sink, Arc::clone(&shared), FAREWELL);
        thread::Builder::new()
            .name("events".to_owned())
            .spawn(move || {
                on_start();
                writer.run(&receiver);
                drop(end);
            })
            .map_err(EventMonitorError::Thread)?;
        Ok(Self {
            sender: EventSender {
                queue: sender,
                shared,
            },
            ended,
        })
    }

    /// Another end to tell events at.
    #[must_use]
    pub fn sender(&self) -> EventSender {
        self.sender.clone()
    }
}

impl EventSender {
    /// Tells an event. Never waits: see the module about readers that do not
    /// read.
    pub fn send(&self, event: impl Into<Event>) {
        let dropped = self.shared.dropped.swap(0, Ordering::Relaxed);
        let queued = Queued::Event {
            event: event.into(),
            at: self.shared.start.elapsed(),
            dropped,
        };
        if self.queue.try_send(queued).is_err() {
            self.shared
                .dropped
                .fetch_add(dropped + 1, Ordering::Relaxed);
        }
    }
}

impl Drop for EventMonitor {
    fn drop(&mut self) {
        self.sender.shared.ending.store(true, Ordering::Relaxed);
        // If the queue is full, the thread is awake and sees the flag.
        drop(self.sender.queue.try_send(Queued::End));
        // A write that the kernel does not end is left to the process' end.
        let patience = FAREWELL + Duration::from_millis(500);
        if self.ended.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("the reader of the events did not take up the last of them");
        }
    }
}

//! A time limit that a hand-written `poll` can carry.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

/// A limit that runs from [`start`](Self::start) to [`stop`](Self::stop).
#[derive(Debug)]
pub(super) struct Deadline {
    limit: Duration,
    sleep: Pin<Box<Sleep>>,
    runs: bool,
}

impl Deadline {
    pub(super) fn new(limit: Duration) -> Self {
        Self {
            limit,
            sleep: Box::pin(sleep(limit)),
            runs: false,
        }
    }

    /// Starts it, unless it runs already.
    pub(super) fn start(&mut self) {
        if !self.runs {
            self.runs = true;
            self.sleep.as_mut().reset(Instant::now() + self.limit);
        }
    }

    pub(super) fn stop(&mut self) {
        self.runs = false;
    }

    /// Ready when it runs and has passed; else the task is woken then.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.runs {
            self.sleep.as_mut().poll(cx)
        } else {
            Poll::Pending
        }
    }
}

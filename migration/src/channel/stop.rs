//! What ends a session for all its threads at once.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};

use super::ChannelError;
use crate::cancel::Cancel;

/// Shared by all connections of one migration: the operator's cancel, and the
/// first failure of any thread. Both wake whoever waits for a peer.
#[derive(Debug, Clone)]
pub(crate) struct Stop(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    cancel: Cancel,
    failed: Cancel,
    first: Mutex<Option<ChannelError>>,
}

impl Stop {
    pub(crate) fn new(cancel: &Cancel) -> io::Result<Self> {
        Ok(Self(Arc::new(Inner {
            cancel: cancel.clone(),
            failed: Cancel::new()?,
            first: Mutex::new(None),
        })))
    }

    /// Ends the session because of `error`, if nothing has ended it yet.
    pub(crate) fn fail(&self, error: ChannelError) {
        let mut first = self.0.first.lock().unwrap_or_else(PoisonError::into_inner);
        // A thread that was only told to stop has no news.
        if first.is_none() && !matches!(error, ChannelError::Stopped) {
            *first = Some(error);
        }
        drop(first);
        self.0.failed.cancel();
    }

    /// The first failure; only once.
    pub(crate) fn take_failure(&self) -> Option<ChannelError> {
        self.0
            .first
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// An error once the session has been ended.
    pub(crate) fn check(&self) -> Result<(), ChannelError> {
        if self.0.cancel.is_cancelled() {
            return Err(match self.0.cancel.reason() {
                Some(reason) => ChannelError::Pointless(reason.to_owned()),
                None => ChannelError::Cancelled,
            });
        }
        if self.0.failed.is_cancelled() {
            return Err(ChannelError::Stopped);
        }
        Ok(())
    }

    /// Descriptors that become readable when the session ends.
    pub(crate) fn wakers(&self) -> [BorrowedFd<'_>; 2] {
        [self.0.cancel.as_fd(), self.0.failed.as_fd()]
    }
}

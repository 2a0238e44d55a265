//! How long the steps of a switch-over take, for the log at level debug.

use std::time::Instant;

/// Measures step after step.
#[derive(Debug)]
pub(crate) struct Laps {
    what: &'static str,
    since: Instant,
}

impl Laps {
    /// Begins now.
    pub(crate) fn begin(what: &'static str) -> Self {
        Self {
            what,
            since: Instant::now(),
        }
    }

    /// Tells how long `step` took, which is over.
    pub(crate) fn lap(&mut self, step: &'static str) {
        let us = self.since.elapsed().as_micros();
        tracing::debug!(us, step, "{}", self.what);
        // The log's own time is no step's.
        self.since = Instant::now();
    }
}

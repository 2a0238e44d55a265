//! What happens to a machine, told to whoever follows it.
//!
//! ```text
//! any thread ── EventSender::send ──> bounded queue ──> thread "events" ──> file, FIFO, descriptor
//!                   never waits                          waits for the reader
//! ```
//!
//! One JSON object for each event, a blank line after each. A reader that
//! stops reading never holds up the machine: the queue fills, what does not
//! fit is dropped and counted, and the next event that fits is preceded by
//! `events-dropped` with the count.
//!
//! A FIFO is opened for reading as well as for writing. So opening it does not
//! wait for a reader (the client may wait for the API socket first, and would
//! never get to read), and what is written before the reader comes is kept by
//! the kernel.

mod kind;
mod monitor;
mod writer;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

pub use kind::EventKind;
pub use monitor::{EventMonitor, EventMonitorError, EventSender};

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// To what, and how, by name.
    pub properties: BTreeMap<&'static str, String>,
}

impl Event {
    /// Adds a property.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.properties.insert(name, value.to_string());
        self
    }

    /// What is told of the event: one line and a blank one.
    fn text(&self, since_start: Duration) -> Vec<u8> {
        let (source, event) = self.kind.names();
        let wire = Wire {
            timestamp: Timestamp {
                secs: since_start.as_secs(),
                nanos: since_start.subsec_nanos(),
            },
            source,
            event,
            properties: Some(&self.properties).filter(|properties| !properties.is_empty()),
        };
        // Strings and integers: there is nothing in it that JSON lacks.
        let mut text = crate::json::to_ascii(&wire).unwrap_or_default();
        text.extend(b"\n\n");
        text
    }
}

impl From<EventKind> for Event {
    fn from(kind: EventKind) -> Self {
        Self {
            kind,
            properties: BTreeMap::new(),
        }
    }
}

#[derive(Serialize)]
struct Wire<'a> {
    timestamp: Timestamp,
    source: &'static str,
    event: &'static str,
    properties: Option<&'a BTreeMap<&'static str, String>>,
}

/// Time since the process started.
#[derive(Serialize)]
struct Timestamp {
    secs: u64,
    nanos: u32,
}

#[cfg(test)]
mod tests;

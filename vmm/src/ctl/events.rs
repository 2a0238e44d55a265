//! Following what `--event-monitor path=PATH` writes.
//!
//! A file is read to its end and looked at again and again; a FIFO is read
//! until its writer is gone. The writer may be slow: an event is shown when all
//! of it is there.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use clap::Args;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::table::plain;
use super::{Failure, Form};

/// The most that one event can be.
const MAX_EVENT_BYTES: usize = 1 << 20;

/// How often a file is looked at.
const GLANCE: Duration = Duration::from_millis(100);

/// Where events come from, and for how long.
#[derive(Debug, Args)]
pub(super) struct Events {
    /// The file or FIFO that godwit was given as --event-monitor path=PATH.
    path: PathBuf,

    /// End at the end of the file, instead of waiting for more.
    #[arg(long)]
    no_follow: bool,
}

#[derive(Debug, Deserialize)]
struct Event {
    timestamp: Timestamp,
    source: String,
    event: String,
    #[serde(default)]
    properties: Option<Map<String, Value>>,
}

#[derive(Debug, Deserialize)]
struct Timestamp {
    secs: u64,
    nanos: u32,
}

/// Prints events as they come.
pub(super) fn follow(events: &Events, form: Form) -> Result<(), Failure> {
    let failed = |source| Failure::Read {
        path: events.path.clone(),
        source,
    };
    // Opening a FIFO waits for its writer, which is what is wanted.
    let mut file = File::open(&events.path).map_err(failed)?;
    let kind = file.metadata().map_err(failed)?.file_type();
    let ends = events.no_follow || kind.is_fifo() || kind.is_char_device();
    let mut rest = Vec::new();
    let mut at = 0;
    let mut chunk = vec![0; 64 << 10];
    loop {
        let count = file.read(&mut chunk).map_err(failed)?;
        if count == 0 {
            if ends {
                return match rest.trim_ascii() {
                    [] => Ok(()),
                    _ => Err(wrong(events, at, "the last event is cut off".to_owned())),
                };
            }
            thread::sleep(GLANCE);
            // A godwit that was started again writes from the start.
            let length = file.metadata().map_err(failed)?.len();
            if length < file.stream_position().map_err(failed)? {
                file.seek(SeekFrom::Start(0)).map_err(failed)?;
                rest.clear();
                at = 0;
            }
            continue;
        }
        rest.extend_from_slice(chunk.get(..count).unwrap_or_default());
        let (text, used) = take(&rest, form).map_err(|reason| wrong(events, at, reason))?;
        rest.drain(..used);
        at += used as u64;
        super::print(&text)?;
        if rest.len() > MAX_EVENT_BYTES {
            return Err(wrong(events, at, "it does not end within 1 MiB".to_owned()));
        }
    }
}

fn wrong(events: &Events, at: u64, reason: String) -> Failure {
    Failure::Events {
        path: events.path.clone(),
        at,
        reason,
    }
}

/// The whole events at the start of `bytes`, as text, and how long they are.
fn take(bytes: &[u8], form: Form) -> Result<(String, usize), String> {
    let mut stream = serde_json::Deserializer::from_slice(bytes).into_iter::<Value>();
    let mut text = String::new();
    let mut used = 0;
    while let Some(next) = stream.next() {
        match next {
            Ok(value) => {
                used = stream.byte_offset();
                text.push_str(&shown(value, form)?);
            }
            Err(error) if error.is_eof() => break,
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok((text, used))
}

fn shown(value: Value, form: Form) -> Result<String, String> {
    if form == Form::Json {
        return Ok(format!("{value}\n"));
    }
    let event: Event = serde_json::from_value(value).map_err(|error| error.to_string())?;
    let properties = event.properties.unwrap_or_default();
    let properties: String = properties
        .iter()
        .map(|(name, value)| match value {
            Value::String(text) => format!("  {}={}", plain(name), plain(text)),
            other => format!("  {}={other}", plain(name)),
        })
        .collect();
    let line = format!(
        "{:>8}.{:06}  {:<14}  {}{properties}",
        event.timestamp.secs,
        event.timestamp.nanos / 1000,
        plain(&event.source),
        plain(&event.event),
    );
    Ok(line + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "{\"timestamp\":{\"secs\":1,\"nanos\":29228206},\"source\":\"vm\",\
                       \"event\":\"booted\",\"properties\":null}\n\n{\n \"timestamp\": {\"secs\": 2,\
                       \"nanos\": 0}, \"source\": \"vm\", \"event\": \"migration-memory-iteration\",\
                       \"properties\": {\"id\": \"3\\u001b\"}}\n\n";

    #[test]
    fn events_are_shown_when_they_are_whole() {
        for cut in 0..=TWO.len() {
            let (first, used) = take(&TWO.as_bytes()[..cut], Form::Text).unwrap();
            let (second, _) = take(&TWO.as_bytes()[used..], Form::Text).unwrap();
            assert_eq!(
                first + &second,
                "       1.029228  vm              booted\n       \
                 2.000000  vm              migration-memory-iteration  id=3\u{fffd}\n"
            );
        }
    }

    #[test]
    fn json_goes_on_a_line_each() {
        let (text, _) = take(TWO.as_bytes(), Form::Json).unwrap();
        assert_eq!(text.lines().count(), 2);
        assert!(
            text.lines()
                .all(|line| line.starts_with("{\"event\"") || line.starts_with("{\"timestamp\""))
        );
    }

    #[test]
    fn what_is_no_event_is_refused() {
        assert!(take(b"{}\n", Form::Text).unwrap_err().contains("timestamp"));
        assert!(take(b"{\"a\" 1}", Form::Json).is_err());
        assert_eq!(take(b" \n {\"a", Form::Json).unwrap(), (String::new(), 0));
    }
}

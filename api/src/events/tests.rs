use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::Value;

use super::*;

fn place() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events");
    (folder, path)
}

fn fifo(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
}

fn monitor(path: &Path) -> EventMonitor {
    EventMonitor::to_path(path, Instant::now(), || ()).unwrap()
}

/// The events in a text, and that each ends with a blank line.
fn read(text: &str) -> Vec<Value> {
    assert!(text.is_empty() || text.ends_with("}\n\n"), "{text}");
    text.split_terminator("\n\n")
        .map(|event| serde_json::from_str(event).unwrap())
        .collect()
}

fn names(events: &[Value]) -> Vec<&str> {
    events
        .iter()
        .map(|event| event["event"].as_str().unwrap())
        .collect()
}

#[test]
fn an_event_is_told_to_the_letter() {
    let event = Event::from(EventKind::DeviceRemoved)
        .with("id", "né")
        .with("bdf", "0000:00:05.0");
    assert_eq!(
        String::from_utf8(event.text(Duration::new(3, 29))).unwrap(),
        "{\"timestamp\":{\"secs\":3,\"nanos\":29},\"source\":\"vm\",\"event\":\"device-removed\",\
         \"properties\":{\"bdf\":\"0000:00:05.0\",\"id\":\"n\\u00e9\"}}\n\n"
    );
    let event = Event::from(EventKind::Booted).text(Duration::ZERO);
    assert!(event.ends_with(b"\"properties\":null}\n\n"));
}

#[test]
fn a_file_has_all_events_at_the_end_and_is_appended_to() {
    let (_folder, path) = place();
    for _ in 0..2 {
        let monitor = monitor(&path);
        let sender = monitor.sender();
        for kind in [EventKind::Booting, EventKind::Booted] {
            sender.send(kind);
        }
        drop(monitor);
        // After the end it is no error.
        sender.send(EventKind::Deleted);
    }
    let events = read(&fs::read_to_string(&path).unwrap());
    assert_eq!(names(&events), ["booting", "booted", "booting", "booted"]);
    let time = |event: &Value| event["timestamp"]["nanos"].as_u64().unwrap();
    assert!(time(&events[1]) > 0);
}

#[test]
fn a_fifo_is_opened_before_anybody_reads_and_keeps_what_was_told() {
    let (_folder, path) = place();
    fifo(&path);
    let monitor = monitor(&path);
    monitor.sender().send(EventKind::VmmStarting);
    monitor.sender().send(EventKind::Booting);
    // The reader comes late, and opening waits for nothing.
    let mut reader = BufReader::new(File::open(&path).unwrap());
    let mut text = String::new();
    for _ in 0..4 {
        reader.read_line(&mut text).unwrap();
    }
    assert_eq!(names(&read(&text)), ["starting", "booting"]);
    monitor.sender().send(EventKind::Booted);
    drop(monitor);
    text.clear();
    // The end of the monitor is the end of the file.
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(names(&read(&text)), ["booted"]);
}

#[test]
fn a_reader_that_stops_reading_holds_up_nobody_and_is_told_what_it_missed() {
    let (_folder, path) = place();
    fifo(&path);
    let reader = File::options().read(true).write(true).open(&path).unwrap();
    let monitor = monitor(&path);
    let sender = monitor.sender();
    let told = 5000;
    // More than a pipe and the queue hold: this must not wait.
    for round in 0..told {
        sender.send(Event::from(EventKind::MigrationMemoryIteration).with("id", round));
    }
    let mut reader = BufReader::new(reader);
    let mut next = || {
        let mut text = String::new();
        for _ in 0..2 {
            reader.read_line(&mut text).unwrap();
        }
        read(&text).remove(0)
    };
    let mut rounds = Vec::new();
    let mut dropped = 0;
    let mut after = 0;
    // Until one that was sent while the reader read again.
    loop {
        sender.send(EventKind::Paused);
        after += 1;
        let event = next();
        let property = |name| event["properties"][name].as_str().unwrap().parse::<usize>();
        match event["event"].as_str().unwrap() {
            "events-dropped" => dropped += property("count").unwrap(),
            "migration-memory-iteration" => rounds.push(property("id").unwrap()),
            "paused" => break,
            other => panic!("{other}"),
        }
    }
    assert!(rounds.is_sorted() && rounds.len() >= 1024);
    assert!(dropped > 0);
    // Each was told or counted.
    let accounted = rounds.len() + dropped;
    assert!((told..told + after).contains(&accounted), "{accounted}");
}

#[test]
fn the_end_does_not_wait_for_a_reader_for_ever() {
    let (reader, writer) = std::io::pipe().unwrap();
    let monitor = EventMonitor::to_fd(writer.into(), Instant::now(), || ()).unwrap();
    for _ in 0..5000 {
        monitor.sender().send(EventKind::Paused);
    }
    let start = Instant::now();
    drop(monitor);
    assert!(start.elapsed() < Duration::from_secs(30));
    drop(reader);
}

#[test]
fn a_descriptor_gets_all_events() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let monitor = EventMonitor::to_fd(writer.into(), Instant::now(), || ()).unwrap();
    let sender = monitor.sender();
    let teller = thread::spawn(move || {
        for round in 0..300 {
            sender.send(Event::from(EventKind::MigrationMemoryIteration).with("id", round));
        }
    });
    teller.join().unwrap();
    drop(monitor);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(read(&text).len(), 300);
}

#[test]
fn a_reader_that_is_gone_is_no_error() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let monitor = EventMonitor::to_fd(writer.into(), Instant::now(), || ()).unwrap();
    monitor.sender().send(EventKind::Booted);
    monitor.sender().send(EventKind::Shutdown);
    drop(monitor);
}

#[test]
fn what_cannot_be_opened_is_named() {
    let (folder, _) = place();
    let error = EventMonitor::to_path(folder.path(), Instant::now(), || ()).unwrap_err();
    let path = folder.path().display().to_string();
    assert!(error.to_string().contains(&path), "{error}");
    assert!(std::error::Error::source(&error).is_some());
}

//! What is told of a machine that moves, on both sides and in order.

use std::fs;

use godwit_lab::peer::listens;
use serde_json::{Value, json};

use crate::support::config::Config;
use crate::support::daemon::Daemon;
use crate::support::scratch::Scratch;

fn daemon() -> Daemon {
    let scratch = Scratch::new();
    let path = format!("path={}", scratch.file("events").display());
    Daemon::start_in(scratch, &["--event-monitor", &path])
}

/// The names of all that was told, and their properties.
fn told(scratch: &Scratch) -> Vec<(String, Value)> {
    let text = fs::read_to_string(scratch.file("events")).expect("events");
    let events = text.split("\n\n").filter(|event| !event.trim().is_empty());
    let events = events.map(|event| {
        let event: Value = serde_json::from_str(event).expect("JSON");
        let [source, name] = ["source", "event"].map(|key| event[key].as_str().expect(key));
        (format!("{source}:{name}"), event["properties"].clone())
    });
    events.collect()
}

fn names(daemon: &Daemon) -> Vec<String> {
    told(&daemon.scratch)
        .into_iter()
        .map(|(name, _)| name)
        .collect()
}

#[test]
fn of_a_migration_on_both_sides() {
    let (mut source, mut destination) = (daemon(), daemon());
    // It keeps dirtying memory, so that one round is not enough.
    source.create(Config::new("fill=4M dirty=64"));
    source.put("vm.boot");
    source.wait_line("filled", 1);
    let place = destination.scratch.file("m.sock");
    let url = format!("unix:{}", place.display());
    let body = json!({"receiver_url": url}).to_string();
    let receive = super::phases::ask(&destination, "vm.receive-migration", &body);
    let ready = ["vmm:starting", "vm:migration-receive-ready"];
    destination.wait_until("is ready", |daemon| names(daemon) == ready);
    let send = json!({"destination_url": url}).to_string();
    source.put_json("vm.send-migration", &send);
    assert!(super::phases::answer(receive).starts_with("HTTP/1.1 204 "));
    destination.wait_until("it is told", |daemon| {
        names(daemon).last().map(String::as_str) == Some("vm:migration-receive-finished")
    });
    assert_eq!(
        names(&destination),
        [
            "vmm:starting",
            "vm:migration-receive-ready",
            "vm:migration-receive-started",
            "vm:migration-receive-finished",
        ]
    );
    // How it went, as the source tells it too.
    let (_, properties) = told(&destination.scratch).pop().expect("the last event");
    for key in ["total_us", "downtime_us"] {
        let text = properties[key].as_str().unwrap_or_default();
        assert!(text.parse::<u64>().is_ok_and(|us| us > 0), "{properties}");
    }
    let progress = destination.get("vm.migration-progress").expect("progress");
    assert_eq!(progress["role"], "destination");
    assert_eq!(
        Some(progress["downtime_us"].to_string().as_str()),
        properties["downtime_us"].as_str()
    );
    let phases = progress["phases"].as_array().expect("phases");
    let phases: Vec<_> = phases
        .iter()
        .filter_map(|phase| phase["phase"].as_str())
        .collect();
    for phase in ["describe", "copy", "handover", "running"] {
        assert!(phases.contains(&phase), "{phases:?}");
    }
    assert_eq!(source.process.wait().code, Some(0));
    let (rounds, others): (Vec<_>, Vec<_>) = told(&source.scratch)
        .into_iter()
        .partition(|(name, _)| name == "vm:migration-memory-iteration");
    let id = |(_, properties): &(String, Value)| properties["id"].as_str().map(str::to_owned);
    let rounds: Vec<_> = rounds.iter().filter_map(id).collect();
    let counted: Vec<_> = (0..rounds.len()).map(|n| n.to_string()).collect();
    assert!(!rounds.is_empty());
    assert_eq!(rounds, counted);
    let others: Vec<_> = others.into_iter().map(|(name, _)| name).collect();
    assert_eq!(
        others,
        [
            "vmm:starting",
            "vm:booting",
            "vm:booted",
            "vm:migration-started",
            "vm:migration-finished",
            "vm:source-released",
        ]
    );
    destination.shut_down();
}

/// Nobody announced itself, so nothing has started.
#[test]
fn of_a_guest_that_never_comes() {
    let mut daemon = daemon();
    let place = daemon.scratch.file("m.sock");
    let body = json!({"receiver_url": format!("unix:{}", place.display())}).to_string();
    let receive = super::phases::ask(&daemon, "vm.receive-migration", &body);
    daemon.wait_until("listens", |_| listens(&place));
    daemon.put("vm.cancel-migration");
    assert!(super::phases::answer(receive).starts_with("HTTP/1.1 500 "));
    daemon.wait_until("it is told", |daemon| {
        names(daemon).last().map(String::as_str) == Some("vm:migration-receive-failed")
    });
    let told = told(&daemon.scratch);
    assert_eq!(told.len(), 3, "{told:?}");
    let reason = told[2].1["reason"].as_str().expect("a reason");
    assert!(reason.contains("cancelled"), "{reason}");
    daemon.shut_down();
}

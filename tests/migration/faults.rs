//! Moves that do not come about: exactly one guest is left, whole.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::pair::{BUSY, Pair, assert_alive, end_of_migration};
use crate::support::config::{Config, MIB};
use crate::support::scratch::Scratch;

/// So slow that the copy is still under way when something happens.
fn slow() -> Value {
    json!({"bandwidth_bps": 64 << 10})
}

/// A pair with a guest that has much to send, and its log.
fn pair() -> (Pair, Scratch) {
    let log = Scratch::new();
    let config = Config::new(&format!("{BUSY} fill=1M lines=64 dirty=8")).with(json!({
        "serial": {"mode": "File", "file": log.file("serial.log")},
    }));
    let mut pair = Pair::new();
    pair.source.put_json("vm.create", &config.to_json());
    pair.source.put("vm.boot");
    assert_alive(&log);
    (pair, log)
}

/// Waits until memory is being copied.
#[track_caller]
fn copying(pair: &mut Pair) {
    pair.source.wait_until("copies", |daemon| {
        let progress = daemon.get("vm.migration-progress").expect("progress");
        progress["phase"] == "copy" && progress["sent_bytes"].as_u64() > Some(4096)
    });
}

/// The guest is the source's, goes on, and can move at once.
#[track_caller]
fn stays_and_moves_after_all(mut pair: Pair, log: &Scratch) {
    assert_eq!(pair.source.state(), "Running");
    assert_alive(log);
    let pair = pair.move_on(json!({}));
    assert_alive(log);
    pair.destination.shut_down();
    pair.source.shut_down();
}

#[test]
fn nobody_is_there() {
    let (mut pair, log) = pair();
    let url = pair.unix();
    pair.send(&url, json!({}));
    let end = end_of_migration(&mut pair.source);
    assert_eq!(end["status"], "failed", "{end}");
    stays_and_moves_after_all(pair, &log);
}

#[test]
fn the_destination_is_killed_while_memory_is_copied() {
    let (mut pair, log) = pair();
    let url = pair.unix();
    let received = pair.receive(&url);
    pair.send(&url, slow());
    copying(&mut pair);
    pair.destination.process.signal(Signal::SIGKILL);
    let end = end_of_migration(&mut pair.source);
    assert_eq!(end["status"], "failed", "{end}");
    assert!(received.join().expect("the client").is_err());
    pair.destination = crate::support::daemon::Daemon::start();
    stays_and_moves_after_all(pair, &log);
}

#[test]
fn the_source_is_killed_while_memory_is_copied() {
    let (mut pair, _log) = pair();
    let url = pair.unix();
    let received = pair.receive(&url);
    pair.send(&url, slow());
    copying(&mut pair);
    pair.source.process.signal(Signal::SIGKILL);
    let refused = received.join().expect("the client").unwrap_err();
    assert!(refused.to_string().len() > 10, "{refused}");
    // Empty again: it can take another.
    let (status, chain) = pair.destination.refused("vm.pause", "");
    assert_eq!(status, 404, "{chain:?}");
    pair.destination.shut_down();
}

#[test]
fn cancelled_at_the_source() {
    let (mut pair, log) = pair();
    let url = pair.unix();
    let received = pair.receive(&url);
    pair.send(&url, slow());
    copying(&mut pair);
    pair.source.put("vm.cancel-migration");
    let end = end_of_migration(&mut pair.source);
    assert_eq!(end["status"], "cancelled", "{end}");
    assert!(received.join().expect("the client").is_err());
    stays_and_moves_after_all(pair, &log);
}

#[test]
fn cancelled_at_the_destination() {
    let (mut pair, log) = pair();
    let url = pair.unix();
    let received = pair.receive(&url);
    pair.send(&url, slow());
    copying(&mut pair);
    pair.destination.put("vm.cancel-migration");
    assert!(received.join().expect("the client").is_err());
    let end = end_of_migration(&mut pair.source);
    assert_eq!(end["status"], "failed", "{end}");
    stays_and_moves_after_all(pair, &log);
}

#[test]
fn cancelled_while_it_waits_for_a_guest() {
    let mut pair = Pair::new();
    let url = pair.unix();
    let received = pair.receive(&url);
    pair.destination.put("vm.cancel-migration");
    assert!(received.join().expect("the client").is_err());
    pair.destination.shut_down();
    pair.source.shut_down();
}

#[test]
fn time_is_over() {
    let (mut pair, log) = pair();
    let url = pair.unix();
    let received = pair.receive(&url);
    pair.send(&url, json!({"bandwidth_bps": 64 << 10, "timeout_s": 1}));
    let end = end_of_migration(&mut pair.source);
    assert_eq!(end["status"], "failed", "{end}");
    assert!(end["error"].to_string().contains("Time was over"), "{end}");
    assert!(received.join().expect("the client").is_err());
    stays_and_moves_after_all(pair, &log);
}

#[test]
fn time_is_over_and_it_moves_all_the_same() {
    let (mut pair, log) = pair();
    let url = pair.unix();
    let more = json!({"bandwidth_bps": 1 << 20, "timeout_s": 1, "timeout_strategy": "Ignore"});
    pair.receive_and_send(&url, more);
    assert_alive(&log);
    pair.source.ended(0);
    pair.destination.shut_down();
}

/// The guest ends itself while it is being copied; that is seen to at the source.
#[test]
fn the_guest_switches_itself_off() {
    let log = Scratch::new();
    let mut pair = Pair::new();
    let config = Config::new("fill=1M verify dirty=8 beat_every=4 beats=400 poweroff")
        .with(json!({"serial": {"mode": "File", "file": log.file("serial.log")}}));
    pair.source.put_json("vm.create", &config.to_json());
    pair.source.put("vm.boot");
    assert_alive(&log);
    let url = pair.unix();
    let received = pair.receive(&url);
    pair.send(&url, json!({"bandwidth_bps": 16 << 10}));
    assert!(received.join().expect("the client").is_err());
    pair.source.ended(0);
    pair.destination.shut_down();
}

/// Refused before memory flows, each reason told at both ends.
#[test]
fn the_destination_has_not_enough_huge_pages() {
    let pool = crate::support::host::HugePages::reserve(24);
    // One guest fits into what is there, with what others left, and two do not.
    let pages = pool.available() * 2 / 3;
    let log = Scratch::new();
    let mut pair = Pair::new();
    let config = Config::new(BUSY).with(json!({
        "memory": {"size": pages * 2 * MIB, "hugepages": true, "hugepage_size": 2 * MIB},
        "serial": {"mode": "File", "file": log.file("serial.log")},
    }));
    pair.source.put_json("vm.create", &config.to_json());
    pair.source.put("vm.boot");
    assert_alive(&log);
    let url = pair.unix();
    let received = pair.receive(&url);
    pair.send(&url, json!({}));
    let end = end_of_migration(&mut pair.source);
    assert!(end["error"].to_string().contains("huge pages"), "{end}");
    let refused = received.join().expect("the client").unwrap_err();
    assert!(refused.to_string().contains("huge pages"), "{refused}");
    assert_alive(&log);
    pair.source.shut_down();
    pair.destination.shut_down();
    drop(pool);
}

/// What the destination cannot open is refused before memory flows, by its name.
#[test]
fn the_destination_has_not_the_disk() {
    let log = Scratch::new();
    let disk = log.write("disk.img", vec![0; 1 << 20]);
    let mut pair = Pair::new();
    let config = Config::new(BUSY).with(json!({
        "disks": [{"id": "data", "path": disk}],
        "serial": {"mode": "File", "file": log.file("serial.log")},
    }));
    pair.source.put_json("vm.create", &config.to_json());
    pair.source.put("vm.boot");
    assert_alive(&log);
    let elsewhere = log.file("elsewhere.img");
    std::fs::rename(&disk, &elsewhere).expect("taking the disk away");
    let url = pair.unix();
    let received = pair.receive(&url);
    pair.send(&url, json!({}));
    let end = end_of_migration(&mut pair.source);
    let name = disk.display().to_string();
    assert!(end["error"].to_string().contains(&name), "{end}");
    let refused = received.join().expect("the client").unwrap_err();
    assert!(refused.to_string().contains(&name), "{refused}");
    std::fs::rename(&elsewhere, &disk).expect("bringing the disk back");
    stays_and_moves_after_all(pair, &log);
}

/// No memory of an attempt that failed stays, at either end.
#[test]
fn nothing_is_left_of_failed_attempts() {
    let (mut pair, log) = pair();
    let fds = |pid: u32| std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    let mut counts = Vec::new();
    for _ in 0..3 {
        let url = pair.unix();
        let received = pair.receive(&url);
        pair.send(&url, slow());
        copying(&mut pair);
        pair.source.put("vm.cancel-migration");
        end_of_migration(&mut pair.source);
        assert!(received.join().expect("the client").is_err());
        std::thread::sleep(Duration::from_millis(200));
        counts.push((
            fds(pair.source.process.pid()),
            fds(pair.destination.process.pid()),
        ));
    }
    assert!(counts.windows(2).all(|two| two[0] == two[1]), "{counts:?}");
    assert!(
        !pair
            .destination
            .scratch
            .names()
            .contains(&"move.sock".to_owned())
    );

    stays_and_moves_after_all(pair, &log);
}

//! Moves that end well.

use godwit_lab::bench::MEANS;
use serde_json::json;

use super::pair::{BUSY, Pair, assert_alive, assert_still, end_of_migration};
use crate::support::config::{Config, GIB, MIB};
use crate::support::daemon::Daemon;
use crate::support::host::HugePages;
use crate::support::scratch::Scratch;

/// A folder for the serial log that outlives the process which booted the guest.
fn busy(log: &Scratch, vcpus: u32) -> Config {
    Config::new(&format!("{BUSY} smp={vcpus}")).with(json!({
        "cpus": {"boot_vcpus": vcpus, "max_vcpus": vcpus},
        "serial": {"mode": "File", "file": log.file("serial.log")},
    }))
}

/// Boots at the source with the log in `log`, moves over `url`, and looks at both ends.
#[track_caller]
fn moves(config: Config, log: &Scratch, url: Option<String>, more: serde_json::Value) {
    let mut pair = Pair::new();
    pair.source.put_json("vm.create", &config.to_json());
    pair.source.put("vm.boot");
    assert_alive(log);
    let url = url.unwrap_or_else(|| pair.unix());
    pair.receive_and_send(&url, more);
    assert_eq!(pair.destination.state(), "Running");
    assert_alive(log);
    let said = pair.source.ended(0);
    assert_eq!(said.stdout, "");
    assert_alive(log);
    pair.destination.shut_down();
}

#[test]
fn over_tcp_4() {
    let log = Scratch::new();
    moves(busy(&log, 1), &log, Some(Pair::tcp("127.0.0.1")), json!({}));
}

#[test]
fn over_tcp_6() {
    let log = Scratch::new();
    moves(busy(&log, 1), &log, Some(Pair::tcp("[::1]")), json!({}));
}

#[test]
fn by_name_with_four_streams_and_two_vcpus() {
    let log = Scratch::new();
    let url = Pair::tcp("127.0.0.1").replace("127.0.0.1", "localhost");
    moves(busy(&log, 2), &log, Some(url), json!({"connections": 4}));
}

#[test]
fn over_a_unix_socket_with_four_vcpus() {
    let log = Scratch::new();
    moves(busy(&log, 4), &log, None, json!({}));
}

#[test]
fn with_memory_around_the_hole() {
    let log = Scratch::new();
    let config = busy(&log, 1).with(json!({"memory": {"size": 6 * GIB}}));
    moves(config, &log, None, json!({}));
}

#[test]
fn on_huge_pages() {
    let pool = HugePages::reserve(64);
    let log = Scratch::new();
    let memory = json!({"memory": {"size": 32 * MIB, "hugepages": true, "hugepage_size": 2 * MIB}});
    moves(busy(&log, 1).with(memory), &log, None, json!({}));
    drop(pool);
}

/// Prefaulted memory is all there, and only what was written of it is sent: by the guest that
/// was booted here, and by the one that came.
#[test]
fn prefaulted_memory_that_nobody_wrote_is_not_sent() {
    let pool = HugePages::reserve(256);
    let log = Scratch::new();
    let memory = json!({"memory": {
        "size": 256 * MIB, "hugepages": true, "hugepage_size": 2 * MIB, "prefault": true,
    }});
    let mut pair = Pair::new();
    pair.source
        .put_json("vm.create", &busy(&log, 1).with(memory).to_json());
    pair.source.put("vm.boot");
    assert_alive(&log);
    // The image, its tables and 256 KiB are in a few huge pages of the 128.
    let wanted = if marks_writes() { 32 * MIB } else { 256 * MIB };
    for _ in 0..2 {
        // What came is prefaulted while the guest runs.
        pool.wait_for_used(128);
        let url = pair.unix();
        pair.receive_and_send(&url, json!({}));
        // The source may have ended by now.
        let progress = end_of_migration(&mut pair.destination);
        let present = progress["present_bytes"].as_u64().unwrap_or_default();
        assert!((MIB..=wanted).contains(&present), "{progress}");
        pair.source.ended(0);
        pair = Pair {
            source: pair.destination,
            destination: Daemon::start(),
        };
        assert_alive(&log);
    }
    pair.source.shut_down();
    pair.destination.shut_down();
    drop(pool);
}

/// Linux 6.7 has userfaultfd mark writes.
fn marks_writes() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split('.').map_while(|n| n.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(7))
}

/// What makes a move fast is not what makes it right.
#[test]
fn without_what_makes_it_fast() {
    let log = Scratch::new();
    let more = json!({"without": MEANS, "zero_lines": "off", "connections": 2});
    moves(busy(&log, 2), &log, None, more);
}

/// Memory is passed, not copied.
#[test]
fn handed_over_on_one_host() {
    let log = Scratch::new();
    moves(busy(&log, 2), &log, None, json!({"local": true}));
}

#[test]
fn a_paused_guest_arrives_paused() {
    let log = Scratch::new();
    let mut pair = Pair::new();
    pair.source.put_json("vm.create", &busy(&log, 1).to_json());
    pair.source.put("vm.boot");
    assert_alive(&log);
    pair.source.put("vm.pause");
    let url = pair.unix();
    pair.receive_and_send(&url, json!({}));
    assert_eq!(pair.destination.state(), "Paused");
    assert_still(&log);
    pair.destination.put("vm.resume");
    assert_alive(&log);
    pair.source.ended(0);
    pair.destination.shut_down();
}

/// What is absent is not sent: 6 GiB of nothing cost less than 6 KiB.
#[test]
fn absent_memory_is_not_sent() {
    let log = Scratch::new();
    let mut pair = Pair::new();
    let config = busy(&log, 1).with(json!({"memory": {"size": 6 * GIB}}));
    pair.source.put_json("vm.create", &config.to_json());
    pair.source.put("vm.boot");
    assert_alive(&log);
    let url = pair.unix();
    pair.receive_and_send(&url, json!({}));
    let progress = end_of_migration(&mut pair.source);
    assert_eq!(progress["status"], "finished", "{progress}");
    let number = |key: &str| progress[key].as_u64().unwrap_or_default();
    // The guest has touched the image, its tables and 256 KiB.
    assert!(number("present_bytes") < 4 * MIB, "{progress}");
    assert!(number("sent_bytes") < 2 * MIB, "{progress}");
    assert!(number("downtime_us") > 0, "{progress}");
    pair.source.ended(0);
    pair.destination.shut_down();
}

/// A guest that verifies its whole memory goes to and fro; `GODWIT_TRIPS` says how often.
#[test]
fn to_and_fro() {
    let trips = std::env::var("GODWIT_TRIPS")
        .ok()
        .and_then(|n| n.parse().ok());
    let log = Scratch::new();
    let mut pair = Pair::new();
    pair.source.put_json("vm.create", &busy(&log, 2).to_json());
    pair.source.put("vm.boot");
    for trip in 0..trips.unwrap_or(20_u32) {
        // Every third one by handover.
        pair = pair.move_on(json!({"local": trip % 3 == 2}));
    }
    assert_alive(&log);
    pair.destination.shut_down();
    pair.source.shut_down();
}

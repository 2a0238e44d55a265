//! testpmd moves while a stream passes through it.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use godwit_lab::seam::{self, Need};
use godwit_lab::traffic::{self, Bridge, Flight, Pace, Port, Record};
use serde_json::{Value, json};

use crate::support::config::MIB;
use crate::support::daemon::Daemon;
use crate::support::host;
use crate::support::linux::{self, Guest};
use crate::support::namespace::apart;

const SIZE: u64 = 640 * MIB;

/// Where the guest's tap is.
const TAPS: [&str; 2] = ["gwdpda", "gwdpdb"];

/// How long the stream runs between two moves, and after the last.
const BETWEEN: Duration = Duration::from_secs(4);

/// Longest time for a move, and what is between it and the next: then the stream ends by itself.
const MOVE_LIMIT: Duration = Duration::from_secs(120);

/// How long the guest may stand still; emulated, a move stops it for 150 to 200 ms.
const DOWNTIME_MS: u64 = 1000;

fn testpmd(tap: &str) -> Daemon {
    let image = seam::image();
    let words = "godwit.task=testpmd godwit.forward=macswap godwit.pairs=1";
    let config = linux::config(&image.vmlinux(), &image.dpdk(), words)
        .with(linux::net(tap, 1))
        .with(json!({
            "cpus": {"boot_vcpus": 1},
            "memory": {"size": SIZE, "hugepages": true, "hugepage_size": 2 * MIB},
        }));
    let mut guest = linux::boot(&config, &["-vv"]);
    guest.wait_for("godwit: ready testpmd");
    guest
}

/// A move, in seconds since the stream began.
#[derive(Debug)]
struct Switch {
    asked: f64,
    arrived: f64,
    /// What the source says of it.
    left: Value,
}

struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Moves a guest so many times, to and fro, and answers what became of the stream.
fn under_traffic(moves: usize) -> (Record, Vec<Switch>) {
    let bridge = Bridge::new(&TAPS, false).expect("a bridge with two taps");
    let mut guest = testpmd(TAPS[0]);
    let port = Port::open(traffic::PORT).expect("a packet socket on the bridge");
    let stop = AtomicBool::new(false);
    let began = Instant::now();
    let mut switches = Vec::new();
    let (record, mut guest) = thread::scope(|scope| {
        // However this ends, the stream ends too.
        let ending = Ending(&stop);
        let pace = Pace {
            limit: MOVE_LIMIT * u32::try_from(moves + 1).expect("few moves"),
            ..Pace::default()
        };
        let (port, stop) = (&port, &stop);
        let stream = scope.spawn(move || traffic::paced(port, &pace, began, stop));
        thread::sleep(BETWEEN);
        for (number, tap) in (1..=moves).zip(TAPS.iter().cycle().skip(1)) {
            let there = json!({"net": [{"id": "net0", "tap": tap}]});
            let moved = linux::migrate(guest, &there, &json!({"downtime_ms": DOWNTIME_MS}));
            let at = |moment: Instant| (moment - began).as_secs_f64();
            let switch = Switch {
                asked: at(moved.asked),
                arrived: at(moved.arrived),
                left: moved.left,
            };
            let took = switch.arrived - switch.asked;
            // Past the harness's capture: many moves take long, and an emulated machine may be lost.
            let _ = writeln!(io::stderr(), "move {number} of {moves}: {took:.1} s");
            switches.push(switch);
            guest = moved.at;
            thread::sleep(BETWEEN);
        }
        drop(ending);
        let record = stream.join().expect("the stream");
        (record.expect("sending frames"), guest)
    });
    guest.type_in("stop\n");
    guest.ended(0);
    drop(bridge);
    (record, switches)
}

/// Frames that did not come back were on their way in a switch: all of one switch in one piece,
/// which is about as long as the guest stood still.
#[track_caller]
fn lost_in_switches_only(record: &Record, switches: &[Switch]) {
    // An emulated machine on busy cores hears of the guest's new place late.
    const LATE: f64 = 1.0;
    let lost = |flight: &&Flight| flight.back.is_none();
    let mut explained = 0;
    for switch in switches {
        let inside =
            |flight: &&Flight| (switch.asked..switch.arrived + LATE).contains(&flight.sent);
        let here: Vec<_> = record.flights.iter().filter(inside).filter(lost).collect();
        let piece = match here[..] {
            [] => 0.0,
            [first, .., last] => last.sent - first.sent,
            [_] => 0.0,
        };
        let downtime_us = switch.left["downtime_us"].as_f64();
        let downtime = downtime_us.expect("a measured downtime") / 1e6;
        println!(
            "{:.1} s in all, {:.0} ms stopped; lost {} frames, sent within {:.0} ms; {}",
            switch.arrived - switch.asked,
            downtime * 1e3,
            here.len(),
            piece * 1e3,
            record.span(switch.asked, switch.arrived + LATE),
        );
        assert!(piece < downtime + LATE, "{switch:?}");
        explained += here.len();
    }
    let all = record.flights.iter().filter(lost).count();
    assert_eq!(all, explained, "frames were lost outside of {switches:?}");
}

/// Moves of one guest; `GODWIT_DPDK_TRIPS` asks for more.
fn moves() -> usize {
    let asked = std::env::var("GODWIT_DPDK_TRIPS");
    asked.map_or(2, |trips| trips.parse().expect("a number of moves"))
}

#[test]
fn there_and_back_under_traffic() {
    seam::require(&[
        Need::HardwareVirtualization,
        Need::Tap,
        Need::VhostNet,
        Need::Image,
    ]);
    let _pool = host::HugePages::reserve(2 * SIZE / (2 * MIB));
    apart(|| {
        let (record, switches) = under_traffic(moves());
        let end = record.flights.last().map_or(0.0, |flight| flight.sent);
        println!("the whole stream: {}", record.span(0.0, end));
        assert_eq!((record.duplicates, record.damaged), (0, 0));
        lost_in_switches_only(&record, &switches);
        // And what came after the last move came back to the end.
        let last = switches.last().expect("a move").arrived;
        let after = record.first_back_after(last + 1.0);
        assert!(after.is_some(), "nothing comes back after {last}");
    });
}

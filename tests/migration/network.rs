//! The network between source and destination is cut, mended, and slow: the guest is in one
//! place, whole, soon enough, and nothing of the attempt stays.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::support::config::Config;
use crate::support::daemon::Daemon;
use crate::support::network::{Cable, End, Held};
use crate::support::process;
use crate::support::scratch::Scratch;
use crate::support::traveller::{Traveller, Waiting};

/// How long a peer may be silent, and how long a guest that stands still waits for it, as the
/// README says.
const SILENCE: Duration = Duration::from_secs(10);
const STANDSTILL: Duration = Duration::from_secs(5);

/// By how much a busy machine may be late.
const LATE: Duration = Duration::from_secs(10);

/// A guest that writes and verifies its memory all the time.
fn busy(size: &str) -> Config {
    Config::new(&format!(
        "fill={size} lines=64 verify pages=8 dirty=8 report=20"
    ))
}

/// A guest in the west of a cable, and who waits for it in the east.
struct Road {
    cable: Cable,
    guest: Traveller,
    there: Waiting,
    held: [Held; 2],
}

impl Road {
    fn new(config: Config) -> Self {
        let cable = Cable::new();
        let guest = Traveller::start_with(config, Daemon::start_on(&cable.west));
        let there = Daemon::start_on(&cable.east);
        let held = [&guest.here, &there].map(|daemon| Held::by(daemon.process.pid()));
        let there = Waiting::with(there, &cable.url(End::East));
        Self {
            cable,
            guest,
            there,
            held,
        }
    }

    #[track_caller]
    fn send(&mut self, how: Value) {
        self.guest.send(&self.cable.url(End::East), how);
    }

    /// Waits until the source is in one of `phases`, and has sent something in them.
    #[track_caller]
    fn wait_for(&mut self, phases: &[&str]) {
        self.guest.here.wait_until("the phase comes", |daemon| {
            let progress = daemon.get("vm.migration-progress").expect("progress");
            assert_eq!(progress["status"], "ongoing", "{progress}");
            phases.iter().any(|phase| progress["phase"] == *phase)
                && (phases != ["copy"] || progress["sent_bytes"].as_u64() > Some(64 << 10))
        });
    }

    /// The source gives up within `limit` from `cut` on. The
    /// guest goes on there; both processes hold what they held, and the guest moves once the
    /// cable is mended at `end`.
    #[track_caller]
    fn assert_given_up(mut self, cut: Instant, limit: Duration, end: End) {
        let progress = self.guest.wait_stays();
        let took = cut.elapsed();
        assert_eq!(progress["status"], "failed", "{progress}");
        assert!(took < limit + LATE, "it took {took:?}: {progress}");
        assert_eq!(self.guest.here.state(), "Running");
        let [here, there] = self.held;
        let daemon = self.there.failed();
        let took = cut.elapsed();
        assert!(took < SILENCE + LATE, "it took the destination {took:?}");
        here.wait_again(self.guest.here.process.pid());
        there.wait_again(daemon.process.pid());
        self.guest.assert_sound();

        self.cable.mend(end);
        let url = self.cable.url(End::East);
        let waiting = Waiting::with(daemon, &url);
        self.guest.travel(waiting, &url, json!({}));
        self.guest.assert_sound();
        self.guest.here.shut_down();
    }
}

/// Cuts `end` of the cable when the source is in one of `phases`.
#[track_caller]
fn cut_in(config: Config, how: Value, phases: &[&str], end: End, limit: Duration) {
    let mut road = Road::new(config);
    let rate = how["rate"].as_str();
    if let Some(rate) = rate {
        road.cable.slow_down(rate);
    }
    road.send(how["send"].clone());
    road.wait_for(phases);
    road.cable.cut(end);
    let cut = Instant::now();
    if rate.is_some() {
        road.cable.speed_up();
    }
    road.assert_given_up(cut, limit, end);
}

#[test]
fn cut_before_the_source_connects() {
    for end in [End::West, End::East] {
        let mut road = Road::new(busy("256K"));
        road.cable.cut(end);
        let cut = Instant::now();
        road.send(json!({}));
        let progress = road.guest.wait_stays();
        assert_eq!(progress["status"], "failed", "{progress}");
        assert!(cut.elapsed() < SILENCE + LATE, "{progress}");
        road.guest.assert_sound();
        // The destination waits as before, for this guest too.
        road.cable.mend(end);
        let url = road.cable.url(End::East);
        road.guest.travel(road.there, &url, json!({}));
        road.guest.assert_sound();
        road.guest.here.shut_down();
    }
}

/// The name server does not answer, and the resolver is told to be very patient.
#[test]
fn cut_while_a_name_is_looked_up() {
    let cable = Cable::new();
    let scratch = Scratch::new();
    let server = "nameserver 192.0.2.2\noptions timeout:15 attempts:5\n";
    let file = scratch.write("resolv.conf", server);
    let mut command = Command::new("unshare");
    let script = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
    command.args(["--mount", "sh", "-c", script]).arg(file);
    command.arg(process::binary()).args(process::FILTERED);
    command.arg("--api-socket").arg(scratch.file("api.sock"));
    cable.west.put(&mut command);
    let here = Daemon::spawn(scratch, command);
    let mut guest = Traveller::start_with(busy("256K"), here);
    let held = Held::by(guest.here.process.pid());
    cable.cut(End::East);
    for cancelled in [false, true] {
        let cut = Instant::now();
        guest.send("tcp:host.example:4444", json!({}));
        if cancelled {
            guest.here.put("vm.cancel-migration");
        }
        let progress = guest.wait_stays();
        let took = cut.elapsed();
        let expected = if cancelled { "cancelled" } else { "failed" };
        assert_eq!(progress["status"], expected, "{progress}");
        assert!(took < SILENCE + LATE, "it took {took:?}: {progress}");
        guest.assert_sound();
    }
    // Each search goes on by itself; mended, the cable ends it.
    assert!(Held::by(guest.here.process.pid()) != held);
    cable.mend(End::East);
    held.wait_again(guest.here.process.pid());
    guest.here.shut_down();
}

/// The destination has been greeted, and takes long to answer.
#[test]
fn cut_while_the_destination_is_built() {
    let mut road = Road::new(busy("256K"));
    let there = Pid::from_raw(road.there.daemon.process.pid().cast_signed());
    kill(there, Signal::SIGSTOP).expect("holding the destination up");
    road.send(json!({}));
    road.wait_for(&["connect", "describe"]);
    // The kernel accepts in its name.
    thread::sleep(Duration::from_millis(500));
    road.wait_for(&["connect", "describe"]);
    road.cable.cut(End::East);
    let cut = Instant::now();
    kill(there, Signal::SIGCONT).expect("letting the destination go on");
    road.assert_given_up(cut, SILENCE, End::East);
}

#[test]
fn cut_while_memory_is_copied() {
    for end in [End::West, End::East] {
        let how = json!({"rate": "4mbit", "send": {"connections": 2}});
        cut_in(busy("4M"), how, &["copy"], end, SILENCE);
    }
}

/// The guest has stopped, and its last pages take two seconds.
#[test]
fn cut_while_the_guest_stands_still() {
    let phases = ["stop", "last", "state", "await"];
    for end in [End::West, End::East] {
        let send = json!({"downtime_ms": 1, "timeout_s": 1, "timeout_strategy": "Ignore"});
        let how = json!({"rate": "2mbit", "send": send});
        cut_in(busy("512K"), how, &phases, end, STANDSTILL);
    }
}

/// Cut again and again, but never for as long as a peer may be silent.
#[test]
fn cut_and_mended_in_time() {
    let mut road = Road::new(busy("2M"));
    road.cable.slow_down("4mbit");
    road.send(json!({"timeout_s": 1, "timeout_strategy": "Ignore"}));
    road.wait_for(&["copy"]);
    for end in [End::East, End::West] {
        road.cable.cut(end);
        thread::sleep(Duration::from_secs(2));
        road.cable.mend(end);
        thread::sleep(Duration::from_millis(500));
    }
    let source = std::mem::replace(&mut road.guest.here, road.there.arrived());
    source.ended(0);
    road.guest.assert_sound();
    road.guest.here.shut_down();
}

/// What is under way in the sockets, and the last pages, take longer than any silence may last;
/// but it is no silence.
#[test]
fn slow() {
    let mut road = Road::new(busy("3M"));
    road.cable.slow_down("2mbit");
    let url = road.cable.url(End::East);
    let how = json!({"connections": 2, "timeout_s": 1, "timeout_strategy": "Ignore"});
    let progress = road.guest.travel(road.there, &url, how);
    assert!(
        progress["sent_bytes"].as_u64() > Some(3 << 20),
        "{progress}"
    );
    let progress = road.guest.here.get("vm.migration-progress");
    let progress = progress.expect("progress");
    let stood = progress["downtime_us"].as_u64().map(Duration::from_micros);
    assert!(stood > Some(STANDSTILL), "{progress}");
    road.guest.assert_sound();
    road.guest.here.shut_down();
}

//! A network that delays, drops and reorders: not every kernel has netem(8), the lab's has.

use serde_json::json;

use crate::support::config::Config;
use crate::support::daemon::Daemon;
use crate::support::network::{Cable, End};
use crate::support::traveller::{Traveller, Waiting};

/// There and back again, over a line that is nobody's idea of a data centre.
#[test]
fn delays_loses_and_reorders() {
    let cable = Cable::new();
    for end in [End::West, End::East] {
        let worse = [
            "delay", "20ms", "10ms", "loss", "1%", "reorder", "25%", "rate", "20mbit",
        ];
        cable.disturb(end, &worse);
    }
    let config = Config::new("fill=1M lines=64 verify pages=8 dirty=2 report=20");
    let mut guest = Traveller::start_with(config, Daemon::start_on(&cable.west));
    let waiting = Waiting::with(Daemon::start_on(&cable.east), &cable.url(End::East));
    // Such a line carries less than the guest writes.
    let how = json!({"connections": 4, "timeout_s": 5, "timeout_strategy": "Ignore"});
    guest.travel(waiting, &cable.url(End::East), how.clone());
    guest.assert_sound();
    let waiting = Waiting::with(Daemon::start_on(&cable.west), &cable.url(End::West));
    let progress = guest.travel(waiting, &cable.url(End::West), how);
    guest.assert_sound();
    // Half of a round trip and more: the disturbance was there.
    let progress = match progress["downtime_us"].as_u64() {
        Some(_) => progress,
        None => guest.here.get("vm.migration-progress").expect("progress"),
    };
    assert!(
        progress["downtime_us"].as_u64() > Some(10_000),
        "{progress}"
    );
    guest.here.shut_down();
}

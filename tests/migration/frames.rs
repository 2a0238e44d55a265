//! A proxy that knows frames holds, cuts, changes or swallows one of each kind; after each the
//! guest is in one place, whole, and can move at once.

use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::config::Config;
use crate::support::proxy::{
    Act, DESCRIPTION, HANDOVER, PAGES, Proxy, READY, RUNNING, STATE, VERDICT,
};
use crate::support::traveller::{Traveller, Waiting};

/// A guest that writes and verifies its memory all the time.
fn busy() -> Config {
    Config::new("fill=512K lines=4 verify pages=4 dirty=1 report=20")
}

/// The last frame with which the guest is still the source's.
const BEFORE: [u8; 5] = [DESCRIPTION, VERDICT, PAGES, STATE, READY];

fn at(guest: &Traveller, name: &str) -> String {
    format!("unix:{}", guest.socket(name).display())
}

/// A destination, and a proxy on the way to it that does `act` at `kind`.
fn road(guest: &Traveller, name: &str, kind: u8, act: Act) -> (Waiting, Proxy) {
    let far = guest.socket(&format!("{name}-far"));
    let there = Waiting::at(&format!("unix:{}", far.display()));
    let proxy = Proxy::start(&guest.socket(name), &far, kind, act);
    (there, proxy)
}

/// A guest on its way, whose first frame of `kind` is held.
fn held(kind: u8) -> (Traveller, Waiting, Proxy) {
    let mut guest = Traveller::start(busy(), &[]);
    let (there, proxy) = road(&guest, "held", kind, Act::Hold);
    let url = at(&guest, "held");
    guest.send(&url, json!({}));
    proxy.wait();
    (guest, there, proxy)
}

/// The guest runs here, and moves when nothing disturbs it.
fn assert_moves(guest: &mut Traveller) {
    assert_eq!(guest.here.state(), "Running");
    let url = at(guest, "clear");
    let there = Waiting::at(&url);
    guest.travel(there, &url, json!({}));
    guest.assert_sound();
}

#[test]
fn the_destination_is_killed_before_the_guest_is_its_own() {
    let mut guest = Traveller::start(busy(), &[]);
    // Not READY: that frame may still arrive after the destination has died, and the guest is
    // handed over to nobody (`the_destination_is_killed_when_the_guest_is_handed_over`).
    for kind in [DESCRIPTION, VERDICT, PAGES, STATE] {
        let name = format!("killed-{kind}");
        let (there, proxy) = road(&guest, &name, kind, Act::Hold);
        let url = at(&guest, &name);
        guest.send(&url, json!({}));
        proxy.wait();
        there.daemon.process.signal(Signal::SIGKILL);
        drop(there);
        proxy.release();
        assert_eq!(guest.wait_stays()["status"], "failed", "at frame {kind}");
        assert_moves(&mut guest);
    }
    guest.here.shut_down();
}

#[test]
fn the_source_is_killed_before_the_guest_is_handed_over() {
    for kind in BEFORE {
        let (guest, there, proxy) = held(kind);
        guest.here.process.signal(Signal::SIGKILL);
        proxy.release();
        // It takes the next guest.
        let empty = there.failed();
        let mut other = Traveller::start(busy(), &[]);
        let url = at(&other, "clear");
        let there = Waiting::with(empty, &url);
        other.travel(there, &url, json!({}));
        other.assert_sound();
        other.here.shut_down();
    }
}

/// What was handed over runs, whatever becomes of the source.
#[test]
fn the_source_is_killed_after_the_guest_was_handed_over() {
    for kind in [HANDOVER, RUNNING] {
        let (mut guest, there, proxy) = held(kind);
        guest.here.process.signal(Signal::SIGKILL);
        proxy.release();
        guest.here = there.arrived();
        assert_moves(&mut guest);
        guest.here.shut_down();
    }
}

/// The destination dies with the guest in its hands, and nobody says whether it
/// ran: it stays paused here until an operator decides.
#[test]
fn the_destination_is_killed_when_the_guest_is_handed_over() {
    let (mut guest, there, proxy) = held(HANDOVER);
    there.daemon.process.signal(Signal::SIGKILL);
    drop(there);
    proxy.release();
    let progress = guest.wait_stays();
    assert_eq!(progress["status"], "failed", "{progress}");
    let again = json!({"destination_url": at(&guest, "held")}).to_string();
    let (_, reasons) = guest.here.refused("vm.send-migration", &again);
    let reasons = reasons.concat();
    assert!(reasons.contains("may run at the destination"), "{reasons}");
    guest.here.put("vm.resume");
    assert_moves(&mut guest);
    guest.here.shut_down();
}

/// It runs there, and the source does not know: it is given up there by its operator.
#[test]
fn the_last_word_is_lost_and_the_guest_runs() {
    let mut guest = Traveller::start(busy(), &[]);
    let (there, _proxy) = road(&guest, "lost", RUNNING, Act::Swallow);
    let url = at(&guest, "lost");
    guest.send(&url, json!({}));
    let progress = guest.wait_stays();
    assert_eq!(progress["status"], "failed", "{progress}");
    guest.here.put("vm.delete");
    let source = std::mem::replace(&mut guest.here, there.arrived());
    source.shut_down();
    guest.assert_sound();
    assert_moves(&mut guest);
    guest.here.shut_down();
}

#[test]
fn the_wire_cuts_or_changes_a_frame() {
    let mut guest = Traveller::start(busy(), &[]);
    for act in [Act::Cut, Act::Flip] {
        for kind in BEFORE {
            let name = format!("{act:?}-{kind}");
            let (there, _proxy) = road(&guest, &name, kind, act);
            let url = at(&guest, &name);
            guest.send(&url, json!({}));
            assert_eq!(guest.wait_stays()["status"], "failed", "{name}");
            there.failed().shut_down();
            assert_eq!(guest.here.state(), "Running");
        }
        assert_moves(&mut guest);
    }
    guest.here.shut_down();
}

#[test]
fn either_side_cancels() {
    let mut guest = Traveller::start(busy(), &[]);
    for kind in [DESCRIPTION, VERDICT, PAGES, STATE] {
        for source in [true, false] {
            let name = format!("cancel-{kind}-{source}");
            let (mut there, proxy) = road(&guest, &name, kind, Act::Hold);
            let url = at(&guest, &name);
            guest.send(&url, json!({}));
            proxy.wait();
            if source {
                guest.here.put("vm.cancel-migration");
            } else {
                there.daemon.put("vm.cancel-migration");
                // What it says of it comes after the held frame.
                proxy.release();
            }
            let status = guest.wait_stays()["status"].clone();
            assert_eq!(
                status,
                if source { "cancelled" } else { "failed" },
                "{name}"
            );
            proxy.release();
            there.failed().shut_down();
            assert_eq!(guest.here.state(), "Running");
        }
    }
    assert_moves(&mut guest);
    guest.here.shut_down();
}

/// The guest ends while its memory is on its way: it ends here, as it would have.
#[test]
fn the_guest_ends_on_its_way() {
    for (end, reason) in [
        ("poweroff", "The guest switched itself off"),
        ("reset", "The guest asked for a reset"),
    ] {
        let config = Config::new(&format!(
            "fill=512K lines=64 verify dirty=1 report=20 beats=1500 {end}"
        ));
        let mut guest = Traveller::start(config, &[]);
        let url = at(&guest, "slow");
        let there = Waiting::at(&url);
        guest.send(&url, json!({"bandwidth_bps": 20_000}));
        // So slow that it cannot have left before.
        let (there, reasons) = there.failed_because();
        assert!(reasons.ends_with(reason), "{reasons}");
        there.shut_down();
        if end == "poweroff" {
            guest.wait_end();
        } else {
            let progress = guest.wait_stays();
            assert_eq!(progress["status"], "failed", "{progress}");
            assert!(progress["error"].to_string().contains(reason), "{progress}");
            guest.wait_boots(2);
            assert_eq!(guest.here.state(), "Running");
            guest.here.shut_down();
        }
    }
}

/// The guest writes faster than the wire may carry.
#[test]
fn time_is_over() {
    let config = Config::new("fill=1M lines=64 verify dirty=4 report=20");
    let mut guest = Traveller::start(config, &[]);
    let how = |strategy| json!({"bandwidth_bps": 50_000, "downtime_ms": 1, "timeout_s": 1, "timeout_strategy": strategy});
    let url = at(&guest, "slow");
    let there = Waiting::at(&url);
    guest.send(&url, how("Cancel"));
    let progress = guest.wait_stays();
    assert_ne!(progress["status"], "finished", "{progress}");
    let there = Waiting::with(there.failed(), &url);
    guest.assert_sound();
    guest.travel(there, &url, how("Ignore"));
    guest.assert_sound();
    guest.here.shut_down();
}

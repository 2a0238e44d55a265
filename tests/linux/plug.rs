//! What is asked of a guest while it runs: a device more, one less, and to end.

use std::fs;
use std::process::Command;

use serde_json::json;

use crate::support::linux::{self, Guest, Tap};
use crate::support::scratch::Scratch;

#[test]
fn a_network_device_comes_and_goes() {
    let tap = Tap::new("gwplug0", false);
    tap.address("192.168.78.1/24");
    let events = Scratch::new();
    let path = events.file("events.json");
    let monitor = format!("path={}", path.display());
    let config = linux::task("godwit.task=serve");
    let mut guest = linux::boot(&config, &["--event-monitor", &monitor]);
    guest.wait_for("godwit: ready serve");

    let net = json!({"id": "more", "tap": tap.name(), "mac": linux::MAC});
    let answer = guest.try_put("vm.add-net", &net.to_string());
    let answer = answer.expect("vm.add-net");
    assert_eq!(
        answer.status,
        200,
        "{:?}",
        String::from_utf8_lossy(&answer.body)
    );
    let bound = guest.run("wait_eth() { i=0; while [ $i -lt 300 ]; do [ -e /sys/class/net/eth0 ] && return 0; usleep 100000; i=$((i+1)); done; return 1; }; wait_eth && readlink /sys/class/net/eth0/device/driver && cat /sys/class/net/eth0/address");
    assert!(
        bound.contains("virtio_net") && bound.contains(linux::MAC),
        "{bound}"
    );
    let activated = r#""event":"activated","properties":{"id":"more"}"#;
    let told = fs::read_to_string(&path).expect("events");
    assert!(told.contains(activated), "{told}");
    guest.run("ip addr add 192.168.78.2/24 dev eth0; ip link set eth0 up");
    let ping = Command::new("ping")
        .args([
            "-c",
            "5",
            "-i",
            "0.2",
            "-W",
            "5",
            "-w",
            "30",
            "192.168.78.2",
        ])
        .output()
        .expect("ping");
    let text = String::from_utf8_lossy(&ping.stdout);
    assert!(
        ping.status.success() && text.contains(" 0% packet loss"),
        "{text}"
    );

    guest.put_json("vm.remove-device", r#"{"id": "more"}"#);
    guest.wait_until("the guest lets go", |_| {
        fs::read_to_string(&path).is_ok_and(|text| text.contains("device-removed"))
    });
    let gone = guest.run("ls /sys/class/net /sys/bus/virtio/devices");
    assert!(!gone.contains("eth0") && !gone.contains("eth1"), "{gone}");
    // The name and the tap are free again.
    let answer = guest.try_put("vm.add-net", &net.to_string());
    assert_eq!(answer.expect("vm.add-net again").status, 200);
    guest.type_in("stop\n");
    guest.ended(0);
}

#[test]
fn the_power_button_ends_a_guest_that_listens() {
    let mut guest = linux::boot(&linux::task("godwit.task=button"), &[]);
    guest.wait_for("godwit: ready button");
    guest.put("vm.power-button");
    // EV_KEY, KEY_POWER (linux/input-event-codes.h).
    guest.wait_for("godwit: pressed");
    // The rest of the line may still be on its way.
    let console = guest.ended(0).stdout;
    let pressed = console.split("godwit: pressed").nth(1).unwrap_or_default();
    let words: Vec<_> = pressed.split_whitespace().take(2).collect();
    assert_eq!(words, ["1", "116"], "{console}");
}

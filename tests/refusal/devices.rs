//! Devices and what they stand on.

use godwit_devices::tap::{Tap, TapSource};
use serde_json::{Value, json};

use super::refused;
use crate::support::config::Config;
use crate::support::namespace::{apart, bare_dev, tap};
use crate::support::scratch::Scratch;
use crate::support::vm::TestVm;

fn net(tap: &str) -> Value {
    json!({"net": [{"id": "net0", "tap": tap, "mac": "52:54:00:12:34:56"}]})
}

#[test]
fn missing_tap() {
    apart(|| {
        refused(
            net("tap7"),
            &[
                "net0",
                "no TAP interface 'tap7'",
                "ip tuntap add dev tap7 mode tap vnet_hdr",
            ],
        );
        // The kernel would make one when it is opened.
        let made = std::fs::exists("/sys/class/net/tap7").expect("looking for the tap");
        assert!(!made, "the tap was made");
    });
}

#[test]
fn busy_tap() {
    apart(|| {
        tap("tap7", &["vnet_hdr"]);
        let holder = Tap::open(TapSource::Existing("tap7".to_owned()), 1).expect("opening the tap");
        let ours = std::process::id().to_string();
        refused(net("tap7"), &["net0", "'tap7' is busy", &ours]);
        drop(holder);
    });
}

#[test]
fn tap_without_a_vnet_header() {
    apart(|| {
        tap("tap7", &[]);
        refused(
            net("tap7"),
            &[
                "net0",
                "'tap7'",
                "IFF_VNET_HDR",
                "ip tuntap add dev tap7 mode tap vnet_hdr",
            ],
        );
    });
}

#[test]
fn tap_with_one_queue_for_two_pairs() {
    apart(|| {
        tap("tap7", &["vnet_hdr"]);
        refused(
            json!({"net": [{"id": "net0", "tap": "tap7", "num_queues": 4}]}),
            &["net0", "'tap7'", "IFF_MULTI_QUEUE", "multi_queue vnet_hdr"],
        );
    });
}

#[test]
fn interface_that_is_no_tap() {
    apart(|| refused(net("lo"), &["net0", "'lo' is not a TAP interface"]));
}

#[test]
fn no_vhost_net() {
    apart(|| {
        bare_dev();
        tap("tap7", &["vnet_hdr"]);
        refused(
            net("tap7"),
            &["net0", "no /dev/vhost-net", "modprobe vhost_net"],
        );
    });
}

#[test]
fn no_tun_driver() {
    apart(|| {
        tap("tap7", &["vnet_hdr"]);
        bare_dev();
        std::fs::remove_file("/dev/net/tun").expect("removing the node");
        refused(net("tap7"), &["net0", "no /dev/net/tun", "modprobe tun"]);
    });
}

#[test]
fn duplicate_ids() {
    refused(
        json!({"net": [
            {"id": "one", "tap": "tap0", "mac": "52:54:00:12:34:56"},
            {"id": "one", "tap": "tap1", "mac": "52:54:00:12:34:57"},
        ]}),
        &[
            "net[1].id:",
            "another device is named \"one\"",
            "must differ",
        ],
    );
}

#[test]
fn duplicate_ids_of_two_kinds() {
    let scratch = Scratch::new();
    let image = scratch.write("disk.img", [0; 4096]);
    refused(
        json!({
            "net": [{"id": "one", "tap": "tap0"}],
            "disks": [{"id": "one", "path": image}],
        }),
        &[
            "disks[0].id:",
            "another device is named \"one\"",
            "must differ",
        ],
    );
}

#[test]
fn multicast_mac() {
    refused(
        json!({"net": [{"tap": "tap0", "mac": "01:00:5e:00:00:01"}]}),
        &["net[0].mac: \"01:00:5e:00:00:01\"", "multicast"],
    );
}

#[test]
fn two_devices_with_one_mac() {
    refused(
        json!({"net": [
            {"tap": "tap0", "mac": "52:54:00:12:34:56"},
            {"tap": "tap1", "mac": "52:54:00:12:34:56"},
        ]}),
        &["net[1].mac:", "52:54:00:12:34:56", "net[0]"],
    );
}

#[test]
fn disk_that_is_a_directory() {
    let scratch = Scratch::new();
    let path = scratch.path().display().to_string();
    refused(
        json!({"disks": [{"path": path}]}),
        &[
            "disks[0].path:",
            &path,
            "is a directory, not a raw image or block device",
        ],
    );
}

#[test]
fn missing_disk() {
    refused(
        json!({"disks": [{"path": "/nonexistent/disk.img"}]}),
        &["disks[0].path: /nonexistent/disk.img is not there"],
    );
}

#[test]
fn disk_with_an_odd_number_of_descriptors() {
    let scratch = Scratch::new();
    let image = scratch.write("disk.img", [0; 4096]);
    refused(
        json!({"disks": [{"path": image, "queue_size": 100}]}),
        &["disks[0].queue_size: 100 is not a power of two", "128"],
    );
}

#[test]
fn disk_of_another_machine() {
    let scratch = Scratch::new();
    let image = scratch.write("disk.img", [0; 4096]);
    let disk = json!({"disks": [{"id": "root", "path": image}]});
    let mut first = TestVm::start(Config::new("halt").with(disk.clone()));
    first.wait_line("end", 1);
    let path = image.display().to_string();
    refused(disk.clone(), &["root", &path, "lock"]);
    // To read it beside one that writes would be as wrong.
    refused(
        json!({"disks": [{"id": "root", "path": image, "readonly": true}]}),
        &["root", &path, "lock"],
    );
    first.terminate().assert_code(0);
    let next = TestVm::start(Config::new("poweroff").with(disk));
    next.wait().assert_code(0);
}

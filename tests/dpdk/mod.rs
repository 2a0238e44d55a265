//! Guests that run dpdk-testpmd: every frame comes back.

mod migrate;

use std::time::Duration;

use godwit_lab::seam::{self, Need};
use godwit_lab::traffic::{self, Port, Stream};
use serde_json::json;

use crate::support::config::MIB;
use crate::support::host;
use crate::support::linux::{self, Guest, LinuxVm, Tap};
use crate::support::scratch::Scratch;

/// Boots testpmd with `pairs` queue pairs on 2 MiB pages, and passes frames through it.
fn every_frame_comes_back(tap: &str, pairs: u16) {
    const SIZE: u64 = 640 * MIB;
    seam::require(&[
        Need::HardwareVirtualization,
        Need::Tap,
        Need::VhostNet,
        Need::Image,
    ]);
    let _pool = host::HugePages::reserve(SIZE / (2 * MIB));
    let tap = Tap::new(tap, pairs > 1);
    let image = seam::image();
    let words = format!("godwit.task=testpmd godwit.forward=macswap godwit.pairs={pairs}");
    let config = linux::config(&image.vmlinux(), &image.dpdk(), &words)
        .with(linux::net(tap.name(), pairs))
        .with(json!({
            "cpus": {"boot_vcpus": 1},
            "memory": {"size": SIZE, "hugepages": true, "hugepage_size": 2 * MIB},
        }));
    let mut vm = LinuxVm::start(Scratch::new(), config, &[]);
    vm.wait_for("godwit: ready testpmd");

    let port = Port::open(tap.name()).expect("a packet socket on the tap");
    let stream = Stream {
        frames: 20_000,
        patience: Duration::from_secs(10),
        limit: Duration::from_secs(450),
        ..Stream::default()
    };
    let tally = traffic::one_in_flight(&port, &stream, |_| ()).expect("sending frames");
    println!("{tally}");
    assert_eq!((tally.sent, tally.received), (20_000, 20_000), "{tally}");
    assert_eq!((tally.duplicates, tally.damaged), (0, 0), "{tally}");

    let tasks = host::tasks(vm.pid());
    assert!(tasks.iter().any(|task| task.name == "vcpu0"), "{tasks:?}");
    vm.type_in("stop\n");
    let ended = vm.wait_code(0);
    let forwarded = ended.section("testpmd");
    assert!(forwarded.contains("RX-packets"), "{forwarded}");
}

#[test]
fn one_queue_pair_loses_nothing() {
    every_frame_comes_back("gwdpdk1", 1);
}

#[test]
fn two_queue_pairs_lose_nothing() {
    every_frame_comes_back("gwdpdk2", 2);
}

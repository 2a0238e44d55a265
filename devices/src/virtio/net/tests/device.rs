//! The device as its transport sees it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::kernel::Wire;
use super::*;

const VERSION_1: u64 = 1 << 32;
const MQ: u64 = 1 << 22;
const CTRL_VQ: u64 = 1 << 17;
const ANNOUNCE: u64 = 1 << 21;

#[derive(Debug, Default)]
pub(super) struct Notified(AtomicU32, AtomicU32);

impl ConfigChange for Notified {
    fn notify(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
    fn needs_reset(&self) {
        self.1.fetch_add(1, Ordering::SeqCst);
    }
}

struct Machine {
    net: Net<Fake>,
    fakes: Vec<Fake>,
    memory: Arc<GuestRam>,
    notified: Arc<Notified>,
    _device_loop: DeviceLoop,
}

impl Machine {
    fn new(pairs: u16) -> Self {
        Self::with(config(pairs))
    }

    fn with(config: NetDeviceConfig) -> Self {
        let memory = memory();
        let device_loop = DeviceLoop::spawn("loop", || ()).unwrap();
        let fakes: Vec<_> = (0..config.queue_pairs).map(|_| Fake::default()).collect();
        let pairs = fakes
            .iter()
            .map(|fake| Rings::open(fake.clone(), memory.clone()).unwrap())
            .collect();
        let tap = open_tap(config.queue_pairs);
        let handle = device_loop.handle();
        let net = Net::assemble(&config, tap, pairs, Vec::new(), handle).unwrap();
        fakes.iter().for_each(|fake| drop(fake.taken()));
        Self {
            net,
            fakes,
            memory,
            notified: Arc::default(),
            _device_loop: device_loop,
        }
    }

    fn activation(&self, features: u64, rings: Vec<Ring>) -> Activation {
        Activation {
            memory: self.memory.clone(),
            features: features | VERSION_1,
            rings,
            config_change: self.notified.clone(),
        }
    }

    fn activate(&mut self, features: u64, rings: Vec<Ring>) {
        let activation = self.activation(features, rings);
        self.net.activate(activation).unwrap();
    }

    fn enabled(&self, pair: usize) -> Vec<String> {
        let mut calls = self.fakes[pair].taken();
        calls.retain(|call| call.starts_with("enable"));
        calls
    }

    fn active_queues(&self) -> usize {
        self.net.control().tap().active_queues()
    }
}

fn rings(indices: impl IntoIterator<Item = u16>) -> Vec<Ring> {
    let at = |index: u16| 0x2000 + 0x1000 * u64::from(index);
    indices.into_iter().map(|i| ring(i, at(i))).collect()
}

/// The control queue at index `index` where the driver's half expects it.
fn control_ring(index: u16) -> Ring {
    ring(index, CONTROL_AT)
}

fn send(driver: &mut Driver, kick: &vmm_sys_util::eventfd::EventFd, command: &[u8]) -> u8 {
    let wanted = driver.used().wrapping_add(1);
    driver.send(&[command]);
    kick.write(1).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while driver.used() != wanted {
        assert!(Instant::now() < deadline, "the control queue is not served");
        thread::yield_now();
    }
    driver.status()
}

#[test]
fn the_configuration_space_tells_the_device() {
    let machine = Machine::with(NetDeviceConfig {
        mtu: Some(9000),
        ..config(2)
    });
    let net = &machine.net;
    assert_eq!((net.id(), net.kind()), ("_net0", Kind::Net));
    assert_eq!(net.queue_sizes(), [256, 256, 256, 256, 64]);
    assert_eq!(net.control().tap().mtu().unwrap(), 9000);
    let mut bytes = [0xff; 16];
    net.read_config(0, &mut bytes);
    assert_eq!(bytes[..6], MAC);
    assert_eq!(bytes[6..], [1, 0, 2, 0, 0x28, 0x23, 0, 0, 0, 0]);
    let mut two = [0xff; 2];
    net.read_config(10, &mut two);
    assert_eq!(two, [0x28, 0x23]);
    for beyond in [11, 12, u64::MAX] {
        two = [0xff; 2];
        net.read_config(beyond, &mut two);
        assert_eq!(two[1], 0);
    }
}

#[test]
fn features_follow_the_config_the_tap_and_vhost() {
    let features = |config| Machine::with(config).net.features();
    let rings = (1 << 28) | (1 << 29) | (1 << 15);
    let always = (1 << 3) | (1 << 5) | (1 << 16) | CTRL_VQ | (0b111 << 18) | (1 << 23);
    let always = (always & !(1 << 20)) | ANNOUNCE | rings;
    let csum = 0b111;
    let tso = (0b111 << 7) | (0b111 << 11);
    let ufo = (1 << 10) | (1 << 14);
    assert_eq!(features(config(1)), always | csum | tso | ufo);
    assert_eq!(features(config(2)), always | csum | tso | ufo | MQ);
    let with = |checksum, tcp_segmentation, udp_fragmentation| NetDeviceConfig {
        offloads: Offloads {
            checksum,
            tcp_segmentation,
            udp_fragmentation,
        },
        ..config(1)
    };
    assert_eq!(features(with(false, true, true)), always);
    assert_eq!(features(with(true, false, false)), always | csum);
    assert_eq!(features(with(true, true, false)), always | csum | tso);
}

#[test]
fn pairs_get_their_rings_and_only_the_features_of_rings() {
    let mut machine = Machine::new(2);
    machine.activate(u64::MAX, {
        let mut rings = rings(0..4);
        rings.push(control_ring(4));
        rings
    });
    for fake in &machine.fakes {
        let calls = fake.taken();
        assert_eq!(calls[0], "set_features 0x130008000");
        let enabled: Vec<_> = calls.iter().filter(|c| c.starts_with("enable")).collect();
        assert_eq!(enabled, ["enable 0", "enable 1"]);
    }
    assert_eq!(machine.active_queues(), 1, "until the driver asks for more");
    *machine.fakes[0].bases.lock().unwrap() = [10, 11];
    *machine.fakes[1].bases.lock().unwrap() = [12, 13];
    let positions = machine.net.stop().unwrap();
    let avail: Vec<_> = positions.iter().map(|p| p.next_avail).collect();
    assert_eq!(avail, [10, 11, 12, 13, 0]);
    assert_eq!(machine.net.stop().unwrap(), []);
}

#[test]
fn pairs_that_the_driver_leaves_out_are_left_alone() {
    let mut machine = Machine::new(2);
    // Without multi-queue the control queue is number 2, and what is beyond it
    // means nothing.
    let mut set = rings([0, 1]);
    set.push(control_ring(2));
    set.extend(rings([3]));
    let kick = set[2].kick.try_clone().unwrap();
    machine.activate(CTRL_VQ | (1 << 18), set);
    assert_eq!(machine.enabled(0), ["enable 0", "enable 1"]);
    assert!(machine.fakes[1].taken().is_empty());
    let mut driver = Driver {
        memory: machine.memory.clone(),
        sent: 0,
    };
    assert_eq!(send(&mut driver, &kick, &[0, 0, 1]), 0);
    assert_eq!(
        send(&mut driver, &kick, &[4, 0, 2, 0]),
        1,
        "MQ was not negotiated"
    );
    let control = machine.net.stop().unwrap()[2];
    assert_eq!((control.next_avail, control.next_used), (2, 2));

    // With it, a driver may enable one pair of two.
    let mut set = rings([0, 1]);
    set.push(control_ring(4));
    machine.activate(CTRL_VQ | MQ, set);
    assert_eq!(machine.enabled(0), ["enable 0", "enable 1"]);
    assert!(machine.fakes[1].taken().is_empty());
    assert_eq!(machine.net.stop().unwrap().len(), 3);
}

#[test]
fn a_pause_keeps_what_a_reset_forgets() {
    let mut machine = Machine::new(2);
    let features = CTRL_VQ | MQ;
    let control = control_ring(4);
    let kick = control.kick.try_clone().unwrap();
    machine.activate(features, vec![control]);
    let mut driver = Driver {
        memory: machine.memory.clone(),
        sent: 0,
    };
    assert_eq!(send(&mut driver, &kick, &[4, 0, 2, 0]), 0);
    assert_eq!(machine.active_queues(), 2);

    let position = machine.net.stop().unwrap()[0];
    assert_eq!(position.next_avail, 1);
    let mut control = control_ring(4);
    control.start = position;
    let kick = control.kick.try_clone().unwrap();
    // A command that came during the pause, its notification lost.
    driver.send(&[&[4, 0, 2, 0]]);
    machine.activate(features, vec![control]);
    assert_eq!(machine.active_queues(), 2);
    let deadline = Instant::now() + Duration::from_secs(10);
    while driver.used() != 2 {
        assert!(Instant::now() < deadline, "the control queue is not served");
        thread::yield_now();
    }
    assert_eq!(send(&mut driver, &kick, &[4, 0, 1, 0]), 0);
    assert_eq!(send(&mut driver, &kick, &[4, 0, 2, 0]), 0);
    machine.net.stop().unwrap();

    // A new driver clears its ring.
    let ring = [0; 0x300];
    machine
        .memory
        .write_slice(&ring, GuestAddress(CONTROL_AT))
        .unwrap();
    machine.activate(features, vec![control_ring(4)]);
    assert_eq!(
        (
            machine.active_queues(),
            machine.net.control().state().active_pairs
        ),
        (1, 1)
    );
}

#[test]
fn a_guest_is_announced_from_outside_and_by_a_driver_that_can() {
    let mut machine = Machine::new(1);
    let mut wire = Wire::of(&machine.net.tap_name(), [0x80, 0x35]);
    let moved = DeviceV1::Net(NetV1 {
        mac: [2, 0, 0, 0, 0, 9],
        ..machine.net.control().state()
    });
    machine.net.restore(&moved).unwrap();
    machine.net.announce();
    let frame = wire.receive();
    assert_eq!(frame[6..12], [2, 0, 0, 0, 0, 9], "before it runs, too");
    machine.activate(CTRL_VQ, rings([0, 1]));
    machine.net.stop().unwrap();
    assert_eq!(wire.heard(), None, "not unless asked");

    let mut rings = rings([0, 1]);
    rings[1].start.next_avail = 1;
    machine.net.restore(&moved).unwrap();
    machine.activate(CTRL_VQ, rings);
    let sent = |net: &Net<Fake>| {
        let counters = net.counters();
        assert_eq!(counters.len(), 6);
        (counters[3], counters[4])
    };
    let before = sent(&machine.net);
    assert_eq!((before.0.0, before.1.0), ("tx_packets", "tx_bytes"));
    machine.net.announce();
    let after = sent(&machine.net);
    assert_eq!((after.0.1 - before.0.1, after.1.1 - before.1.1), (1, 60));
    wire.receive();
    for _ in 0..2 {
        machine.net.announce();
        let frame = wire.receive();
        assert_eq!(
            frame[..14],
            [&[0xff; 6][..], &[2, 0, 0, 0, 0, 9, 0x80, 0x35]].concat()
        );
        assert_eq!(frame.len(), 60);
    }
    assert_eq!(
        machine.notified.0.load(Ordering::SeqCst),
        0,
        "not negotiated"
    );
    machine.net.stop().unwrap();

    machine.activate(CTRL_VQ | ANNOUNCE, self::rings([0, 1]));
    machine.net.announce();
    assert_eq!(wire.receive()[6..12], MAC);
    assert_eq!(machine.notified.0.load(Ordering::SeqCst), 1);
    let mut status = [0];
    machine.net.read_config(6, &mut status);
    assert_eq!(status, [3]);
}

#[test]
fn a_failed_start_can_be_repeated() {
    let mut machine = Machine::new(2);
    let all = || {
        let mut all = rings(0..4);
        all.push(control_ring(4));
        all
    };
    *machine.fakes[1].fail.lock().unwrap() = Some("enable 1");
    let activation = machine.activation(MQ | CTRL_VQ, all());
    let error = machine.net.activate(activation).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Could not activate device _net0: starting its rings"
    );
    assert!(machine.fakes[0].taken().contains(&"disable 1".to_owned()));
    assert_eq!(machine.net.stop().unwrap(), []);
    *machine.fakes[1].fail.lock().unwrap() = None;
    machine.activate(MQ | CTRL_VQ, all());
    let twice = machine.activation(MQ | CTRL_VQ, all());
    assert!(machine.net.activate(twice).is_err());
    assert_eq!(
        machine.net.stop().unwrap().len(),
        5,
        "the first one goes on"
    );

    let mut legacy = machine.activation(0, all());
    legacy.features = 0;
    assert!(machine.net.activate(legacy).is_err());
}

#[test]
fn a_broken_ring_is_heard_and_the_device_still_stops() {
    let mut machine = Machine::new(1);
    *machine.fakes[0].fail.lock().unwrap() = Some("broken");
    machine.activate(0, rings([0, 1]));
    let deadline = Instant::now() + Duration::from_secs(20);
    while machine.notified.1.load(Ordering::SeqCst) != 2 {
        assert!(Instant::now() < deadline, "the driver is not told");
        thread::sleep(Duration::from_millis(1));
    }
    // The loop still answers.
    assert_eq!(machine.net.stop().unwrap().len(), 2);
}

#[test]
fn configs_that_no_device_can_have_are_refused() {
    let refused = |config: NetDeviceConfig| {
        let device_loop = DeviceLoop::spawn("loop", || ()).unwrap();
        let error = Net::new(config, memory(), device_loop.handle()).unwrap_err();
        assert_eq!(error.to_string(), "Could not make the network device _net0");
        error.reason.to_string()
    };
    let text = refused(NetDeviceConfig {
        mac: [1, 0, 0x5e, 0, 0, 1],
        ..config(1)
    });
    assert!(
        text.contains("01:00:5e:00:00:01 is a multicast address"),
        "{text}"
    );
    let text = refused(NetDeviceConfig {
        mac: [0; 6],
        ..config(1)
    });
    assert!(text.contains("is all zeros"), "{text}");
    for queue_size in [0, 1, 255] {
        let text = refused(NetDeviceConfig {
            queue_size,
            ..config(1)
        });
        assert!(text.contains("is not a power of two"), "{text}");
    }
    let text = refused(NetDeviceConfig {
        mtu: Some(67),
        ..config(1)
    });
    assert!(text.contains("below 68"), "{text}");
    let text = refused(NetDeviceConfig {
        tap: TapSource::Existing("gw-none".into()),
        ..config(1)
    });
    assert!(text.contains("ip tuntap add dev gw-none"), "{text}");
    let text = refused(config(17));
    assert!(text.contains("1 to 16 queues"), "{text}");
}

#[test]
fn it_does_what_every_device_does() {
    let device_loop = DeviceLoop::spawn("loop", || ()).unwrap();
    for pairs in [1, 2] {
        let memory = crate::testing::guest_ram(&[(0, 16 << 20)]);
        crate::testing::device_suite_in(&memory, || {
            let fakes = (0..pairs).map(|_| Fake::default());
            let rings = fakes.map(|fake| Rings::open(fake, memory.clone()).unwrap());
            let (tap, handle) = (open_tap(pairs), device_loop.handle());
            let net = Net::assemble(&config(pairs), tap, rings.collect(), Vec::new(), handle);
            Box::new(net.unwrap())
        });
    }
}

#[test]
fn all_pairs_share_one_dirty_log() {
    let mut machine = Machine::new(2);
    machine.activate(MQ | CTRL_VQ, rings(0..4));
    let harvest = |net: &mut Net<Fake>| {
        let mut found = Vec::new();
        net.sync_dirty_log(&mut |address, bits| found.push((address.0, bits)));
        found
    };
    for _ in 0..2 {
        assert!(harvest(&mut machine.net).is_empty());
        machine.fakes.iter().for_each(|fake| drop(fake.taken()));
        machine.net.start_dirty_log().unwrap();
        for fake in &machine.fakes {
            let calls = fake.taken();
            assert!(
                calls.contains(&"set_features 0x104000000".to_owned()),
                "{calls:?}"
            );
        }
        let log = machine.net.log.clone().unwrap();
        log.set(3);
        log.set(0xff);
        let found = harvest(&mut machine.net);
        assert_eq!(found, [(0, 1 << 3), (0xc_0000, 1 << 63)]);
        log.set(4);
        machine.net.stop().unwrap();
        let found = harvest(&mut machine.net);
        assert_eq!(found, [(0, 1 << 4)], "the last harvest is after the stop");
        machine.activate(MQ | CTRL_VQ, rings(0..4));
        machine.net.stop_dirty_log();
        for fake in &machine.fakes {
            let calls = fake.taken();
            assert!(
                calls.contains(&"set_features 0x100000000".to_owned()),
                "{calls:?}"
            );
        }
    }
    *machine.fakes[1].fail.lock().unwrap() = Some("set_log");
    let error = machine.net.start_dirty_log().unwrap_err();
    assert!(error.to_string().contains("_net0"), "{error}");
    assert!(machine.net.log.is_none());
    let calls = machine.fakes[0].taken();
    assert!(
        calls.contains(&"set_features 0x100000000".to_owned()),
        "{calls:?}"
    );
}

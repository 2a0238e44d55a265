mod suite;
mod threads;
mod wild;

use super::*;
use crate::testing::{FakeDevice, FakeDoorbells, FakeMsi, PciGuest, Space, Step, guest_ram};
use crate::virtio::DeviceV1;

const NET: u8 = 0;
const STATUS: u32 = 0x14;

fn put(guest: &PciGuest, offset: u32, data: &[u8]) {
    guest.write(Space::Bar(NET), offset, data);
}

fn status(guest: &PciGuest) -> u64 {
    guest.bar_read::<1>(NET, STATUS)
}

fn active(guest: &PciGuest) -> bool {
    guest.logs[0].lock().unwrap().active.is_some()
}

/// Offsets of the capabilities, by type.
fn capabilities(guest: &PciGuest) -> Vec<(u64, u32)> {
    let mut at = guest.config_read::<1>(NET, 0x34);
    let mut found = Vec::new();
    while let Ok(offset @ 1..) = u32::try_from(at) {
        let id = guest.config_read::<1>(NET, offset);
        let kind = if id == 9 {
            guest.config_read::<1>(NET, offset + 3)
        } else {
            id
        };
        found.push((kind, offset));
        at = guest.config_read::<1>(NET, offset + 1);
    }
    found
}

#[test]
fn a_driver_finds_every_capability() {
    let guest = PciGuest::new();
    let kinds: Vec<u64> = capabilities(&guest).iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, [1, 3, 4, 2, 5, 0x11]);
    let (_, notify) = capabilities(&guest)[3];
    assert_eq!(guest.config_read::<1>(NET, notify + 2), 20);
    assert_eq!(guest.config_read::<4>(NET, notify + 8), 0x3000);
    assert_eq!(guest.config_read::<4>(NET, notify + 12), 12);
    assert_eq!(guest.config_read::<4>(NET, notify + 16), 4);
    assert_eq!(guest.config_read::<4>(NET, 0), 0x1041_1af4);
    assert_eq!(guest.config_read::<4>(NET, 8), 0x0200_0001);
}

#[test]
fn a_driver_brings_the_device_up_and_resets_it() {
    let guest = PciGuest::new();
    guest.bring_up(NET, 0);
    assert_eq!(status(&guest), 0xf);
    {
        let log = guest.logs[0].lock().unwrap();
        let activation = log.active.as_ref().unwrap();
        assert_eq!(activation.features, 1 << 5 | 1 << 29 | 1 << 32);
        let rings = activation.rings.iter();
        let rings: Vec<_> = rings.map(|r| (r.index, r.size, r.desc.0)).collect();
        assert_eq!(rings, [(0, 16, 0x1000), (1, 16, 0x2000), (2, 16, 0x3000)]);
        assert_eq!(activation.rings[1].avail.0, 0x2100);
        assert_eq!(activation.rings[1].used.0, 0x2200);
    }
    put(&guest, 0x16, &[1, 0]);
    assert_eq!(guest.bar_read::<2>(NET, 0x1e), 1, "queue_notify_off");
    put(&guest, 0x18, &[8, 0]);
    assert_eq!(guest.bar_read::<2>(NET, 0x18), 16, "an enabled queue stays");

    put(&guest, STATUS, &[0]);
    assert!(!active(&guest));
    assert_eq!(guest.doorbells.bound(), Vec::<u64>::new());
    put(&guest, 0x16, &[1, 0]);
    assert_eq!(guest.bar_read::<2>(NET, 0x18), 256);
    assert_eq!(guest.bar_read::<2>(NET, 0x1a), 0xffff);
    assert_eq!(guest.bar_read::<2>(NET, 0x1c), 0);
    assert_eq!(guest.bar_read::<8>(NET, 0x20), 0);
    guest.finish();
}

#[test]
fn what_a_driver_does_is_told_once() {
    let guest = PciGuest::new();
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = Arc::clone(&told);
    guest.functions[0].1.watch_driver(Box::new(move |id, what| {
        tell.lock().unwrap().push((id.to_owned(), what));
    }));
    let took = || -> Vec<_> {
        told.lock()
            .unwrap()
            .drain(..)
            .map(|(_, what)| what)
            .collect()
    };
    // A driver begins with a reset, of a device that nobody has set up.
    put(&guest, STATUS, &[0]);
    assert_eq!(took(), []);
    guest.bring_up(NET, 0);
    assert_eq!(took(), [DriverMove::Activated]);
    // A pause is not the driver's doing, nor is what follows it.
    guest.functions[0].1.pause().unwrap();
    guest.functions[0].1.resume();
    assert_eq!(took(), []);
    put(&guest, STATUS, &[0]);
    put(&guest, STATUS, &[0]);
    assert_eq!(took(), [DriverMove::Reset]);
    // One that does not start was not activated.
    guest.logs[0].lock().unwrap().fail_activate = true;
    guest.bring_up(NET, 0);
    assert_eq!(took(), []);
    guest.finish();
}

#[test]
fn features_are_agreed_on_or_refused() {
    let guest = PciGuest::new();
    let negotiate = |low: u32, high: u32| {
        for status in [0, 1, 3] {
            put(&guest, STATUS, &[status]);
        }
        for (select, half) in [(0_u32, low), (1, high), (2, u32::MAX)] {
            put(&guest, 8, &select.to_le_bytes());
            put(&guest, 12, &half.to_le_bytes());
        }
        put(&guest, STATUS, &[0xb]);
        status(&guest)
    };
    assert_eq!(negotiate(1 << 5, 1), 0xb);
    assert_eq!(negotiate(0, 1), 0xb);
    assert_eq!(negotiate(1 << 5, 0), 3, "without VERSION_1");
    assert_eq!(negotiate(1 << 6, 1), 3, "not offered");
    assert_eq!(
        negotiate(0, 1 << 8 | 1),
        3,
        "VIRTIO_F_RING_RESET is not offered"
    );
    assert_eq!(negotiate(0, 1), 0xb);
    put(&guest, 8, &[0; 4]);
    put(&guest, 12, &(1_u32 << 5).to_le_bytes());
    assert_eq!(guest.bar_read::<4>(NET, 12), 0, "too late");
}

#[test]
fn a_queue_that_cannot_work_breaks_the_device() {
    // Desc, driver, device area; size.
    let cases: [(u64, u64, u64, u16); 9] = [
        (0x1008, 0x2000, 0x3000, 16),
        (0x1000, 0x2001, 0x3000, 16),
        (0x1000, 0x2000, 0x3002, 16),
        (0x1000, 0x2000, 0x3000, 12),
        (0x1000, 0x2000, 0x3000, 512),
        (0x1000, 0x2000, 0x3000, 0),
        (0xfff0, 0x2000, 0x3000, 16),
        (0x1000, 0x1_5000, 0x3000, 16),
        (0x1000, 0x2000, u64::MAX - 7, 16),
    ];
    for (desc, driver, device, size) in cases {
        let guest = PciGuest::new();
        for status in [1, 3] {
            put(&guest, STATUS, &[status]);
        }
        put(&guest, 8, &[1, 0, 0, 0]);
        put(&guest, 12, &[1, 0, 0, 0]);
        put(&guest, STATUS, &[0xb]);
        put(&guest, 0x18, &size.to_le_bytes());
        for (at, address) in [(0x20, desc), (0x28, driver), (0x30, device)] {
            put(&guest, at, &address.to_le_bytes());
        }
        put(&guest, 0x1c, &[1, 0]);
        assert_eq!(guest.bar_read::<2>(NET, 0x1c), 0);
        assert_eq!(status(&guest), 0x4b, "DEVICE_NEEDS_RESET");
        put(&guest, STATUS, &[0xf]);
        assert!(!active(&guest));
        guest.bring_up(NET, 0);
        assert!(active(&guest), "a reset helps");
    }
}

#[test]
fn an_enabled_queue_stays_as_it_is() {
    let guest = PciGuest::new();
    for (at, data) in [
        (STATUS, [1]),
        (STATUS, [3]),
        (8, [1]),
        (12, [1]),
        (STATUS, [0xb]),
    ] {
        let length = if at == STATUS { 1 } else { 4 };
        put(&guest, at, &[data[0], 0, 0, 0][..length]);
    }
    put(&guest, 0x18, &[16, 0]);
    for (at, address) in [(0x20, 0x1000_u64), (0x28, 0x2000), (0x30, 0x3000)] {
        put(&guest, at, &address.to_le_bytes());
    }
    put(&guest, 0x1c, &[1, 0]);
    assert_eq!(guest.bar_read::<2>(NET, 0x1c), 1);
    // Checked once, it must not become another ring before it is used.
    for at in [0x20, 0x28, 0x30] {
        put(&guest, at, &u64::MAX.to_le_bytes());
    }
    put(&guest, 0x18, &[0xff, 0xff]);
    put(&guest, 0x1c, &[0, 0]);
    put(&guest, STATUS, &[0xf]);
    let log = guest.logs[0].lock().unwrap();
    let ring = &log.active.as_ref().unwrap().rings[0];
    assert_eq!((ring.size, ring.desc.0), (16, 0x1000));
    assert_eq!((ring.avail.0, ring.used.0), (0x2000, 0x3000));
}

#[test]
fn beyond_the_last_queue_all_is_zero() {
    let guest = PciGuest::new();
    for select in [3_u16, 0x100, 0xffff] {
        put(&guest, 0x16, &select.to_le_bytes());
        for at in [0x18, 0x1c, 0x1e, 0x20, 0x24, 0x28, 0x30, 0x38, 0x3a] {
            assert_eq!(guest.bar_read::<2>(NET, at), 0, "register {at:#x}");
        }
        put(&guest, 0x1c, &[1, 0]);
    }
    assert_eq!(status(&guest), 0);
}

#[test]
fn a_notification_reaches_the_kick_by_doorbell_exit_and_window() {
    let guest = PciGuest::new();
    guest.bring_up(NET, 0);
    let kicks = |queue: usize| {
        let log = guest.logs[0].lock().unwrap();
        let rings = &log.active.as_ref().unwrap().rings;
        rings[queue].kick.read().unwrap_or(0)
    };
    let bar = guest.bar_address(NET).0;
    assert!(guest.doorbells.ring(bar + 0x3004));
    assert_eq!(kicks(1), 1);
    let _ = guest.memory.write(bar + 0x3008, &[2, 0]);
    assert_eq!(kicks(2), 1);
    for nowhere in [0x300c, 0x3001, 0x3ffc] {
        let _ = guest.memory.write(bar + nowhere, &[0, 0]);
    }
    let (_, window) = capabilities(&guest)[4];
    guest.write(Space::Config(NET), window + 8, &0x3000_u32.to_le_bytes());
    guest.write(Space::Config(NET), window + 12, &2_u32.to_le_bytes());
    guest.write(Space::Config(NET), window + 16, &[0, 0]);
    assert_eq!([kicks(0), kicks(1), kicks(2)], [1, 0, 0]);
}

#[test]
fn the_window_reaches_the_bar_while_it_is_not_decoded() {
    let guest = PciGuest::new();
    let (_, window) = capabilities(&guest)[4];
    let set = |bar: u8, offset: u32, length: u32| {
        guest.write(Space::Config(NET), window + 4, &[bar]);
        guest.write(Space::Config(NET), window + 8, &offset.to_le_bytes());
        guest.write(Space::Config(NET), window + 12, &length.to_le_bytes());
    };
    set(0, 0x12, 2);
    assert_eq!(guest.config_read::<2>(NET, window + 16), 3);
    assert_eq!(
        guest.config_read::<4>(NET, window + 16),
        0,
        "another length"
    );
    set(0, STATUS, 1);
    guest.write(Space::Config(NET), window + 16, &[1]);
    assert_eq!(status(&guest), 1);
    for (bar, offset, length) in [
        (1, 0x12, 2),
        (0, 0x13, 2),
        (0, 0x8000, 4),
        (0, u32::MAX, 1),
        (0, 0, 0),
    ] {
        set(bar, offset, length);
        assert_eq!(guest.config_read::<4>(NET, window + 16), 0);
        guest.write(Space::Config(NET), window + 16, &[0; 4]);
    }
    assert_eq!(status(&guest), 1);
}

#[test]
fn the_configuration_interrupt_takes_no_lock() {
    let guest = PciGuest::new();
    guest.bring_up(NET, 0);
    let function = &guest.functions[0].1;
    // Vector 0, live.
    guest.write(Space::Bar(NET), 0x400c, &[0; 4]);
    let (_, msix) = capabilities(&guest)[5];
    guest.write(Space::Config(NET), msix + 2, &[0, 0x80]);
    let before = guest.bar_read::<1>(NET, 0x15);
    // With the function's lock held, as a vCPU in `stop` does.
    let change = function.config_change();
    function.with_device(|_| change.notify());
    assert_eq!(guest.msi.vectors(0).take(0), 1);
    assert_eq!(guest.bar_read::<1>(NET, 0x15), before + 1);
    assert_eq!(guest.bar_read::<1>(NET, 0x1000), 2, "ISR");
    assert_eq!(guest.bar_read::<1>(NET, 0x1000), 0, "is cleared by reading");
}

#[test]
fn a_queue_gets_its_new_vector_while_it_runs() {
    let guest = PciGuest::new();
    guest.bring_up(NET, 0);
    let (_, msix) = capabilities(&guest)[5];
    guest.write(Space::Bar(NET), 0x403c, &[0; 4]);
    guest.write(Space::Config(NET), msix + 2, &[0, 0x80]);
    put(&guest, 0x16, &[0, 0]);
    put(&guest, 0x1a, &[3, 0]);
    let log = guest.logs[0].lock().unwrap();
    let ring = &log.active.as_ref().unwrap().rings[0];
    assert_eq!(ring.start.next_avail, 1, "goes on where it stopped");
    ring.call.write(1).unwrap();
    assert_eq!(guest.msi.vectors(0).take(3), 1);
    drop(log);
    put(&guest, 0x1a, &[4, 0]);
    assert_eq!(
        guest.bar_read::<2>(NET, 0x1a),
        0xffff,
        "there is no vector 4"
    );
}

#[test]
fn a_pause_keeps_the_rings_and_a_restore_takes_them_over() {
    let mut guest = PciGuest::new();
    guest.bring_up(NET, 0);
    let function = Arc::clone(&guest.functions[0].1);
    function.pause().unwrap();
    assert!(!active(&guest));
    assert_eq!(guest.doorbells.bound().len(), 3, "kicks gather meanwhile");
    function.resume();
    {
        let log = guest.logs[0].lock().unwrap();
        let ring = &log.active.as_ref().unwrap().rings[0];
        assert_eq!((ring.start.next_avail, ring.start.next_used), (1, 1));
        assert_eq!(ring.kick.read().unwrap(), 1, "a lost kick is made up for");
    }
    drop(function);
    guest.step(Step::Restore(NET));
    assert!(!active(&guest));
    guest.step(Step::Resume(NET));
    {
        let log = guest.logs[0].lock().unwrap();
        let rings = &log.active.as_ref().unwrap().rings;
        assert_eq!(rings[2].start.next_avail, 2);
    }
    assert_eq!(guest.doorbells.bound().len(), 3);
    guest.finish();
}

#[test]
fn a_device_that_fails_needs_a_reset() {
    let guest = PciGuest::new();
    guest.logs[0].lock().unwrap().fail_activate = true;
    guest.bring_up(NET, 0);
    assert_eq!(status(&guest), 0x4f);
    assert_eq!(guest.doorbells.bound(), Vec::<u64>::new());
    guest.logs[0].lock().unwrap().fail_activate = false;
    guest.bring_up(NET, 0);
    assert_eq!(status(&guest), 0xf);
    guest.logs[0].lock().unwrap().fail_stop = true;
    assert!(guest.functions[0].1.pause().is_err());
    guest.functions[0].1.resume();
    assert_eq!(status(&guest), 0x4f, "nobody knows where the rings stand");
    assert!(!active(&guest));
}

#[test]
fn a_device_that_gives_up_by_itself_tells_its_driver() {
    let mut guest = PciGuest::new();
    guest.bring_up(NET, 0);
    let change = guest.functions[0].1.config_change();
    change.needs_reset();
    change.needs_reset();
    assert_eq!(status(&guest), 0x4f);
    assert_eq!(guest.bar_read::<1>(NET, 0x15), 1, "told once");
    assert_eq!(guest.bar_read::<1>(NET, 0x1000), 2, "ISR status");
    put(&guest, STATUS, &[0xf]);
    assert_eq!(status(&guest), 0x4f, "only a reset helps");
    // It moves along, and is not started again.
    guest.step(Step::Restore(NET));
    guest.step(Step::Resume(NET));
    assert_eq!((status(&guest), active(&guest)), (0x4f, false));
    guest.bring_up(NET, 0);
    assert_eq!((status(&guest), active(&guest)), (0xf, true));
    guest.functions[0].1.config_change().needs_reset();
    put(&guest, STATUS, &[0]);
    assert_eq!(status(&guest), 0);
    guest.finish();
}

fn bare(sizes: &[u16]) -> Result<VirtioPci, CreateError> {
    let (device, _) = FakeDevice::new(sizes, 1 << 5);
    let ram = guest_ram(&[(0, 0x1_0000)]);
    let doorbells = Arc::new(FakeDoorbells::default());
    VirtioPci::new(Box::new(device), ram, &FakeMsi::default(), doorbells)
}

#[test]
fn devices_that_cannot_be_carried_are_refused() {
    assert!(matches!(
        bare(&[]),
        Err(CreateError::QueueCount { count: 0, .. })
    ));
    assert!(matches!(
        bare(&[2; 256]),
        Err(CreateError::QueueCount { count: 256, .. })
    ));
    assert!(matches!(
        bare(&[256, 3]),
        Err(CreateError::QueueSize { size: 3, .. })
    ));
    assert!(bare(&[2; 255]).is_ok());
}

#[test]
fn a_bad_state_is_refused_with_its_reason() {
    type Edit = fn(&mut VirtioPciV1);
    let good = bare(&[16]).unwrap().save();
    bare(&[16]).unwrap().restored(&good).unwrap();
    let refused = |edit: Edit| {
        let mut state = good.clone();
        edit(&mut state);
        bare(&[16])
            .unwrap()
            .restored(&state)
            .unwrap_err()
            .to_string()
    };
    let cases: [(Edit, &str); 8] = [
        (|s| s.queues.clear(), "0 queues"),
        (|s| s.vectors.truncate(1), "1 vectors"),
        (|s| s.status = 4, "status 0x04"),
        (
            |s| (s.status, s.accepted) = (0xf, 1 << 32 | 1),
            "0x1 are not offered",
        ),
        (|s| (s.status, s.accepted) = (0xb, 1 << 5), "features"),
        (
            |s| (s.queues[0].enabled, s.queues[0].desc) = (true, 8),
            "queue 0",
        ),
        (|s| s.config[0] ^= 1, "Could not restore"),
        (
            |s| {
                s.device = DeviceV1::Block(crate::virtio::block::BlockV1 {
                    sectors: 1,
                    block: 512,
                    writeback: false,
                });
            },
            "Could not restore",
        ),
    ];
    for (edit, expected) in cases {
        let error = refused(edit);
        assert!(error.contains(expected), "{error}");
    }
}

use std::sync::Arc;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{DriverRing, guest_ram};
use crate::GuestRam;
use crate::virtio::{
    Activation, ConfigChange, DeviceStateError, DeviceV1, RingPosition, VirtioDevice,
};

mod moved;

const RAM: usize = 16 << 20;
const VERSION_1: u64 = 1 << 32;

#[derive(Debug)]
struct Unheard;

impl ConfigChange for Unheard {
    fn notify(&self) {}
    fn needs_reset(&self) {}
}

/// What every device has to do, whatever it is. `make` gives a new device of
/// the same kind each time.
///
/// # Panics
/// The device fails.
pub fn device_suite(make: impl Fn() -> Box<dyn VirtioDevice>) {
    device_suite_in(&guest_ram(&[(0, RAM)]), make);
}

/// The same for devices that are made for certain RAM, of 16 MiB from 0.
///
/// # Panics
/// The device fails.
pub fn device_suite_in(ram: &Arc<GuestRam>, make: impl Fn() -> Box<dyn VirtioDevice>) {
    says_what_it_is(make().as_ref());
    reads_config_at_any_offset(make().as_ref());
    let mut device = make();
    stops_while_stopped(device.as_mut());
    // A reset is a stop; after it everything begins anew.
    for start in [0, 0, 5, 0xffff] {
        starts_where_the_rings_stand(device.as_mut(), ram, start);
    }
    stops_while_stopped(device.as_mut());
    starts_without_rings(make().as_mut(), ram);
    saves_and_restores(&make, ram);
    moved::moves(&make, ram);
    let mut device = make();
    let rings = Rings::new(device.as_ref(), ram, 0);
    let started = device.activate(rings.activation(device.as_ref()));
    started.expect("starts, and is dropped while it runs");
}

fn says_what_it_is(device: &dyn VirtioDevice) {
    assert!(!device.id().is_empty());
    assert!(!device.queue_sizes().is_empty());
    for size in device.queue_sizes() {
        assert!(size.is_power_of_two() && *size <= 1 << 15, "size {size}");
    }
}

fn reads_config_at_any_offset(device: &dyn VirtioDevice) {
    let mut whole = [0; 0x1000];
    device.read_config(0, &mut whole);
    for offset in [
        0,
        1,
        3,
        7,
        8,
        63,
        0xfff,
        0x1000,
        1 << 32,
        u64::MAX - 3,
        u64::MAX,
    ] {
        for length in 0..=9 {
            let mut data = vec![0xa5; length];
            device.read_config(offset, &mut data);
            for (at, byte) in data.into_iter().enumerate() {
                let at = usize::try_from(offset).ok().and_then(|o| o.checked_add(at));
                let expected = at.and_then(|at| whole.get(at)).copied().unwrap_or(0);
                assert_eq!(byte, expected, "{length} bytes at {offset:#x}");
            }
        }
    }
}

fn stops_while_stopped(device: &mut dyn VirtioDevice) {
    let positions = device.stop().expect("stops while it is stopped");
    assert_eq!(positions, []);
}

/// One empty ring for each queue.
struct Rings {
    memory: Arc<GuestRam>,
    rings: Vec<(DriverRing, EventFd, EventFd)>,
}

impl Rings {
    fn new(device: &dyn VirtioDevice, ram: &Arc<GuestRam>, start: u16) -> Self {
        let memory = Arc::clone(ram);
        let mut base = 0x1000;
        let eventfd = || EventFd::new(EFD_NONBLOCK).expect("an eventfd");
        let ring = |size: &u16| {
            let ring = DriverRing::new(Arc::clone(&memory), base, (*size).min(16), start);
            base = ring.end().next_multiple_of(16);
            (ring, eventfd(), eventfd())
        };
        let rings = device.queue_sizes().iter().map(ring).collect();
        Self { memory, rings }
    }

    fn activation(&self, device: &dyn VirtioDevice) -> Activation {
        let ring = |(index, (ring, kick, call)): (u16, &(DriverRing, EventFd, EventFd))| {
            ring.ring(index, kick, call)
        };
        Activation {
            memory: Arc::clone(&self.memory),
            features: device.features() | VERSION_1,
            rings: (0..).zip(&self.rings).map(ring).collect(),
            config_change: Arc::new(Unheard),
        }
    }
}

fn starts_where_the_rings_stand(device: &mut dyn VirtioDevice, ram: &Arc<GuestRam>, start: u16) {
    let rings = Rings::new(device, ram, start);
    let activation = rings.activation(device);
    device.activate(activation).expect("starts on empty rings");
    // A kick without a request is no harm.
    for (_, kick, _) in &rings.rings {
        kick.write(1).expect("kicks");
    }
    let positions = device.stop().expect("stops while it runs");
    let expected = RingPosition {
        next_avail: start,
        next_used: start,
    };
    assert_eq!(positions, vec![expected; rings.rings.len()]);
}

fn starts_without_rings(device: &mut dyn VirtioDevice, ram: &Arc<GuestRam>) {
    let activation = Activation {
        memory: Arc::clone(ram),
        features: VERSION_1,
        rings: Vec::new(),
        config_change: Arc::new(Unheard),
    };
    // Refusing is fine, as long as the device is stopped then.
    let _ = device.activate(activation);
    assert_eq!(device.stop().expect("stops"), []);
}

fn saves_and_restores(make: &impl Fn() -> Box<dyn VirtioDevice>, ram: &Arc<GuestRam>) {
    let mut device = make();
    let saved = device.save();
    let rings = Rings::new(device.as_ref(), ram, 7);
    let activation = rings.activation(device.as_ref());
    device.activate(activation).expect("starts");
    let _ = device.stop().expect("stops");
    let used = device.save();
    let mut other = make();
    other.restore(&saved).expect("takes what was saved");
    assert_eq!(other.save(), saved);
    other.restore(&used).expect("takes what was saved");
    assert_eq!(other.save(), used);
    let mut space = [[0; 64]; 2];
    device.read_config(0, &mut space[0]);
    other.read_config(0, &mut space[1]);
    assert_eq!(space[0], space[1], "the driver sees the same device");
    // The state of each kind of device; one of them is this one's.
    let foreign = [
        DeviceV1::Stateless,
        DeviceV1::Net(crate::virtio::net::NetV1 {
            mac: [2, 0, 0, 0, 0, 1],
            active_pairs: 1,
            guest_offloads: 0,
            announce: false,
            mtu: 1500,
        }),
        DeviceV1::Block(crate::virtio::block::BlockV1 {
            sectors: u64::MAX,
            block: 512,
            writeback: true,
        }),
    ];
    let kind = std::mem::discriminant(&saved);
    for wrong in foreign
        .iter()
        .filter(|f| std::mem::discriminant(*f) != kind)
    {
        let refused = other.restore(wrong);
        assert!(matches!(refused, Err(DeviceStateError::Kind { .. })));
        assert_eq!(other.save(), used, "as it was");
    }
}

use super::super::queue::driver::{Descriptor, Driver, NEXT, NoConfigChange, WRITE};
use super::Rng;
use super::*;
use crate::device_loop::DeviceLoop;
use proptest::prelude::*;
use std::path::Path;
use vm_memory::GuestAddress;

const RAM: usize = 0x2_0000;
const DATA: u64 = 0x1_0000;

struct Rig {
    rng: Rng,
    driver: Driver,
    memory: Arc<GuestRam>,
    _device_loop: DeviceLoop,
}

impl Rig {
    fn new(src: &Path) -> Self {
        let device_loop = DeviceLoop::spawn("rng-test", || ()).unwrap();
        let memory = Arc::new(GuestRam::from_ranges(&[(GuestAddress(0), RAM)]).unwrap());
        let config = RngConfig {
            id: "_rng0".into(),
            src: src.to_owned(),
        };
        let mut rig = Self {
            rng: Rng::new(config, device_loop.handle()).unwrap(),
            driver: Driver::new(Arc::clone(&memory), 0, 0x1000, 16),
            memory,
            _device_loop: device_loop,
        };
        rig.start(RingPosition::default());
        rig
    }

    fn start(&mut self, at: RingPosition) {
        self.rng
            .activate(Activation {
                memory: Arc::clone(&self.memory),
                features: self.rng.features(),
                rings: vec![self.driver.ring(at)],
                config_change: Arc::new(NoConfigChange),
            })
            .unwrap();
    }

    fn bytes(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory
            .read_slice(&mut bytes, GuestAddress(address))
            .unwrap();
        bytes
    }
}

#[test]
fn it_does_what_every_device_does() {
    let device_loop = DeviceLoop::spawn("rng-test", || ()).unwrap();
    crate::testing::device_suite(|| {
        let config = RngConfig {
            id: "_rng0".into(),
            src: "/dev/urandom".into(),
        };
        Box::new(Rng::new(config, device_loop.handle()).unwrap())
    });
}

#[test]
fn random_bytes_are_in_the_dirty_log() {
    let mut rig = Rig::new(Path::new("/dev/urandom"));
    let harvest = || {
        let mut all = 0;
        crate::dirty::harvest(&rig.memory, &mut |_, bits| all |= bits);
        all
    };
    crate::dirty::start(&rig.memory);
    rig.driver.post(&[(0x8ff8, 16, WRITE)]);
    harvest();
    rig.driver.kick();
    rig.driver.wait();
    assert_eq!(harvest() & 0xff00, 0x300);
    assert_eq!(rig.rng.counters(), [("bytes", 16)]);
}

#[test]
fn a_request_is_filled() {
    let mut rig = Rig::new(Path::new("/dev/urandom"));
    let head = rig
        .driver
        .post(&[(DATA, 48, WRITE), (DATA + 0x100, 16, WRITE)]);
    rig.driver.kick();
    assert_eq!(rig.driver.wait(), (head, 64));
    assert_ne!(rig.bytes(DATA, 48), [0; 48]);
    assert_ne!(rig.bytes(DATA + 0x100, 16), [0; 16]);
    assert_eq!(
        rig.bytes(DATA + 48, 16),
        [0; 16],
        "nothing beyond the buffer"
    );
    assert_eq!(rig.bytes(DATA + 0x110, 16), [0; 16]);
}

#[test]
fn a_large_request_is_bounded() {
    let mut rig = Rig::new(Path::new("/dev/urandom"));
    let head = rig.driver.post(&[(DATA, 0x8000, WRITE)]);
    rig.driver.kick();
    assert_eq!(rig.driver.wait(), (head, 4096));
}

#[test]
fn a_source_of_ones_own_is_read() {
    let mut rig = Rig::new(Path::new("/dev/zero"));
    rig.memory
        .write_slice(&[7; 32], GuestAddress(DATA))
        .unwrap();
    rig.driver.post(&[(DATA, 32, WRITE)]);
    rig.driver.kick();
    assert_eq!(rig.driver.wait().1, 32);
    assert_eq!(rig.bytes(DATA, 32), [0; 32]);
}

#[test]
fn a_missing_source_is_named() {
    let device_loop = DeviceLoop::spawn("rng-test", || ()).unwrap();
    let config = RngConfig {
        id: "_rng0".into(),
        src: "/nonexistent".into(),
    };
    let error = Rng::new(config, device_loop.handle()).unwrap_err();
    assert!(error.to_string().contains("/nonexistent"), "{error}");
}

#[test]
fn it_goes_on_where_it_stopped() {
    let mut rig = Rig::new(Path::new("/dev/urandom"));
    for round in 1..40u16 {
        rig.driver.post(&[(DATA, 8, WRITE)]);
        rig.driver.kick();
        rig.driver.wait();
        let positions = rig.rng.stop().unwrap();
        let expected = RingPosition {
            next_avail: round,
            next_used: round,
        };
        assert_eq!(positions, [expected]);
        assert_eq!(rig.rng.stop().unwrap(), [], "stopped is stopped");
        rig.start(expected);
    }
}

#[test]
fn what_was_posted_while_it_was_stopped_is_served_at_once() {
    let mut rig = Rig::new(Path::new("/dev/urandom"));
    let at = rig.rng.stop().unwrap()[0];
    rig.driver.post(&[(DATA, 8, WRITE)]);
    rig.start(at);
    assert_eq!(rig.driver.wait().1, 8);
    assert!(rig.driver.interrupts() > 0);
}

#[test]
fn a_loop_of_descriptors_leaves_the_ring() {
    let mut rig = Rig::new(Path::new("/dev/urandom"));
    rig.driver.set(
        3,
        Descriptor {
            address: DATA,
            len: 1,
            flags: NEXT | WRITE,
            next: 3,
        },
    );
    rig.driver.make_available(3);
    rig.driver.post(&[(DATA, 8, WRITE)]);
    rig.driver.kick();
    std::thread::sleep(std::time::Duration::from_millis(30));
    assert_eq!(rig.driver.used_entry(), None);
    let at = rig.rng.stop().unwrap()[0];
    assert_eq!(at.next_used, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_chain_is_survived(
        table in prop::collection::vec((any::<u64>(), any::<u32>(), any::<u16>(), any::<u16>()), 16),
        near in any::<bool>(),
        heads in prop::collection::vec(any::<u16>(), 1..8),
    ) {
        let mut rig = Rig::new(Path::new("/dev/urandom"));
        for (at, (address, len, flags, next)) in table.into_iter().enumerate() {
            let (address, len, next) = if near {
                (DATA + address % 0x1000, len % 0x800, next % 17)
            } else {
                (address, len, next)
            };
            rig.driver.set(u16::try_from(at).unwrap(), Descriptor { address, len, flags, next });
        }
        for head in heads {
            rig.driver.make_available(head % 17);
        }
        rig.driver.kick();
        let positions = rig.rng.stop().unwrap();
        prop_assert!(positions[0].next_used <= positions[0].next_avail);
    }
}

use proptest::prelude::*;

use super::*;
use crate::irq::MsiController;
use crate::pci::Identity;
use crate::testing::{FakeMsi, FakeVectors};

const COUNT: u16 = 10;
const MESSAGE: MsiMessage = MsiMessage {
    address: 0x1_fee0_1000,
    data: 0x41,
};

struct Bench {
    config: ConfigSpace,
    msix: Msix,
    fake: Arc<FakeVectors>,
}

fn bench() -> Bench {
    let controller = FakeMsi::default();
    let vectors = Arc::from(controller.allocate(COUNT).unwrap());
    let mut config = ConfigSpace::new(Identity {
        vendor: 0,
        device: 0,
        revision: 0,
        class: 0,
        subsystem_vendor: 0,
        subsystem: 0,
    });
    let table = Place {
        bar: 0,
        offset: 0x4000,
    };
    let pending = Place {
        bar: 0,
        offset: 0x5000,
    };
    let msix = Msix::new(vectors, &mut config, table, pending).unwrap();
    Bench {
        config,
        msix,
        fake: controller.vectors(0),
    }
}

impl Bench {
    fn control(&mut self, value: u16) {
        self.config.write(0x42, &value.to_le_bytes());
        self.msix.config_written(&self.config);
    }

    fn program(&mut self, vector: u64, masked: u32) {
        let at = vector * ENTRY_SIZE;
        let [low, high] = [MESSAGE.address, MESSAGE.address >> 32].map(u64::to_le_bytes);
        self.msix.write_table(at, &low[..4]);
        self.msix.write_table(at + 4, &high[..4]);
        self.msix.write_table(at + 8, &MESSAGE.data.to_le_bytes());
        self.msix.write_table(at + 12, &masked.to_le_bytes());
    }

    fn signal(&self, vector: u16) {
        let fd = self.msix.vectors().eventfd(vector).unwrap();
        fd.write(1).unwrap();
    }

    fn pending(&self) -> u16 {
        let mut data = [0; 2];
        self.msix.read_pending(0, &mut data);
        u16::from_le_bytes(data)
    }
}

#[test]
fn a_vector_is_live_when_all_three_masks_are_open() {
    let mut bench = bench();
    assert_eq!(
        bench.config.array(0x40),
        [0x11, 0, 9, 0, 0, 0x40, 0, 0, 0, 0x50, 0, 0]
    );
    bench.program(3, 0);
    assert_eq!(bench.fake.route(3), None, "MSI-X is disabled");
    bench.control(0xc000);
    assert_eq!(bench.fake.route(3), None, "the function is masked");
    bench.control(0x8000);
    assert_eq!(bench.fake.route(3), Some(MESSAGE));
    assert_eq!(bench.fake.route(2), None, "the vector is masked");
    bench.program(3, 1);
    assert_eq!(bench.fake.route(3), None);
    bench.program(3, 0);
    bench.control(0);
    assert_eq!(bench.fake.route(3), None);
}

#[test]
fn signals_wait_as_pending_bits_while_the_vector_is_masked() {
    let mut bench = bench();
    bench.control(0x8000);
    bench.program(9, 1);
    bench.signal(9);
    assert_eq!(bench.pending(), 1 << 9);
    assert_eq!(bench.fake.take(9), 0);
    bench.program(9, 0);
    assert_eq!(bench.pending(), 0, "it is on its way");
    assert_eq!(bench.fake.take(9), 1);
}

#[test]
fn a_live_vector_moves_with_its_message() {
    let mut bench = bench();
    bench.control(0x8000);
    bench.program(0, 0);
    bench.msix.write_table(8, &7_u32.to_le_bytes());
    assert_eq!(bench.fake.route(0).map(|m| m.data), Some(7));
    // A 64-bit write takes data and control at once.
    bench.msix.write_table(8, &(1_u64 << 32 | 9).to_le_bytes());
    assert_eq!(bench.fake.route(0), None);
    let mut data = [0; 16];
    bench.msix.read_table(0, &mut data);
    assert_eq!(data[8..], [9, 0, 0, 0, 1, 0, 0, 0]);
}

#[test]
fn odd_accesses_are_ignored() {
    let mut bench = bench();
    bench.control(0x8000);
    for (offset, length) in [
        (0, 1),
        (2, 2),
        (2, 4),
        (4, 8),
        (0, 3),
        (160, 4),
        (u64::MAX - 3, 4),
    ] {
        bench.msix.write_table(offset, &[0xff; 8][..length]);
    }
    let mut data = [0; 16];
    bench.msix.read_table(0, &mut data);
    assert_eq!(data[..12], [0; 12]);
    for offset in [159, 160, 1 << 20, u64::MAX - 3] {
        bench.msix.read_table(offset, &mut data[..4]);
        bench.msix.read_pending(offset, &mut data[..4]);
        assert_eq!(data[..4], [0; 4]);
    }
}

#[test]
fn saved_vectors_come_back_with_what_was_pending() {
    let mut bench = bench();
    bench.control(0x8000);
    bench.program(1, 0);
    bench.program(2, 1);
    bench.signal(2);
    let (saved, config) = (bench.msix.save(), bench.config.bytes().to_vec());
    let mut other = self::bench();
    other.config.restore(&config).unwrap();
    assert!(other.msix.restore(&saved, &other.config));
    assert_eq!(other.fake.route(1), Some(MESSAGE));
    assert_eq!(other.pending(), 1 << 2);
    assert_eq!(other.msix.save(), saved);
    assert!(!other.msix.restore(&saved[1..], &other.config));
}

#[test]
fn vectors_that_become_live_together_are_routed_in_one_go() {
    let mut bench = bench();
    for vector in 0..COUNT.into() {
        bench.program(vector, u32::from(vector == 3));
    }
    assert_eq!(bench.fake.take_changes(), 0, "MSI-X is off");
    bench.control(0x8000);
    assert_eq!(bench.fake.take_changes(), 1);
    assert_eq!(
        (bench.fake.route(9), bench.fake.route(3)),
        (Some(MESSAGE), None)
    );
    let mut other = self::bench();
    other.config.restore(bench.config.bytes()).unwrap();
    assert!(other.msix.restore(&bench.msix.save(), &other.config));
    assert_eq!(other.fake.take_changes(), 1);
    assert_eq!(
        (other.fake.route(0), other.fake.route(3)),
        (Some(MESSAGE), None)
    );
    other.program(3, 0);
    assert_eq!(other.fake.take_changes(), 1);
}

proptest! {
    #[test]
    fn routes_always_follow_the_table(
        steps in prop::collection::vec((0..200_u64, 1..9_usize, any::<u64>(), any::<bool>()), 0..60),
    ) {
        let mut bench = bench();
        for (offset, length, value, control) in steps {
            if control {
                bench.control(u16::try_from(value & 0xffff).unwrap());
            } else {
                bench.msix.write_table(offset, &value.to_le_bytes()[..length]);
            }
            let open = u16::from_le_bytes(bench.config.array(0x42)) >> 14 == 2;
            for (vector, saved) in (0..).zip(bench.msix.save()) {
                let message = MsiMessage { address: saved.address, data: saved.data };
                let expected = (open && !saved.masked).then_some(message);
                prop_assert_eq!(bench.fake.route(vector), expected);
            }
        }
    }
}

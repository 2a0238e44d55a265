use proptest::prelude::*;

use super::*;
use crate::pci::bar::Width;

const IDENTITY: Identity = Identity {
    vendor: 0x1af4,
    device: 0x1041,
    revision: 1,
    class: 0x02_0000,
    subsystem_vendor: 0x1234,
    subsystem: 0x5678,
};

fn space() -> ConfigSpace {
    let mut space = ConfigSpace::new(IDENTITY);
    space.add_bar(Bar::new(0, 0x8000, Width::Bits64).unwrap());
    space.add_bar(Bar::new(2, 0x1000, Width::Bits32).unwrap());
    space.add_capability(9, &[1, 2, 3], &[0, 0xf0]).unwrap();
    space.add_capability(0x11, &[0; 10], &[]).unwrap();
    space
}

fn read32(space: &ConfigSpace, offset: u16) -> u32 {
    u32::from_le_bytes(space.array(offset))
}

#[test]
fn the_header_shows_who_it_is() {
    let space = space();
    assert_eq!(read32(&space, 0), 0x1041_1af4);
    assert_eq!(read32(&space, 8), 0x0200_0001);
    assert_eq!(read32(&space, 0x2c), 0x5678_1234);
    assert_eq!(space.array(0x0e), [0], "header type 0, one function");
    assert_eq!(space.array(0x3d), [0], "no interrupt pin");
}

#[test]
fn the_capability_list_is_chained_and_aligned() {
    let space = space();
    assert_eq!(read32(&space, 4) >> 16, 0x10);
    assert_eq!(space.array(0x34), [0x40]);
    assert_eq!(space.array(0x40), [9, 0x48, 1, 2, 3]);
    assert_eq!(space.array(0x48), [0x11, 0]);
}

#[test]
fn the_capability_list_may_fill_up() {
    let mut space = space();
    while space.add_capability(9, &[0; 14], &[]).is_ok() {}
    let error = space.add_capability(9, &[0; 14], &[]).unwrap_err();
    assert_eq!(error.size, 16);
    assert!(space.add_capability(9, &[0; 5000], &[]).is_err());
    assert_eq!(space.array(0x100), [0], "nothing beyond the list");
}

#[test]
fn all_ones_read_back_as_the_size() {
    let mut space = space();
    space.write(0x10, &[0xff; 8]);
    space.write(0x18, &[0xff; 8]);
    assert_eq!(read32(&space, 0x10), 0xffff_8004);
    assert_eq!(read32(&space, 0x14), 0xffff_ffff);
    assert_eq!(read32(&space, 0x18), 0xffff_f000);
    assert_eq!(read32(&space, 0x1c), 0, "no such register");
}

#[test]
fn impossible_registers_are_refused() {
    let cases = [
        (0, 24, Width::Bits32),
        (0, 8, Width::Bits32),
        (6, 16, Width::Bits32),
        (5, 16, Width::Bits64),
        (0, 1 << 32, Width::Bits32),
    ];
    for (index, size, width) in cases {
        assert!(Bar::new(index, size, width).is_err());
    }
}

#[test]
fn a_saved_space_of_another_function_is_refused() {
    let mut space = space();
    space.write(0x10, &[0xff; 8]);
    let saved = space.bytes().to_vec();
    let mut other = self::space();
    other.restore(&saved).unwrap();
    assert_eq!(other.bytes(), saved);

    let mut edited = saved.clone();
    edited[2] ^= 1;
    let error = other.restore(&edited).unwrap_err();
    assert!(matches!(
        error,
        RestoreConfigError::Differs { offset: 2, .. }
    ));
    assert!(matches!(
        other.restore(&saved[1..]),
        Err(RestoreConfigError::Size(255))
    ));
    assert_eq!(other.bytes(), saved);
}

proptest! {
    #[test]
    fn only_writable_bits_ever_change(
        writes in prop::collection::vec((any::<u16>(), prop::collection::vec(any::<u8>(), 1..9)), 0..50),
    ) {
        let fresh = space();
        let mut space = space();
        for (offset, data) in &writes {
            space.write(*offset, data);
        }
        for ((byte, before), mask) in space.bytes.iter().zip(&fresh.bytes).zip(&fresh.writable) {
            prop_assert_eq!((byte ^ before) & !mask, 0);
        }
    }
}

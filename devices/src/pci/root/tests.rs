use super::*;
use crate::testing::{PciGuest, Space};

const NET: u8 = 0;
const OTHER: u8 = 1;

fn port(guest: &PciGuest, address: u32, port: u64, length: usize) -> u32 {
    let _ = guest.ports.write(0xcf8, &address.to_le_bytes());
    let mut data = [0; 4];
    guest.ports.read(port, &mut data[..length]);
    u32::from_le_bytes(data)
}

#[test]
fn configuration_space_is_reached_by_ports_and_by_ecam() {
    let guest = PciGuest::new();
    assert_eq!(port(&guest, 0x8000_0000, 0xcfc, 4), 0x0008_1b36);
    assert_eq!(port(&guest, 0x8000_0800, 0xcfc, 4), 0x1041_1af4);
    assert_eq!(port(&guest, 0x8000_0800, 0xcfe, 2), 0x1041);
    assert_eq!(port(&guest, 0x8000_0808, 0xcff, 1), 0x02);
    assert_eq!(port(&guest, 0x0000_0800, 0xcfc, 4), u32::MAX, "not enabled");
    for absent in [0x8000_1800, 0x8000_0900, 0x8001_0800] {
        assert_eq!(port(&guest, absent, 0xcfc, 4), u32::MAX);
    }
    let mut data = [0; 4];
    guest.ports.read(0xcf8, &mut data);
    assert_eq!(data, [0, 8, 1, 0x80], "the address reads back");
    assert_eq!(guest.config_read::<4>(NET, 0), 0x1041_1af4);
    assert_eq!(
        guest.config_read::<4>(NET, 0x100),
        0,
        "no extended capability"
    );
    assert_eq!(
        guest.config_read::<4>(NET, 0xffe),
        0xffff_ffff,
        "crosses into the next"
    );
}

#[test]
fn a_byte_at_port_cf9_resets_the_machine() {
    let guest = PciGuest::new();
    assert_eq!(guest.ports.write(0xcf9, &[0x02]), Action::Continue);
    assert_eq!(guest.ports.write(0xcf9, &[0x06]), Action::Reset);
    assert_eq!(
        guest.ports.write(0xcf9, &[0x06]),
        Action::Continue,
        "no edge"
    );
    let dword = 0x8000_ff04_u32.to_le_bytes();
    assert_eq!(guest.ports.write(0xcf8, &dword), Action::Continue);
}

#[test]
fn the_root_places_bars_as_firmware_would() {
    let guest = PciGuest::new();
    let windows = guest.root.windows();
    let places = [NET, OTHER].map(|which| guest.bar_address(which).0);
    assert_eq!(places, [windows.high.start, windows.high.start + 0x8000]);
    assert_eq!(guest.config_read::<2>(NET, 4), 0, "memory decoding is off");
    let mut data = [0; 2];
    guest.memory.read(places[0] + 0x12, &mut data);
    assert_eq!(data, [0xff; 2]);
    guest.write(Space::Config(NET), 4, &[2]);
    guest.memory.read(places[0] + 0x12, &mut data);
    assert_eq!(data, [3, 0], "the number of queues");
}

#[test]
fn doorbells_follow_a_bar_and_wait_for_their_place() {
    let guest = PciGuest::new();
    let high = guest.root.windows().high.start;
    guest.bring_up(NET, 0);
    guest.bring_up(OTHER, 0x4000);
    let bells = |base: u64| [0, 4, 8].map(|offset| base + 0x3000 + offset);
    let both = |one, other| [bells(one), bells(other)].concat();
    assert_eq!(guest.doorbells.bound(), both(high, high + 0x8000));

    // Onto the other's place: the other keeps it.
    guest.write(Space::Config(NET), 0x10, &[0, 0x80, 0, 0]);
    assert_eq!(guest.doorbells.bound(), bells(high + 0x8000));
    // The other goes: now it is free.
    guest.write(Space::Config(OTHER), 0x10, &[0, 0, 1, 0]);
    assert_eq!(
        guest.doorbells.bound(),
        both(high + 0x8000, high + 0x1_0000)
    );
    // Sizing, outside of all windows, and half a move.
    guest.write(Space::Config(NET), 0x10, &[0xff; 4]);
    assert_eq!(guest.doorbells.bound(), bells(high + 0x1_0000));
    guest.write(Space::Config(NET), 0x14, &[0xff; 4]);
    guest.write(Space::Config(NET), 0x10, &[0; 8]);
    assert_eq!(guest.doorbells.bound(), bells(high + 0x1_0000));
    // Into the low window.
    guest.write(Space::Config(NET), 0x10, &0xc000_0000_u32.to_le_bytes());
    assert_eq!(guest.doorbells.bound(), both(0xc000_0000, high + 0x1_0000));
    // Memory decoding off.
    guest.write(Space::Config(NET), 4, &[0]);
    guest.write(Space::Config(OTHER), 4, &[0]);
    assert_eq!(guest.doorbells.bound(), Vec::<u64>::new());
    guest.finish();
}

#[test]
fn slots_are_given_out_and_taken_back() {
    let mut guest = PciGuest::new();
    let root = Arc::clone(&guest.root);
    let (bdf, function) = guest.functions.remove(0);
    guest.logs.remove(0);
    assert_eq!(bdf.to_string(), "0000:00:01.0");
    assert!(root.detach(bdf).is_some());
    assert!(root.detach(bdf).is_none());
    let host = Bdf::from_slot(0).unwrap();
    assert!(root.detach(host).is_none(), "the host bridge stays");

    for (slot, expected) in [(0, "1 to 31"), (32, "1 to 31"), (2, "taken")] {
        let error = root.attach(Some(slot), function.clone()).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
    assert_eq!(
        root.attach(Some(31), function.clone()).unwrap().device(),
        31
    );
    assert_eq!(root.attach(None, function).unwrap().device(), 1);
    assert_eq!(root.functions().len(), 4);
}

#[test]
fn a_full_window_is_an_error() {
    let root = PciRoot::new(Windows {
        ecam: 0,
        low: 0x1000_0000..0x1000_8000,
        high: 0..0,
    });
    let guest = PciGuest::new();
    let function = |at: usize| guest.functions[at].1.clone();
    root.attach(None, function(0)).unwrap();
    let error = root.attach(None, function(1)).unwrap_err();
    assert!(matches!(
        error,
        AttachError::NoRoom {
            bar: 0,
            size: 0x8000,
            ..
        }
    ));
}

#[test]
fn the_roots_own_registers_move() {
    let guest = PciGuest::new();
    let _ = guest.ports.write(0xcf8, &0x8000_0804_u32.to_le_bytes());
    let _ = guest.ports.write(0xcf9, &[2]);
    // Bus mastering of the bridge.
    let _ = guest.memory.write(guest.root.windows().ecam + 4, &[4, 0]);
    let saved = guest.root.save();
    let other = PciGuest::new();
    other.root.restore(&saved).unwrap();
    assert_eq!(other.root.save(), saved);
    let mut data = [0; 4];
    other.ports.read(0xcf8, &mut data);
    assert_eq!(data, 0x8000_0804_u32.to_le_bytes());
    assert_eq!(other.ports.write(0xcf9, &[6]), Action::Reset);
    other.memory.read(other.root.windows().ecam + 4, &mut data);
    assert_eq!(data[0], 4);

    let all = PciRootV1 {
        address: u32::MAX,
        reset: u8::MAX,
        ..saved.clone()
    };
    other.root.restore(&all).unwrap();
    assert_eq!(
        (other.root.save().address, other.root.save().reset),
        (0x80ff_fffc, 0xe)
    );
    let mut wrong = saved.clone();
    wrong.bridge[0] ^= 1;
    assert!(other.root.restore(&wrong).is_err());
    wrong.bridge.clear();
    assert!(other.root.restore(&wrong).is_err());
}

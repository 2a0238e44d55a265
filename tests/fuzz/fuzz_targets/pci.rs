//! Configuration space by ports and ECAM, BAR moves, the MSI-X table.

#![no_main]

use arbitrary::Arbitrary;
use godwit_devices::testing::{PciGuest, Space, Step};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
enum Access {
    Port {
        at: u8,
        length: u8,
        value: u32,
        write: bool,
    },
    Ecam {
        at: u32,
        length: u8,
        value: u64,
        write: bool,
    },
    Header {
        which: u8,
        at: u8,
        length: u8,
        value: u64,
        write: bool,
    },
    Window {
        low: bool,
        at: u16,
        length: u8,
        value: u64,
        write: bool,
    },
    Move {
        which: u8,
        low: bool,
        page: u8,
    },
    Decode {
        which: u8,
        on: bool,
    },
    Table {
        which: u8,
        at: u8,
        wide: bool,
        value: u64,
    },
    Pending {
        which: u8,
        at: u8,
        length: u8,
    },
    Signal {
        which: u8,
    },
    BringUp {
        which: u8,
    },
    Restore {
        which: u8,
    },
}

fn access(space: Space, at: u32, length: u8, value: u64, write: bool) -> Step {
    let length = length % 8 + 1;
    if write {
        Step::Write(space, at, length, value)
    } else {
        Step::Read(space, at, length)
    }
}

fn step(one: Access) -> [Option<Step>; 2] {
    let step = match one {
        Access::Port {
            at,
            length,
            value,
            write,
        } => access(Space::Ports, u32::from(at), length % 4, value.into(), write),
        Access::Ecam {
            at,
            length,
            value,
            write,
        } => access(Space::Ecam, at % (1 << 20), length, value, write),
        Access::Header {
            which,
            at,
            length,
            value,
            write,
        } => access(Space::Config(which), u32::from(at), length, value, write),
        Access::Window {
            low,
            at,
            length,
            value,
            write,
        } => {
            let space = if low { Space::Low } else { Space::High };
            access(space, u32::from(at) * 16, length, value, write)
        }
        Access::Move { which, low, page } => {
            let window = if low { 0xc000_0000 } else { 0x10_0000_0000 };
            // From below the window to beyond its end.
            let address = window - 0x8000 + u64::from(page % 64) * 0x8000;
            let low = Step::Write(Space::Config(which), 0x10, 4, address);
            let high = Step::Write(Space::Config(which), 0x14, 4, address >> 32);
            return [Some(low), Some(high)];
        }
        Access::Decode { which, on } => {
            Step::Write(Space::Config(which), 4, 2, if on { 2 } else { 0 })
        }
        Access::Table {
            which,
            at,
            wide,
            value,
        } => {
            let (at, length) = if wide { (at & !7, 8) } else { (at & !3, 4) };
            Step::Write(Space::Bar(which), 0x4000 + u32::from(at), length, value)
        }
        Access::Pending { which, at, length } => {
            Step::Read(Space::Bar(which), 0x5000 + u32::from(at), length)
        }
        Access::Signal { which } => Step::Change(which),
        Access::BringUp { which } => Step::BringUp(which, 0),
        Access::Restore { which } => Step::Restore(which),
    };
    [Some(step), None]
}

fuzz_target!(|steps: Vec<Access>| {
    let mut guest = PciGuest::new();
    for one in steps.into_iter().flat_map(step).flatten() {
        guest.step(one);
    }
    guest.finish();
});

//! Common configuration, notifications, ISR, device configuration and the
//! window in configuration space, with pauses, restores and failing devices.

#![no_main]

use arbitrary::Arbitrary;
use godwit_devices::testing::{PciGuest, Space, Step};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
enum Act {
    /// One of the common registers with its own width.
    Register {
        which: u8,
        register: u8,
        value: u64,
    },
    Read {
        which: u8,
        at: u16,
        length: u8,
    },
    Write {
        which: u8,
        at: u16,
        length: u8,
        value: u64,
    },
    Status {
        which: u8,
        step: u8,
    },
    Notify {
        which: u8,
        queue: u8,
        length: u8,
    },
    /// Through the window in configuration space.
    Aim {
        which: u8,
        bar: u8,
        at: u32,
        length: u8,
    },
    Through {
        which: u8,
        length: u8,
        value: u32,
        write: bool,
    },
    BringUp {
        which: u8,
        offset: u16,
    },
    Decode {
        which: u8,
        on: bool,
    },
    Pause {
        which: u8,
    },
    Resume {
        which: u8,
    },
    Restore {
        which: u8,
    },
    Change {
        which: u8,
    },
    Fail {
        which: u8,
        fail: bool,
    },
}

const REGISTERS: [(u32, u8); 21] = [
    (0x00, 4),
    (0x04, 4),
    (0x08, 4),
    (0x0c, 4),
    (0x10, 2),
    (0x12, 2),
    (0x14, 1),
    (0x15, 1),
    (0x16, 2),
    (0x18, 2),
    (0x1a, 2),
    (0x1c, 2),
    (0x1e, 2),
    (0x20, 4),
    (0x24, 4),
    (0x28, 8),
    (0x2c, 4),
    (0x30, 8),
    (0x34, 4),
    (0x38, 2),
    (0x3a, 2),
];
const STATUS: [u64; 8] = [0, 1, 3, 0xb, 0xf, 0x8f, 0x4f, 0xff];
/// Where the window's capability is.
const WINDOW: u32 = 0x84;

fn step(act: Act) -> Vec<Step> {
    let one = match act {
        Act::Register {
            which,
            register,
            value,
        } => {
            let (at, width) = REGISTERS[usize::from(register) % REGISTERS.len()];
            Step::Write(Space::Bar(which), at, width, value)
        }
        Act::Read { which, at, length } => {
            Step::Read(Space::Bar(which), u32::from(at), length % 8 + 1)
        }
        Act::Write {
            which,
            at,
            length,
            value,
        } => Step::Write(Space::Bar(which), u32::from(at), length % 8 + 1, value),
        Act::Status { which, step } => {
            let value = STATUS[usize::from(step) % STATUS.len()];
            Step::Write(Space::Bar(which), 0x14, 1, value)
        }
        Act::Notify {
            which,
            queue,
            length,
        } => {
            let at = 0x3000 + u32::from(queue);
            Step::Write(Space::Bar(which), at, length % 8 + 1, queue.into())
        }
        Act::Aim {
            which,
            bar,
            at,
            length,
        } => {
            let config = |at, length, value| Step::Write(Space::Config(which), at, length, value);
            return vec![
                config(WINDOW + 4, 1, u64::from(bar & 1)),
                config(WINDOW + 8, 4, (at % 0x9000).into()),
                config(WINDOW + 12, 4, u64::from(length % 6)),
            ];
        }
        Act::Through {
            which,
            length,
            value,
            write,
        } => {
            let length = length % 4 + 1;
            if write {
                Step::Write(Space::Config(which), WINDOW + 16, length, value.into())
            } else {
                Step::Read(Space::Config(which), WINDOW + 16, length)
            }
        }
        Act::BringUp { which, offset } => Step::BringUp(which, offset.into()),
        Act::Decode { which, on } => {
            Step::Write(Space::Config(which), 4, 2, if on { 6 } else { 0 })
        }
        Act::Pause { which } => Step::Pause(which),
        Act::Resume { which } => Step::Resume(which),
        Act::Restore { which } => Step::Restore(which),
        Act::Change { which } => Step::Change(which),
        Act::Fail { which, fail } => Step::Fail(which, fail),
    };
    vec![one]
}

fuzz_target!(|acts: Vec<Act>| {
    let mut guest = PciGuest::new();
    for one in acts.into_iter().flat_map(step) {
        guest.step(one);
    }
    guest.finish();
});

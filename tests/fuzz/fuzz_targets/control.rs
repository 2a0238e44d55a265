//! virtio-net's control queue: any descriptors, indirect tables, commands and
//! available rings, with any features, over starts and pauses.

#![no_main]

use std::sync::{Arc, Mutex, OnceLock};

use arbitrary::Arbitrary;
use godwit_devices::GuestRam;
use godwit_devices::testing::{ControlGuest, DriverRing, guest_ram};
use libfuzzer_sys::fuzz_target;
use vm_memory::{Bytes, GuestAddress};

const SIZE: u16 = 16;
const RING: u64 = 0x1000;
const TABLE: u64 = 0x4000;
const COMMANDS: u64 = 0x5000;
const STATUS: u64 = 0x6000;
/// RAM ends here, and there is a second region after a hole.
const END: usize = 0x2_0000;
const SECOND: u64 = 0x4_0000;
const EVENT_IDX: u64 = 1 << 29;

#[derive(Arbitrary, Debug)]
struct Descriptor {
    /// Where the buffer is: mostly at places that mean something.
    place: u8,
    address: u64,
    length: Length,
    flags: u8,
    next: u8,
}

#[derive(Arbitrary, Debug)]
enum Length {
    Command,
    Status,
    Mac,
    Short(u8),
    Any(u32),
}

#[derive(Arbitrary, Debug)]
struct Command {
    class: u8,
    command: u8,
    data: [u8; 14],
}

#[derive(Arbitrary, Debug)]
struct Round {
    ring: Vec<Descriptor>,
    table: Vec<Descriptor>,
    commands: Vec<Command>,
    heads: Vec<u8>,
    /// Another available index than that of the heads.
    index: Option<u16>,
    /// Whole commands, as a driver sends them.
    sound: bool,
}

#[derive(Arbitrary, Debug)]
struct Input {
    features: u64,
    all: bool,
    fresh: bool,
    start: u16,
    rounds: Vec<Round>,
}

struct Rig {
    guest: ControlGuest,
    memory: Arc<GuestRam>,
}

fn rig() -> &'static Mutex<Rig> {
    static RIG: OnceLock<Mutex<Rig>> = OnceLock::new();
    RIG.get_or_init(|| {
        let memory = guest_ram(&[(0, END), (SECOND, 0x1_0000)]);
        let guest = ControlGuest::new(Arc::clone(&memory));
        Mutex::new(Rig { guest, memory })
    })
}

fn put(memory: &GuestRam, address: u64, bytes: &[u8]) {
    memory.write_slice(bytes, GuestAddress(address)).unwrap();
}

impl Descriptor {
    fn bytes(&self) -> [u8; 16] {
        let at = self.address;
        let address = match self.place % 8 {
            0..=2 => COMMANDS + at % 8 * 16,
            3 => STATUS + at % 16,
            4 => END as u64 - at % 32,
            5 => SECOND + at % 0x1000,
            6 => TABLE + at % 4 * 16,
            _ => at,
        };
        let length = match self.length {
            Length::Command => 16,
            Length::Status => 1,
            Length::Mac => 8,
            Length::Short(length) => length.into(),
            Length::Any(length) => length,
        };
        descriptor(address, length, self.flags % 16, self.next % 18)
    }
}

fn descriptor(address: u64, length: u32, flags: u8, next: u8) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&address.to_le_bytes());
    bytes[8..12].copy_from_slice(&length.to_le_bytes());
    bytes[12] = flags;
    bytes[14] = next;
    bytes
}

impl Command {
    fn bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[0] = self.class % 8;
        bytes[1] = self.command % 4;
        bytes[2..].copy_from_slice(&self.data);
        // The number of queue pairs, mostly one that there is.
        if bytes[0] == 4 && self.data[1] < 0xf0 {
            bytes[2] %= 6;
            bytes[3] = 0;
        }
        bytes
    }
}

impl Round {
    fn write(&self, memory: &GuestRam, [desc, avail, _]: [u64; 3], available: &mut u16) {
        for (i, descriptor) in (0u64..SIZE.into()).zip(&self.ring) {
            put(memory, desc + i * 16, &descriptor.bytes());
        }
        for (i, descriptor) in (0u64..64).zip(&self.table) {
            put(memory, TABLE + i * 16, &descriptor.bytes());
        }
        for (i, command) in (0u64..8).zip(&self.commands) {
            put(memory, COMMANDS + i * 16, &command.bytes());
            if self.sound {
                let (head, status) = (2 * i, (2 * i + 1) as u8);
                let command = descriptor(COMMANDS + i * 16, 16, 1, status);
                put(memory, desc + head * 16, &command);
                let status = descriptor(STATUS + i, 1, 2, 0);
                put(memory, desc + (head + 1) * 16, &status);
            }
        }
        for head in self.heads.iter().take(SIZE.into()) {
            let head = if self.sound { head % 8 * 2 } else { head % 18 };
            let at = avail + 4 + u64::from(*available % SIZE) * 2;
            put(memory, at, &u16::from(head).to_le_bytes());
            *available = available.wrapping_add(1);
        }
        let index = self.index.unwrap_or(*available);
        put(memory, avail + 2, &index.to_le_bytes());
    }
}

fuzz_target!(|input: Input| {
    let mut rig = rig().lock().unwrap();
    let Rig { guest, memory } = &mut *rig;
    // Nothing of the input before: a crash is seen again from its input alone.
    put(memory, RING, &[0; 0x1000]);
    put(memory, TABLE, &[0; 0x3000]);
    let features = if input.all {
        u64::MAX & !(input.features & EVENT_IDX)
    } else {
        input.features
    };
    let ring = DriverRing::new(Arc::clone(memory), RING, SIZE, input.start);
    guest.start(&ring, features, true);
    if !input.fresh {
        guest.start(&ring, features & !EVENT_IDX, false);
    }
    let mut available = input.start;
    for round in input.rounds.iter().take(4) {
        round.write(memory, ring.areas(), &mut available);
        match guest.serve() {
            Some(answered) => assert!(answered <= SIZE),
            None => break,
        }
    }
});

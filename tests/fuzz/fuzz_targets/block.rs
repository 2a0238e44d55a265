//! Block requests: any descriptors, indirect tables, headers and available
//! rings, on a disk of io_uring, a read-only one, and one with direct access.

#![no_main]

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};

use arbitrary::Arbitrary;
use godwit_devices::GuestRam;
use godwit_devices::device_loop::DeviceLoop;
use godwit_devices::testing::{DriverRing, guest_ram};
use godwit_devices::virtio::block::{Block, BlockConfig};
use godwit_devices::virtio::{Activation, ConfigChange, RingPosition, VirtioDevice};
use libfuzzer_sys::fuzz_target;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

const SIZE: u16 = 16;
const RING: u64 = 0x1000;
const TABLE: u64 = 0x4000;
const HEADERS: u64 = 0x5000;
/// RAM ends here, and there is a second region after a hole.
const END: usize = 0x2_0000;
const SECOND: u64 = 0x4_0000;
const IMAGE: u64 = 64 << 10;

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
    Header,
    Status,
    Sectors(u8),
    Short(u16),
    Any(u32),
}

#[derive(Arbitrary, Debug)]
struct Header {
    kind: u8,
    sector: u16,
    /// Makes type and sector any number.
    wild: Option<(u32, u64)>,
    /// Discard and write-zeroes: sector, number, flags.
    segment: (u16, u32, u8),
}

#[derive(Arbitrary, Debug)]
struct Input {
    disk: u8,
    features: u8,
    start: u16,
    ring: Vec<Descriptor>,
    table: Vec<Descriptor>,
    headers: Vec<Header>,
    heads: Vec<u8>,
    index: Option<u16>,
    config: Vec<(u8, u8)>,
}

#[derive(Debug)]
struct Unheard;

impl ConfigChange for Unheard {
    fn notify(&self) {}
    fn needs_reset(&self) {}
}

struct Rig {
    disks: Vec<Block>,
    memory: Arc<GuestRam>,
    kick: EventFd,
    call: EventFd,
    _device_loop: DeviceLoop,
}

fn rig() -> &'static Mutex<Rig> {
    static RIG: OnceLock<Mutex<Rig>> = OnceLock::new();
    RIG.get_or_init(|| {
        let device_loop = DeviceLoop::spawn("fuzz", || ()).unwrap();
        let directory = Path::new("/dev/shm");
        let disk = |(name, readonly, direct): (&str, bool, bool)| {
            let path = directory.join(format!("godwit-fuzz-{name}-{}", std::process::id()));
            std::fs::write(&path, vec![0x5a; IMAGE as usize]).unwrap();
            let config = BlockConfig {
                id: name.to_owned(),
                path: path.clone(),
                readonly,
                direct,
                num_queues: 1,
                queue_size: SIZE,
                serial: None,
            };
            let disk = Block::new(config, device_loop.handle()).unwrap();
            // The disk holds it open.
            std::fs::remove_file(&path).unwrap();
            disk
        };
        let kinds = [
            ("plain", false, false),
            ("readonly", true, false),
            ("direct", false, true),
        ];
        Mutex::new(Rig {
            disks: kinds.map(disk).into(),
            memory: guest_ram(&[(0, END), (SECOND, 0x1_0000)]),
            kick: EventFd::new(EFD_NONBLOCK).unwrap(),
            call: EventFd::new(EFD_NONBLOCK).unwrap(),
            _device_loop: device_loop,
        })
    })
}

fn put(memory: &GuestRam, address: u64, bytes: &[u8]) {
    memory.write_slice(bytes, GuestAddress(address)).unwrap();
}

impl Descriptor {
    fn bytes(&self) -> [u8; 16] {
        let at = self.address;
        let address = match self.place % 8 {
            0 | 1 => HEADERS + at % 4 * 0x40,
            2 => 0x8000 + at % 0x1000,
            3 => 0x8000 + at % 16 * 512,
            4 => END as u64 - at % 1024,
            5 => SECOND + at % 0x1000,
            6 => TABLE + at % 4 * 16,
            _ => at,
        };
        let length = match self.length {
            Length::Header => 16,
            Length::Status => 1,
            Length::Sectors(count) => u32::from(count) * 512,
            Length::Short(length) => length.into(),
            Length::Any(length) => length,
        };
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&address.to_le_bytes());
        bytes[8..12].copy_from_slice(&length.to_le_bytes());
        bytes[12..14].copy_from_slice(&u16::from(self.flags % 16).to_le_bytes());
        bytes[14..].copy_from_slice(&u16::from(self.next % 18).to_le_bytes());
        bytes
    }
}

impl Header {
    /// The header, with a discard segment behind it.
    fn bytes(&self) -> [u8; 32] {
        let (kind, sector) = self
            .wild
            .unwrap_or((u32::from(self.kind % 16), u64::from(self.sector % 140)));
        let (from, count, flags) = self.segment;
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&kind.to_le_bytes());
        bytes[8..16].copy_from_slice(&sector.to_le_bytes());
        bytes[16..24].copy_from_slice(&u64::from(from).to_le_bytes());
        bytes[24..28].copy_from_slice(&count.to_le_bytes());
        bytes[28..].copy_from_slice(&u32::from(flags).to_le_bytes());
        bytes
    }
}

fuzz_target!(|input: Input| {
    let mut rig = rig().lock().unwrap();
    let Rig {
        disks,
        memory,
        kick,
        call,
        ..
    } = &mut *rig;
    let disk = usize::from(input.disk) % disks.len();
    let disk = &mut disks[disk];

    let ring = DriverRing::new(Arc::clone(memory), RING, SIZE, input.start);
    let [desc, avail, _] = ring.areas();
    // Nothing of the input before: a crash is seen again from its input alone.
    put(memory, desc, &[0; 16 * SIZE as usize]);
    put(memory, TABLE, &[0; 0x2000]);
    for (i, descriptor) in (0u64..SIZE.into()).zip(&input.ring) {
        put(memory, desc + i * 16, &descriptor.bytes());
    }
    for (i, descriptor) in (0u64..128).zip(&input.table) {
        put(memory, TABLE + i * 16, &descriptor.bytes());
    }
    for (i, header) in (0u64..4).zip(&input.headers) {
        put(memory, HEADERS + i * 0x40, &header.bytes());
    }
    let mut index = input.start;
    for head in input.heads.iter().take(SIZE.into()) {
        let at = avail + 4 + u64::from(index % SIZE) * 2;
        put(memory, at, &u16::from(head % 18).to_le_bytes());
        index = index.wrapping_add(1);
    }
    let index = input.index.unwrap_or(index);
    put(memory, avail + 2, &index.to_le_bytes());
    for (offset, value) in &input.config {
        disk.write_config(u64::from(*offset), &[*value]);
    }

    let all = disk.features();
    let keep = [1 << 9, 1 << 28, 1 << 29]
        .into_iter()
        .enumerate()
        .filter(|(i, _)| input.features & (1 << i) != 0)
        .fold(0u64, |sum, (_, bit)| sum | bit);
    let activated = disk.activate(Activation {
        memory: Arc::clone(memory),
        features: all & (keep | !(1 << 9 | 1 << 28 | 1 << 29)),
        rings: vec![ring.ring(0, kick, call)],
        config_change: Arc::new(Unheard),
    });
    activated.unwrap();
    // Everything that was available has been taken when `activate` returned.
    let stopped = disk.stop().unwrap();
    let [
        RingPosition {
            next_avail,
            next_used,
        },
    ] = stopped[..]
    else {
        panic!("one ring, one position: {stopped:?}");
    };
    let taken = next_avail.wrapping_sub(input.start);
    let answered = next_used.wrapping_sub(input.start);
    assert!(answered <= taken && taken <= SIZE, "{answered} of {taken}");
    assert_eq!(disk.size(), IMAGE);
    let _ = call.read();
    let _ = memory.num_regions();
});

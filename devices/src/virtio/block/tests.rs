mod config;
mod life;
mod malformed;
mod requests;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::GuestRam;
use crate::device_loop::DeviceLoop;
use crate::dirty;
use crate::virtio::queue::driver::{Descriptor, Driver, Heard, INDIRECT, NEXT, WRITE};

const RAM: usize = 0x40_0000;
const HEADER: u64 = 0x1_0000;
const STATUS: u64 = 0x1_1000;
const TABLE: u64 = 0x1_2000;
const DATA: u64 = 0x2_0000;
const IMAGE: u64 = 1 << 20;

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;
/// What no device writes.
const UNTOUCHED: u8 = 0xee;

/// A file removed in the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, bytes: &[u8]) -> Self {
        // Beside the build, not in /tmp, which may be a tmpfs without O_DIRECT.
        let directory = std::env::current_exe()
            .unwrap()
            .parent()
            .unwrap()
            .to_owned();
        let path = directory.join(format!("godwit-block-{name}-{}", std::process::id()));
        fs::write(&path, bytes).unwrap();
        Self(path)
    }

    fn image(name: &str) -> Self {
        let bytes: Vec<u8> = (0..IMAGE).map(pattern).collect();
        Self::new(name, &bytes)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// What byte `at` of a fresh image holds.
fn pattern(at: u64) -> u8 {
    u8::try_from((at / 512 + at) % 251).unwrap()
}

fn config(path: &Path) -> BlockConfig {
    BlockConfig {
        id: "_disk0".into(),
        path: path.to_owned(),
        readonly: false,
        direct: false,
        num_queues: 1,
        queue_size: 128,
        serial: Some("SN-1".into()),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Engine {
    Uring,
    SystemCalls,
}

struct Rig {
    block: Block,
    drivers: Vec<Driver>,
    memory: Arc<GuestRam>,
    heard: Arc<Heard>,
    _device_loop: DeviceLoop,
}

impl Rig {
    fn new(config: BlockConfig, engine: Engine) -> Self {
        let device_loop = DeviceLoop::spawn("block-test", || ()).unwrap();
        Self::on(device_loop, config, engine)
    }

    fn on(device_loop: DeviceLoop, config: BlockConfig, engine: Engine) -> Self {
        let memory = Arc::new(GuestRam::from_ranges(&[(GuestAddress(0), RAM)]).unwrap());
        let queues = config.num_queues;
        let size = config.queue_size.min(128);
        let mut block = Block::new(config, device_loop.handle()).unwrap();
        if engine == Engine::SystemCalls {
            block.engine = None;
        }
        let drivers = (0..queues)
            .map(|i| Driver::new(Arc::clone(&memory), i, 0x1000 + u64::from(i) * 0x1000, size))
            .collect();
        let mut rig = Self {
            block,
            drivers,
            memory,
            heard: Arc::default(),
            _device_loop: device_loop,
        };
        let start = vec![RingPosition::default(); usize::from(queues)];
        rig.start(&start, rig.block.features());
        rig
    }

    fn start(&mut self, positions: &[RingPosition], features: u64) {
        let rings = self
            .drivers
            .iter()
            .zip(positions)
            .map(|(driver, &at)| driver.ring(at))
            .collect();
        self.block
            .activate(Activation {
                memory: Arc::clone(&self.memory),
                features,
                rings,
                config_change: self.heard.clone(),
            })
            .unwrap();
    }

    fn put(&self, address: u64, bytes: &[u8]) {
        self.memory
            .write_slice(bytes, GuestAddress(address))
            .unwrap();
    }

    fn get(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory
            .read_slice(&mut bytes, GuestAddress(address))
            .unwrap();
        bytes
    }

    fn header(&self, kind: u32, sector: u64) {
        let mut header = [0; 16];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        self.put(HEADER, &header);
        self.put(STATUS, &[UNTOUCHED]);
    }

    /// Sends one request with `data` buffers, and answers status and written length.
    fn request(&mut self, kind: u32, sector: u64, data: &[(u64, u32)]) -> (u8, u32) {
        self.header(kind, sector);
        let flags = if matches!(kind, IN | GET_ID) {
            WRITE
        } else {
            0
        };
        let mut chain = vec![(HEADER, 16, 0)];
        chain.extend(data.iter().map(|&(address, len)| (address, len, flags)));
        chain.push((STATUS, 1, WRITE));
        self.send(&chain)
    }

    fn send(&mut self, chain: &[(u64, u32, u16)]) -> (u8, u32) {
        let head = self.drivers[0].post(chain);
        self.drivers[0].kick();
        let (used, len) = self.drivers[0].wait();
        assert_eq!(used, head);
        (self.get(STATUS, 1)[0], len)
    }

    /// Sends a discard or write-zeroes.
    fn clear(&mut self, kind: u32, sector: u64, sectors: u32, flags: u32) -> u8 {
        let mut segment = sector.to_le_bytes().to_vec();
        segment.extend(sectors.to_le_bytes());
        segment.extend(flags.to_le_bytes());
        self.put(DATA, &segment);
        self.request(kind, 0, &[(DATA, 16)]).0
    }
}

fn on_both_engines(name: &str, test: impl Fn(Scratch, Engine)) {
    for engine in [Engine::Uring, Engine::SystemCalls] {
        test(Scratch::image(&format!("{name}-{engine:?}")), engine);
    }
}

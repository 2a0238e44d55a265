use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use proptest::prelude::*;
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

#[test]
fn what_a_disk_writes_to_ram_is_in_the_dirty_log() {
    on_both_engines("dirty", |image, engine| {
        let mut rig = Rig::new(config(&image.0), engine);
        let memory = Arc::clone(&rig.memory);
        let pages = || {
            let mut pages = Vec::new();
            dirty::harvest(&memory, &mut |address, bits| {
                let bits = (0..64).filter(|bit| bits >> bit & 1 == 1);
                pages.extend(bits.map(|bit| address.0 + bit * 4096));
            });
            pages
        };
        dirty::start(&memory);
        let at = DATA.next_multiple_of(4096);
        for (kind, len, told) in [
            // Two pages and a bit; the last bytes of a page; nothing but a status.
            (IN, 2 * 4096 + 512, vec![at, at + 4096, at + 8192]),
            (GET_ID, 512, vec![at]),
            (OUT, 4096, vec![]),
            (FLUSH, 0, vec![]),
        ] {
            rig.header(kind, 0);
            let flags = if matches!(kind, IN | GET_ID) {
                WRITE
            } else {
                0
            };
            let mut chain = vec![(HEADER, 16, 0), (at, len, flags), (STATUS, 1, WRITE)];
            chain.retain(|(_, len, _)| *len > 0);
            rig.drivers[0].post(&chain);
            // What the driver wrote itself.
            pages();
            rig.drivers[0].kick();
            rig.drivers[0].wait();
            let found = pages();
            let data: Vec<_> = found.iter().copied().filter(|page| *page >= at).collect();
            assert_eq!(data, told, "{kind}");
            assert!(found.contains(&(STATUS & !0xfff)), "{kind}: {found:x?}");
            assert!(found.contains(&0x1000), "the used ring: {found:x?}");
        }
        dirty::stop(&memory);
    });
}

#[test]
fn a_disk_counts_what_it_did() {
    on_both_engines("counters", |image, engine| {
        let mut rig = Rig::new(config(&image.0), engine);
        rig.request(IN, 0, &[(DATA, 4096)]);
        rig.request(IN, 8, &[(DATA, 512)]);
        rig.request(OUT, 0, &[(DATA, 1024)]);
        rig.request(FLUSH, 0, &[]);
        rig.request(GET_ID, 0, &[(DATA, 20)]);
        assert_eq!(rig.request(IN, u64::MAX, &[(DATA, 512)]).0, IOERR);
        assert_eq!(rig.request(99, 0, &[(DATA, 512)]).0, UNSUPP);
        let counters = rig.block.counters();
        let count = |name: &str| {
            let found = counters.iter().find(|(n, _)| *n == name);
            found.unwrap().1
        };
        assert_eq!((count("read_ops"), count("read_bytes")), (2, 4608));
        assert_eq!((count("write_ops"), count("write_bytes")), (1, 1024));
        let times = ["min", "avg", "max"].map(|t| count(&format!("read_latency_{t}_us")));
        assert!(times.is_sorted(), "{times:?}");
        assert_eq!((count("flush_ops"), count("errors")), (1, 2));
        rig.block.stop().unwrap();
        assert_eq!(rig.block.counters(), counters, "a pause keeps them");
    });
}

#[test]
fn an_image_goes_from_one_machine_to_the_next_and_back() {
    let image = Scratch::image("handover");
    let mut source = Rig::new(config(&image.0), Engine::Uring);
    let device_loop = DeviceLoop::spawn("block-test", || ()).unwrap();
    let handle = device_loop.handle();
    let refused = Block::new(config(&image.0), handle.clone()).unwrap_err();
    assert!(matches!(
        refused,
        BlockError::Image {
            source: ImageError::Locked { .. },
            ..
        }
    ));

    let mut next = Block::incoming(config(&image.0), handle.clone()).unwrap();
    let error = next.acquire().unwrap_err();
    assert!(error.to_string().contains("_disk0"), "{error}");
    let at = source.block.stop().unwrap();
    assert!(next.acquire().is_err(), "a pause keeps the lock");
    source.block.release().unwrap();
    next.restore(&source.block.save()).unwrap();
    next.acquire().unwrap();
    next.acquire().unwrap();
    assert!(source.block.acquire().is_err());
    let failed = source.block.activate(Activation {
        memory: Arc::clone(&source.memory),
        features: source.block.features(),
        rings: source
            .drivers
            .iter()
            .zip(&at)
            .map(|(d, at)| d.ring(*at))
            .collect(),
        config_change: source.heard.clone(),
    });
    assert!(failed.is_err(), "two machines never have it");

    // The move fails after all.
    drop(next);
    source.start(&at, source.block.features());
    assert_eq!(source.request(IN, 0, &[(DATA, 512)]).0, OK);
    assert!(Block::new(config(&image.0), handle).is_err());
}

#[test]
fn another_disk_is_not_taken_for_the_one_that_was_saved() {
    let device_loop = DeviceLoop::spawn("block-test", || ()).unwrap();
    let image = Scratch::image("moved");
    let mut disk = Block::new(config(&image.0), device_loop.handle()).unwrap();
    disk.write_config(WRITEBACK as u64, &[0]);
    let saved = disk.state();
    assert!(!saved.writeback);
    let refused = |disk: &mut Block, state| {
        let error = disk.restore(&DeviceV1::Block(state)).unwrap_err();
        error.to_string()
    };
    let sectors = saved.sectors + 1;
    let error = refused(&mut disk, BlockV1 { sectors, ..saved });
    assert!(error.contains(&sectors.to_string()), "{error}");
    let error = refused(
        &mut disk,
        BlockV1 {
            block: 4096,
            ..saved
        },
    );
    assert!(error.contains("4096"), "{error}");
    disk.write_config(WRITEBACK as u64, &[1]);
    disk.restore(&DeviceV1::Block(saved)).unwrap();
    assert_eq!(disk.state(), saved);
}

#[test]
fn it_does_what_every_device_does() {
    let device_loop = DeviceLoop::spawn("block-test", || ()).unwrap();
    for (readonly, num_queues) in [(false, 1), (true, 4)] {
        crate::testing::device_suite(|| {
            // The device holds the image open, so it can lose its name at once.
            let image = Scratch::image("suite");
            let config = BlockConfig {
                readonly,
                num_queues,
                ..config(&image.0)
            };
            Box::new(Block::new(config, device_loop.handle()).unwrap())
        });
    }
}

#[test]
fn io_uring_is_used_where_it_is_permitted() {
    // Not skipped in silence: this says which engine the other tests had.
    let permitted = io_uring::IoUring::new(2).is_ok();
    assert_eq!(Uring::new().is_ok(), permitted);
}

/// The CPUs of the kernel's workers for the thread `tid`, as its status says.
fn workers_of(tid: i32) -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let status = |task: fs::DirEntry| fs::read_to_string(task.path().join("status")).ok();
    let name = format!("Name:\tiou-wrk-{tid}\n");
    tasks
        .filter_map(|task| status(task.unwrap()))
        .filter(|status| status.starts_with(&name))
        .map(|status| {
            let line = status.lines().find(|l| l.starts_with("Cpus_allowed_list"));
            line.unwrap().split('\t').nth(1).unwrap().to_owned()
        })
        .collect()
}

#[test]
fn the_kernels_workers_stay_on_the_cpus_of_the_device_loop() {
    if Uring::new().is_err() {
        return;
    }
    let image = Scratch::image("pinned");
    let (sender, tid) = std::sync::mpsc::channel();
    let prepare = move || {
        let mut one = nix::sched::CpuSet::new();
        let all = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).unwrap();
        let last = (0..nix::sched::CpuSet::count()).rfind(|&cpu| all.is_set(cpu).unwrap());
        one.set(last.unwrap()).unwrap();
        nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &one).unwrap();
        sender
            .send((nix::unistd::gettid().as_raw(), last.unwrap()))
            .unwrap();
    };
    let device_loop = DeviceLoop::spawn("block-test", prepare).unwrap();
    let (tid, cpu) = tid.recv().unwrap();
    let mut rig = Rig::on(device_loop, config(&image.0), Engine::Uring);
    // A flush always goes to a worker.
    assert_eq!(rig.request(FLUSH, 0, &[]), (OK, 1));
    let workers = workers_of(tid);
    assert!(!workers.is_empty());
    assert!(workers.iter().all(|w| *w == cpu.to_string()), "{workers:?}");
}

#[test]
fn what_is_in_the_image_is_read() {
    on_both_engines("read", |image, engine| {
        let mut rig = Rig::new(config(&image.0), engine);
        let answer = rig.request(IN, 3, &[(DATA, 512), (DATA + 0x1000, 1024)]);
        assert_eq!(answer, (OK, 1537));
        let expected: Vec<u8> = (1536..3072).map(pattern).collect();
        assert_eq!(rig.get(DATA, 512), expected[..512]);
        assert_eq!(rig.get(DATA + 0x1000, 1024), expected[512..]);
        assert_eq!(rig.get(DATA + 512, 8), [0; 8], "nothing beyond the buffer");
        assert!(rig.drivers[0].interrupts() > 0);
    });
}

#[test]
fn what_is_written_is_in_the_image() {
    on_both_engines("write", |image, engine| {
        let mut rig = Rig::new(config(&image.0), engine);
        rig.put(DATA, &[0xab; 1024]);
        assert_eq!(
            rig.request(OUT, 7, &[(DATA, 1000), (DATA + 1000, 24)]),
            (OK, 1)
        );
        assert_eq!(rig.request(FLUSH, 0, &[]), (OK, 1));
        let bytes = fs::read(&image.0).unwrap();
        assert_eq!(bytes[7 * 512..9 * 512], [0xab; 1024]);
        assert_eq!(bytes[7 * 512 - 1], pattern(7 * 512 - 1));
        assert_eq!(bytes[9 * 512], pattern(9 * 512));
    });
}

#[test]
fn write_through_is_honoured() {
    on_both_engines("through", |image, engine| {
        let mut rig = Rig::new(config(&image.0), engine);
        let mut writeback = [9];
        rig.block.read_config(32, &mut writeback);
        assert_eq!(writeback, [1]);
        rig.block.write_config(32, &[0]);
        rig.block.read_config(32, &mut writeback);
        assert_eq!(writeback, [0]);
        rig.put(DATA, &[0xcd; 512]);
        assert_eq!(rig.request(OUT, 0, &[(DATA, 512)]), (OK, 1));
        assert_eq!(rig.clear(WRITE_ZEROES, 1, 1, 0), OK);
        let bytes = fs::read(&image.0).unwrap();
        assert_eq!(bytes[..512], [0xcd; 512]);
        assert_eq!(bytes[512..1024], [0; 512]);
    });
}

#[test]
fn clearing_makes_zeros_and_gives_space_back() {
    on_both_engines("clear", |image, engine| {
        let mut rig = Rig::new(config(&image.0), engine);
        let blocks = fs::metadata(&image.0).unwrap().blocks();
        assert_eq!(rig.clear(DISCARD, 0, 1024, 0), OK);
        assert_eq!(rig.clear(WRITE_ZEROES, 1024, 8, 0), OK);
        assert_eq!(rig.clear(WRITE_ZEROES, 1040, 8, 1), OK);
        let bytes = fs::read(&image.0).unwrap();
        assert_eq!(bytes.len() as u64, IMAGE, "the size stays");
        assert!(bytes[1024 * 512..1032 * 512].iter().all(|&b| b == 0));
        assert_eq!(bytes[1032 * 512], pattern(1032 * 512));
        assert!(bytes[1040 * 512..1048 * 512].iter().all(|&b| b == 0));
        let after = fs::metadata(&image.0).unwrap().blocks();
        assert!(after < blocks, "{after} of {blocks} blocks are left");
    });
}

#[test]
fn clearing_beyond_what_was_announced_is_refused() {
    on_both_engines("clear-bad", |image, engine| {
        let mut rig = Rig::new(config(&image.0), engine);
        assert_eq!(rig.clear(DISCARD, 0, 1, 1), UNSUPP, "unmap with a discard");
        assert_eq!(rig.clear(DISCARD, 0, 1, 2), UNSUPP, "an unknown flag");
        assert_eq!(rig.clear(WRITE_ZEROES, 0, 1, 4), UNSUPP, "an unknown flag");
        assert_eq!(rig.clear(WRITE_ZEROES, 0, u32::MAX, 0), IOERR);
        assert_eq!(rig.clear(DISCARD, 2047, 2, 0), IOERR, "beyond the end");
        assert_eq!(rig.clear(DISCARD, u64::MAX, 2, 0), IOERR);
        rig.put(DATA, &[0; 32]);
        assert_eq!(
            rig.request(DISCARD, 0, &[(DATA, 32)]).0,
            IOERR,
            "two segments"
        );
        assert_eq!(
            rig.request(DISCARD, 0, &[(DATA, 15)]).0,
            IOERR,
            "half a segment"
        );
        assert_eq!(rig.request(DISCARD, 0, &[]).0, IOERR);
        let expected: Vec<u8> = (0..IMAGE).map(pattern).collect();
        assert_eq!(fs::read(&image.0).unwrap(), expected, "nothing changed");
    });
}

#[test]
fn the_serial_number_is_told() {
    on_both_engines("id", |image, engine| {
        let mut rig = Rig::new(config(&image.0), engine);
        assert_eq!(
            rig.request(GET_ID, 0, &[(DATA, 5), (DATA + 5, 15)]),
            (OK, 21)
        );
        assert_eq!(
            rig.get(DATA, 21),
            *b"SN-1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
        );
        assert_eq!(rig.request(GET_ID, 0, &[(DATA, 19)]).0, IOERR);
    });
}

#[test]
fn a_read_only_disk_is_only_read() {
    on_both_engines("ro", |image, engine| {
        let mut rig = Rig::new(
            BlockConfig {
                readonly: true,
                ..config(&image.0)
            },
            engine,
        );
        assert_ne!(rig.block.features() & (1 << VIRTIO_BLK_F_RO), 0);
        assert_eq!(rig.block.features() & (1 << VIRTIO_BLK_F_DISCARD), 0);
        assert_eq!(rig.request(OUT, 0, &[(DATA, 512)]).0, IOERR);
        assert_eq!(rig.clear(DISCARD, 0, 8, 0), IOERR);
        assert_eq!(rig.clear(WRITE_ZEROES, 0, 8, 0), IOERR);
        assert_eq!(rig.request(IN, 0, &[(DATA, 512)]).0, OK);
        assert_eq!(rig.request(FLUSH, 0, &[]).0, OK);
        let expected: Vec<u8> = (0..IMAGE).map(pattern).collect();
        assert_eq!(fs::read(&image.0).unwrap(), expected);
    });
}

#[test]
fn malformed_requests_are_refused_and_the_disk_goes_on() {
    on_both_engines("bad", |image, engine| {
        let mut rig = Rig::new(config(&image.0), engine);
        let ram = RAM as u64;
        assert_eq!(
            rig.request(IN, 2048, &[(DATA, 512)]).0,
            IOERR,
            "beyond the end"
        );
        assert_eq!(
            rig.request(IN, 2047, &[(DATA, 1024)]).0,
            IOERR,
            "across the end"
        );
        assert_eq!(rig.request(IN, u64::MAX, &[(DATA, 512)]).0, IOERR);
        assert_eq!(rig.request(IN, u64::MAX / 512 + 1, &[(DATA, 512)]).0, IOERR);
        assert_eq!(
            rig.request(IN, 0, &[(DATA, 511)]).0,
            IOERR,
            "no whole sector"
        );
        assert_eq!(rig.request(IN, 0, &[(ram, 512)]).0, IOERR, "outside RAM");
        assert_eq!(
            rig.request(IN, 0, &[(ram - 256, 512)]).0,
            IOERR,
            "half outside"
        );
        assert_eq!(rig.request(OUT, 0, &[(u64::MAX - 8, 512)]).0, IOERR);
        assert_eq!(rig.request(2, 0, &[(DATA, 512)]).0, UNSUPP, "SCSI");
        assert_eq!(rig.request(99, 0, &[]).0, UNSUPP);
        assert_eq!(rig.request(IN, 0, &[]), (OK, 1), "no data at all");
        rig.header(IN, 0);
        let short = [(HEADER, 15, 0), (STATUS, 1, WRITE)];
        assert_eq!(rig.send(&short).0, IOERR, "a short header");
        rig.header(IN, 0);
        let mixed = [(DATA, 512, WRITE), (HEADER, 16, 0), (STATUS, 1, WRITE)];
        assert_eq!(rig.send(&mixed).0, IOERR, "readable after writable");
        assert_eq!(rig.request(IN, 1, &[(DATA, 512)]).0, OK);
    });
}

#[test]
fn header_data_and_status_may_be_cut_anywhere() {
    on_both_engines("cut", |image, engine| {
        let mut rig = Rig::new(config(&image.0), engine);
        rig.header(IN, 2);
        // The status is the last byte of one buffer with the data.
        let chain = [
            (HEADER, 3, 0),
            (HEADER + 3, 13, 0),
            (DATA, 100, WRITE),
            (STATUS - 412, 413, WRITE),
        ];
        assert_eq!(rig.send(&chain), (OK, 513));
        let expected: Vec<u8> = (1024..1536).map(pattern).collect();
        assert_eq!(rig.get(DATA, 100), expected[..100]);
        assert_eq!(rig.get(STATUS - 412, 412), expected[100..]);
        // Header and data of a write in one buffer.
        rig.header(OUT, 4);
        rig.put(HEADER + 16, &[0x5a; 512]);
        assert_eq!(rig.send(&[(HEADER, 528, 0), (STATUS, 1, WRITE)]), (OK, 1));
        assert_eq!(fs::read(&image.0).unwrap()[2048..2560], [0x5a; 512]);
    });
}

#[test]
fn indirect_tables_are_followed() {
    on_both_engines("indirect", |image, engine| {
        let mut rig = Rig::new(config(&image.0), engine);
        let mut table = vec![Descriptor {
            address: HEADER,
            len: 16,
            flags: NEXT,
            next: 1,
        }];
        for i in 0..200u16 {
            table.push(Descriptor {
                address: DATA + u64::from(i) * 0x400,
                len: 512,
                flags: NEXT | WRITE,
                next: i + 2,
            });
        }
        table.push(Descriptor {
            address: STATUS,
            len: 1,
            flags: WRITE,
            next: 0,
        });
        rig.header(IN, 5);
        rig.drivers[0].set_table(TABLE, &table);
        let len = u32::try_from(table.len() * 16).unwrap();
        assert_eq!(rig.send(&[(TABLE, len, INDIRECT)]), (OK, 200 * 512 + 1));
        assert_eq!(rig.get(DATA + 199 * 0x400, 1)[0], pattern((5 + 199) * 512));
    });
}

#[test]
fn more_buffers_than_a_system_call_takes_are_refused() {
    on_both_engines("many", |image, engine| {
        let mut rig = Rig::new(config(&image.0), engine);
        let mut table = vec![Descriptor {
            address: HEADER,
            len: 16,
            flags: NEXT,
            next: 1,
        }];
        for i in 0..2000u16 {
            table.push(Descriptor {
                address: DATA,
                len: 512,
                flags: NEXT | WRITE,
                next: i + 2,
            });
        }
        table.push(Descriptor {
            address: STATUS,
            len: 1,
            flags: WRITE,
            next: 0,
        });
        rig.header(IN, 0);
        rig.drivers[0].set_table(DATA + 0x1000, &table);
        let len = u32::try_from(table.len() * 16).unwrap();
        assert_eq!(rig.send(&[(DATA + 0x1000, len, INDIRECT)]).0, IOERR);
    });
}

#[test]
fn without_a_place_for_the_status_the_ring_is_left() {
    let loops = Descriptor {
        address: HEADER,
        len: 16,
        flags: NEXT,
        next: 9,
    };
    let read_only = Descriptor {
        address: HEADER,
        len: 16,
        flags: 0,
        next: 0,
    };
    let outside = Descriptor {
        address: RAM as u64,
        len: 1,
        flags: WRITE,
        next: 0,
    };
    let empty = Descriptor {
        address: STATUS,
        len: 0,
        flags: WRITE,
        next: 0,
    };
    let table = Descriptor {
        address: RAM as u64,
        len: 64,
        flags: INDIRECT,
        next: 0,
    };
    for bad in [loops, read_only, outside, empty, table] {
        on_both_engines("left", |image, engine| {
            let mut rig = Rig::new(config(&image.0), engine);
            assert_eq!(rig.request(IN, 0, &[(DATA, 512)]).0, OK);
            rig.drivers[0].set(9, bad);
            rig.drivers[0].make_available(9);
            rig.drivers[0].kick();
            let (_, worker) = rig.block.active.as_ref().unwrap();
            let worker = Arc::clone(worker);
            let left = (0..2000).any(|_| {
                std::thread::sleep(std::time::Duration::from_millis(1));
                worker.lock().unwrap().has_left_a_ring()
            });
            assert!(left, "{bad:?}");
            assert!(rig.heard.0.load(Ordering::SeqCst) > 0, "{bad:?}");
            drop(worker);
            assert_eq!(rig.drivers[0].used_entry(), None);
            // A reset brings the disk back.
            rig.block.stop().unwrap();
            let memory = Arc::clone(&rig.memory);
            rig.drivers = vec![Driver::new(memory, 0, 0x8000, 128)];
            rig.start(&[RingPosition::default()], rig.block.features());
            assert_eq!(rig.request(IN, 0, &[(DATA, 512)]).0, OK);
        });
    }
}

#[test]
fn an_available_index_that_is_too_far_leaves_the_ring() {
    let image = Scratch::image("index");
    let mut rig = Rig::new(config(&image.0), Engine::Uring);
    rig.drivers[0].set_available(500);
    rig.drivers[0].kick();
    std::thread::sleep(std::time::Duration::from_millis(20));
    let position = RingPosition::default();
    assert_eq!(rig.block.stop().unwrap(), [position]);
}

#[test]
fn stopping_finishes_what_was_taken_and_tells_where_the_rings_stand() {
    on_both_engines("stop", |image, engine| {
        let mut rig = Rig::new(
            BlockConfig {
                num_queues: 3,
                ..config(&image.0)
            },
            engine,
        );
        rig.header(IN, 0);
        let mut positions = vec![RingPosition::default(); 3];
        for round in 0..50u64 {
            for queue in 0..3usize {
                for i in 0..20 {
                    let data = DATA + (queue as u64 * 20 + i) * 0x1000;
                    rig.drivers[queue].post(&[
                        (HEADER, 16, 0),
                        (data, 4096, WRITE),
                        (STATUS + queue as u64 * 32 + i, 1, WRITE),
                    ]);
                }
                rig.drivers[queue].kick();
            }
            if round % 2 == 0 {
                std::thread::yield_now();
            }
            positions = rig.block.stop().unwrap();
            for (queue, at) in positions.iter().enumerate() {
                assert_eq!(
                    at.next_avail, at.next_used,
                    "all that was taken was answered"
                );
                let mut used = 0;
                while let Some((_, len)) = rig.drivers[queue].used_entry() {
                    assert_eq!(len, 4097);
                    used += 1;
                }
                assert!(used <= 40);
            }
            rig.start(&positions, rig.block.features());
            // What was left is served without a new kick.
            for (driver, at) in rig.drivers.iter_mut().zip(&positions) {
                let posted = driver.posted();
                let mut done = at.next_used;
                while done != posted {
                    driver.wait();
                    done = done.wrapping_add(1);
                }
            }
        }
        assert_eq!(rig.block.stop().unwrap().len(), positions.len());
        assert_eq!(rig.block.stop().unwrap(), []);
    });
}

#[test]
fn more_requests_than_slots_are_all_answered() {
    on_both_engines("slots", |image, engine| {
        let mut rig = Rig::new(
            BlockConfig {
                num_queues: 4,
                ..config(&image.0)
            },
            engine,
        );
        rig.header(IN, 9);
        let per_queue = 42;
        for queue in 0..4 {
            for _ in 0..per_queue {
                rig.drivers[queue].post(&[(HEADER, 16, 0), (DATA, 512, WRITE), (STATUS, 1, WRITE)]);
            }
        }
        for queue in 0..4 {
            rig.drivers[queue].kick();
        }
        for queue in 0..4 {
            for _ in 0..per_queue {
                assert_eq!(rig.drivers[queue].wait().1, 513);
            }
        }
    });
}

#[test]
fn direct_access_takes_any_memory_but_whole_blocks_only() {
    on_both_engines("direct", |image, engine| {
        let direct = BlockConfig {
            direct: true,
            ..config(&image.0)
        };
        let mut rig = Rig::new(direct, engine);
        let mut block = [0; 4];
        rig.block.read_config(20, &mut block);
        let block = u32::from_le_bytes(block);
        assert!(block == 512 || block == 4096, "{block}");
        let sectors = u64::from(block / 512);
        // Memory that is not aligned goes through a buffer.
        for (address, sector) in [(DATA, sectors), (DATA + 0x3_0003, 2 * sectors)] {
            let answer = rig.request(IN, sector, &[(address, block - 1), (DATA + 0x5_0001, 1)]);
            assert_eq!(answer, (OK, block + 1));
            assert_eq!(rig.get(address, 1)[0], pattern(sector * 512));
            rig.put(address, &vec![0x77; block as usize]);
            assert_eq!(rig.request(OUT, sector, &[(address, block)]), (OK, 1));
        }
        let len = 640 << 10;
        let bytes: Vec<u8> = (0..len).map(|i| u8::try_from(i % 241).unwrap()).collect();
        rig.put(DATA + 1, &bytes);
        let whole = u32::try_from(len).unwrap();
        assert_eq!(rig.request(OUT, 8 * sectors, &[(DATA + 1, whole)]), (OK, 1));
        rig.block.stop().unwrap();
        let written = fs::read(&image.0).unwrap();
        let at = |sector: u64| usize::try_from(sector * 512).unwrap();
        assert_eq!(written[at(sectors)], 0x77);
        assert_eq!(written[at(8 * sectors)..][..bytes.len()], bytes);
    });
}

#[test]
fn an_image_that_shrinks_is_an_error_for_the_guest_alone() {
    on_both_engines("shrink", |image, engine| {
        let mut rig = Rig::new(config(&image.0), engine);
        let file = fs::OpenOptions::new().write(true).open(&image.0).unwrap();
        file.set_len(IMAGE / 2).unwrap();
        assert_eq!(rig.request(IN, 2040, &[(DATA, 512)]).0, IOERR);
        assert_eq!(
            rig.request(IN, 1023, &[(DATA, 1024)]).0,
            IOERR,
            "half of it is there"
        );
        assert_eq!(rig.request(IN, 0, &[(DATA, 512)]).0, OK);
    });
}

#[test]
fn the_configuration_space_says_what_the_disk_is() {
    let image = Scratch::image("config");
    let device_loop = DeviceLoop::spawn("block-test", || ()).unwrap();
    let block = Block::new(
        BlockConfig {
            num_queues: 4,
            ..config(&image.0)
        },
        device_loop.handle(),
    )
    .unwrap();
    let mut space = [0xff; 64];
    block.read_config(0, &mut space);
    assert_eq!(space[..8], 2048u64.to_le_bytes());
    assert_eq!(space[12..16], 126u32.to_le_bytes(), "seg_max");
    assert_eq!(space[20..24], 512u32.to_le_bytes(), "blk_size");
    assert_eq!(space[34..36], 4u16.to_le_bytes(), "num_queues");
    assert_eq!(space[60..], [0; 4], "nothing beyond the end");
    let mut far = [0xff; 8];
    block.read_config(u64::MAX - 3, &mut far);
    assert_eq!(far[..4], [0; 4]);
    assert_ne!(block.features() & (1 << VIRTIO_BLK_F_MQ), 0);
    assert_eq!(block.size(), IMAGE);
}

#[test]
fn images_that_cannot_be_used_are_refused_with_their_name() {
    let device_loop = DeviceLoop::spawn("block-test", || ()).unwrap();
    let refusal = |config: BlockConfig| {
        let path = config.path.display().to_string();
        match Block::new(config, device_loop.handle()) {
            Err(BlockError::Image { source, .. }) => {
                let text = source.to_string();
                assert!(text.contains(&path), "{text}");
                source
            }
            other => panic!("{other:?}"),
        }
    };
    let missing = refusal(config(Path::new("/nonexistent/disk.raw")));
    assert!(matches!(missing, ImageError::Open { .. }));
    let directory = refusal(config(Path::new("/")));
    assert!(
        directory.to_string().contains("is a directory"),
        "{directory}"
    );
    let device = refusal(config(Path::new("/dev/null")));
    assert!(matches!(device, ImageError::Type { .. }));
    let odd = Scratch::new("odd", &[0; 700]);
    let size = refusal(config(&odd.0));
    assert!(size.to_string().contains("700 bytes"), "{size}");
    let empty = Scratch::new("empty", &[]);
    assert!(matches!(refusal(config(&empty.0)), ImageError::Size { .. }));
}

#[test]
fn an_image_has_one_writer_or_many_readers() {
    let image = Scratch::image("lock");
    let device_loop = DeviceLoop::spawn("block-test", || ()).unwrap();
    let open = |readonly| {
        let config = BlockConfig {
            readonly,
            ..config(&image.0)
        };
        Block::new(config, device_loop.handle())
    };
    let is_locked = |result: Result<Block, BlockError>| {
        matches!(
            result,
            Err(BlockError::Image {
                source: ImageError::Locked { .. },
                ..
            })
        )
    };
    let writer = open(false).unwrap();
    assert!(is_locked(open(false)));
    assert!(is_locked(open(true)));
    drop(writer);
    let _one = open(true).unwrap();
    let _two = open(true).unwrap();
    assert!(is_locked(open(false)));
}

#[test]
fn values_out_of_range_are_refused() {
    let image = Scratch::image("range");
    let device_loop = DeviceLoop::spawn("block-test", || ()).unwrap();
    let refusal = |config| Block::new(config, device_loop.handle()).unwrap_err();
    for num_queues in [0, 65] {
        let error = refusal(BlockConfig {
            num_queues,
            ..config(&image.0)
        });
        assert!(error.to_string().contains("1 to 64"), "{error}");
    }
    for queue_size in [0, 2, 100, 40000] {
        let error = refusal(BlockConfig {
            queue_size,
            ..config(&image.0)
        });
        assert!(matches!(error, BlockError::QueueSize { .. }));
    }
    for serial in ["a serial number that is too long", "n\n"] {
        let serial = Some(serial.to_owned());
        let error = refusal(BlockConfig {
            serial,
            ..config(&image.0)
        });
        assert!(matches!(error, BlockError::Serial { .. }));
    }
}

fn any_descriptor() -> impl Strategy<Value = Descriptor> {
    let address = prop_oneof![
        8 => 0..RAM as u64 + 0x1000,
        2 => Just(HEADER),
        2 => Just(STATUS),
        1 => any::<u64>(),
    ];
    let len = prop_oneof![4 => Just(512u32), 3 => Just(16), 3 => Just(1), 3 => 0u32..5000, 1 => any::<u32>()];
    let flags = prop_oneof![9 => 0u16..8, 1 => any::<u16>()];
    (
        address,
        len,
        flags,
        prop_oneof![9 => 0u16..17, 1 => any::<u16>()],
    )
        .prop_map(|(address, len, flags, next)| Descriptor {
            address,
            len,
            flags,
            next,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn any_chain_is_survived(
        table in prop::collection::vec(any_descriptor(), 16),
        kind in prop_oneof![0u32..16, any::<u32>()],
        sector in prop_oneof![0u64..2100, any::<u64>()],
        heads in prop::collection::vec(0u16..17, 1..8),
        uring: bool,
        direct: bool,
    ) {
        let image = Scratch::image("any");
        let engine = if uring { Engine::Uring } else { Engine::SystemCalls };
        let config = BlockConfig { queue_size: 16, direct, ..config(&image.0) };
        let mut rig = Rig::new(config, engine);
        rig.header(kind, sector);
        for (at, descriptor) in table.into_iter().enumerate() {
            rig.drivers[0].set(u16::try_from(at).unwrap(), descriptor);
        }
        for head in heads {
            rig.drivers[0].make_available(head);
        }
        rig.drivers[0].kick();
        rig.block.stop().unwrap();
        prop_assert_eq!(fs::metadata(&image.0).unwrap().len(), IMAGE);
    }
}

//! What no driver asks for is refused, and the disk goes on.

use proptest::prelude::*;

use super::*;

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

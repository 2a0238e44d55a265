//! What a driver asks for is done.

use super::*;

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

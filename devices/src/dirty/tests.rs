use std::sync::Arc;
use std::thread;

use vm_memory::{Bytes, VolatileMemory};

use super::*;
use crate::testing::guest_ram;

/// Numbers of the pages that a harvest tells.
fn pages(ram: &GuestRam) -> Vec<u64> {
    let mut pages = Vec::new();
    harvest(ram, &mut |address, bits| {
        assert_ne!(bits, 0);
        let bits = (0..64).filter(|bit| bits >> bit & 1 == 1);
        pages.extend(bits.map(|bit| address.0 / 4096 + bit));
    });
    pages
}

/// 1 MiB and a page, and 64 KiB behind a hole.
fn ram() -> Arc<GuestRam> {
    guest_ram(&[(0, 0x10_1000), (0x80_0000, 0x1_0000)])
}

#[test]
fn what_is_written_while_somebody_logs_is_told_once() {
    let ram = ram();
    ram.write_obj(1u8, GuestAddress(0)).unwrap();
    assert!(pages(&ram).is_empty());
    start(&ram);
    assert!(pages(&ram).is_empty(), "what was before is not told");
    ram.write_obj(1u64, GuestAddress(0x1ffc)).unwrap();
    ram.write_slice(&[0; 0x1001], GuestAddress(0x4_0000))
        .unwrap();
    let last = GuestAddress(0x10_0fff);
    ram.write_obj(1u8, last).unwrap();
    ram.store(1u32, GuestAddress(0x80_f000), Ordering::Release)
        .unwrap();
    let slice = ram.get_slice(GuestAddress(0x80_2000), 0x2000).unwrap();
    slice.get_slice(0x1000, 8).unwrap().copy_from(&[1u8; 8]);
    assert_eq!(pages(&ram), [1, 2, 0x40, 0x41, 0x100, 0x803, 0x80f]);
    assert!(pages(&ram).is_empty());
    let _: u64 = ram.read_obj(GuestAddress(0)).unwrap();
    assert!(pages(&ram).is_empty(), "reading dirties nothing");
    stop(&ram);
    ram.write_obj(1u8, GuestAddress(0)).unwrap();
    assert!(pages(&ram).is_empty());
    start(&ram);
    assert!(pages(&ram).is_empty(), "a second migration begins anew");
    ram.write_obj(1u8, last).unwrap();
    assert_eq!(pages(&ram), [0x100]);
}

#[test]
fn marks_reach_over_regions_and_stay_within_ram() {
    let ram = ram();
    start(&ram);
    mark(&ram, GuestAddress(0x10_0fff), 1);
    assert_eq!(pages(&ram), [0x100]);
    mark(&ram, GuestAddress(0x10_0000), 0x70_0001);
    assert_eq!(pages(&ram), [0x100, 0x800]);
    mark(&ram, GuestAddress(0x20_0000), 4096);
    mark(&ram, GuestAddress(0), 0);
    assert!(pages(&ram).is_empty());
    mark(&ram, GuestAddress(0x80_0000), usize::MAX);
    assert_eq!(pages(&ram).len(), 16);
    mark(&ram, GuestAddress(u64::MAX), usize::MAX);
    assert!(pages(&ram).is_empty());
}

/// Every write is seen by a harvest that follows it: the value read then is not
/// older than the mark.
#[test]
fn no_mark_is_lost_between_a_writer_and_harvests() {
    const ROUNDS: u64 = 20_000;
    let ram = ram();
    start(&ram);
    let writer = {
        let ram = Arc::clone(&ram);
        thread::spawn(move || {
            for value in 1..=ROUNDS {
                ram.write_obj(value, GuestAddress(0x5000)).unwrap();
            }
        })
    };
    let mut copy = 0u64;
    let mut take = || {
        if pages(&ram).contains(&5) {
            copy = ram.read_obj(GuestAddress(0x5000)).unwrap();
        }
        copy
    };
    while !writer.is_finished() {
        take();
    }
    writer.join().unwrap();
    assert_eq!(take(), ROUNDS);
}

/// A map is made of pieces of 16 MiB; the last may be a part of one.
#[test]
fn marks_on_both_sides_of_a_piece_are_told_in_order() {
    let ram = guest_ram(&[(0, 0x200_3000)]);
    start(&ram);
    mark(&ram, GuestAddress(0xff_f000), 0x2000);
    mark(&ram, GuestAddress(0x200_2000), 0x1000);
    assert_eq!(pages(&ram), [0xfff, 0x1000, 0x2002]);
    assert!(pages(&ram).is_empty());
}

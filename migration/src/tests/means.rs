//! Each means switched off: slower, never wrong.

use super::*;
use crate::options::{Means, ZeroLines};

fn with(change: impl FnOnce(&mut Means)) -> Snapshot {
    let guest = FakeSource::new(memory(&[16 << 20]));
    fill(guest.memory(), 1500, 8);
    let mut guest = guest.with_vcpu(writer(3000, Duration::from_micros(50)));
    let before = guest.memory().to_vec();
    let mut place = FakeDestination::new();
    let mut run = Run::default();
    run.options.streams = 3;
    run.options.downtime = Duration::from_secs(1);
    change(&mut run.options.means);
    let end = run.run(&mut guest, &mut place);
    assert_one_guest(&guest, &place, &end, "means");
    let snapshot = moved(end);
    assert_same(&before, &place);
    snapshot
}

#[test]
fn memory_is_whole_whatever_is_switched_off() {
    with(|_| {});
    with(|means| means.clear_before_read = false);
    with(|means| means.hot_pages_last = false);
    with(|means| means.striped_final = false);
    with(|means| means.stop_at_minimum = false);
    with(|means| means.populate_ahead = false);
    with(|means| means.write_through_file = false);
    with(|means| means.zero_lines = ZeroLines::Off);
    with(|means| means.checksum_pages = false);
    with(|means| {
        means.checksum_pages = false;
        means.zero_lines = ZeroLines::Off;
        means.write_through_file = false;
    });
}

#[test]
fn discovery_saves_the_scan() {
    assert!(with(|_| {}).present_bytes < 16 << 20);
    let all = with(|means| means.discovery = false);
    assert_eq!(all.present_bytes, 16 << 20);
}

#[test]
fn zero_pages_and_lines_save_bytes() {
    let bytes = |change: fn(&mut Means)| {
        let mut guest = FakeSource::new(memory(&[4 << 20]));
        for page in 0..1024 {
            let mut content = [0; PAGE_BYTES];
            // A line in each second page.
            content[640] = u8::from(page % 2 == 0);
            guest.memory()[0].write(page, &content).unwrap();
        }
        let mut run = Run::default();
        change(&mut run.options.means);
        let before = guest.memory().to_vec();
        let mut place = FakeDestination::new();
        let snapshot = moved(run.run(&mut guest, &mut place));
        assert_same(&before, &place);
        snapshot.sent_bytes
    };
    let all = bytes(|means| {
        means.zero_pages = false;
        means.zero_lines = ZeroLines::Off;
    });
    let no_zeros = bytes(|means| means.zero_lines = ZeroLines::Off);
    let lines = bytes(|_| {});
    assert!(all >= 4 << 20);
    assert!((2 << 20..all).contains(&no_zeros), "{no_zeros}");
    assert!(lines < 64 << 10, "{lines}");
}

#[test]
fn a_page_that_becomes_zero_is_zero_there() {
    // Full memory, that the guest empties while it is copied.
    let guest = FakeSource::new(memory(&[2 << 20]));
    for page in 0..512 {
        guest.memory()[0].write(page, &[1; PAGE_BYTES]).unwrap();
    }
    let mut guest = guest.with_vcpu(|memory: &Memory, numbers: &mut Numbers| {
        memory.write(0, numbers.below(512), &[0; PAGE_BYTES]);
        thread::sleep(Duration::from_micros(100));
    });
    let before = guest.memory().to_vec();
    let mut place = FakeDestination::new();
    let mut run = Run::default();
    // Slow enough that many pages become zero after they were sent.
    run.options.bandwidth = Some(20 << 20);
    moved(run.run(&mut guest, &mut place));
    assert_same(&before, &place);
}

#[test]
fn memory_that_is_warm_is_written_in_place() {
    let mut guest = FakeSource::new(memory(&[4 << 20, 1 << 20]));
    fill(guest.memory(), 400, 12);
    let before = guest.memory().to_vec();
    let mut place = FakeDestination::new().populated();
    moved(Run::default().run(&mut guest, &mut place));
    assert_same(&before, &place);
}

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::*;
use crate::memory::Layout;
use crate::testing::memory;
use crate::untouched::Untouched;

#[test]
fn holes_of_a_memfd_are_found_and_stay_holes() {
    let regions = memory(&[64 * PAGE, 1 << 36, 128 * PAGE]);
    regions[0].write(63, &[1; 4096]).unwrap();
    regions[1].write(1_000_000, &[0; 8192]).unwrap();
    // Written by another process, through the file alone.
    regions[2]
        .file()
        .write_all_at(&[1], (64 * PAGE) + (1 << 36) + 5 * PAGE)
        .unwrap();
    let maps = present(&regions, Fresh::LeaveOut);
    let found: Vec<_> = maps
        .iter()
        .map(|map| (map.extents().next().unwrap(), map.extents().count()))
        .collect();
    assert_eq!(found, [(63..64, 1), (1_000_000..1_000_002, 1), (5..6, 1)]);
    assert_eq!(
        present(&regions, Fresh::LeaveOut),
        maps,
        "looking allocates nothing"
    );
}

/// Huge pages of 2 MiB, if this machine has some free: `None` otherwise.
fn huge(pages: u64) -> Option<Region> {
    const HUGE: u64 = 2 << 20;
    let free = std::fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
    let free: u64 = free.ok()?.trim().parse().ok()?;
    if free < pages {
        eprintln!("skipped: {free} huge pages are free, and {pages} are wanted");
        return None;
    }
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB;
    let file = std::fs::File::from(memfd_create(c"huge", flags).ok()?);
    file.set_len(pages * HUGE).ok()?;
    let layout = Layout {
        guest_address: 0,
        size_bytes: pages * HUGE,
        page_bytes: HUGE,
        file_offset: 0,
    };
    Region::map(layout, Arc::new(file)).ok()
}

#[test]
fn huge_pages_are_found_whoever_touched_them() {
    let Some(ours) = huge(8) else { return };
    let blocks = || {
        use std::os::unix::fs::MetadataExt;
        ours.file().metadata().unwrap().blocks() * 512
    };
    let found = || {
        present(std::slice::from_ref(&ours), Fresh::LeaveOut)[0]
            .extents()
            .flatten()
            .collect::<Vec<_>>()
    };
    assert_eq!(found(), []);
    ours.write(512, &[1; 4096]).unwrap();
    assert_eq!(found(), (512..1024).collect::<Vec<_>>());
    // A page that only another mapping touched.
    let theirs = Region::map(*ours.layout(), Arc::clone(ours.file())).unwrap();
    theirs.write(5 * 512 + 7, &[1; 4096]).unwrap();
    assert_eq!(blocks(), 2 * (2 << 20));
    let expected = (512..1024).chain(5 * 512..6 * 512).collect::<Vec<_>>();
    let permitted = probe::probe(&ours, &mut Bitmap::new(ours.pages())).is_ok();
    if permitted {
        assert_eq!(found(), expected);
    } else {
        assert_eq!(found(), (0..8 * 512).collect::<Vec<_>>());
    }
    assert_eq!(blocks(), 2 * (2 << 20), "looking allocates nothing");
    theirs.populate(0, theirs.pages()).unwrap();
    assert_eq!(found(), (0..8 * 512).collect::<Vec<_>>());
}

#[test]
fn huge_pages_that_nobody_wrote_are_left_out() {
    let Some(ours) = huge(8) else { return };
    let found = |fresh| {
        present(std::slice::from_ref(&ours), fresh)[0]
            .extents()
            .map(|pages| (pages.start / 512, pages.end / 512))
            .collect::<Vec<_>>()
    };
    // The first half has its pages before the watch begins, as after a prefault.
    ours.populate(0, 4 * 512).unwrap();
    let watch = match Untouched::watch(std::slice::from_ref(&ours)) {
        Ok(watch) => watch,
        Err(error) => return eprintln!("skipped: writes cannot be watched here: {error}"),
    };
    assert_eq!(found(Fresh::LeaveOut), []);
    assert_eq!(found(Fresh::Count), [(0, 4)]);
    // A read takes a page and leaves it fresh.
    ours.read(6 * 512, &mut [0; 4096]).unwrap();
    assert_eq!(found(Fresh::LeaveOut), []);
    ours.write(512 + 3, &[1; 4096]).unwrap();
    ours.write(6 * 512 + 9, &[1; 4096]).unwrap();
    ours.populate(7 * 512, 512).unwrap();
    assert_eq!(found(Fresh::LeaveOut), [(1, 2), (6, 8)]);
    // A page that only another mapping brought in may hold anything.
    let theirs = Region::map(*ours.layout(), Arc::clone(ours.file())).unwrap();
    theirs.write(5 * 512, &[1; 4096]).unwrap();
    let all: u64 = found(Fresh::LeaveOut)
        .iter()
        .map(|(first, end)| end - first)
        .sum();
    assert!(all >= 5, "{all}");
    // Without the watch nothing is known.
    ours.populate(0, ours.pages()).unwrap();
    drop(watch);
    assert_eq!(found(Fresh::LeaveOut), [(0, 8)]);
}

#[test]
fn small_pages_are_not_watched() {
    let regions = memory(&[64 * PAGE]);
    assert!(Untouched::watch(&regions).unwrap().is_none());
}

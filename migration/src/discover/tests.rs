use std::os::unix::fs::FileExt;
use std::sync::Arc;

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::*;
use crate::memory::Layout;
use crate::testing::memory;

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
    let maps = present(&regions);
    let found: Vec<_> = maps
        .iter()
        .map(|map| (map.extents().next().unwrap(), map.extents().count()))
        .collect();
    assert_eq!(found, [(63..64, 1), (1_000_000..1_000_002, 1), (5..6, 1)]);
    assert_eq!(present(&regions), maps, "looking allocates nothing");
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
        present(std::slice::from_ref(&ours))[0]
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

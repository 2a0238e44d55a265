//! On this host's userfaultfd; where it has none, or does not allow it, they say
//! so and end.

use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::mpsc;

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::*;
use crate::memory::{Layout, PAGE_BYTES};
use crate::store::save;

/// No test waits longer.
const PATIENCE: Duration = Duration::from_secs(60);

fn memfd(bytes: u64, flags: MFdFlags) -> Arc<File> {
    let file = File::from(memfd_create(c"fill", flags).unwrap());
    file.set_len(bytes).unwrap();
    Arc::new(file)
}

fn region(address: u64, pages: u64, page_bytes: u64) -> Region {
    let flags = if page_bytes == PAGE {
        MFdFlags::empty()
    } else {
        MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB
    };
    let layout = Layout {
        guest_address: address,
        size_bytes: pages * PAGE,
        page_bytes,
        file_offset: 0,
    };
    Region::map(layout, memfd(pages * PAGE, flags)).unwrap()
}

/// Two regions, neither of whole chunks.
fn regions() -> Vec<Region> {
    vec![region(0, 1000, PAGE), region(1 << 30, 333, PAGE)]
}

fn page(region: &Region, page: u64) -> [u8; PAGE_BYTES] {
    let mut bytes = [0; PAGE_BYTES];
    region.read(page, &mut bytes).unwrap();
    bytes
}

/// What is stored of `regions` when every third page holds something.
fn stored(regions: &[Region]) -> (File, Checksums) {
    for (number, region) in regions.iter().enumerate() {
        for at in (0..region.pages()).step_by(3) {
            let byte = u8::try_from((at + number as u64) % 251).unwrap() + 1;
            region.write(at, &[byte; PAGE_BYTES]).unwrap();
        }
    }
    let file = memfd(0, MFdFlags::empty());
    let (_, sums) = save(regions, &file).unwrap();
    (Arc::into_inner(file).unwrap(), sums)
}

struct Filling {
    fill: Fill,
    told: mpsc::Receiver<Result<Stored, Lost>>,
}

/// `None` where faults cannot be served.
fn start(to: &[Region], file: &File, sums: &Checksums, order: Order) -> Option<Filling> {
    let (tell, told) = mpsc::channel();
    let file = file.try_clone().unwrap();
    let told_by = Box::new(move |end| tell.send(end).unwrap());
    match Fill::start_in_order(to.to_vec(), file, sums.clone(), told_by, order) {
        Ok(fill) => Some(Filling { fill, told }),
        Err(FillError::Unavailable(error)) => {
            eprintln!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn all_comes_by_itself_and_holes_stay_holes() {
    let from = regions();
    let (file, sums) = stored(&from);
    let to = regions();
    let Some(filling) = start(&to, &file, &sums, Order::WantedFirst) else {
        return;
    };
    filling.fill.arm().unwrap();
    filling.fill.wait(|| false).unwrap();
    let end = filling.told.recv_timeout(PATIENCE).unwrap().unwrap();
    assert_eq!(end.size_bytes, 1333 * PAGE);
    assert_eq!(end.data_bytes, (334 + 111) * PAGE);
    let blocks = |region: &Region| region.file().metadata().unwrap().blocks() * 512;
    assert_eq!(to.iter().map(blocks).sum::<u64>(), end.data_bytes);
    for (from, to) in from.iter().zip(&to) {
        for at in 0..from.pages() {
            assert!(page(from, at) == page(to, at), "page {at}");
        }
    }
}

#[test]
fn what_is_wanted_comes_at_once_and_to_all_who_want_it() {
    let from = regions();
    let (file, sums) = stored(&from);
    let to = regions();
    let Some(filling) = start(&to, &file, &sums, Order::OnlyWanted) else {
        return;
    };
    thread::scope(|scope| {
        for first in 0..4 {
            let (from, to) = (&from, &to);
            scope.spawn(move || {
                for (from, to) in from.iter().zip(to) {
                    // All begin with the last pages, and meet.
                    for at in (0..from.pages()).rev().step_by(first + 1) {
                        assert!(page(from, at) == page(to, at), "page {at}");
                    }
                }
            });
        }
    });
    assert!(!filling.fill.is_lost());
    assert!(matches!(
        filling.fill.wait(|| true),
        Err(Unfilled::Cancelled)
    ));
}

/// The kernel's own accesses wait as well: that is how KVM and vhost reach memory.
#[test]
fn the_kernel_gets_what_it_wants() {
    let from = regions();
    let (file, sums) = stored(&from);
    let to = regions();
    let Some(filling) = start(&to, &file, &sums, Order::OnlyWanted) else {
        return;
    };
    let out = memfd(0, MFdFlags::empty());
    assert_eq!(kernel_copies(&to[0], 996, 4, &out).unwrap(), 4 * PAGE_BYTES);
    let mut bytes = vec![0; 4 * PAGE_BYTES];
    out.read_exact_at(&mut bytes, 0).unwrap();
    let mut wanted = Vec::new();
    for at in 996..1000 {
        wanted.extend(page(&from[0], at));
    }
    assert!(bytes == wanted);
    drop(filling);
}

/// Has the kernel write pages of guest memory to a file.
#[allow(unsafe_code, reason = "a system call on guest memory, in a test")]
fn kernel_copies(region: &Region, first: u64, count: u64, to: &File) -> io::Result<usize> {
    use std::os::fd::AsRawFd;
    let piece = region.span(first, count).unwrap().iovec();
    // SAFETY: the piece is part of the region's mapping.
    let rc = unsafe { libc::pwritev(to.as_raw_fd(), &raw const piece, 1, 0) };
    usize::try_from(rc).map_err(|_| io::Error::last_os_error())
}

fn damage(file: &File, at: u64) {
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

#[test]
fn what_is_damaged_is_given_to_nobody_and_the_rest_goes_on() {
    let from = regions();
    let (file, sums) = stored(&from);
    damage(&file, 500 * PAGE);
    let to = regions();
    let Some(filling) = start(&to, &file, &sums, Order::OnlyWanted) else {
        return;
    };
    filling.fill.arm().unwrap();
    let out = memfd(0, MFdFlags::empty());
    thread::scope(|scope| {
        let waits = scope.spawn(|| kernel_copies(&to[0], 500, 1, &out));
        let lost = filling.told.recv_timeout(PATIENCE).unwrap().unwrap_err();
        let StoreError::Damaged { offset, .. } = *lost.0 else {
            panic!("{lost}");
        };
        assert_eq!(offset, 496 * PAGE);
        assert!(filling.fill.is_lost());
        assert!(matches!(
            filling.fill.wait(|| false),
            Err(Unfilled::Lost(_))
        ));
        // It waits on, while others are served.
        assert!(page(&from[0], 3) == page(&to[0], 3));
        assert!(page(&from[1], 300) == page(&to[1], 300));
        assert!(!waits.is_finished());
        filling.fill.condemn();
        let error = waits.join().unwrap().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EFAULT));
    });
    assert!(page(&from[1], 330) == page(&to[1], 330));
}

#[test]
fn a_loss_before_the_guest_runs_lets_everybody_go() {
    let from = regions();
    let (file, sums) = stored(&from);
    damage(&file, 500 * PAGE);
    let to = regions();
    let Some(filling) = start(&to, &file, &sums, Order::WantedFirst) else {
        return;
    };
    // Whatever it reads, it is not left waiting.
    let _ = page(&to[0], 500);
    assert!(filling.fill.wait(|| false).is_err());
    assert!(filling.fill.arm().is_err());
    assert!(filling.told.try_recv().is_err(), "nobody was told");
}

#[test]
fn a_file_that_became_shorter_is_a_loss() {
    let from = regions();
    let (file, sums) = stored(&from);
    let to = regions();
    let Some(filling) = start(&to, &file, &sums, Order::OnlyWanted) else {
        return;
    };
    filling.fill.arm().unwrap();
    file.set_len(100 * PAGE).unwrap();
    let out = memfd(0, MFdFlags::empty());
    thread::scope(|scope| {
        let waits = scope.spawn(|| kernel_copies(&to[0], 200, 1, &out));
        let lost = filling.told.recv_timeout(PATIENCE).unwrap().unwrap_err();
        assert!(matches!(*lost.0, StoreError::File { .. }), "{lost}");
        filling.fill.condemn();
        assert!(waits.join().unwrap().is_err());
    });
}

#[test]
fn memory_that_has_pages_already_is_not_filled_so() {
    let (file, sums) = stored(&regions());
    let to = regions();
    to[1].write(7, &[1; PAGE_BYTES]).unwrap();
    let told = Box::new(|_| ());
    let refused = Fill::start(to.clone(), file, sums, told);
    assert!(matches!(refused, Err(FillError::Unavailable(_))));
    assert_eq!(page(&to[1], 8), [0; PAGE_BYTES], "nobody waits");
}

#[test]
fn a_file_with_a_new_hole_is_refused_before_anything_is_read() {
    let (file, sums) = stored(&regions());
    file.set_len(100 * PAGE).unwrap();
    file.set_len(1333 * PAGE).unwrap();
    let refused = Fill::start(regions(), file, sums, Box::new(|_| ()));
    let Err(FillError::Store(StoreError::Damaged { .. })) = refused else {
        panic!("{refused:?}");
    };
}

/// Needs four free huge pages of 2 MiB.
#[test]
fn huge_pages_come_whole() {
    const HUGE: u64 = 2 << 20;
    let free = std::fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
    let free: u64 = free.map_or(0, |text| text.trim().parse().unwrap());
    if free < 4 {
        eprintln!("skipped: {free} huge pages are free, and 4 are wanted");
        return;
    }
    let from = vec![region(0, 4 * HUGE / PAGE, PAGE)];
    from[0].write(3, &[1; PAGE_BYTES]).unwrap();
    from[0].write(1100, &[2; PAGE_BYTES]).unwrap();
    let file = memfd(0, MFdFlags::empty());
    let (_, sums) = save(&from, &file).unwrap();
    for order in [Order::OnlyWanted, Order::WantedFirst] {
        let to = vec![region(0, 4 * HUGE / PAGE, HUGE)];
        let Some(filling) = start(&to, &file, &sums, order) else {
            return;
        };
        filling.fill.arm().unwrap();
        if order == Order::WantedFirst {
            filling.fill.wait(|| false).unwrap();
            let blocks = to[0].file().metadata().unwrap().blocks() * 512;
            assert_eq!(blocks, 2 * HUGE);
        }
        for at in [0, 3, 4, 511, 512, 1100, 2000] {
            assert!(page(&from[0], at) == page(&to[0], at), "page {at}");
        }
    }
}

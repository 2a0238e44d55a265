use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

use super::chunks::{of_zeros, runs};
use super::*;
use crate::memory::{Layout, PAGE, Region};

fn memfd(bytes: u64) -> Arc<File> {
    let fd = nix::sys::memfd::memfd_create(c"store", nix::sys::memfd::MFdFlags::empty());
    let file = File::from(fd.unwrap());
    file.set_len(bytes).unwrap();
    Arc::new(file)
}

fn memory(pages: &[u64]) -> Vec<Region> {
    let mut address = 0;
    pages
        .iter()
        .map(|&pages| {
            let layout = Layout {
                guest_address: address,
                size_bytes: pages * PAGE,
                page_bytes: PAGE,
                file_offset: 0,
            };
            address += pages * PAGE;
            Region::map(layout, memfd(pages * PAGE)).unwrap()
        })
        .collect()
}

fn page(byte: u8) -> Vec<u8> {
    vec![byte; usize::try_from(PAGE).unwrap()]
}

fn content(regions: &[Region]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for region in regions {
        for page in 0..region.pages() {
            region.append_to(page, &mut bytes).unwrap();
        }
    }
    bytes
}

#[test]
fn what_is_stored_is_loaded_and_nothing_is_allocated_for_zeros() {
    let from = memory(&[1000, 3000]);
    for (region, at, byte) in [(0, 0, 1), (0, 999, 2), (1, 0, 3), (1, 700, 4), (1, 2999, 5)] {
        from[region].write(at, &page(byte)).unwrap();
    }
    // Present, and zero.
    from[1].write(5, &page(0)).unwrap();
    let file = memfd(0);
    let (stored, sums) = save(&from, &file).unwrap();
    assert_eq!(stored.size_bytes, 4000 * PAGE);
    assert_eq!(stored.data_bytes, 5 * PAGE);

    let to = memory(&[1000, 3000]);
    let loaded = load(&to, &file, Some(&sums)).unwrap();
    assert_eq!(loaded.data_bytes, 5 * PAGE);
    let blocks = |region: &Region| region.file().metadata().unwrap().blocks() * 512 / PAGE;
    assert_eq!(to.iter().map(blocks).sum::<u64>(), 5);
    assert!(content(&from) == content(&to));
}

#[test]
fn the_file_of_another_guest_is_refused() {
    let file = memfd(10 * PAGE);
    let refused = load(&memory(&[11]), &file, None);
    assert!(matches!(refused, Err(StoreError::Size { .. })));
}

#[test]
fn a_run_longer_than_a_chunk_is_whole() {
    let from = memory(&[600]);
    for at in 0..600 {
        let byte = u8::try_from(at % 251 + 1).unwrap();
        from[0].write(at, &page(byte)).unwrap();
    }
    let (file, to) = (memfd(0), memory(&[600]));
    let (_, sums) = save(&from, &file).unwrap();
    load(&to, &file, Some(&sums)).unwrap();
    assert!(content(&from) == content(&to));
}

/// Two regions, neither of whole chunks, and what was stored of them.
fn stored() -> (File, Checksums) {
    let from = memory(&[100, 37]);
    for (region, at, byte) in [(0, 0, 1), (0, 3, 2), (0, 99, 3), (1, 36, 4)] {
        from[region].write(at, &page(byte)).unwrap();
    }
    let file = memfd(0);
    let (_, sums) = save(&from, &file).unwrap();
    (Arc::into_inner(file).unwrap(), sums)
}

#[test]
fn each_region_begins_a_chunk() {
    let (_, sums) = stored();
    assert_eq!(sums.0.len(), 7 + 3);
    let zeros = of_zeros(CHUNK_BYTES);
    let holes: Vec<_> = (0..10).filter(|&n| sums.0[n] == zeros).collect();
    assert_eq!(holes, [1, 2, 3, 4, 5, 7, 8]);
}

#[test]
fn any_byte_that_changed_is_found_and_its_place_is_told() {
    let (file, sums) = stored();
    let size = 137 * PAGE;
    // In data, at its ends, beside it, and in a hole.
    for at in [0, 4095, 4096, 5 * PAGE, 40 * PAGE + 7, 99 * PAGE, size - 1] {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
        let error = load(&memory(&[100, 37]), &file, Some(&sums)).unwrap_err();
        let StoreError::Damaged { offset, bytes, .. } = error else {
            panic!("{at}: {error}");
        };
        assert!((offset..offset + bytes).contains(&at), "{at}: {error}");
        file.write_all_at(&byte, at).unwrap();
    }
    load(&memory(&[100, 37]), &file, Some(&sums)).unwrap();
}

#[test]
fn data_that_became_a_hole_is_found() {
    let (file, sums) = stored();
    file.set_len(50 * PAGE).unwrap();
    file.set_len(137 * PAGE).unwrap();
    let error = load(&memory(&[100, 37]), &file, Some(&sums)).unwrap_err();
    let damaged = matches!(error, StoreError::Damaged { offset, .. } if offset == 96 * PAGE);
    assert!(damaged, "{error}");
    // Without checksums nobody can tell.
    load(&memory(&[100, 37]), &file, None).unwrap();
}

#[test]
fn a_copy_without_holes_is_as_good() {
    let (file, sums) = stored();
    let mut whole = vec![0; 137 * 4096];
    file.read_exact_at(&mut whole, 0).unwrap();
    let dense = memfd(0);
    dense.write_all_at(&whole, 0).unwrap();
    let to = memory(&[100, 37]);
    let loaded = load(&to, &dense, Some(&sums)).unwrap();
    assert_eq!(loaded.data_bytes, 4 * PAGE);
    assert!(content(&to) == whole);
}

#[test]
fn checksums_of_other_memory_are_refused() {
    let (file, mut sums) = stored();
    sums.0.pop();
    let error = load(&memory(&[100, 37]), &file, Some(&sums)).unwrap_err();
    assert!(matches!(
        error,
        StoreError::Checksums {
            expected: 10,
            found: 9
        }
    ));
}

#[test]
fn runs_are_those_that_are_not_zero() {
    let mut bytes = vec![0; 5 * 4096];
    assert_eq!(runs(&bytes).count(), 0);
    for at in [4096, 2 * 4096 + 9, 5 * 4096 - 1] {
        bytes[at] = 1;
    }
    let found: Vec<_> = runs(&bytes).collect();
    assert_eq!(found, [4096..3 * 4096, 4 * 4096..5 * 4096]);
}

//! Arithmetic of the address map.

use proptest::prelude::*;

use super::*;

fn region(start: u64, size: u64, zone: usize, offset: u64) -> RamRegion {
    RamRegion {
        start: GuestAddress(start),
        size,
        zone,
        offset,
    }
}

#[test]
fn ram_lies_around_the_hole() {
    assert_eq!(ram_regions(128 * MIB), Ok(vec![region(0, 128 * MIB, 0, 0)]));
    assert_eq!(ram_regions(3 * GIB), Ok(vec![region(0, 3 * GIB, 0, 0)]));
    assert_eq!(
        ram_regions(3 * GIB + 4096),
        Ok(vec![
            region(0, 3 * GIB, 0, 0),
            region(4 * GIB, 4096, 0, 3 * GIB)
        ])
    );
    assert_eq!(
        ram_regions(TIB),
        Ok(vec![
            region(0, 3 * GIB, 0, 0),
            region(4 * GIB, TIB - 3 * GIB, 0, 3 * GIB)
        ])
    );
    assert_eq!(ram_regions(TIB + 4096), Err(LayoutError::TooLarge));
    assert_eq!(ram_regions(0), Err(LayoutError::Empty));
}

#[test]
fn gigantic_pages_split_at_the_hole() {
    let zone = |size, page_size| Zone { size, page_size };
    assert_eq!(
        place_zones(&[zone(2 * GIB, GIB), zone(4 * GIB, GIB)]),
        Ok(vec![
            region(0, 2 * GIB, 0, 0),
            region(2 * GIB, GIB, 1, 0),
            region(4 * GIB, 3 * GIB, 1, GIB),
        ])
    );
    // A gap in addresses rather than a huge page cut in two.
    assert_eq!(
        place_zones(&[zone(512 * MIB, 2 * MIB), zone(3 * GIB, GIB)]),
        Ok(vec![
            region(0, 512 * MIB, 0, 0),
            region(GIB, 2 * GIB, 1, 0),
            region(4 * GIB, GIB, 1, 2 * GIB),
        ])
    );
}

#[test]
fn zones_name_what_is_wrong() {
    let text = place_zones(&[Zone {
        size: 5 * MIB,
        page_size: 2 * MIB,
    }])
    .map_err(|error| error.to_string());
    assert_eq!(
        text,
        Err(
            "memory zone 0: size 5242880 is not a multiple of its page size 2097152: \
             use 4194304 or 6291456"
                .to_owned()
        )
    );
    assert_eq!(
        place_zones(&[Zone {
            size: MIB,
            page_size: 0
        }]),
        Err(LayoutError::PageSize {
            zone: 0,
            page_size: 0
        })
    );
}

#[test]
fn memory_map_keeps_bios_area_and_ecam() {
    let regions = ram_regions(4 * GIB).expect("4 GiB can be laid out");
    let map: Vec<_> = memory_map(&regions)
        .iter()
        .map(|entry| (entry.start, entry.start + entry.size, entry.kind))
        .collect();
    assert_eq!(
        map,
        [
            (0, EBDA_START, MemoryKind::Ram),
            (EBDA_START, MIB, MemoryKind::Reserved),
            (MIB, HOLE_START, MemoryKind::Ram),
            (0xe000_0000, 0xf000_0000, MemoryKind::Reserved),
            (HOLE_END, 5 * GIB, MemoryKind::Ram),
        ]
    );
}

#[test]
fn pci_window_follows_ram() {
    assert_eq!(pci_window_64(HOLE_END, 40), Some(4 * GIB..TIB));
    assert_eq!(pci_window_64(5 * GIB + 4096, 36), Some(6 * GIB..64 * GIB));
    assert_eq!(pci_window_64(TIB + GIB, 40), None);
    assert_eq!(pci_window_64(HOLE_END, 32), None);
    assert_eq!(pci_window_64(HOLE_END, 52), Some(4 * GIB..1 << 48));
}

#[test]
fn fixed_ranges_do_not_overlap() {
    let mut ranges = [
        (0, HOLE_START),
        (PCI_WINDOW_32.start, PCI_WINDOW_32.end),
        (ECAM_START, ECAM_START + ECAM_SIZE),
        (PLATFORM_START, PLATFORM_START + PLATFORM_SIZE),
        (u64::from(IOAPIC), u64::from(IOAPIC) + 4096),
        (u64::from(LOCAL_APIC), u64::from(LOCAL_APIC) + 4096),
        (IDENTITY_MAP, IDENTITY_MAP + 4096),
        (TSS, TSS + 3 * 4096),
    ];
    ranges.sort_unstable();
    for pair in ranges.windows(2) {
        assert!(pair[0].1 <= pair[1].0, "{pair:x?}");
    }
    assert!(ranges.iter().all(|range| range.1 <= HOLE_END));
}

proptest! {
    #[test]
    fn placement_keeps_size_alignment_and_the_hole(
        zones in proptest::collection::vec(
            (0_u64..600, prop::sample::select(vec![4096, 2 * MIB, GIB])), 1..6)
    ) {
        let zones: Vec<Zone> = zones
            .into_iter()
            .map(|(pages, page_size)| Zone { size: pages * page_size, page_size })
            .collect();
        let total: u64 = zones.iter().map(|zone| zone.size).sum();
        let regions = match place_zones(&zones) {
            Ok(regions) => regions,
            Err(LayoutError::Empty) => { prop_assert_eq!(total, 0); return Ok(()) }
            Err(error) => {
                prop_assert_eq!(error, LayoutError::TooLarge);
                prop_assert!(total > RAM_MAX);
                return Ok(())
            }
        };
        prop_assert_eq!(regions.iter().map(|region| region.size).sum::<u64>(), total);
        let mut last = 0;
        for region in &regions {
            let page = zones[region.zone].page_size;
            prop_assert!(region.start.0 >= last);
            last = region.end();
            prop_assert!(region.start.0.is_multiple_of(page));
            prop_assert!(region.offset.is_multiple_of(page));
            prop_assert!(region.size.is_multiple_of(page));
            prop_assert!(region.end() <= HOLE_START || region.start.0 >= HOLE_END);
        }
        let map = memory_map(&regions);
        for pair in map.windows(2) {
            prop_assert!(pair[0].start + pair[0].size <= pair[1].start);
        }
    }
}

use super::*;
use crate::testing::memory_file;

fn region(pages: u64) -> Region {
    let layout = Layout {
        guest_address: 0,
        size_bytes: pages * PAGE,
        page_bytes: PAGE,
        file_offset: 0,
    };
    Region::map(layout, memory_file(pages * PAGE)).unwrap()
}

#[test]
fn nothing_outside_the_region_can_be_reached() {
    let region = region(4);
    for (first, count) in [(4, 1), (0, 5), (u64::MAX, 1), (1, u64::MAX)] {
        assert!(region.span(first, count).is_none());
        assert!(region.write_zeros(first, count).is_none());
        assert!(region.populate(first, count).is_err());
    }
    assert!(region.is_zero(4).is_none());
    assert!(region.append_to(4, &mut Vec::new()).is_none());
    assert!(region.write(3, &[0; 2 * PAGE_BYTES]).is_none());
    assert!(region.write(0, &[0; 100]).is_none());
}

#[test]
fn what_is_written_is_read_and_zeroed() {
    let region = region(4);
    region.write(1, &[7; 2 * PAGE_BYTES]).unwrap();
    assert_eq!(region.is_zero(0), Some(true));
    assert_eq!(region.is_zero(2), Some(false));
    let mut copy = vec![1];
    region.append_to(2, &mut copy).unwrap();
    assert_eq!(copy.len(), 1 + PAGE_BYTES);
    assert!(copy[1..].iter().all(|b| *b == 7));
    region.write_zeros(2, 1).unwrap();
    assert_eq!(region.is_zero(2), Some(true));
    assert_eq!(region.is_zero(1), Some(false));
}

#[test]
fn a_region_is_whole_pages() {
    let good = Layout {
        guest_address: 0,
        size_bytes: PAGE,
        page_bytes: PAGE,
        file_offset: 0,
    };
    let file = memory_file(PAGE);
    for bad in [
        Layout {
            size_bytes: 0,
            ..good
        },
        Layout {
            size_bytes: 100,
            ..good
        },
        Layout {
            guest_address: 1,
            ..good
        },
        Layout {
            guest_address: u64::MAX - PAGE + 1,
            ..good
        },
        Layout {
            file_offset: 5,
            ..good
        },
    ] {
        assert!(Region::map(bad, Arc::clone(&file)).is_err(), "{bad:?}");
    }
}

use super::*;
use crate::testing::memory;

fn means(zero_lines: ZeroLines) -> Means {
    Means {
        zero_lines,
        ..Means::default()
    }
}

#[test]
fn a_zero_page_travels_only_if_it_was_more_before() {
    let regions = memory(&[4 * PAGE]);
    let written = Written::new(&regions);
    let mut encoder = Encoder::new(&regions, &written, means(ZeroLines::Off));
    regions[0].write(1, &[1; PAGE_BYTES]).unwrap();
    regions[0].write(2, &[0; PAGE_BYTES]).unwrap();
    for page in 1..3 {
        encoder.add(0, page).unwrap();
    }
    assert_eq!(encoder.index.pieces.len(), 1);
    assert_eq!(encoder.index.pieces[0].content, Content::Raw);
    regions[0].write_zeros(1, 1).unwrap();
    for _ in 0..2 {
        // The second time it is known to be zero there.
        encoder.add(0, 1).unwrap();
    }
    assert_eq!(encoder.index.pieces.len(), 2);
    assert_eq!(encoder.index.pieces[1].content, Content::Zero);
    assert_eq!(encoder.tally.zero, 3 * PAGE);
}

#[test]
fn only_lines_that_are_not_zero_are_kept() {
    let regions = memory(&[2 * PAGE]);
    let written = Written::new(&regions);
    let mut encoder = Encoder::new(&regions, &written, means(ZeroLines::On));
    let mut page = [0; PAGE_BYTES];
    page[3 * 64] = 3;
    page[63 * 64 + 63] = 9;
    regions[0].write(0, &page).unwrap();
    regions[0].write(1, &[1; PAGE_BYTES]).unwrap();
    encoder.add(0, 0).unwrap();
    encoder.add(0, 1).unwrap();
    assert_eq!(encoder.index.maps, [1 << 3 | 1 << 63]);
    assert_eq!(encoder.payload.len(), 128 + PAGE_BYTES);
    assert_eq!((encoder.payload[0], encoder.payload[127]), (3, 9));
    assert_eq!(encoder.index.payload_bytes(), encoder.payload.len());
}

#[test]
fn lines_are_left_alone_where_nothing_is_gained() {
    let mut gauge = Gauge {
        mode: ZeroLines::Auto,
        pause: 0,
    };
    gauge.learn(100, 0);
    let mut tries = 0;
    for _ in 0..160 {
        tries += u32::from(gauge.is_on());
        gauge.learn(100, 0);
    }
    assert_eq!(tries, 10);
    gauge.pause = 0;
    for _ in 0..160 {
        assert!(gauge.is_on());
        gauge.learn(100, 90 * PAGE);
    }
}

#[test]
fn pages_outside_are_an_error() {
    let regions = memory(&[2 * PAGE]);
    let written = Written::new(&regions);
    let mut encoder = Encoder::new(&regions, &written, Means::default());
    assert!(encoder.add(0, 2).is_err());
    assert!(encoder.add(1, 0).is_err());
}

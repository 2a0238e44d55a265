//! What a source sent, recorded, and played to destinations with each byte
//! missing or changed in turn.

use super::*;
use crate::testing::play;

/// A small guest's migration: what travelled on control and data connections.
fn recording(whole_page: bool) -> Vec<Vec<u8>> {
    let run = Run {
        fault: Some((9, Way::Forth, Fault::Cut(0))),
        ..Run::default()
    };
    let mut guest = FakeSource::new(memory(&[8 * PAGE]));
    let mut lines = [0; PAGE_BYTES];
    lines[100] = 1;
    lines[3000] = 2;
    guest.memory()[0].write(0, &lines).unwrap();
    if whole_page {
        guest.memory()[0].write(3, &[7; PAGE_BYTES]).unwrap();
    }
    guest.memory()[0].write(4, &[0; PAGE_BYTES]).unwrap();
    let mut place = FakeDestination::new();
    let (end, records) = run.run_recorded(&mut guest, &mut place);
    moved(end);
    records
}

#[test]
fn a_stream_that_ends_anywhere_or_is_damaged_anywhere_is_refused() {
    let whole = recording(false);
    let (place, played) = play(&whole, FakeDestination::new());
    assert!(played.is_ok(), "{played:?}");
    assert_eq!(place.runs(), 1);
    spoil(&whole, 0, 1);
    spoil(&whole, 1, 1);
}

#[test]
fn whole_pages_are_guarded_too() {
    // Too long for each byte.
    let whole = recording(true);
    assert!(play(&whole, FakeDestination::new()).1.is_ok());
    spoil(&whole, 1, 67);
}

/// Ends and damages one connection at each `step`th byte in turn.
fn spoil(whole: &[Vec<u8>], connection: usize, step: usize) {
    for at in (0..whole[connection].len()).step_by(step) {
        let mut cut = whole.to_vec();
        cut[connection].truncate(at);
        let mut damaged = whole.to_vec();
        damaged[connection][at] ^= 1 << (at % 8);
        for (what, bytes) in [("cut", cut), ("damaged", damaged)] {
            let place = FakeDestination::new().with_most_bytes(1 << 30);
            let (place, played) = play(&bytes, place);
            assert!(played.is_err(), "connection {connection} {what} at {at}");
            assert_eq!(place.runs(), 0, "connection {connection} {what} at {at}");
            assert!(
                place.memory().is_empty(),
                "{what} at {at}: {:?}",
                place.steps
            );
        }
    }
}

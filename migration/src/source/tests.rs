use std::thread;

use super::*;
use crate::channel::Listener;
use crate::destination::{Arrived, ReceiveError, receive};
use crate::memory::{PAGE, PAGE_BYTES};
use crate::testing::{Directory, FakeDestination, FakeSource, Numbers, first_difference, memory};

type Sent = Result<Outcome, SendFailure>;
type Received = Result<Arrived, ReceiveError>;

/// Moves `guest` to `place`; both ends run as in life, each in its thread.
fn migrate(
    guest: &mut FakeSource,
    place: &mut FakeDestination,
    at: &Address,
    options: &Options,
) -> (Sent, Received) {
    let door = Listener::bind(at).unwrap();
    let to = door.address().clone();
    thread::scope(|scope| {
        let there = scope.spawn(|| {
            let cancel = Cancel::new().unwrap();
            receive(&door, place, options, &Arc::default(), &cancel)
        });
        let cancel = Cancel::new().unwrap();
        let sent = send(guest, &to, options, &Arc::default(), &cancel);
        (sent, there.join().unwrap())
    })
}

fn fill(regions: &[Region], pages: u64, seed: u64) {
    let mut numbers = Numbers::new(seed);
    for _ in 0..pages {
        let region = &regions[usize::try_from(numbers.below(regions.len() as u64)).unwrap()];
        let mut page = [0; PAGE_BYTES];
        for _ in 0..=numbers.below(300) {
            let at = usize::try_from(numbers.below(PAGE)).unwrap();
            page[at] = u8::try_from(numbers.below(256)).unwrap();
        }
        region.write(numbers.below(region.pages()), &page).unwrap();
    }
}

#[test]
fn a_guest_moves_over_each_kind_of_socket() {
    let directory = Directory::new();
    for at in [
        directory.socket("x"),
        "tcp:127.0.0.1:0".parse().unwrap(),
        "tcp:[::1]:0".parse().unwrap(),
        "tcp:localhost:0".parse().unwrap(),
    ] {
        let mut guest = FakeSource::new(memory(&[8 << 20, 2 << 20]));
        fill(guest.memory(), 900, 5);
        let before = guest.memory().to_vec();
        let mut place = FakeDestination::new();
        let (sent, received) = migrate(&mut guest, &mut place, &at, &Options::default());
        let Ok(Outcome::Moved(snapshot)) = sent else {
            panic!("{at}: {sent:?}, {received:?}");
        };
        assert!(received.is_ok(), "{at}: {received:?}");
        assert_eq!(first_difference(&before, place.memory()), None, "{at}");
        assert_eq!(place.state, b"the state of the guest");
        assert!(snapshot.downtime_us > 0 && snapshot.total_us >= snapshot.downtime_us);
        assert_eq!(place.runs(), 1);
    }
}

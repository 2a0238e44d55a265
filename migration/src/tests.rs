//! Migrations from end to end, on fake guests.

mod faults;
mod local;
mod means;
mod moves;
mod replay;
mod versions;

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::address::Address;
use crate::cancel::Cancel;
use crate::channel::Listener;
use crate::destination::{Arrived, ReceiveError, receive};
use crate::memory::{PAGE, PAGE_BYTES, Region};
use crate::options::Options;
use crate::phase::Phase;
use crate::source::{Outcome, SendFailure, send};
use crate::stats::{Progress, Snapshot};
use crate::testing::{
    Directory, FakeDestination, FakeSource, Fault, Memory, Numbers, Proxy, Step, Way,
    first_difference, memory,
};

/// What became of both sides.
struct End {
    sent: Result<Outcome, SendFailure>,
    received: Result<Arrived, ReceiveError>,
}

/// How a migration is run.
struct Run {
    at: Option<Address>,
    fault: Option<(usize, Way, Fault)>,
    options: Options,
    cancel_source: Cancel,
    cancel_destination: Cancel,
}

impl Default for Run {
    fn default() -> Self {
        Self {
            at: None,
            fault: None,
            options: Options {
                // Generous, but a hang still ends as a failure of the test.
                stall: Duration::from_secs(20),
                stopped: Duration::from_secs(20),
                timeout: Duration::from_secs(60),
                ..Options::default()
            },
            cancel_source: Cancel::new().unwrap(),
            cancel_destination: Cancel::new().unwrap(),
        }
    }
}

impl Run {
    /// Moves `guest` to `place`; both ends run as in life, each in its thread.
    fn run(&self, guest: &mut FakeSource, place: &mut FakeDestination) -> End {
        self.run_recorded(guest, place).0
    }

    /// The same, with what the source sent if a proxy was in between.
    fn run_recorded(
        &self,
        guest: &mut FakeSource,
        place: &mut FakeDestination,
    ) -> (End, Vec<Vec<u8>>) {
        let directory = Directory::new();
        let at = self.at.clone().unwrap_or_else(|| directory.socket("door"));
        let door = Listener::bind(&at).unwrap();
        let proxy = self.fault.map(|fault| Proxy::start(&at, Some(fault)));
        let to = proxy
            .as_ref()
            .map_or(door.address(), Proxy::address)
            .clone();
        let end = thread::scope(|scope| {
            let there = scope.spawn(|| {
                let progress = Arc::<Progress>::default();
                let cancel = &self.cancel_destination;
                receive(&door, place, &self.options, &progress, cancel)
            });
            let progress = Arc::<Progress>::default();
            let sent = send(guest, &to, &self.options, &progress, &self.cancel_source);
            if sent.is_err() {
                // It may not even have reached the door.
                for _ in 0..50 {
                    if there.is_finished() {
                        break;
                    }
                    thread::sleep(Duration::from_millis(2));
                }
                self.cancel_destination.cancel();
            }
            End {
                sent,
                received: there.join().unwrap(),
            }
        });
        (end, proxy.map(|p| p.records()).unwrap_or_default())
    }
}

fn count(steps: &[Step], step: Step) -> usize {
    steps.iter().filter(|s| **s == step).count()
}

/// Never two guests, never none without a paused one; nothing is torn down twice.
fn assert_one_guest(guest: &FakeSource, place: &FakeDestination, end: &End, what: &str) {
    let resumed = count(&guest.steps, Step::Resume);
    let released = count(&guest.steps, Step::Release);
    let runs = count(&place.steps, Step::Run);
    let told = format!(
        "{what}: {:?} / {:?}, source {:?}, destination {:?}",
        end.sent, end.received, guest.steps, place.steps
    );
    match &end.sent {
        Ok(Outcome::Moved(_)) => assert_eq!((resumed, released, runs), (0, 1, 1), "{told}"),
        Ok(Outcome::Ambiguous { .. }) => {
            assert_eq!((resumed, released), (0, 0), "{told}");
            assert!(runs <= 1, "{told}");
        }
        Err(_) => assert_eq!((resumed, released, runs), (1, 0, 0), "{told}"),
    }
    assert_eq!(end.received.is_ok(), runs == 1, "{told}");
    let abandoned = count(&place.steps, Step::Abandon);
    assert!(abandoned + runs <= 1, "{told}");
    assert!(
        runs == 1 || place.memory().is_empty(),
        "memory is left behind: {told}"
    );
}

/// The snapshot of a guest that moved.
fn moved(end: End) -> Snapshot {
    match end {
        End {
            sent: Ok(Outcome::Moved(snapshot)),
            received: Ok(_),
        } => snapshot,
        End { sent, received } => panic!("not moved: {sent:?}, {received:?}"),
    }
}

fn random_page(numbers: &mut Numbers) -> [u8; PAGE_BYTES] {
    let mut page = [0; PAGE_BYTES];
    match numbers.below(4) {
        0 => {}
        1 => page.fill(u8::try_from(numbers.below(255)).unwrap() + 1),
        _ => {
            for _ in 0..=numbers.below(60) {
                let at = usize::try_from(numbers.below(PAGE)).unwrap();
                page[at] = u8::try_from(numbers.below(256)).unwrap();
            }
        }
    }
    page
}

/// Writes `pages` pages here and there: full, sparse and zero ones.
fn fill(regions: &[Region], pages: u64, seed: u64) {
    let mut numbers = Numbers::new(seed);
    for _ in 0..pages {
        let region = &regions[usize::try_from(numbers.below(regions.len() as u64)).unwrap()];
        let page = random_page(&mut numbers);
        region.write(numbers.below(region.pages()), &page).unwrap();
    }
}

/// A vCPU that writes one page of the first `pages` of region 0 about every `every`.
fn writer(pages: u64, every: Duration) -> impl Fn(&Memory, &mut Numbers) + Send + Sync {
    move |memory, numbers| {
        let page = random_page(numbers);
        memory.write(0, numbers.below(pages), &page);
        if !every.is_zero() {
            thread::sleep(every);
        }
    }
}

/// A small guest with something in it.
fn small() -> FakeSource {
    let guest = FakeSource::new(memory(&[64 * PAGE, 16 * PAGE]));
    fill(guest.memory(), 30, 3);
    guest
}

/// After the migration both memories must be equal.
fn assert_same(before: &[Region], place: &FakeDestination) {
    assert_eq!(first_difference(before, place.memory()), None);
}

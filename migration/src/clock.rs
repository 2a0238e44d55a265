//! What time it is at the peer.

use std::time::Duration;

use crate::channel::{ChannelError, Link, Patience};
use crate::stats::Moment;
use crate::wire::message::Message;

/// The peer's clock against ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PeerClock {
    /// What to add to our clock to have the peer's, in ns.
    offset: i128,
    /// The shortest round trip.
    pub(crate) round_trip: Duration,
}

/// One question and its answer, all in ns.
#[derive(Debug, Clone, Copy)]
struct Sample {
    asked: u64,
    answered: u64,
    heard: u64,
}

impl PeerClock {
    /// From the sample with the shortest round trip: its answer lies in the
    /// middle, give or take half of it. Processes of one boot share the clock,
    /// unless a time namespace (time_namespaces(7)) shifts it: then the answers
    /// show it.
    fn from_samples(samples: &[Sample], same_boot: bool) -> Option<Self> {
        let best = samples
            .iter()
            .min_by_key(|s| s.heard.saturating_sub(s.asked))?;
        let trip = best.heard.saturating_sub(best.asked);
        let middle = i128::from(best.asked) + i128::from(trip / 2);
        let measured = i128::from(best.answered) - middle;
        let shared = same_boot && measured.unsigned_abs() <= u128::from(trip);
        Some(Self {
            offset: if shared { 0 } else { measured },
            round_trip: Duration::from_nanos(trip),
        })
    }

    /// The time from `ours` to `theirs`.
    pub(crate) fn between(&self, ours: Moment, theirs: Moment) -> Duration {
        let there = i128::from(theirs.as_nanos()) - self.offset;
        let passed = there - i128::from(ours.as_nanos());
        Duration::from_nanos(u64::try_from(passed).unwrap_or(0))
    }
}

/// Asks the peer a few times.
pub(crate) fn compare(link: &Link) -> Result<PeerClock, ChannelError> {
    const DOING: &str = "comparing clocks";
    const QUESTIONS: usize = 8;
    let boot = boot_id();
    let mut same_boot = boot != 0;
    let mut samples = Vec::with_capacity(QUESTIONS);
    for _ in 0..QUESTIONS {
        link.send(&question(boot), DOING)?;
        match link.receive(Patience::For(link.stall()), DOING)? {
            Message::Clock {
                asked,
                answered: Some(answered),
                boot: theirs,
            } => {
                same_boot &= theirs == boot;
                samples.push(Sample {
                    asked,
                    answered,
                    heard: Moment::now().as_nanos(),
                });
            }
            other => {
                return Err(ChannelError::Unexpected {
                    got: other.kind(),
                    wanted: "the answer to CLOCK",
                });
            }
        }
    }
    // There are samples: an error would have ended the loop.
    PeerClock::from_samples(&samples, same_boot).ok_or(ChannelError::Stopped)
}

/// A question, which is also a sign of life.
pub(crate) fn question(boot: u128) -> Message {
    Message::Clock {
        asked: Moment::now().as_nanos(),
        answered: None,
        boot,
    }
}

/// Which boot of which kernel our clock belongs to; zero if that is not told.
pub(crate) fn boot_id() -> u128 {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .ok()
        .and_then(|text| u128::from_str_radix(&text.trim().replace('-', ""), 16).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn sample(asked: u64, answered: u64, heard: u64) -> Sample {
        Sample {
            asked,
            answered,
            heard,
        }
    }

    #[test]
    fn the_shortest_round_trip_decides() {
        let samples = [sample(0, 90_000, 2000), sample(10_000, 60_050, 10_100)];
        let clock = PeerClock::from_samples(&samples, false).unwrap();
        assert_eq!(clock.round_trip, Duration::from_nanos(100));
        let passed = clock.between(Moment::from_nanos(20_000), Moment::from_nanos(70_500));
        assert_eq!(passed, Duration::from_nanos(500));
    }

    #[test]
    fn one_boot_has_one_clock_unless_a_namespace_shifts_it() {
        let near = [sample(1000, 1010, 1100)];
        let exact = PeerClock::from_samples(&near, true).unwrap();
        assert_eq!(exact.offset, 0);
        let shifted = [sample(1000, 900_000, 1100)];
        assert_ne!(PeerClock::from_samples(&shifted, true).unwrap().offset, 0);
    }

    #[test]
    fn a_peer_before_us_is_no_panic() {
        let clock = PeerClock::from_samples(&[sample(5, u64::MAX, 1)], false).unwrap();
        assert_eq!(
            clock.between(Moment::from_nanos(u64::MAX), Moment::from_nanos(0)),
            Duration::ZERO
        );
        assert!(PeerClock::from_samples(&[], true).is_none());
    }
}

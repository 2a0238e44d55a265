//! What a switch under traffic came to: frames, times, and what the VMM says.

use serde::{Deserialize, Serialize};

use crate::peer::Account;
use crate::traffic::{Flight, Record, Span, Tally};

/// One guest, one stream, one move. Times are in seconds since the stream began.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// The VMM's name.
    pub vmm: String,
    /// Whether the machine below is emulated: its times are then no real ones.
    pub emulated: bool,
    /// The guest's memory, in bytes.
    pub memory: u64,
    /// How long the guest was allowed to stand still, in milliseconds; `None`: by the VMM's default.
    pub limit_ms: Option<u64>,
    /// The stream with one frame in flight, before.
    pub tally: Tally,
    /// Each frame of the stream that went on during the move.
    pub record: Record,
    /// When the move was asked for.
    pub asked: f64,
    /// When the guest stopped at the source.
    pub stopped: f64,
    /// When it ran at the destination.
    pub ran: f64,
    /// What the VMM says.
    pub account: Account,
}

impl Outcome {
    /// How long before the stop, and after the guest's first run, a frame may be under way and
    /// still count as lost in the switch: the guest holds some, and the bridge learns where it is.
    fn slack(&self) -> f64 {
        if self.emulated { 1.0 } else { 0.1 }
    }

    /// From when to when frames belong to the switch.
    pub(crate) fn switch(&self) -> (f64, f64) {
        (self.stopped - self.slack(), self.ran + self.slack())
    }

    /// What became of the frames of the switch.
    pub(crate) fn span(&self) -> Span {
        let (from, to) = self.switch();
        self.record.span(from, to)
    }

    /// When the last frame of the stream was sent.
    pub(crate) fn end(&self) -> f64 {
        self.record.flights.last().map_or(0.0, |flight| flight.sent)
    }

    /// Frames a second.
    pub(crate) fn rate(&self) -> f64 {
        let frames = u32::try_from(self.record.flights.len()).unwrap_or(u32::MAX);
        f64::from(frames) / self.end().max(f64::MIN_POSITIVE)
    }

    /// Frames that were lost outside of the switch.
    pub(crate) fn lost_outside(&self) -> u64 {
        let (from, to) = self.switch();
        let outside = |flight: &&Flight| !(from..to).contains(&flight.sent);
        let lost = |flight: &&Flight| flight.back.is_none();
        let flights = self.record.flights.iter();
        flights.filter(outside).filter(lost).count() as u64
    }

    /// Why this is no success, if it is none.
    pub(crate) fn fault(&self, frames: u64) -> Option<String> {
        let (tally, record) = (&self.tally, &self.record);
        let after = self.switch().1;
        let back = record.first_back_after(after).is_some();
        if tally.sent < frames {
            Some(format!("{} of {frames} frames were sent", tally.sent))
        } else if tally.lost() > 0 {
            Some(format!("{} frames were lost before the move", tally.lost()))
        } else if self.lost_outside() > 0 {
            Some(format!(
                "{} frames were lost outside of the switch",
                self.lost_outside()
            ))
        } else if tally.damaged + record.damaged > 0 {
            Some(format!(
                "{} frames were damaged",
                tally.damaged + record.damaged
            ))
        } else if tally.duplicates + record.duplicates > 0 {
            let twice = tally.duplicates + record.duplicates;
            Some(format!("{twice} frames came back twice"))
        } else if !back {
            Some("no frame came back after the move".to_owned())
        } else {
            None
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// 200 frames a second for 10 s, a stop from 6.0 to 6.2 s in which frames are lost.
    pub(crate) fn outcome() -> Outcome {
        let flight = |index: u32| {
            let sent = f64::from(index) * 0.005;
            let lost = (6.0..6.2).contains(&sent);
            Flight {
                sent,
                back: (!lost).then_some(sent + 0.0005 + 0.0001 * f64::from(index % 7)),
            }
        };
        let phases = [
            ("connect", 30_000),
            ("copy", 3_970_000),
            ("stop", 50_000),
            ("await", 150_000),
        ];
        Outcome {
            vmm: "godwit".to_owned(),
            emulated: true,
            memory: 768 << 20,
            limit_ms: Some(1000),
            tally: Tally {
                sent: 10,
                received: 10,
                ..Tally::default()
            },
            record: Record {
                flights: (0..2000).map(flight).collect(),
                ..Record::default()
            },
            asked: 2.0,
            stopped: 6.0,
            ran: 6.2,
            account: Account {
                total_us: 4_300_000,
                downtime_us: 200_000,
                phases: phases.map(|(name, us)| (name.to_owned(), us)).to_vec(),
                rounds: 3,
                present_bytes: Some(768 << 20),
                zero_bytes: 600 << 20,
                sent_bytes: 170 << 20,
            },
        }
    }

    #[test]
    fn loss_counts_by_where_it_happened() {
        let mut outcome = outcome();
        assert_eq!((outcome.span().lost, outcome.lost_outside()), (40, 0));
        assert!((outcome.span().silence - 0.205).abs() < 0.002);
        assert_eq!(outcome.fault(10), None);
        outcome.record.flights[100].back = None;
        let fault = outcome.fault(10).unwrap();
        assert_eq!(fault, "1 frames were lost outside of the switch");
    }

    #[test]
    fn a_guest_that_falls_silent_is_a_fault() {
        let mut outcome = outcome();
        outcome.record.flights.truncate(1260);
        assert_eq!(
            outcome.fault(10).as_deref(),
            Some("no frame came back after the move")
        );
    }

    #[test]
    fn too_few_frames_before_the_move_are_a_fault() {
        assert!(outcome().fault(11).unwrap().contains("10 of 11"));
    }
}

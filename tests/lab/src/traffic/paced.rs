//! A stream that keeps its pace whatever comes back: what an outsider sees of a switch.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{LONGEST, MIXED, Port, SHORTEST, Seen, TrafficError, check, fill};

/// Frames kept at most: an hour at 1000 a second.
const FRAMES_MAX: usize = 3_600_000;

/// What to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pace {
    /// From one frame to the next.
    pub every: Duration,
    /// Lengths, taken in turn.
    pub lengths: Vec<usize>,
    /// How long the last frames are waited for.
    pub patience: Duration,
    /// Time after which the stream ends by itself.
    pub limit: Duration,
    /// Where the frames go, as the guest's MAC address.
    pub to: [u8; 6],
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            every: Duration::from_millis(5),
            lengths: MIXED.to_vec(),
            patience: Duration::from_secs(2),
            limit: Duration::from_secs(300),
            to: [0x52, 0x54, 0x00, 0x00, 0x00, 0x01],
        }
    }
}

/// One frame; times in seconds since the stream began.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Flight {
    /// When it was sent.
    pub sent: f64,
    /// When it was back, whole.
    pub back: Option<f64>,
}

/// What became of each frame.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The frames in the order they were sent.
    pub flights: Vec<Flight>,
    /// Frames that came back more than once.
    pub duplicates: u64,
    /// Frames that came back changed.
    pub damaged: u64,
}

/// A part of a stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Span {
    /// Frames sent in it.
    pub sent: u64,
    /// Those that never came back whole.
    pub lost: u64,
    /// Longest time in it without a frame coming back, in seconds.
    pub silence: f64,
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            sent,
            lost,
            silence,
        } = self;
        write!(
            f,
            "{sent} frames sent, {lost} lost, longest silence {:.0} ms",
            silence * 1e3
        )
    }
}

impl Record {
    /// What happened from `from` to `to`, in seconds since the stream began.
    pub fn span(&self, from: f64, to: f64) -> Span {
        let inside = |time: f64| (from..to).contains(&time);
        let mut span = Span::default();
        for flight in self.flights.iter().filter(|flight| inside(flight.sent)) {
            span.sent += 1;
            span.lost += u64::from(flight.back.is_none());
        }
        // Frames may overtake each other.
        let mut backs: Vec<f64> = self.flights.iter().filter_map(|f| f.back).collect();
        backs.retain(|back| inside(*back));
        backs.sort_by(f64::total_cmp);
        let mut last = from;
        for back in backs {
            span.silence = span.silence.max(back - last);
            last = back;
        }
        span.silence = span.silence.max(to - last);
        span
    }

    /// When the first frame that was sent at `time` or later was back.
    pub fn first_back_after(&self, time: f64) -> Option<f64> {
        let later = self.flights.iter().filter(|flight| flight.sent >= time);
        later
            .filter_map(|flight| flight.back)
            .min_by(f64::total_cmp)
    }
}

/// Sends through `port` until `stop` is set, and takes down what comes back. Times count from
/// `started`.
///
/// # Errors
/// When a frame cannot be sent.
pub fn paced(
    port: &Port,
    pace: &Pace,
    started: Instant,
    stop: &AtomicBool,
) -> Result<Record, TrafficError> {
    let mut record = Record::default();
    let mut frame = Vec::with_capacity(LONGEST);
    let mut buffer = vec![0; 65_536];
    let from = [0x02, 0x67, 0x77, 0, 0, 1];
    let mut due = Instant::now();
    let end = due + pace.limit;
    while !stop.load(Ordering::Relaxed) && due < end && record.flights.len() < FRAMES_MAX {
        let sequence = record.flights.len();
        let turn = sequence % pace.lengths.len().max(1);
        let length = pace.lengths.get(turn).copied().unwrap_or(SHORTEST);
        fill(&mut frame, sequence as u64, length, pace.to, from);
        record.flights.push(Flight {
            sent: started.elapsed().as_secs_f64(),
            back: None,
        });
        port.send(&frame)?;
        // A sender that was held up goes on at its pace, rather than in a burst.
        due = (due + pace.every).max(Instant::now());
        record.take_until(port, due, started, &mut buffer);
    }
    let last = Instant::now() + pace.patience;
    while record.flights.iter().any(|flight| flight.back.is_none()) && Instant::now() < last {
        let soon = last.min(Instant::now() + Duration::from_millis(50));
        record.take_until(port, soon, started, &mut buffer);
    }
    Ok(record)
}

impl Record {
    fn take_until(&mut self, port: &Port, due: Instant, started: Instant, buffer: &mut [u8]) {
        loop {
            let left = due.saturating_duration_since(Instant::now());
            let Some(bytes) = port.receive(buffer, left) else {
                if left.is_zero() {
                    return;
                }
                continue;
            };
            match check(bytes) {
                Seen::Whole { sequence } => {
                    let index = usize::try_from(sequence).unwrap_or(usize::MAX);
                    match self.flights.get_mut(index) {
                        Some(flight) if flight.back.is_none() => {
                            flight.back = Some(started.elapsed().as_secs_f64());
                        }
                        _ => self.duplicates += 1,
                    }
                }
                Seen::Damaged => self.damaged += 1,
                Seen::Foreign => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(flights: &[(f64, Option<f64>)]) -> Record {
        let flights = flights.iter().map(|&(sent, back)| Flight { sent, back });
        Record {
            flights: flights.collect(),
            ..Record::default()
        }
    }

    #[test]
    fn a_span_counts_what_was_sent_in_it() {
        let record = record(&[
            (0.0, Some(0.5)),
            (1.0, None),
            (2.0, Some(4.0)),
            (3.0, Some(3.25)),
        ]);
        let span = record.span(0.0, 5.0);
        assert_eq!((span.sent, span.lost), (4, 1));
        assert!((span.silence - 2.75).abs() < 1e-9, "{span}");
        let span = record.span(0.5, 1.5);
        assert_eq!((span.sent, span.lost), (1, 1));
        assert!((span.silence - 1.0).abs() < 1e-9, "{span}");
    }

    #[test]
    fn a_frame_in_flight_at_a_time_was_sent_before_it() {
        let record = record(&[(0.0, Some(2.0)), (1.0, Some(3.0)), (2.0, Some(2.5))]);
        assert_eq!(record.first_back_after(0.5), Some(2.5));
        assert_eq!(record.first_back_after(2.5), None);
    }
}

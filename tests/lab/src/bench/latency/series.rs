//! The round trips of one stream.

use serde::{Deserialize, Serialize};

use crate::traffic::{Record, Tally};

/// Least number of frames of which one in a thousand is one at least.
const FOR_P99_9: usize = 1000;

/// What became of a stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Series {
    /// `one in flight`, or its rate.
    pub name: String,
    /// Frames sent.
    pub sent: u64,
    /// Frames that did not come back whole.
    pub lost: u64,
    /// Frames that came back more than once.
    pub duplicates: u64,
    /// Frames that came back changed.
    pub damaged: u64,
    /// Frames sent a second: less than asked for where the sender was held up.
    pub rate: f64,
    /// Of those that came back in time; `None`: there are none.
    pub times: Option<Times>,
    /// How many round trips were shorter than so many microseconds, but not than half of that.
    pub bars: Vec<(u64, u64)>,
}

/// Percentiles of round trips, in microseconds, by nearest rank.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Times {
    pub min_us: f64,
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    /// `None` of fewer than 1000 frames.
    pub p99_9_us: Option<f64>,
    pub max_us: f64,
}

impl Times {
    /// Of `times` in microseconds, sorted.
    fn of(times: &[f64]) -> Option<Self> {
        let rank = |per_mille: usize| {
            let rank = (times.len() * per_mille).div_ceil(1000);
            times.get(rank.saturating_sub(1)).copied()
        };
        Some(Self {
            min_us: *times.first()?,
            p50_us: rank(500)?,
            p90_us: rank(900)?,
            p99_us: rank(990)?,
            p99_9_us: rank(999).filter(|_| times.len() >= FOR_P99_9),
            max_us: *times.last()?,
        })
    }
}

impl Series {
    /// Of frames that went one in flight; `times` in microseconds.
    pub(super) fn in_flight(tally: &Tally, times: Vec<f64>) -> Self {
        Self {
            name: "one in flight".to_owned(),
            sent: tally.sent,
            lost: tally.lost(),
            duplicates: tally.duplicates,
            damaged: tally.damaged,
            rate: tally.rate(),
            ..Self::timed(times)
        }
    }

    /// Of a stream that kept its pace of `rate` frames a second.
    pub(super) fn paced(rate: u32, record: &Record) -> Self {
        let flights = &record.flights;
        let first = flights.first().map_or(0.0, |flight| flight.sent);
        let last = flights.last().map_or(0.0, |flight| flight.sent);
        let gaps = u32::try_from(flights.len().saturating_sub(1)).unwrap_or(u32::MAX);
        let back = |flight: &crate::traffic::Flight| Some((flight.back? - flight.sent) * 1e6);
        let times: Vec<f64> = flights.iter().filter_map(back).collect();
        Self {
            name: format!("{rate} a second"),
            sent: flights.len() as u64,
            lost: (flights.len() - times.len()) as u64,
            duplicates: record.duplicates,
            damaged: record.damaged,
            rate: f64::from(gaps) / (last - first).max(f64::MIN_POSITIVE),
            ..Self::timed(times)
        }
    }

    fn timed(mut times: Vec<f64>) -> Self {
        times.sort_by(f64::total_cmp);
        let mut bars: Vec<(u64, u64)> = Vec::new();
        for time in &times {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            // microseconds of at most an hour
            let below = (*time as u64 + 1).next_power_of_two();
            match bars.last_mut() {
                Some((last, count)) if *last == below => *count += 1,
                _ => bars.push((below, 1)),
            }
        }
        Self {
            name: String::new(),
            sent: 0,
            lost: 0,
            duplicates: 0,
            damaged: 0,
            rate: 0.0,
            times: Times::of(&times),
            bars,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::Flight;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let times: Vec<f64> = (1..=2000u32).rev().map(f64::from).collect();
        let times = Series::timed(times).times.unwrap();
        assert_eq!((times.min_us, times.max_us), (1.0, 2000.0));
        assert_eq!((times.p50_us, times.p90_us), (1000.0, 1800.0));
        assert_eq!((times.p99_us, times.p99_9_us), (1980.0, Some(1998.0)));
    }

    #[test]
    fn one_in_a_thousand_takes_a_thousand() {
        let times = Series::timed(vec![1.0; 999]).times.unwrap();
        assert_eq!(times.p99_9_us, None);
        assert_eq!(Series::timed(Vec::new()).times, None);
    }

    #[test]
    fn bars_count_every_round_trip_once() {
        let series = Series::timed(vec![0.5, 1.0, 1.9, 2.0, 3.0, 100.0]);
        assert_eq!(series.bars, [(1, 1), (2, 2), (4, 2), (128, 1)]);
    }

    #[test]
    fn what_did_not_come_back_is_lost() {
        let flight = |sent, back| Flight { sent, back };
        let record = Record {
            flights: vec![
                flight(1.0, Some(1.001)),
                flight(1.5, None),
                flight(2.0, Some(2.003)),
            ],
            duplicates: 1,
            damaged: 0,
        };
        let series = Series::paced(2, &record);
        assert_eq!((series.sent, series.lost, series.duplicates), (3, 1, 1));
        assert!((series.rate - 2.0).abs() < 1e-9, "{series:?}");
        let times = series.times.unwrap();
        assert!((times.min_us - 1000.0).abs() < 1.0 && (times.max_us - 3000.0).abs() < 1.0);
    }
}

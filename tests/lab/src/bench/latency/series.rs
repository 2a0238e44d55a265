//! The round trips of one stream.

use serde::{Deserialize, Serialize};

use crate::bench::times::{Bar, Times, bars};
use crate::traffic::{Record, Tally};

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
    pub bars: Vec<Bar>,
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
        Self {
            name: String::new(),
            sent: 0,
            lost: 0,
            duplicates: 0,
            damaged: 0,
            rate: 0.0,
            times: Times::of(&times),
            bars: bars(&times),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::Flight;

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

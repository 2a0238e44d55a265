//! Percentiles and bars of times.

use serde::{Deserialize, Serialize};

/// Least number of samples of which one in a thousand is one at least.
const FOR_P99_9: usize = 1000;

/// Percentiles by nearest rank, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Times {
    pub min_us: f64,
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    /// `None` of fewer than 1000 samples.
    pub p99_9_us: Option<f64>,
    pub max_us: f64,
}

impl Times {
    /// Of `times` in microseconds, sorted; `None` of none.
    pub(super) fn of(times: &[f64]) -> Option<Self> {
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

/// So many times are shorter than so many microseconds, a power of two, but not than half of that.
pub(super) type Bar = (u64, u64);

/// The bars of `times` in microseconds, sorted.
pub(super) fn bars(times: &[f64]) -> Vec<Bar> {
    let mut bars: Vec<Bar> = Vec::new();
    for time in times {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // at most an hour
        let below = (*time as u64 + 1).next_power_of_two();
        match bars.last_mut() {
            Some((last, count)) if *last == below => *count += 1,
            _ => bars.push((below, 1)),
        }
    }
    bars
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let times: Vec<f64> = (1..=2000u32).map(f64::from).collect();
        let times = Times::of(&times).unwrap();
        assert_eq!((times.min_us, times.max_us), (1.0, 2000.0));
        assert_eq!((times.p50_us, times.p90_us), (1000.0, 1800.0));
        assert_eq!((times.p99_us, times.p99_9_us), (1980.0, Some(1998.0)));
    }

    #[test]
    fn one_in_a_thousand_takes_a_thousand() {
        assert_eq!(Times::of(&[1.0; 999]).unwrap().p99_9_us, None);
        assert_eq!(Times::of(&[]), None);
    }

    #[test]
    fn bars_count_every_time_once() {
        let bars = bars(&[0.5, 1.0, 1.9, 2.0, 3.0, 100.0]);
        assert_eq!(bars, [(1, 1), (2, 2), (4, 2), (128, 1)]);
    }
}

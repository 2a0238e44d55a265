//! Medians and spread.

use serde::Serialize;

/// Where the samples of one figure lie.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Summary {
    /// The middle one, or the mean of the middle two.
    pub median: f64,
    /// The least.
    pub least: f64,
    /// The 90th percentile, by nearest rank.
    pub p90: f64,
    /// The most.
    pub most: f64,
}

impl Summary {
    /// `None` without samples.
    pub fn of(samples: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = samples.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (least, most) = (*sorted.first()?, *sorted.last()?);
        let upper = *sorted.get(sorted.len() / 2)?;
        let lower = *sorted.get((sorted.len() - 1) / 2)?;
        let p90 = *sorted.get((sorted.len() * 9).div_ceil(10).saturating_sub(1))?;
        Some(Self {
            median: f64::midpoint(lower, upper),
            least,
            p90,
            most,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_and_even_counts_have_their_middle() {
        assert_eq!(Summary::of([3.0, 1.0, 2.0]).unwrap().median, 2.0);
        assert_eq!(Summary::of([4.0, 1.0, 2.0, 3.0]).unwrap().median, 2.5);
        assert_eq!(Summary::of([]), None);
    }

    #[test]
    fn the_90th_percentile_of_twenty_is_the_eighteenth() {
        let summary = Summary::of((1..=20u8).map(f64::from)).unwrap();
        assert_eq!(
            (summary.least, summary.p90, summary.most),
            (1.0, 18.0, 20.0)
        );
    }
}

//! A histogram of times in nanoseconds whose size does not depend on what it
//! holds.
//!
//! ```text
//! value   0 .. 63   64 .. 127   128 .. 255   256 .. 511   ...   2^63 .. 2^64
//! bucket  1 wide    1           2            4            ...   2^57
//! ```
//!
//! Each power of two has [`SUB_BUCKETS`] buckets of one width, so that a value is
//! known to 1/64 of itself, at any size. Least, greatest and sum are exact.

/// Buckets of each power of two.
pub const SUB_BUCKETS: usize = 1 << SUB_BITS;
const SUB_BITS: u32 = 6;
/// Values below [`SUB_BUCKETS`], and then the powers of two from there on.
const BUCKETS: usize = SUB_BUCKETS * (u64::BITS - SUB_BITS + 1) as usize;

/// See the module.
#[derive(Clone, PartialEq, Eq)]
pub struct Histogram {
    counts: Box<[u64]>,
    samples: u64,
    sum: u128,
    least: u64,
    greatest: u64,
}

/// A bucket that holds something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Its least value.
    pub from: u64,
    /// Its greatest value.
    pub to: u64,
    /// How many samples are in it.
    pub count: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: vec![0; BUCKETS].into(),
            samples: 0,
            sum: 0,
            least: u64::MAX,
            greatest: 0,
        }
    }
}

impl std::fmt::Debug for Histogram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Histogram")
            .field("samples", &self.samples)
            .field("min", &self.min())
            .field("max", &self.max())
            .finish_non_exhaustive()
    }
}

impl Histogram {
    /// Counts a value.
    pub fn record(&mut self, value: u64) {
        // Each value has its bucket: see `index`.
        if let Some(count) = self.counts.get_mut(index(value)) {
            *count += 1;
        }
        self.samples += 1;
        self.sum += u128::from(value);
        self.least = self.least.min(value);
        self.greatest = self.greatest.max(value);
    }

    /// How many values it holds.
    #[must_use]
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// The least value; `None`: there is none.
    #[must_use]
    pub fn min(&self) -> Option<u64> {
        (self.samples > 0).then_some(self.least)
    }

    /// The greatest value; `None`: there is none.
    #[must_use]
    pub fn max(&self) -> Option<u64> {
        (self.samples > 0).then_some(self.greatest)
    }

    /// The arithmetic mean; `None`: there is none.
    #[must_use]
    pub fn mean(&self) -> Option<f64> {
        (self.samples > 0).then(|| self.sum as f64 / self.samples as f64)
    }

    /// The value that `per_100_000` of 100,000 values do not exceed (the nearest
    /// rank), rounded up to the end of its bucket, but not beyond the greatest.
    #[must_use]
    pub fn percentile(&self, per_100_000: u32) -> Option<u64> {
        let share = u128::from(per_100_000.min(100_000));
        let rank = (u128::from(self.samples) * share).div_ceil(100_000).max(1);
        let mut seen = 0_u128;
        let reached = self.buckets().find(|bucket| {
            seen += u128::from(bucket.count);
            seen >= rank
        })?;
        Some(reached.to.clamp(self.least, self.greatest))
    }

    /// The buckets that hold something, ascending.
    pub fn buckets(&self) -> impl Iterator<Item = Bucket> {
        let counts = self.counts.iter().enumerate();
        counts
            .filter(|(_, count)| **count > 0)
            .map(|(index, &count)| Bucket {
                from: lowest(index),
                to: lowest(index + 1).wrapping_sub(1),
                count,
            })
    }
}

/// Where a value is counted. Of a value of `SUB_BITS` + 1 bits or more, the
/// highest bits after the first select within the power of two.
fn index(value: u64) -> usize {
    let bits = u64::BITS - value.leading_zeros();
    let shift = bits.saturating_sub(SUB_BITS + 1);
    let within = value >> shift;
    shift as usize * SUB_BUCKETS + usize::try_from(within).unwrap_or(usize::MAX)
}

/// The least value that is counted at `index`; 0 behind the last, where the
/// numbers wrap.
fn lowest(index: usize) -> u64 {
    let shift = (index / SUB_BUCKETS).saturating_sub(1);
    let within = index - shift * SUB_BUCKETS;
    let value = (within as u128) << shift;
    u64::try_from(value).unwrap_or(0)
}

#[cfg(test)]
mod tests;

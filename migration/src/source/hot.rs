//! Pages that are dirty in every round.

use crate::bitmap::Bitmap;

/// Pages that were dirty after each of the last rounds: sending them again is
/// in vain, so they wait for the stop. Three in a row are wanted, because a
/// guest that writes here and there hits some pages twice by chance, and
/// leaving those would lengthen the stop.
#[derive(Debug, Default)]
pub(super) struct Hot {
    harvests: Vec<Vec<Bitmap>>,
}

impl Hot {
    const ROUNDS: usize = 3;

    /// Takes note of what the log had after a round.
    pub(super) fn note(&mut self, harvest: Vec<Bitmap>) {
        if self.harvests.len() == Self::ROUNDS {
            self.harvests.remove(0);
        }
        self.harvests.push(harvest);
    }

    /// Takes out of `take` what was dirty after each of the last rounds.
    pub(super) fn leave_out(&self, take: &mut [Bitmap]) {
        if self.harvests.len() < Self::ROUNDS {
            return;
        }
        for (region, map) in take.iter_mut().enumerate() {
            let mut every = map.clone();
            for harvest in &self.harvests {
                if let Some(harvested) = harvest.get(region) {
                    every.intersect(harvested);
                }
            }
            map.subtract(&every);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pages: &[u64]) -> Vec<Bitmap> {
        let mut map = Bitmap::new(100);
        for page in pages {
            map.add(*page);
        }
        vec![map]
    }

    #[test]
    fn only_what_was_dirty_three_times_in_a_row_waits() {
        let mut hot = Hot::default();
        let left = |hot: &Hot| {
            let mut take = map(&[1, 2, 3, 4]);
            hot.leave_out(&mut take);
            take
        };
        for pages in [&[1, 2, 3][..], &[1, 2]] {
            hot.note(map(pages));
            assert_eq!(left(&hot), map(&[1, 2, 3, 4]));
        }
        hot.note(map(&[1, 2, 4]));
        assert_eq!(left(&hot), map(&[3, 4]));
        hot.note(map(&[1, 4]));
        assert_eq!(left(&hot), map(&[2, 3, 4]));
    }
}

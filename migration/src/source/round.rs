//! One round's work, claimed by the senders piece by piece.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::bitmap::{Bitmap, ones};

/// Words of 64 pages in one claim while the guest runs: 2 MiB of guest memory,
/// so that one call clears the dirty log of what is then read while it is warm.
const CLAIM_WORDS: usize = 8;

/// Pages to send, and what sending them took.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) number: u32,
    /// The guest has stopped: nothing is re-armed, nothing acknowledged.
    pub(super) last: bool,
    /// Re-arm the dirty log of what is claimed.
    pub(super) clear: bool,
    /// Pages in a frame, at most: fewer at the end, so that all streams get some.
    pub(super) frame_pages: usize,
    sets: Vec<Bitmap>,
    claims: Vec<(usize, usize)>,
    claim_words: usize,
    next: AtomicUsize,
    busy: AtomicUsize,
    pub(super) pages: u64,
    pub(super) wire_bytes: AtomicU64,
    pub(super) sending_ns: AtomicU64,
}

/// Up to [`CLAIM_WORDS`] words of one region.
#[derive(Debug)]
pub(super) struct Claim<'a> {
    pub(super) region: usize,
    pub(super) first_page: u64,
    pub(super) words: &'a [u64],
}

impl Claim<'_> {
    /// The pages in it.
    pub(super) fn pages(&self) -> impl Iterator<Item = u64> + '_ {
        (self.first_page..)
            .step_by(64)
            .zip(self.words)
            .flat_map(|(first, word)| ones(*word).map(move |bit| first + bit as u64))
    }
}

impl Work {
    /// Work for `streams` senders.
    pub(super) fn new(number: u32, sets: Vec<Bitmap>, streams: usize, frame_pages: usize) -> Self {
        let pages = sets.iter().map(Bitmap::count).sum();
        // Little work is claimed in small pieces, so that it spreads.
        let claim_words = if pages < (streams * CLAIM_WORDS * 64) as u64 {
            1
        } else {
            CLAIM_WORDS
        };
        let mut claims = Vec::new();
        for (region, set) in sets.iter().enumerate() {
            for word in set.used_words() {
                let claim = (region, word - word % claim_words);
                if claims.last() != Some(&claim) {
                    claims.push(claim);
                }
            }
        }
        Self {
            number,
            last: false,
            clear: true,
            frame_pages,
            sets,
            claims,
            claim_words,
            next: AtomicUsize::new(0),
            busy: AtomicUsize::new(streams),
            pages,
            wire_bytes: AtomicU64::new(0),
            sending_ns: AtomicU64::new(0),
        }
    }

    /// The next piece that nobody has claimed.
    pub(super) fn claim(&self) -> Option<Claim<'_>> {
        let at = self.next.fetch_add(1, Ordering::Relaxed);
        let (region, word) = *self.claims.get(at)?;
        let words = self.sets.get(region)?.words().get(word..)?;
        Some(Claim {
            region,
            first_page: word as u64 * 64,
            words: words.get(..self.claim_words).unwrap_or(words),
        })
    }

    /// One sender is done; true for the last of them.
    pub(super) fn finish_one(&self) -> bool {
        self.busy.fetch_sub(1, Ordering::AcqRel) == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_is_claimed_once() {
        for (pages, streams) in [(10_000, 1), (10_000, 16), (130, 4)] {
            let mut sets = vec![Bitmap::new(pages), Bitmap::new(7)];
            sets[0].add_range(3..pages / 2);
            sets[0].add_range(pages - 9..pages);
            sets[1].add_range(5..7);
            let work = Work::new(0, sets.clone(), streams, 512);
            let mut seen = vec![Bitmap::new(pages), Bitmap::new(7)];
            while let Some(claim) = work.claim() {
                assert_eq!(claim.first_page % 64, 0);
                for page in claim.pages() {
                    assert!(seen[claim.region].add(page), "page {page} claimed twice");
                }
            }
            assert_eq!(seen, sets);
            for left in (0..streams).rev() {
                assert_eq!(work.finish_one(), left == 0);
            }
        }
    }
}

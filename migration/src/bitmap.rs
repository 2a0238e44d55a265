//! One bit a page of 4 KiB, and the runs of pages that bits make.

use std::ops::Range;

/// Pages of one region; bit `n % 64` of word `n / 64` is page `n`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bitmap {
    words: Vec<u64>,
    pages: u64,
}

impl Bitmap {
    /// No page of `pages`.
    #[must_use]
    pub fn new(pages: u64) -> Self {
        let words = usize::try_from(pages.div_ceil(64)).unwrap_or(usize::MAX);
        Self {
            words: vec![0; words],
            pages,
        }
    }

    /// How many pages the map speaks of.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// The words. Bits past the last page are zero.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Adds the pages of `words`; bits past the last page are dropped.
    pub fn add_words(&mut self, words: &[u64]) {
        for (to, from) in self.words.iter_mut().zip(words) {
            *to |= from;
        }
        self.trim();
    }

    /// Adds the pages of a range, as far as they exist.
    pub fn add_range(&mut self, range: Range<u64>) {
        let mut page = range.start;
        let end = range.end.min(self.pages);
        while page < end {
            let stop = end.min((page / 64 + 1) * 64);
            if let Some(word) = self.word_mut(page) {
                *word |= mask(page % 64, stop - page);
            }
            page = stop;
        }
    }

    /// Adds one page; true if it was not there.
    pub fn add(&mut self, page: u64) -> bool {
        let new = page < self.pages && !self.contains(page);
        self.add_range(page..page.saturating_add(1));
        new
    }

    /// Takes one page out.
    pub fn remove(&mut self, page: u64) {
        if let Some(word) = self.word_mut(page) {
            *word &= !(1 << (page % 64));
        }
    }

    /// True if the page is in.
    #[must_use]
    pub fn contains(&self, page: u64) -> bool {
        let word = usize::try_from(page / 64)
            .ok()
            .and_then(|i| self.words.get(i));
        word.is_some_and(|w| w >> (page % 64) & 1 == 1)
    }

    /// Adds all pages of `other`.
    pub fn union(&mut self, other: &Self) {
        self.add_words(&other.words);
    }

    /// Takes out all pages of `other`.
    pub fn subtract(&mut self, other: &Self) {
        for (to, from) in self.words.iter_mut().zip(&other.words) {
            *to &= !from;
        }
    }

    /// Keeps only the pages that are in `other` too.
    pub fn intersect(&mut self, other: &Self) {
        for (to, from) in self.words.iter_mut().zip(&other.words) {
            *to &= from;
        }
    }

    /// Every page that is not in.
    #[must_use]
    pub fn complement(&self) -> Self {
        let mut other = self.clone();
        for word in &mut other.words {
            *word = !*word;
        }
        other.trim();
        other
    }

    /// Takes all pages out and keeps the room.
    pub fn empty(&mut self) {
        self.words.fill(0);
    }

    /// How many pages are in.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.words.iter().map(|w| u64::from(w.count_ones())).sum()
    }

    /// The runs of pages, in order, none touching the next.
    pub fn extents(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        let mut page = 0;
        std::iter::from_fn(move || {
            let start = self.find(page, true)?;
            let end = self.find(start, false).unwrap_or(self.pages);
            page = end;
            Some(start..end)
        })
    }

    /// The first page at or after `from` that is in (or, with `set` false, out).
    fn find(&self, from: u64, set: bool) -> Option<u64> {
        let first = usize::try_from(from / 64).ok()?;
        let flip = if set { 0 } else { u64::MAX };
        let mut keep = u64::MAX << (from % 64);
        for (at, word) in (first as u64..).zip(self.words.get(first..)?) {
            let bits = (word ^ flip) & keep;
            keep = u64::MAX;
            if bits != 0 {
                let page = at * 64 + u64::from(bits.trailing_zeros());
                return (page < self.pages).then_some(page);
            }
        }
        None
    }

    fn word_mut(&mut self, page: u64) -> Option<&mut u64> {
        usize::try_from(page / 64)
            .ok()
            .and_then(|i| self.words.get_mut(i))
    }

    fn trim(&mut self) {
        let used = self.pages % 64;
        if used != 0
            && let Some(last) = self.words.last_mut()
        {
            *last &= mask(0, used);
        }
    }
}

/// `count` ones from bit `first`; together at most 64.
fn mask(first: u64, count: u64) -> u64 {
    let ones = if count >= 64 {
        u64::MAX
    } else {
        (1 << count) - 1
    };
    ones << first
}

#[cfg(test)]
mod tests;

//! One bit a page of 4 KiB, and the runs of pages that bits make.
//!
//! ```text
//!  used    1 0 0 1 ...     one bit for each word that is not zero
//!  words   x 0 0 y ...     one bit for each page
//! ```
//!
//! A guest of 1 TiB has 32 MiB of words, and few of them hold anything. Whatever
//! walks a map walks `used`, so that it takes as long as what is in the map, not
//! as long as the guest is large; and a word that was never set is never
//! touched, so that the kernel need not back it with memory.

use std::ops::Range;

/// Pages of one region; bit `n % 64` of word `n / 64` is page `n`.
#[derive(Debug, PartialEq, Eq)]
pub struct Bitmap {
    words: Vec<u64>,
    /// Bit `n % 64` of word `n / 64` says that `words[n]` is not zero.
    used: Vec<u64>,
    pages: u64,
}

impl Clone for Bitmap {
    fn clone(&self) -> Self {
        let mut other = Self::new(self.pages);
        other.union(self);
        other
    }
}

impl Bitmap {
    /// No page of `pages`.
    #[must_use]
    pub fn new(pages: u64) -> Self {
        let words = usize::try_from(pages.div_ceil(64)).unwrap_or(usize::MAX);
        Self {
            words: vec![0; words],
            used: vec![0; words.div_ceil(64)],
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

    /// The numbers of the words that are not zero, in order.
    pub fn used_words(&self) -> impl Iterator<Item = usize> + '_ {
        self.used
            .iter()
            .enumerate()
            .flat_map(|(group, bits)| ones(*bits).map(move |bit| group * 64 + bit))
    }

    /// Adds the pages of `words`; bits past the last page are dropped.
    pub fn add_words(&mut self, words: &[u64]) {
        let groups = self.words.chunks_mut(64).zip(words.chunks(64));
        for ((to, from), used) in groups.zip(&mut self.used) {
            // Mostly all of them are zero, which is told fast, without a write.
            if from.iter().fold(0, |all, word| all | word) == 0 {
                continue;
            }
            for (bit, (to, from)) in to.iter_mut().zip(from).enumerate() {
                if *from != 0 {
                    *to |= from;
                    *used |= 1 << bit;
                }
            }
        }
        self.trim();
    }

    /// Adds the pages of a range, as far as they exist.
    pub fn add_range(&mut self, range: Range<u64>) {
        let mut page = range.start;
        let end = range.end.min(self.pages);
        while page < end {
            let stop = end.min((page / 64 + 1) * 64);
            let bits = mask(page % 64, stop - page);
            self.change(word_of(page), |word| word | bits);
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
        self.change(word_of(page), |word| word & !(1 << (page % 64)));
    }

    /// True if the page is in.
    #[must_use]
    pub fn contains(&self, page: u64) -> bool {
        let word = self.words.get(word_of(page));
        word.is_some_and(|w| w >> (page % 64) & 1 == 1)
    }

    /// Adds all pages of `other`.
    pub fn union(&mut self, other: &Self) {
        for at in other.used_words() {
            let more = other.word(at);
            self.change(at, |word| word | more);
        }
        self.trim();
    }

    /// Takes out all pages of `other`.
    pub fn subtract(&mut self, other: &Self) {
        for at in other.used_words() {
            let less = other.word(at);
            self.change(at, |word| word & !less);
        }
    }

    /// Keeps only the pages that are in `other` too.
    pub fn intersect(&mut self, other: &Self) {
        for group in 0..self.used.len() {
            let used = self.used.get(group).copied().unwrap_or_default();
            for at in ones(used).map(|bit| group * 64 + bit) {
                let kept = other.word(at);
                self.change(at, |word| word & kept);
            }
        }
    }

    /// Every page that is not in.
    #[must_use]
    pub fn complement(&self) -> Self {
        let mut other = Self::new(self.pages);
        for at in 0..self.words.len() {
            let word = !self.word(at);
            other.change(at, |_| word);
        }
        other.trim();
        other
    }

    /// Takes all pages out and keeps the room.
    pub fn empty(&mut self) {
        for (words, used) in self.words.chunks_mut(64).zip(&mut self.used) {
            if std::mem::take(used) != 0 {
                words.fill(0);
            }
        }
    }

    /// How many pages are in.
    #[must_use]
    pub fn count(&self) -> u64 {
        let words = self.used_words().map(|at| self.word(at));
        words.map(|word| u64::from(word.count_ones())).sum()
    }

    /// The runs of pages, in order, none touching the next.
    pub fn extents(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        let mut page = 0;
        std::iter::from_fn(move || {
            let start = self.first_in(page)?;
            page = self.first_out(start);
            Some(start..page)
        })
    }

    /// The first page at or after `from` that is in.
    fn first_in(&self, from: u64) -> Option<u64> {
        let first = word_of(from);
        let here = self.word(first) & (u64::MAX << (from % 64));
        let (at, word) = if here == 0 {
            let at = self.next_used(first.checked_add(1)?)?;
            (at, self.word(at))
        } else {
            (first, here)
        };
        Some(at as u64 * 64 + u64::from(word.trailing_zeros()))
    }

    /// The first page at or after `from` that is not in; where all of them are, the end.
    fn first_out(&self, from: u64) -> u64 {
        let first = word_of(from);
        let mut keep = u64::MAX << (from % 64);
        for (at, word) in (first as u64..).zip(self.words.iter().skip(first)) {
            let bits = !word & keep;
            keep = u64::MAX;
            if bits != 0 {
                return (at * 64 + u64::from(bits.trailing_zeros())).min(self.pages);
            }
        }
        self.pages
    }

    /// The first word at or after number `from` that is not zero.
    fn next_used(&self, from: usize) -> Option<usize> {
        let mut keep = u64::MAX << (from % 64);
        for (group, used) in self.used.iter().enumerate().skip(from / 64) {
            let bits = used & keep;
            keep = u64::MAX;
            if bits != 0 {
                return Some(group * 64 + bits.trailing_zeros() as usize);
            }
        }
        None
    }

    /// The word of that number; past the end there are zeros.
    fn word(&self, at: usize) -> u64 {
        self.words.get(at).copied().unwrap_or_default()
    }

    /// Changes a word, if there is one, and what `used` says of it.
    fn change(&mut self, at: usize, how: impl FnOnce(u64) -> u64) {
        let (Some(word), Some(used)) = (self.words.get_mut(at), self.used.get_mut(at / 64)) else {
            return;
        };
        let new = how(*word);
        // Not even a zero is written where nothing was.
        if new != *word {
            *word = new;
        }
        let bit = 1 << (at % 64);
        *used = if new == 0 { *used & !bit } else { *used | bit };
    }

    fn trim(&mut self) {
        let tail = self.pages % 64;
        if tail != 0
            && let Some(last) = self.words.len().checked_sub(1)
            && self.word(last) & !mask(0, tail) != 0
        {
            self.change(last, |word| word & mask(0, tail));
        }
    }
}

/// The number of the word that a page is in.
fn word_of(page: u64) -> usize {
    usize::try_from(page / 64).unwrap_or(usize::MAX)
}

/// The numbers of the bits that are set, in order.
pub(crate) fn ones(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = word.trailing_zeros() as usize;
        (word != 0).then(|| {
            word &= word - 1;
            bit
        })
    })
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

//! Which pages, and which lines of a page, hold only zeros.
//!
//! AVX2 where the processor has it, otherwise words of 64 bits; both are
//! compared in the tests. Most pages that are not zero show it in the first,
//! the middle or the last word, so those are looked at first.
#![allow(unsafe_code, reason = "vector loads from raw pointers are fenced here")]

use std::sync::atomic::{AtomicU64, Ordering};

use crate::memory::PAGE_BYTES;

/// A line: what a cache fetches, and what DPDK aligns its objects to.
pub(crate) const LINE_BYTES: usize = 64;
const WORDS: usize = PAGE_BYTES / 8;

/// True if the page at `page` holds only zeros.
///
/// # Safety
/// `page` must point to `PAGE_BYTES` readable bytes, aligned to 64. Others may
/// write them meanwhile; then the answer is that of some moment in between.
pub(crate) unsafe fn page_is_zero(page: *const u8) -> bool {
    for word in [0, WORDS / 2, WORDS - 1] {
        // SAFETY: the word lies inside the page and is aligned; an atomic load,
        // as the guest may write it.
        let value = unsafe { AtomicU64::from_ptr(page.cast::<u64>().add(word).cast_mut()) };
        if value.load(Ordering::Relaxed) != 0 {
            return false;
        }
    }
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2; the pointer is as the caller promised.
        return unsafe { avx2::page_is_zero(page) };
    }
    // SAFETY: as the caller promised.
    unsafe { portable::page_is_zero(page) }
}

/// One bit a line, from the lowest address up: set where the line is not zero.
pub(crate) fn line_map(page: &[u8; PAGE_BYTES]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        return unsafe { avx2::line_map(page) };
    }
    portable::line_map(page)
}

mod portable {
    use super::*;

    /// # Safety
    /// As for [`super::page_is_zero`].
    pub(super) unsafe fn page_is_zero(page: *const u8) -> bool {
        (0..WORDS / 8).all(|line| {
            (0..8).fold(0, |all, word| {
                // SAFETY: `line * 8 + word` is below `WORDS`, so inside the page.
                let at = unsafe { page.cast::<u64>().add(line * 8 + word) };
                // SAFETY: readable and aligned, as the caller promised; volatile,
                // so that a concurrent write cannot make the compiler assume
                // that two reads agree.
                all | unsafe { at.read_volatile() }
            }) == 0
        })
    }

    pub(super) fn line_map(page: &[u8; PAGE_BYTES]) -> u64 {
        let (lines, _) = page.as_chunks::<LINE_BYTES>();
        lines.iter().rev().fold(0, |map, line| {
            let (words, _) = line.as_chunks::<8>();
            let used = words.iter().any(|w| u64::from_ne_bytes(*w) != 0);
            map << 1 | u64::from(used)
        })
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{__m256i, _mm256_loadu_si256, _mm256_or_si256, _mm256_testz_si256};

    use super::*;

    /// # Safety
    /// As for [`super::page_is_zero`], on a processor with AVX2.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn page_is_zero(page: *const u8) -> bool {
        const BLOCK: usize = 256;
        for block in 0..PAGE_BYTES / BLOCK {
            let mut sum: [__m256i; 2] = {
                // SAFETY: the first two vectors of a block that lies in the page.
                unsafe { [load(page, block * BLOCK), load(page, block * BLOCK + 32)] }
            };
            for at in (64..BLOCK).step_by(64) {
                // SAFETY: `at + 64` is at most the size of the block.
                let pair = unsafe {
                    [
                        load(page, block * BLOCK + at),
                        load(page, block * BLOCK + at + 32),
                    ]
                };
                sum = [
                    _mm256_or_si256(sum[0], pair[0]),
                    _mm256_or_si256(sum[1], pair[1]),
                ];
            }
            let all = _mm256_or_si256(sum[0], sum[1]);
            if _mm256_testz_si256(all, all) == 0 {
                return false;
            }
        }
        true
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn line_map(page: &[u8; PAGE_BYTES]) -> u64 {
        let mut map = 0;
        for line in 0..64 {
            // SAFETY: line 63 ends with the page.
            let pair = unsafe {
                [
                    load(page.as_ptr(), line * LINE_BYTES),
                    load(page.as_ptr(), line * LINE_BYTES + 32),
                ]
            };
            let all = _mm256_or_si256(pair[0], pair[1]);
            map |= u64::from(_mm256_testz_si256(all, all) == 0) << line;
        }
        map
    }

    /// # Safety
    /// `offset + 32` bytes must be readable at `page`.
    #[target_feature(enable = "avx2")]
    unsafe fn load(page: *const u8, offset: usize) -> __m256i {
        // SAFETY: readable, as the caller promised; this load wants no alignment.
        unsafe { _mm256_loadu_si256(page.add(offset).cast()) }
    }
}

#[cfg(test)]
mod tests;

//! Pages into frames.
//!
//! Whether a page is zero is asked of guest memory itself; everything else is
//! decided on a copy, which the guest can no longer change. So line maps and
//! checksums hold, and the copy is warm when the kernel takes it.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::channel::{ChannelError, Link, Outgoing, Patience};
use crate::memory::{PAGE, PAGE_BYTES, Region};
use crate::options::{Means, ZeroLines};
use crate::scan::{LINE_BYTES, line_map};
use crate::wire::pages::{Content, Index, lines_bytes};
use crate::wire::{FRAME_EXTENTS, FRAME_ZEROS, Header, Kind};

/// Pages that the destination holds content of: a page that became zero must be
/// sent only if it is one of them.
#[derive(Debug)]
pub(super) struct Written(Vec<Vec<AtomicU64>>);

impl Written {
    pub(super) fn new(regions: &[Region]) -> Self {
        let words = |region: &Region| (0..region.pages().div_ceil(64)).map(|_| AtomicU64::new(0));
        Self(regions.iter().map(|r| words(r).collect()).collect())
    }

    fn word(&self, region: usize, page: u64) -> Option<&AtomicU64> {
        let at = usize::try_from(page / 64).ok()?;
        self.0.get(region)?.get(at)
    }

    fn set(&self, region: usize, page: u64) {
        if let Some(word) = self.word(region, page) {
            word.fetch_or(1 << (page % 64), Ordering::Relaxed);
        }
    }

    /// Takes the page out; true if it was in.
    fn unset(&self, region: usize, page: u64) -> bool {
        let bit = 1 << (page % 64);
        self.word(region, page)
            .is_some_and(|word| word.fetch_and(!bit, Ordering::Relaxed) & bit != 0)
    }
}

/// What a frame held, for the counters.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Tally {
    pub(super) scanned: u64,
    pub(super) zero: u64,
    pub(super) elided: u64,
    pub(super) wire: u64,
}

/// One sender's frame in the making.
#[derive(Debug)]
pub(super) struct Encoder<'a> {
    regions: &'a [Region],
    written: &'a Written,
    means: Means,
    index: Index,
    payload: Vec<u8>,
    content_pages: usize,
    zeros: usize,
    lines: Gauge,
    tally: Tally,
}

/// Whether looking for zero lines is worth it, learned frame by frame.
#[derive(Debug)]
struct Gauge {
    mode: ZeroLines,
    /// Frames to go before it is tried again.
    pause: u32,
}

impl Gauge {
    /// A frame in so many is tried when it did not pay.
    const PAUSE: u32 = 15;

    fn is_on(&self) -> bool {
        match self.mode {
            ZeroLines::On => true,
            ZeroLines::Off => false,
            ZeroLines::Auto => self.pause == 0,
        }
    }

    fn learn(&mut self, pages: usize, elided: u64) {
        if pages == 0 {
            return;
        }
        if self.pause > 0 {
            self.pause -= 1;
        } else if elided * 8 < pages as u64 * PAGE {
            self.pause = Self::PAUSE;
        }
    }
}

impl<'a> Encoder<'a> {
    pub(super) fn new(regions: &'a [Region], written: &'a Written, means: Means) -> Self {
        Self {
            regions,
            written,
            means,
            index: Index::default(),
            payload: Vec::new(),
            content_pages: 0,
            zeros: 0,
            lines: Gauge {
                mode: means.zero_lines,
                pause: 0,
            },
            tally: Tally::default(),
        }
    }

    /// Adds a page as it is now.
    pub(super) fn add(&mut self, region: usize, page: u64) -> Result<(), ChannelError> {
        let outside = || ChannelError::NoSuchPages {
            region,
            first: page,
            count: 1,
        };
        let memory = self.regions.get(region).ok_or_else(outside)?;
        let number = u16::try_from(region).map_err(|_| outside())?;
        self.tally.scanned += PAGE;
        if self.means.zero_pages && memory.is_zero(page).ok_or_else(outside)? {
            self.tally.zero += PAGE;
            if self.written.unset(region, page) {
                self.zeros += 1;
                self.index.push(Content::Zero, number, page);
            }
            return Ok(());
        }
        self.written.set(region, page);
        self.content_pages += 1;
        let lines = self.lines.is_on();
        if lines || self.means.checksum_pages {
            let start = self.payload.len();
            memory
                .append_to(page, &mut self.payload)
                .ok_or_else(outside)?;
            if lines && self.squeeze(start) {
                self.index.push(Content::Lines, number, page);
                return Ok(());
            }
            if !self.means.checksum_pages {
                self.payload.truncate(start);
            }
        }
        self.index.push(Content::Raw, number, page);
        Ok(())
    }

    /// Drops the zero lines of the page that begins at `start`; false, and
    /// nothing done, if too few are.
    fn squeeze(&mut self, start: usize) -> bool {
        const WORTH: u32 = 60;
        let Some(page) = self
            .payload
            .get_mut(start..)
            .and_then(|p| p.first_chunk_mut::<PAGE_BYTES>())
        else {
            return false;
        };
        let map = line_map(page);
        if map.count_ones() > WORTH {
            return false;
        }
        let mut to = 0;
        for line in (0..64).filter(|line| map >> line & 1 == 1) {
            page.copy_within(line * LINE_BYTES..(line + 1) * LINE_BYTES, to);
            to += LINE_BYTES;
        }
        self.payload.truncate(start + to);
        self.index.maps.push(map);
        self.tally.elided += PAGE - to as u64;
        true
    }

    /// True if no more may be added.
    pub(super) fn is_full(&self, frame_pages: usize) -> bool {
        self.content_pages >= frame_pages
            || self.zeros >= FRAME_ZEROS
            || self.index.pieces.len() >= FRAME_EXTENTS
    }

    /// Sends what was added; answers what it was.
    pub(super) fn flush(&mut self, link: &Link, patience: Patience) -> Result<Tally, ChannelError> {
        if !self.index.pieces.is_empty() {
            self.send(link, patience)?;
        }
        self.lines.learn(self.content_pages, self.tally.elided);
        self.index.pieces.clear();
        self.index.maps.clear();
        self.payload.clear();
        self.content_pages = 0;
        self.zeros = 0;
        Ok(std::mem::take(&mut self.tally))
    }

    fn send(&mut self, link: &Link, patience: Patience) -> Result<(), ChannelError> {
        let body = self.index.to_body();
        let payload = self.index.payload_bytes();
        let mut header = Header::of(Kind::Pages, &body);
        header.payload = u32::try_from(payload).unwrap_or(u32::MAX);
        header.payload_crc = self
            .means
            .checksum_pages
            .then(|| crc32c::crc32c(&self.payload));
        let header = header.to_bytes();
        self.tally.wire = (header.len() + body.len() + payload) as u64;
        let mut out = Outgoing::default();
        out.bytes(&header);
        out.bytes(&body);
        if self.means.checksum_pages {
            out.bytes(&self.payload);
        } else {
            self.gather(&mut out)?;
        }
        link.send_all(out, patience, "sending pages")
    }

    /// The payload in pieces: whole pages from where they are, lines from the copy.
    fn gather<'b>(&'b self, out: &mut Outgoing<'b>) -> Result<(), ChannelError> {
        let mut lines = &self.payload[..];
        let mut maps = self.index.maps.iter();
        for piece in &self.index.pieces {
            let region = usize::from(piece.region);
            match piece.content {
                Content::Zero => {}
                Content::Raw => {
                    let count = u64::from(piece.count);
                    let span = self
                        .regions
                        .get(region)
                        .and_then(|r| r.span(piece.first, count))
                        .ok_or(ChannelError::NoSuchPages {
                            region,
                            first: piece.first,
                            count,
                        })?;
                    out.span(span);
                }
                Content::Lines => {
                    for map in maps.by_ref().take(piece.count as usize) {
                        let (head, rest) = lines.split_at(lines_bytes(*map).min(lines.len()));
                        out.bytes(head);
                        lines = rest;
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

//! The body of PAGES: which pages the payload holds, and how.
//!
//! ```text
//!  count | extent ... | line map of each page of each LINES extent ...
//! ```
//!
//! The payload follows in the order of the extents: whole pages for RAW, the
//! lines whose bit is set for LINES, nothing for ZERO.

use super::codec::{BadBody, Reader, Writer};
use super::{FRAME_EXTENTS, FRAME_PAGES, FRAME_ZEROS};
use crate::memory::PAGE_BYTES;
use crate::scan::LINE_BYTES;

/// An extent in the body.
pub const EXTENT_BYTES: usize = 16;

/// How the content of an extent travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Whole pages.
    Raw,
    /// Not at all: the pages are zero.
    Zero,
    /// The lines that are not zero.
    Lines,
}

/// A run of pages that travel alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// How.
    pub content: Content,
    /// The number of the region.
    pub region: u16,
    /// The first page.
    pub first: u64,
    /// How many pages.
    pub count: u32,
}

/// What the body of a PAGES frame says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Index {
    /// The extents.
    pub pieces: Vec<Piece>,
    /// The line maps, in order.
    pub maps: Vec<u64>,
}

impl Index {
    /// Adds a page, to the last extent if it follows that.
    pub fn push(&mut self, content: Content, region: u16, page: u64) {
        if let Some(last) = self.pieces.last_mut()
            && last.content == content
            && last.region == region
            && last.first + u64::from(last.count) == page
        {
            last.count += 1;
            return;
        }
        self.pieces.push(Piece {
            content,
            region,
            first: page,
            count: 1,
        });
    }

    /// The payload that the extents ask for, in bytes.
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        let raw: usize = self
            .pieces
            .iter()
            .filter(|p| p.content == Content::Raw)
            .map(|p| p.count as usize * PAGE_BYTES)
            .sum();
        let lines: usize = self.maps.iter().map(|m| lines_bytes(*m)).sum();
        raw + lines
    }

    /// The body.
    #[must_use]
    pub fn to_body(&self) -> Vec<u8> {
        let count = u32::try_from(self.pieces.len()).unwrap_or(u32::MAX);
        let body = Writer(Vec::with_capacity(
            4 + self.pieces.len() * EXTENT_BYTES + self.maps.len() * 8,
        ));
        let body = self.pieces.iter().fold(body.u32(count), |body, piece| {
            let content = match piece.content {
                Content::Raw => 0,
                Content::Zero => 1,
                Content::Lines => 2,
            };
            body.u16(piece.region)
                .u16(content)
                .u32(piece.count)
                .u64(piece.first)
        });
        self.maps.iter().fold(body, |body, map| body.u64(*map)).0
    }

    /// Reads a body. What comes out asks for exactly `payload` bytes, and for no
    /// more than a frame may hold.
    ///
    /// # Errors
    /// The body is malformed, or does not match the payload.
    pub fn parse(body: &[u8], payload: u32) -> Result<Self, BadBody> {
        let mut r = Reader::new(body);
        let count = r.u32()? as usize;
        if count > FRAME_EXTENTS {
            return Err(BadBody("it has more extents than a frame may"));
        }
        let mut index = Self {
            pieces: Vec::with_capacity(count),
            maps: Vec::new(),
        };
        let (mut content_pages, mut zeros, mut mapped) = (0_usize, 0_usize, 0_usize);
        for _ in 0..count {
            let region = r.u16()?;
            let content = match r.u16()? {
                0 => Content::Raw,
                1 => Content::Zero,
                2 => Content::Lines,
                _ => return Err(BadBody("an extent is of unknown content")),
            };
            let pages = r.u32()?;
            let first = r.u64()?;
            if pages == 0 {
                return Err(BadBody("an extent is empty"));
            }
            let sum = match content {
                Content::Zero => &mut zeros,
                Content::Raw | Content::Lines => &mut content_pages,
            };
            *sum = sum.saturating_add(pages as usize);
            if content == Content::Lines {
                mapped = mapped.saturating_add(pages as usize);
            }
            index.pieces.push(Piece {
                content,
                region,
                first,
                count: pages,
            });
        }
        if content_pages > FRAME_PAGES || zeros > FRAME_ZEROS {
            return Err(BadBody("it has more pages than a frame may"));
        }
        index.maps = (0..mapped).map(|_| r.u64()).collect::<Result<_, _>>()?;
        r.end()?;
        if index.payload_bytes() != payload as usize {
            return Err(BadBody("the payload is not what its extents add up to"));
        }
        Ok(index)
    }
}

/// The bytes that a page with this line map travels as.
#[must_use]
pub fn lines_bytes(map: u64) -> usize {
    map.count_ones() as usize * LINE_BYTES
}

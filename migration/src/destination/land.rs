//! Pages from a frame into guest memory.

use std::os::unix::fs::FileExt;

use crate::channel::{ChannelError, Incoming, Link, Patience};
use crate::memory::{PAGE, PAGE_BYTES, Region};
use crate::scan::LINE_BYTES;
use crate::wire::pages::{Content, Index, Piece, lines_bytes};
use crate::wire::{Header, Kind};

const DOING: &str = "receiving pages";
/// How much of squeezed pages is written in one call: it stays in the second
/// level cache.
const BATCH: usize = 64 * PAGE_BYTES;

/// One receiver's way of writing memory.
///
/// Whole pages come straight from the socket into the mapping. Through the file
/// instead (`pwrite`), cold memory costs no page fault of ours; that takes a
/// buffer in between, as lines do.
#[derive(Debug)]
pub(super) struct Landing<'a> {
    regions: &'a [Region],
    through_file: &'a [bool],
    buffer: Vec<u8>,
    /// Pages made whole again, on their way through the file.
    pages: Vec<u8>,
}

impl<'a> Landing<'a> {
    pub(super) fn new(regions: &'a [Region], through_file: &'a [bool]) -> Self {
        Self {
            regions,
            through_file,
            buffer: Vec::new(),
            pages: Vec::new(),
        }
    }

    /// Takes the payload of a PAGES frame whose body came.
    pub(super) fn receive(
        &mut self,
        link: &Link,
        header: &Header,
        body: &[u8],
    ) -> Result<(), ChannelError> {
        let index = Index::parse(body, header.payload).map_err(|source| ChannelError::Body {
            kind: Kind::Pages,
            source,
        })?;
        for piece in &index.pieces {
            self.region(piece)?;
        }
        let buffered = index
            .pieces
            .iter()
            .all(|piece| self.through_file.get(usize::from(piece.region)) == Some(&true));
        if buffered {
            self.receive_buffered(link, header, &index)
        } else {
            self.receive_in_place(link, header, &index)
        }
    }

    /// The region of a piece, all of whose pages it has.
    fn region(&self, piece: &Piece) -> Result<&'a Region, ChannelError> {
        let count = u64::from(piece.count);
        self.regions
            .get(usize::from(piece.region))
            .filter(|region| region.span(piece.first, count).is_some())
            .ok_or_else(|| nowhere(piece))
    }

    fn receive_in_place(
        &mut self,
        link: &Link,
        header: &Header,
        index: &Index,
    ) -> Result<(), ChannelError> {
        let lines: usize = index.maps.iter().map(|m| lines_bytes(*m)).sum();
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(lines, 0);
        let mut into = Incoming::default();
        let mut room = &mut buffer[..];
        let mut maps = index.maps.iter();
        for piece in &index.pieces {
            match piece.content {
                Content::Zero => {}
                Content::Raw => into.span(self.span(piece)?),
                Content::Lines => {
                    let bytes = take_lines(&mut maps, piece);
                    let (head, rest) = room.split_at_mut(bytes.min(room.len()));
                    into.bytes(head);
                    room = rest;
                }
            }
        }
        link.receive_all(into, Patience::For(link.stall()), DOING)?;
        // In the order of the payload: what was written is read back while warm.
        if header.payload_crc.is_some() {
            let mut crc = 0;
            let mut rest = &buffer[..];
            let mut maps = index.maps.iter();
            for piece in &index.pieces {
                match piece.content {
                    Content::Zero => {}
                    Content::Raw => crc = self.span(piece)?.checksum(crc),
                    Content::Lines => {
                        let bytes = take_lines(&mut maps, piece);
                        let (head, tail) = rest.split_at(bytes.min(rest.len()));
                        crc = crc32c::crc32c_append(crc, head);
                        rest = tail;
                    }
                }
            }
            header.check_payload(crc)?;
        }
        self.place(index, &buffer, false)?;
        self.buffer = buffer;
        Ok(())
    }

    fn receive_buffered(
        &mut self,
        link: &Link,
        header: &Header,
        index: &Index,
    ) -> Result<(), ChannelError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(header.payload as usize, 0);
        let mut into = Incoming::default();
        into.bytes(&mut buffer);
        link.receive_all(into, Patience::For(link.stall()), DOING)?;
        if header.payload_crc.is_some() {
            header.check_payload(crc32c::crc32c(&buffer))?;
        }
        self.place(index, &buffer, true)?;
        self.buffer = buffer;
        Ok(())
    }

    /// Writes what is in the buffer, and zeros. Whole pages are in the buffer only
    /// if `buffered`; otherwise they are where they belong already.
    fn place(&mut self, index: &Index, buffer: &[u8], buffered: bool) -> Result<(), ChannelError> {
        let mut rest = buffer;
        let mut maps = index.maps.iter();
        for piece in &index.pieces {
            let region = self.region(piece)?;
            let outside = || nowhere(piece);
            let count = u64::from(piece.count);
            match piece.content {
                Content::Zero => region.write_zeros(piece.first, count).ok_or_else(outside)?,
                Content::Raw if buffered => {
                    let bytes = piece.count as usize * PAGE_BYTES;
                    let (head, tail) = rest.split_at_checked(bytes).ok_or_else(outside)?;
                    rest = tail;
                    write_through(region, piece.first, head).ok_or_else(outside)?;
                }
                Content::Raw => {}
                Content::Lines => {
                    for page in piece.first..piece.first + count {
                        let map = *maps.next().ok_or_else(outside)?;
                        let (head, tail) = rest
                            .split_at_checked(lines_bytes(map))
                            .ok_or_else(outside)?;
                        rest = tail;
                        let whole = spread(map, head);
                        if !buffered {
                            region.write(page, &whole).ok_or_else(outside)?;
                            continue;
                        }
                        self.pages.extend_from_slice(&whole);
                        if self.pages.len() == BATCH || page + 1 == piece.first + count {
                            let first = page + 1 - self.pages.len() as u64 / PAGE;
                            write_through(region, first, &self.pages).ok_or_else(outside)?;
                            self.pages.clear();
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn span(&self, piece: &Piece) -> Result<crate::memory::Span<'a>, ChannelError> {
        self.region(piece)?
            .span(piece.first, u64::from(piece.count))
            .ok_or_else(|| nowhere(piece))
    }
}

fn nowhere(piece: &Piece) -> ChannelError {
    ChannelError::NoSuchPages {
        region: usize::from(piece.region),
        first: piece.first,
        count: u64::from(piece.count),
    }
}

/// The bytes of a LINES piece, whose maps are next.
fn take_lines<'m>(maps: &mut impl Iterator<Item = &'m u64>, piece: &Piece) -> usize {
    maps.take(piece.count as usize)
        .map(|m| lines_bytes(*m))
        .sum()
}

/// The page that these lines make.
fn spread(map: u64, lines: &[u8]) -> [u8; PAGE_BYTES] {
    let mut page = [0; PAGE_BYTES];
    let (places, _) = page.as_chunks_mut::<LINE_BYTES>();
    let (lines, _) = lines.as_chunks::<LINE_BYTES>();
    let mut lines = lines.iter();
    for (at, place) in places.iter_mut().enumerate() {
        if map >> at & 1 == 1
            && let Some(line) = lines.next()
        {
            *place = *line;
        }
    }
    page
}

/// Writes pages through the file; through the mapping where the file does not
/// take writes.
fn write_through(region: &Region, first: u64, bytes: &[u8]) -> Option<()> {
    let offset = region.layout().file_offset + first * PAGE;
    if region.file().write_all_at(bytes, offset).is_ok() {
        return Some(());
    }
    region.write(first, bytes)
}

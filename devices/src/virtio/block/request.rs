//! From a chain of descriptors to a request that can be carried out
//! (virtio 1.2, 5.2.6).
//!
//! The driver may cut header, data and status into buffers as it likes (2.7.4):
//! the header is the first 16 bytes that the device reads, the status is the
//! last byte that it writes, and everything else is data.

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP,
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};

use super::image::Image;
use super::{MAX_DISCARD_SECTORS, MAX_WRITE_ZEROES_SECTORS, SECTOR};
use crate::GuestRam;
use crate::virtio::queue::{Buffer, Buffers, Chain};

/// How many buffers of data one request may have: what one system call takes
/// (`UIO_MAXIOV`).
pub(super) const MAX_BUFFERS: usize = 1024;

/// Length of the request header: type, a reserved word, sector.
const HEADER: usize = 16;

/// Length of a discard or write-zeroes segment.
const SEGMENT: usize = 16;

/// Length of the answer to GET_ID.
pub(super) const ID_LEN: usize = VIRTIO_BLK_ID_BYTES as usize;

/// What the status byte says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Ok,
    IoErr,
    Unsupp,
}

impl Status {
    #[allow(clippy::cast_possible_truncation, reason = "the values are 0, 1 and 2")]
    pub(super) const fn byte(self) -> u8 {
        match self {
            Self::Ok => VIRTIO_BLK_S_OK as u8,
            Self::IoErr => VIRTIO_BLK_S_IOERR as u8,
            Self::Unsupp => VIRTIO_BLK_S_UNSUPP as u8,
        }
    }
}

/// What is to be done; offsets and lengths are in bytes and within the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    /// Fill the request's memory from the image.
    Read { offset: u64 },
    /// Write the request's memory to the image.
    Write { offset: u64 },
    /// Make earlier writes last.
    Flush,
    /// The contents are no longer needed.
    Discard { offset: u64, len: u64 },
    /// The contents become zeros; `unmap` allows to give the space back.
    WriteZeroes { offset: u64, len: u64, unmap: bool },
    /// Tell the disk's serial number.
    GetId,
}

/// The memory of a request, as the kernel takes it.
#[derive(Debug, Default)]
pub(super) struct IoVectors(pub(super) Vec<libc::iovec>);

// SAFETY: the pointers lead into the mapping of guest RAM, which any thread may
// use; who holds the vectors keeps the mapping alive.
unsafe impl Send for IoVectors {}

impl IoVectors {
    /// Total length, in bytes.
    pub(super) fn len(&self) -> usize {
        self.0.iter().map(|v| v.iov_len).sum()
    }

    /// Whether all start and end at multiples of `align`, a power of two.
    pub(super) fn are_aligned(&self, align: usize) -> bool {
        self.0
            .iter()
            .all(|v| (v.iov_base.addr() | v.iov_len) & (align - 1) == 0)
    }
}

/// Neither a request nor a place for its status can be found.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unanswerable {
    #[error("a chain of descriptors has no end")]
    Endless,
    #[error("a request has no place for its status")]
    NoStatus,
}

/// A request that can be answered, and perhaps carried out.
#[derive(Debug)]
pub(super) struct Request {
    /// Where the status byte goes: inside RAM.
    pub(super) status: GuestAddress,
    /// What to do, or why not.
    pub(super) operation: Result<Operation, Status>,
}

/// Understands requests; holds what is used again for each.
#[derive(Debug, Default)]
pub(super) struct Parser {
    buffers: Buffers,
}

impl Parser {
    /// Understands `chain`, and leaves the memory of its data in `vectors`.
    pub(super) fn parse(
        &mut self,
        chain: Chain<'_>,
        memory: &GuestRam,
        image: &Image,
        vectors: &mut IoVectors,
    ) -> Result<Request, Unanswerable> {
        vectors.0.clear();
        self.buffers
            .gather(chain, MAX_BUFFERS + 2)
            .map_err(|_| Unanswerable::Endless)?;
        let last = self.buffers.last_writable.ok_or(Unanswerable::NoStatus)?;
        let status = last
            .address
            .0
            .checked_add(u64::from(last.len) - 1)
            .map(GuestAddress)
            .filter(|&address| memory.address_in_range(address))
            .ok_or(Unanswerable::NoStatus)?;
        Ok(Request {
            status,
            operation: self.operation(memory, image, vectors),
        })
    }

    /// Leaves the buffers that the device writes for the last request, status
    /// byte apart, in `list`.
    pub(super) fn take_writable(&mut self, list: &mut Vec<Buffer>) {
        std::mem::swap(&mut self.buffers.writable, list);
    }

    fn operation(
        &mut self,
        memory: &GuestRam,
        image: &Image,
        vectors: &mut IoVectors,
    ) -> Result<Operation, Status> {
        if self.buffers.malformed {
            return Err(Status::IoErr);
        }
        // The status byte is no data.
        if let Some(last) = self.buffers.writable.last_mut() {
            last.len -= 1;
        }
        let mut header = [0; HEADER];
        take(&mut self.buffers.readable, memory, &mut header)?;
        let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = header;
        let sector = u64::from_le_bytes(sector);
        match u32::from_le_bytes([t0, t1, t2, t3]) {
            VIRTIO_BLK_T_IN => {
                map(&self.buffers.writable, memory, vectors)?;
                let offset = within(image, sector, vectors.len() as u64)?;
                Ok(Operation::Read { offset })
            }
            VIRTIO_BLK_T_OUT => {
                writable(image)?;
                map(&self.buffers.readable, memory, vectors)?;
                let offset = within(image, sector, vectors.len() as u64)?;
                Ok(Operation::Write { offset })
            }
            VIRTIO_BLK_T_FLUSH => Ok(Operation::Flush),
            VIRTIO_BLK_T_GET_ID => {
                map(&self.buffers.writable, memory, vectors)?;
                if vectors.len() < ID_LEN {
                    return Err(Status::IoErr);
                }
                Ok(Operation::GetId)
            }
            kind @ (VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES) => {
                writable(image)?;
                let mut segment = [0; SEGMENT];
                take(&mut self.buffers.readable, memory, &mut segment)?;
                if self.buffers.readable.iter().any(|b| b.len > 0) {
                    // More than the one segment that we announced (5.2.6.1).
                    return Err(Status::IoErr);
                }
                clearing(kind, segment, image)
            }
            _ => Err(Status::Unsupp),
        }
    }
}

/// A discard or write-zeroes segment: sector, number of sectors, flags.
fn clearing(kind: u32, segment: [u8; SEGMENT], image: &Image) -> Result<Operation, Status> {
    let [s @ .., n0, n1, n2, n3, f0, f1, f2, f3] = segment;
    let sectors = u32::from_le_bytes([n0, n1, n2, n3]);
    let flags = u32::from_le_bytes([f0, f1, f2, f3]);
    let len = u64::from(sectors) * u64::from(SECTOR);
    let unmap = flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0;
    // 5.2.6.2: unknown flags, and "unmap" with a discard, are unsupported.
    if flags & !VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0 || (kind == VIRTIO_BLK_T_DISCARD && unmap) {
        return Err(Status::Unsupp);
    }
    let limit = if kind == VIRTIO_BLK_T_DISCARD {
        MAX_DISCARD_SECTORS
    } else {
        MAX_WRITE_ZEROES_SECTORS
    };
    if sectors > limit {
        return Err(Status::IoErr);
    }
    let offset = within(image, u64::from_le_bytes(s), len)?;
    Ok(if kind == VIRTIO_BLK_T_DISCARD {
        Operation::Discard { offset, len }
    } else {
        Operation::WriteZeroes { offset, len, unmap }
    })
}

fn writable(image: &Image) -> Result<(), Status> {
    if image.readonly {
        Err(Status::IoErr)
    } else {
        Ok(())
    }
}

/// The offset of `sector`, in bytes, if `len` bytes of whole blocks from there
/// lie within the image.
fn within(image: &Image, sector: u64, len: u64) -> Result<u64, Status> {
    let sectors = len / u64::from(SECTOR);
    let end = sector.checked_add(sectors);
    if end.is_none_or(|end| end > image.sectors) {
        return Err(Status::IoErr);
    }
    // Cannot overflow: the sector is within the image, whose size is in bytes.
    let offset = sector * u64::from(SECTOR);
    if !(offset | len).is_multiple_of(u64::from(image.block)) {
        return Err(Status::IoErr);
    }
    Ok(offset)
}

/// Copies the first bytes out of `buffers`, and removes them there.
fn take(buffers: &mut [Buffer], memory: &GuestRam, mut out: &mut [u8]) -> Result<(), Status> {
    for buffer in buffers {
        let len = (buffer.len as usize).min(out.len());
        let (now, later) = out.split_at_mut(len);
        memory
            .read_slice(now, buffer.address)
            .map_err(|_| Status::IoErr)?;
        let taken = u32::try_from(len).map_err(|_| Status::IoErr)?;
        buffer.len -= taken;
        buffer.address = GuestAddress(
            buffer
                .address
                .0
                .checked_add(u64::from(taken))
                .ok_or(Status::IoErr)?,
        );
        out = later;
        if out.is_empty() {
            return Ok(());
        }
    }
    Err(Status::IoErr)
}

/// Finds the memory of `buffers`.
fn map(buffers: &[Buffer], memory: &GuestRam, vectors: &mut IoVectors) -> Result<(), Status> {
    for buffer in buffers.iter().filter(|b| b.len > 0) {
        // A buffer may reach from one region into the next.
        for slice in GuestMemoryBackend::get_slices(memory, buffer.address, buffer.len as usize) {
            let slice = slice.map_err(|_| Status::IoErr)?;
            if vectors.0.len() == MAX_BUFFERS {
                return Err(Status::IoErr);
            }
            vectors.0.push(libc::iovec {
                iov_base: slice.ptr_guard_mut().as_ptr().cast(),
                iov_len: slice.len(),
            });
        }
    }
    Ok(())
}

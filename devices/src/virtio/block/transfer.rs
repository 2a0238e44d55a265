//! Requests carried out by system calls that wait: all of them where io_uring
//! is not permitted, and what io_uring left undone.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use vm_memory::VolatileSlice;

use super::image::{AlignedBuffer, Image};
use super::request::{IoVectors, Operation};

/// How much is copied at once where memory is not aligned, or zeros are written.
const CHUNK: usize = 256 << 10;

/// Whether a write is to last before it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durability {
    /// After the next flush.
    Flushed,
    /// At once.
    Immediate,
}

impl Durability {
    /// The flags of pwritev2(2).
    pub(super) fn flags(self) -> libc::c_int {
        match self {
            Self::Flushed => 0,
            Self::Immediate => libc::RWF_DSYNC,
        }
    }
}

/// The mode of fallocate(2) for a discard or write-zeroes.
pub(super) fn fallocate_mode(operation: Operation) -> libc::c_int {
    match operation {
        Operation::WriteZeroes { unmap: false, .. } => {
            libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE
        }
        _ => libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
    }
}

/// Whether the image's file system cannot do what was asked.
pub(super) fn is_unsupported(errno: i32) -> bool {
    matches!(
        errno,
        libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL | libc::ENODEV
    )
}

/// Whether the memory of a request can be handed to the kernel as it is.
pub(super) fn fits(image: &Image, vectors: &IoVectors) -> bool {
    !image.direct || vectors.are_aligned(image.block as usize)
}

/// Carries `operation` out, from byte `done` of its data on.
pub(super) fn carry_out(
    image: &Image,
    operation: Operation,
    vectors: &IoVectors,
    done: usize,
    durability: Durability,
) -> io::Result<()> {
    match operation {
        Operation::Read { offset } | Operation::Write { offset } => {
            let writes = matches!(operation, Operation::Write { .. });
            let mut transfer = Transfer {
                image,
                writes,
                flags: if writes { durability.flags() } else { 0 },
            };
            if fits(image, vectors) {
                transfer.in_place(vectors, offset, done)
            } else {
                transfer.copied(vectors, offset)
            }
        }
        Operation::Flush => image.file.sync_data(),
        Operation::Discard { offset, len } => {
            match fallocate(image, fallocate_mode(operation), offset, len) {
                // A discard is a hint: where it cannot be taken, the data stay.
                Err(error) if error.raw_os_error().is_some_and(is_unsupported) => Ok(()),
                result => result,
            }
        }
        Operation::WriteZeroes { offset, len, unmap } => {
            write_zeroes(image, offset, len, unmap)?;
            match durability {
                Durability::Immediate => image.file.sync_data(),
                Durability::Flushed => Ok(()),
            }
        }
        Operation::GetId => Ok(()),
    }
}

struct Transfer<'a> {
    image: &'a Image,
    writes: bool,
    flags: libc::c_int,
}

impl Transfer<'_> {
    fn call(&self, vectors: &[libc::iovec], offset: u64) -> io::Result<usize> {
        let fd = self.image.file.as_raw_fd();
        let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
        let count = libc::c_int::try_from(vectors.len()).map_err(io::Error::other)?;
        // The kernel bears it that guest RAM changes under its hands.
        // SAFETY: the vectors lead to memory that is mapped for as long as the caller holds it,
        // and is ours to read and write: guest RAM, or a buffer that nobody else uses.
        let result = unsafe {
            if self.writes {
                libc::pwritev2(fd, vectors.as_ptr(), count, offset, self.flags)
            } else {
                libc::preadv(fd, vectors.as_ptr(), count, offset)
            }
        };
        usize::try_from(result).map_err(|_| io::Error::last_os_error())
    }

    /// Transfers all of `vectors` but the first `done` bytes.
    fn in_place(&mut self, vectors: &IoVectors, offset: u64, done: usize) -> io::Result<()> {
        let mut vectors = vectors.0.clone();
        let mut rest = skip(&mut vectors, done);
        let mut offset = offset + done as u64;
        while !rest.is_empty() {
            match self.call(rest, offset) {
                // The image has become shorter under us.
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(now) => {
                    rest = skip(rest, now);
                    offset += now as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Transfers through a buffer of our own, because direct access wants
    /// aligned memory and the guest's is not.
    fn copied(&mut self, vectors: &IoVectors, mut offset: u64) -> io::Result<()> {
        let mut buffer = AlignedBuffer::new(CHUNK.min(vectors.len()), self.image.block as usize);
        let mut memory = vectors.0.clone();
        let mut rest: &mut [libc::iovec] = &mut memory;
        let mut left = vectors.len();
        while left > 0 {
            let len = left.min(CHUNK);
            let chunk = buffer.bytes().get_mut(..len).unwrap_or_default();
            if self.writes {
                copy(rest, chunk, Direction::FromGuest);
            }
            let own = IoVectors(vec![libc::iovec {
                iov_base: chunk.as_mut_ptr().cast(),
                iov_len: len,
            }]);
            self.in_place(&own, offset, 0)?;
            if !self.writes {
                copy(rest, chunk, Direction::ToGuest);
            }
            rest = skip(rest, len);
            offset += len as u64;
            left -= len;
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Direction {
    ToGuest,
    FromGuest,
}

/// Copies between the start of `vectors` and `chunk`, which is not longer.
fn copy(vectors: &[libc::iovec], mut chunk: &mut [u8], direction: Direction) {
    for vector in vectors {
        let len = vector.iov_len.min(chunk.len());
        // SAFETY: the vector leads into the mapping of guest RAM, which the
        // caller keeps alive. Volatile accesses, because the guest may change it.
        let guest = unsafe { VolatileSlice::new(vector.iov_base.cast(), len) };
        let (now, later) = chunk.split_at_mut(len);
        match direction {
            Direction::ToGuest => guest.copy_from(now),
            Direction::FromGuest => {
                guest.copy_to(now);
            }
        }
        chunk = later;
    }
}

/// What is left of `vectors` after `count` bytes.
fn skip(vectors: &mut [libc::iovec], mut count: usize) -> &mut [libc::iovec] {
    let mut whole = 0;
    for vector in vectors.iter_mut() {
        if count < vector.iov_len {
            vector.iov_base = vector.iov_base.wrapping_byte_add(count);
            vector.iov_len -= count;
            break;
        }
        count -= vector.iov_len;
        whole += 1;
    }
    vectors.get_mut(whole..).unwrap_or_default()
}

fn fallocate(image: &Image, mode: libc::c_int, offset: u64, len: u64) -> io::Result<()> {
    if len == 0 {
        return Ok(());
    }
    let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
    let len = libc::off_t::try_from(len).map_err(io::Error::other)?;
    // SAFETY: no memory is involved.
    match unsafe { libc::fallocate(image.file.as_raw_fd(), mode, offset, len) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn write_zeroes(image: &Image, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
    let mode = fallocate_mode(Operation::WriteZeroes { offset, len, unmap });
    match fallocate(image, mode, offset, len) {
        Err(error) if error.raw_os_error().is_some_and(is_unsupported) => (),
        result => return result,
    }
    let zeros = usize::try_from(len).unwrap_or(CHUNK).min(CHUNK);
    let mut zeros = AlignedBuffer::new(zeros, image.block as usize);
    let mut done = 0;
    while done < len {
        let chunk = zeros.bytes();
        let now = usize::try_from(len - done).map_or(chunk.len(), |left| left.min(chunk.len()));
        let chunk = chunk.get(..now).unwrap_or_default();
        image.file.write_all_at(chunk, offset + done)?;
        done += now as u64;
    }
    Ok(())
}

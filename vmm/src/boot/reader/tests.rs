//! Readers that give little at a time, fail, or end early.

use linux_loader::loader::{BzImage, KernelLoader};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::*;
use crate::boot::tests::images::BzImageFile;

const PAGE: usize = 4096;

/// Gives at most `most` bytes at a time, is interrupted before each, and fails at `broken_at`.
struct Drip {
    bytes: Vec<u8>,
    position: usize,
    most: usize,
    broken_at: usize,
    interrupted: bool,
}

impl Drip {
    fn new(bytes: Vec<u8>, most: usize) -> Self {
        Self {
            bytes,
            position: 0,
            most,
            broken_at: usize::MAX,
            interrupted: false,
        }
    }
}

impl Read for Drip {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.interrupted = !self.interrupted;
        if self.interrupted {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if self.position >= self.broken_at {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let rest = self.bytes.get(self.position..).unwrap_or_default();
        let count = rest.len().min(buffer.len()).min(self.most);
        buffer[..count].copy_from_slice(&rest[..count]);
        self.position += count;
        Ok(count)
    }
}

impl Seek for Drip {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        let to = match position {
            SeekFrom::Start(offset) => i64::try_from(offset),
            SeekFrom::End(offset) => i64::try_from(self.bytes.len()).map(|end| end + offset),
            SeekFrom::Current(offset) => i64::try_from(self.position).map(|at| at + offset),
        };
        let to = to.map_err(io::Error::other)?;
        self.position = usize::try_from(to).map_err(io::Error::other)?;
        u64::try_from(to).map_err(io::Error::other)
    }
}

fn numbered(length: usize) -> Vec<u8> {
    (0..=250).cycle().take(length).collect()
}

/// Two regions, so that one transfer is asked for in two parts.
fn memory(first: usize, second: usize) -> GuestMemoryMmap<()> {
    let boundary = GuestAddress(first as u64);
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), first), (boundary, second)])
        .expect("memory can be mapped")
}

#[test]
fn short_reads_are_made_whole() {
    for most in [1, 7, PAGE - 1, BUFFER_SIZE, usize::MAX] {
        // `most` of 1 over a small length only: a call for each byte.
        let length = if most < PAGE - 1 {
            3 * PAGE
        } else {
            3 * BUFFER_SIZE + 5
        };
        let bytes = numbered(length);
        let memory = memory(2 * PAGE, length.next_multiple_of(PAGE));
        let mut reader = WholeReads::new(Drip::new(bytes.clone(), most));
        memory
            .read_exact_volatile_from(GuestAddress(3), &mut reader, length)
            .unwrap_or_else(|error| panic!("at most {most} at a time: {error}"));
        let mut loaded = vec![0; length];
        memory
            .read_slice(&mut loaded, GuestAddress(3))
            .expect("the bytes are in memory");
        assert!(loaded == bytes, "at most {most} at a time");
        assert!(reader.into_failure().is_none());
    }
}

/// What all this is for: without it, vm_memory takes a short read for the end.
#[test]
fn the_loader_takes_a_kernel_from_short_reads() {
    let image = BzImageFile::new().bytes();
    let memory = memory(PAGE, 16 << 20);
    let start = GuestAddress(1 << 20);
    let loaded = |reader: &mut WholeReads<Drip>| BzImage::load(&memory, Some(start), reader, None);
    loaded(&mut WholeReads::new(Drip::new(image.clone(), usize::MAX))).expect("a whole image");
    let mut whole = vec![0; 4 * PAGE];
    memory.read_slice(&mut whole, start).expect("in memory");
    memory
        .write_slice(&vec![0; 4 * PAGE], start)
        .expect("clearing it");

    loaded(&mut WholeReads::new(Drip::new(image, 100))).expect("the same in parts");
    let mut parts = vec![0; 4 * PAGE];
    memory.read_slice(&mut parts, start).expect("in memory");
    assert!(whole.iter().any(|&byte| byte != 0));
    assert!(whole == parts);
}

#[test]
fn a_file_that_has_become_shorter_is_an_error() {
    let memory = memory(PAGE, PAGE);
    let mut reader = WholeReads::new(Drip::new(numbered(PAGE + 100), 64));
    let error = memory
        .read_exact_volatile_from(GuestAddress(0), &mut reader, PAGE + 101)
        .expect_err("a byte is missing");
    assert!(
        matches!(error, GuestMemoryError::PartialBuffer { completed, .. } if completed == PAGE + 100),
        "{error}"
    );
    assert!(reader.into_failure().is_none());
}

#[test]
fn the_reason_of_a_failed_read_is_kept() {
    let memory = memory(PAGE, PAGE);
    let mut source = Drip::new(numbered(PAGE), 64);
    source.broken_at = 640;
    let mut reader = WholeReads::new(source);
    memory
        .read_exact_volatile_from(GuestAddress(0), &mut reader, PAGE)
        .expect_err("the source breaks");
    let failure = reader.into_failure().map(|error| error.kind());
    assert_eq!(failure, Some(io::ErrorKind::TimedOut));
}

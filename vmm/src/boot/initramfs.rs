//! Placing the initramfs.

use std::path::Path;

use vm_memory::{Bytes, GuestAddress};

use super::file::ImageFile;
use super::ram::Ram;
use super::{BootError, Kernel, Placed, Role};

const PAGE_SIZE: u64 = 4096;

/// Loads the initramfs as high as the kernel takes it, so that the kernel has room to
/// unpack itself and to grow.
pub(super) fn load(ram: &Ram<'_>, kernel: &Kernel, path: &Path) -> Result<Placed, BootError> {
    let image = ImageFile::open(Role::Initramfs, path)?;
    let size = image.size;
    if size == 0 {
        return Err(BootError::InitramfsEmpty {
            path: path.to_owned(),
        });
    }
    let start = place(ram, kernel, size).map_err(|room| BootError::InitramfsTooLarge {
        path: path.to_owned(),
        size,
        room,
    })?;
    let length = usize::try_from(size).map_err(|_| BootError::InitramfsTooLarge {
        path: path.to_owned(),
        size,
        room: 0,
    })?;
    let mut reader = image.reader();
    ram.memory
        .read_exact_volatile_from(start, &mut reader, length)
        .map_err(|source| BootError::InitramfsLoad {
            path: path.to_owned(),
            address: start.0,
            source,
        })?;
    Ok(Placed { start, size })
}

/// The highest page-aligned place for `size` bytes behind the kernel, or else the most
/// bytes that there is room for.
fn place(ram: &Ram<'_>, kernel: &Kernel, size: u64) -> Result<GuestAddress, u64> {
    let limit = kernel.initramfs_last.saturating_add(1);
    let mut room = 0;
    for range in ram.low.0.iter().rev() {
        let first = range
            .start
            .max(kernel.end)
            .checked_next_multiple_of(PAGE_SIZE)
            .unwrap_or(u64::MAX);
        let end = range.end.min(limit);
        room = room.max(end.saturating_sub(first));
        if let Some(start) = end.checked_sub(size) {
            let start = start & !(PAGE_SIZE - 1);
            if start >= first {
                return Ok(GuestAddress(start));
            }
        }
    }
    Err(room)
}

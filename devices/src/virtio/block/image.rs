//! The image behind a disk: opened, checked and locked once, in the
//! constructor, so that nothing has to be opened while the guest runs.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::SECTOR;

// linux/fs.h: _IO(0x12, 104), _IO(0x12, 123), _IOR(0x12, 114, size_t).
nix::ioctl_read_bad!(blk_logical_block_size, libc::BLKSSZGET, libc::c_int);
nix::ioctl_read_bad!(blk_physical_block_size, 0x127b, libc::c_uint);
nix::ioctl_read!(blk_size, 0x12, 114, u64);

/// A disk's image could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// It could not be opened.
    #[error("Could not open the image {path}")]
    Open {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is neither a file nor a block device.
    #[error("{path} is {what}; a disk wants a raw image file or a block device")]
    Type {
        /// Its path.
        path: PathBuf,
        /// What it is instead.
        what: &'static str,
    },
    /// It is empty, or does not consist of whole blocks.
    #[error(
        "The image {path} has {size} bytes, and a disk wants at least one whole block of {block} bytes and \
         nothing more than whole blocks; `truncate -s %{block} {path}` rounds its size up"
    )]
    Size {
        /// Its path.
        path: PathBuf,
        /// Its size, in bytes.
        size: u64,
        /// The size of a block, in bytes.
        block: u32,
    },
    /// Its size or block size could not be learnt.
    #[error("Could not learn the geometry of {path}")]
    Geometry {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another process holds its lock.
    #[error(
        "The image {path} is in use: another virtual machine holds its lock; stop that one, or let both \
         have it read-only"
    )]
    Locked {
        /// Its path.
        path: PathBuf,
    },
    /// It could not be locked for another reason.
    #[error("Could not lock the image {path}")]
    Lock {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// How an image is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Access {
    pub(super) readonly: bool,
    pub(super) direct: bool,
}

/// An open image, that is to be locked before it is used.
#[derive(Debug)]
pub(super) struct Image {
    path: PathBuf,
    pub(super) file: File,
    pub(super) readonly: bool,
    /// Size, in sectors of 512 bytes.
    pub(super) sectors: u64,
    /// The smallest unit that can be transferred, in bytes: what offsets,
    /// lengths and (with `direct`) addresses must be multiples of.
    pub(super) block: u32,
    /// The unit that is transferred without reading the rest of it first, in bytes.
    pub(super) physical_block: u32,
    /// Whether the page cache is bypassed.
    pub(super) direct: bool,
}

impl Image {
    pub(super) fn open(path: &Path, access: Access) -> Result<Self, ImageError> {
        let open_error = |source| ImageError::Open {
            path: path.to_owned(),
            source,
        };
        let geometry_error = |source| ImageError::Geometry {
            path: path.to_owned(),
            source,
        };
        // Looked at first: opening a named pipe would wait for its writer.
        let kind = std::fs::metadata(path).map_err(open_error)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(ImageError::Type {
                path: path.to_owned(),
                what: if kind.is_dir() {
                    "a directory"
                } else {
                    "neither a file nor a block device"
                },
            });
        }
        let file = OpenOptions::new()
            .read(true)
            .write(!access.readonly)
            .custom_flags(if access.direct { libc::O_DIRECT } else { 0 })
            .open(path)
            .map_err(open_error)?;
        let geometry = if kind.is_block_device() {
            Geometry::of_device(&file)
        } else {
            Geometry::of_file(&file, access.direct)
        }
        .map_err(geometry_error)?;
        let block = if access.direct {
            geometry.block
        } else {
            SECTOR
        };
        if geometry.size == 0 || !geometry.size.is_multiple_of(u64::from(block)) {
            return Err(ImageError::Size {
                path: path.to_owned(),
                size: geometry.size,
                block,
            });
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            readonly: access.readonly,
            sectors: geometry.size / u64::from(SECTOR),
            block,
            physical_block: geometry.physical_block.max(block),
            direct: access.direct,
        })
    }

    /// Takes the lock: shared for readers, exclusive for a writer.
    pub(super) fn lock(&self) -> Result<(), ImageError> {
        let kind = if self.readonly {
            libc::F_RDLCK
        } else {
            libc::F_WRLCK
        };
        set_lock(&self.file, kind).map_err(|source| {
            let path = self.path.clone();
            match source.raw_os_error() {
                Some(libc::EAGAIN | libc::EACCES) => ImageError::Locked { path },
                _ => ImageError::Lock { path, source },
            }
        })
    }

    /// Gives the lock back, when all that was written has reached the image:
    /// the next one to lock it may be on another host.
    pub(super) fn unlock(&self) -> io::Result<()> {
        if !self.readonly {
            self.file.sync_data()?;
        }
        set_lock(&self.file, libc::F_UNLCK)
    }
}

struct Geometry {
    size: u64,
    block: u32,
    physical_block: u32,
}

impl Geometry {
    fn of_file(file: &File, direct: bool) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            size: metadata.len(),
            block: if direct { direct_block(file)? } else { SECTOR },
            physical_block: sane_block(metadata.blksize()).unwrap_or(SECTOR),
        })
    }

    fn of_device(file: &File) -> io::Result<Self> {
        let (mut size, mut logical, mut physical) = (0, 0, 0);
        // SAFETY: each call fills the integer that it is given, of the type
        // that the request has in linux/fs.h.
        unsafe {
            blk_size(file.as_raw_fd(), &raw mut size)?;
            blk_logical_block_size(file.as_raw_fd(), &raw mut logical)?;
            blk_physical_block_size(file.as_raw_fd(), &raw mut physical)?;
        }
        let logical = u64::try_from(logical).ok().and_then(sane_block);
        Ok(Self {
            size,
            block: logical.unwrap_or(SECTOR),
            physical_block: sane_block(u64::from(physical)).unwrap_or(SECTOR),
        })
    }
}

/// A block size that can be told to a guest: a power of two from 512 bytes to 64 KiB.
fn sane_block(size: u64) -> Option<u32> {
    let size = u32::try_from(size).ok()?;
    (size.is_power_of_two() && (SECTOR..=1 << 16).contains(&size)).then_some(size)
}

/// The alignment that direct access to `file` needs: tried out, because kernels
/// before 6.1 do not tell, and a file system decides for itself.
fn direct_block(file: &File) -> io::Result<u32> {
    const FALLBACK: u32 = 4096;
    let mut buffer = AlignedBuffer::new(SECTOR as usize, SECTOR as usize);
    match file.read_at(buffer.bytes(), 0) {
        Ok(_) => Ok(SECTOR),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(FALLBACK),
        Err(error) => Err(error),
    }
}

/// Memory that starts at a multiple of its alignment.
#[derive(Debug)]
pub(super) struct AlignedBuffer {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuffer {
    /// `align` is a power of two.
    pub(super) fn new(len: usize, align: usize) -> Self {
        let bytes = vec![0; len + align];
        // The memory of a vector that does not grow stays where it is.
        let start = bytes.as_ptr().addr().wrapping_neg() & (align - 1);
        Self { bytes, start, len }
    }

    pub(super) fn bytes(&mut self) -> &mut [u8] {
        self.bytes
            .get_mut(self.start..self.start + self.len)
            .unwrap_or_default()
    }
}

/// Sets the lock of a whole image. It is of the open-file-description kind, so
/// that it lives as long as our descriptor, whichever thread holds it
/// (fcntl(2), F_OFD_SETLK).
fn set_lock(file: &File, kind: libc::c_int) -> io::Result<()> {
    // SAFETY: all-zero bytes are a valid `flock`: the whole file, and no process id,
    // which this kind of lock asks for.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::c_short::try_from(kind).unwrap_or_default();
    lock.l_whence = libc::c_short::try_from(libc::SEEK_SET).unwrap_or_default();
    // SAFETY: the descriptor is open and the structure outlives the call.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

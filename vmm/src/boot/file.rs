//! A file that is to be loaded, and what it looks like.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::reader::WholeReads;
use super::{BootError, KernelDefect, Role};

/// An open regular file.
#[derive(Debug)]
pub(super) struct ImageFile {
    file: File,
    /// Size in bytes when it was opened.
    pub(super) size: u64,
    role: Role,
    path: PathBuf,
}

/// Kernel formats that can be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    BzImage,
    Elf,
}

/// Offset of the setup header's magic in a bzImage.
const LINUX_MAGIC_OFFSET: usize = 0x202;
const LINUX_MAGIC: &[u8] = b"HdrS";
const ELF_MAGIC: &[u8] = b"\x7fELF";

/// What a wrong file may be instead: first bytes, and what to call it.
const OTHER_FORMATS: [(&[u8], &str); 8] = [
    (b"\x1f\x8b", "gzip data (uncompress it first)"),
    (b"\x28\xb5\x2f\xfd", "zstd data (uncompress it first)"),
    (b"\xfd7zXZ\0", "xz data (uncompress it first)"),
    (b"BZh", "bzip2 data (uncompress it first)"),
    (b"\x02\x21\x4c\x18", "lz4 data (uncompress it first)"),
    (b"070701", "a cpio archive (an initramfs?)"),
    (b"MZ", "an EFI program without a Linux setup header"),
    (b"#!", "a script"),
];

impl ImageFile {
    pub(super) fn open(role: Role, path: &Path) -> Result<Self, BootError> {
        let open_error = |source| BootError::Open {
            role,
            path: path.to_owned(),
            source,
        };
        // Without O_NONBLOCK, opening a named pipe would wait for its writer for ever.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .map_err(open_error)?;
        let metadata = file.metadata().map_err(open_error)?;
        if !metadata.is_file() {
            return Err(BootError::NotAFile {
                role,
                path: path.to_owned(),
            });
        }
        Ok(Self {
            file,
            size: metadata.len(),
            role,
            path: path.to_owned(),
        })
    }

    /// Tells the kernel format by its magic numbers.
    pub(super) fn format(&self) -> Result<Format, BootError> {
        let mut head = [0; LINUX_MAGIC_OFFSET + LINUX_MAGIC.len()];
        let length = self.read_head(&mut head)?;
        let head = head.get(..length).unwrap_or_default();
        if head.starts_with(ELF_MAGIC) {
            return Ok(Format::Elf);
        }
        if head.get(LINUX_MAGIC_OFFSET..) == Some(LINUX_MAGIC) {
            return Ok(Format::BzImage);
        }
        let found = if head.is_empty() {
            "empty"
        } else {
            OTHER_FORMATS
                .iter()
                .find(|(magic, _)| head.starts_with(magic))
                .map_or("of no known format", |(_, name)| name)
        };
        Err(BootError::UnknownFormat {
            path: self.path.clone(),
            found,
        })
    }

    fn read_head(&self, head: &mut [u8]) -> Result<usize, BootError> {
        let wanted = usize::try_from(self.size).map_or(head.len(), |size| size.min(head.len()));
        let head = head.get_mut(..wanted).unwrap_or_default();
        self.file
            .read_exact_at(head, 0)
            .map_err(|source| BootError::Read {
                role: self.role,
                path: self.path.clone(),
                source,
            })?;
        Ok(wanted)
    }

    /// Fails unless the file holds `length` bytes at `offset`.
    pub(super) fn check(
        &self,
        what: &'static str,
        offset: u64,
        length: u64,
    ) -> Result<(), KernelDefect> {
        let needed = offset.saturating_add(length);
        if needed > self.size {
            return Err(KernelDefect::Truncated {
                what,
                needed,
                size: self.size,
            });
        }
        Ok(())
    }

    /// Loads `what` by `load`, which is given a reader of the file.
    pub(super) fn load<T>(
        &self,
        what: &'static str,
        load: impl FnOnce(&mut WholeReads<&File>) -> Result<T, linux_loader::loader::Error>,
    ) -> Result<T, KernelDefect> {
        let mut reader = self.reader();
        load(&mut reader).map_err(|error| match reader.into_failure() {
            Some(source) => KernelDefect::Read { what, source },
            None => KernelDefect::Load(error),
        })
    }

    /// Reads from where the file stands, at first its start.
    pub(super) fn reader(&self) -> WholeReads<&File> {
        WholeReads::new(&self.file)
    }

    /// Fills `buffer` from `offset`.
    pub(super) fn read_at(
        &self,
        what: &'static str,
        buffer: &mut [u8],
        offset: u64,
    ) -> Result<(), KernelDefect> {
        self.check(what, offset, buffer.len() as u64)?;
        self.file
            .read_exact_at(buffer, offset)
            .map_err(|source| KernelDefect::Read { what, source })
    }
}

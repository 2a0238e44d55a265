//! Files below a root, and why one is not read.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::AccessFlags;
use thiserror::Error;

/// More than any file of proc or sys that is read here: `/proc/interrupts` of a
/// machine with 8192 CPUs has a few MiB.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// More names than any folder of proc or sys has.
const MAX_NAMES: usize = 1 << 20;

/// Something that was read, or why it was not.
pub type Fact<T> = Result<T, Unread>;

/// Why something is not known. Paths are shown as the host has them, without the
/// root that they were read below.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Unread {
    /// The kernel does not show it.
    #[error("/{path} is not there")]
    Missing {
        /// The file.
        path: String,
    },
    /// This user may not read it.
    #[error("no permission for /{path}")]
    Denied {
        /// The file.
        path: String,
    },
    /// It holds something else than it should.
    #[error("/{path}: {reason}")]
    Odd {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl Unread {
    pub(in crate::check) fn missing(path: &str) -> Self {
        Self::Missing {
            path: path.to_owned(),
        }
    }

    pub(in crate::check) fn odd(path: &str, text: &str, expected: &str) -> Self {
        let text: String = text.chars().take(64).collect();
        Self::Odd {
            path: path.to_owned(),
            reason: format!("{text:?} is not {expected}"),
        }
    }

    fn io(path: &str, error: &io::Error) -> Self {
        let path = path.to_owned();
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Self::Missing { path },
            io::ErrorKind::PermissionDenied => Self::Denied { path },
            _ => match error.raw_os_error() {
                // A device file without its device.
                Some(libc::ENXIO | libc::ENODEV) => Self::Missing { path },
                _ => Self::Odd {
                    path,
                    reason: error.to_string(),
                },
            },
        }
    }
}

/// The files below a root.
#[derive(Debug)]
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// The files below `root`.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// What a file holds, without blanks around it.
    pub(super) fn text(&self, path: &str) -> Fact<String> {
        let mut bytes = Vec::new();
        File::open(self.root.join(path))
            .and_then(|file| file.take(MAX_FILE_BYTES).read_to_end(&mut bytes))
            .map_err(|error| Unread::io(path, &error))?;
        // A thread's name may be any bytes.
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// Eight bytes at a place of a file, as `/dev/cpu/N/msr` gives a register.
    pub(super) fn number_at(&self, path: &str, offset: u64) -> Fact<u64> {
        let mut bytes = [0; 8];
        File::open(self.root.join(path))
            .and_then(|file| file.read_exact_at(&mut bytes, offset))
            .map_err(|error| Unread::io(path, &error))?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// The first four bytes of a file.
    pub(super) fn short_number(&self, path: &str) -> Fact<i32> {
        let mut bytes = [0; 4];
        File::open(self.root.join(path))
            .and_then(|mut file| file.read_exact(&mut bytes))
            .map_err(|error| Unread::io(path, &error))?;
        Ok(i32::from_le_bytes(bytes))
    }

    /// The names in a folder, sorted.
    pub(super) fn names(&self, path: &str) -> Fact<Vec<String>> {
        let entries =
            fs::read_dir(self.root.join(path)).map_err(|error| Unread::io(path, &error))?;
        let names = entries.take(MAX_NAMES).flatten();
        let mut names: Vec<_> = names
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        Ok(names)
    }

    /// The last part of what a symbolic link leads to.
    pub(super) fn link(&self, path: &str) -> Fact<String> {
        let target =
            fs::read_link(self.root.join(path)).map_err(|error| Unread::io(path, &error))?;
        let name = target.file_name().unwrap_or_default();
        Ok(name.to_string_lossy().into_owned())
    }

    /// Whether nobody may write a file.
    pub(super) fn is_read_only(&self, path: &str) -> bool {
        let file = fs::metadata(self.root.join(path));
        file.is_ok_and(|file| file.permissions().mode() & 0o222 == 0)
    }

    /// Whether a device may be read and written; it is not opened, because that
    /// loads modules.
    pub(super) fn usable(&self, path: &str) -> Fact<()> {
        let flags = AccessFlags::R_OK | AccessFlags::W_OK;
        nix::unistd::access(&self.root.join(path), flags)
            .map_err(|errno| Unread::io(path, &errno.into()))
    }
}

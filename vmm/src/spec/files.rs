//! Paths in a config: is there what the field needs?
//!
//! Only metadata and permissions are looked at. Opening is left to whoever
//! uses the file: opening a FIFO blocks, and closing a block device makes udev
//! look at it again.

use std::fs::{self, Metadata};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::{AccessFlags, faccessat};

use super::error::Problems;

/// A regular file that is not empty and can be read.
pub(super) fn regular(field: &str, path: &Path, problems: &mut Problems) -> Option<PathBuf> {
    let metadata = look(field, path, problems)?;
    if !metadata.is_file() {
        problems.invalid(
            field,
            format!("{} is {}, not a file", path.display(), kind(&metadata)),
        );
        return None;
    }
    if metadata.len() == 0 {
        problems.invalid(field, format!("{} is empty", path.display()));
        return None;
    }
    access(field, path, AccessFlags::R_OK, problems)
}

/// Anything that bytes can be read from.
pub(super) fn readable(field: &str, path: &Path, problems: &mut Problems) -> Option<PathBuf> {
    let metadata = look(field, path, problems)?;
    let file_type = metadata.file_type();
    if !file_type.is_file() && !file_type.is_char_device() {
        problems.invalid(
            field,
            format!(
                "{} is {}, not a file or character device",
                path.display(),
                kind(&metadata)
            ),
        );
        return None;
    }
    access(field, path, AccessFlags::R_OK, problems)
}

/// A regular file or block device with blocks to serve.
pub(super) fn blocks(
    field: &str,
    path: &Path,
    needed: AccessFlags,
    problems: &mut Problems,
) -> Option<PathBuf> {
    let metadata = look(field, path, problems)?;
    let file_type = metadata.file_type();
    if !file_type.is_file() && !file_type.is_block_device() {
        problems.invalid(
            field,
            format!(
                "{} is {}, not a raw image or block device",
                path.display(),
                kind(&metadata)
            ),
        );
        return None;
    }
    access(field, path, needed, problems)
}

/// A path that a file can be made at.
pub(super) fn to_be_made(field: &str, path: &Path, problems: &mut Problems) -> Option<PathBuf> {
    let directory = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => {
            problems.invalid(field, format!("{} names no file", path.display()));
            return None;
        }
    };
    if path.is_dir() {
        problems.invalid(
            field,
            format!("{} is a directory, not a file", path.display()),
        );
        return None;
    }
    if !directory.is_dir() {
        problems.invalid(
            field,
            format!("the directory {} is not there", directory.display()),
        );
        return None;
    }
    Some(path.to_owned())
}

fn look(field: &str, path: &Path, problems: &mut Problems) -> Option<Metadata> {
    match fs::metadata(path) {
        Ok(metadata) => Some(metadata),
        Err(error) => {
            let shown = path.display();
            let place = if path.is_relative() {
                match std::env::current_dir() {
                    Ok(directory) => format!(" (seen from {})", directory.display()),
                    Err(_) => String::new(),
                }
            } else {
                String::new()
            };
            let reason = match error.kind() {
                std::io::ErrorKind::NotFound => format!("{shown} is not there{place}"),
                _ => format!("{shown} cannot be looked at{place}: {error}"),
            };
            problems.host(field, reason);
            None
        }
    }
}

fn access(
    field: &str,
    path: &Path,
    needed: AccessFlags,
    problems: &mut Problems,
) -> Option<PathBuf> {
    match faccessat(AT_FDCWD, path, needed, AtFlags::AT_EACCESS) {
        Ok(()) => Some(path.to_owned()),
        Err(errno) => {
            let verb = if needed.contains(AccessFlags::W_OK) {
                "written"
            } else {
                "read"
            };
            let reason = match errno {
                Errno::EACCES => "no permission".to_owned(),
                Errno::EROFS => "its file system is mounted read-only".to_owned(),
                other => other.desc().to_owned(),
            };
            problems.host(
                field,
                format!("{} cannot be {verb}: {reason}", path.display()),
            );
            None
        }
    }
}

fn kind(metadata: &Metadata) -> &'static str {
    let file_type = metadata.file_type();
    if file_type.is_dir() {
        "a directory"
    } else if file_type.is_char_device() {
        "a character device"
    } else if file_type.is_block_device() {
        "a block device"
    } else if file_type.is_fifo() {
        "a FIFO"
    } else if file_type.is_socket() {
        "a socket"
    } else {
        "a regular file"
    }
}

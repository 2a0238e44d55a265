//! What can be wrong with a kernel, an initramfs or a command line.

use std::io;
use std::path::PathBuf;

use super::ram;
use crate::arch::layout::HIGH_MEMORY_START;

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The kernel.
    Kernel,
    /// The initial RAM file system.
    Initramfs,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Kernel => "kernel",
            Self::Initramfs => "initramfs",
        })
    }
}

/// Why a payload could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The file cannot be opened.
    #[error("cannot open {role} {path:?}")]
    Open {
        /// What the file is for.
        role: Role,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The path leads to a directory, a device or a pipe.
    #[error("{role} {path:?} is not a regular file: give the path of a file")]
    NotAFile {
        /// What the file is for.
        role: Role,
        /// The file.
        path: PathBuf,
    },
    /// Reading failed.
    #[error("cannot read {role} {path:?}")]
    Read {
        /// What the file is for.
        role: Role,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Neither bzImage nor ELF.
    #[error(
        "kernel {path:?} is {found}: accepted are an x86-64 bzImage (a distribution's vmlinuz) \
         and an uncompressed x86-64 ELF (vmlinux, or a guest with a PVH note)"
    )]
    UnknownFormat {
        /// The file.
        path: PathBuf,
        /// What the first bytes look like.
        found: &'static str,
    },
    /// A bzImage or ELF file that cannot be booted.
    #[error("cannot boot kernel {path:?}")]
    Kernel {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        defect: KernelDefect,
    },
    /// The initramfs has no content.
    #[error("initramfs {path:?} is empty: give a cpio archive, or leave the initramfs out")]
    InitramfsEmpty {
        /// The file.
        path: PathBuf,
    },
    /// The initramfs and the kernel do not both fit.
    #[error(
        "initramfs {path:?} has {size} bytes, and guest memory has room for {room} beside the \
         kernel: give the guest at least {} MiB more, or a smaller initramfs",
        size.saturating_sub(*room).div_ceil(1 << 20)
    )]
    InitramfsTooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// The largest free range that the kernel could find it in, in bytes.
        room: u64,
    },
    /// Loading the initramfs failed half way.
    #[error("cannot load initramfs {path:?} into guest memory at {address:#x}")]
    InitramfsLoad {
        /// The file.
        path: PathBuf,
        /// Where it was to go.
        address: u64,
        /// What failed.
        source: vm_memory::GuestMemoryError,
    },
    /// The command line is longer than the kernel takes.
    #[error(
        "command line has {length} bytes, the kernel takes at most {max}: shorten it by {}",
        length - max
    )]
    CommandLineTooLong {
        /// Its length in bytes.
        length: usize,
        /// What the kernel takes, in bytes without the NUL.
        max: usize,
    },
    /// The command line has a byte that a kernel cannot take.
    #[error(
        "command line has byte {byte:#04x} at position {position}: only printable ASCII is accepted"
    )]
    CommandLineByte {
        /// The byte.
        byte: u8,
        /// Its position, from 0.
        position: usize,
    },
    /// Memory is in more pieces than the boot protocols can list.
    #[error("guest memory gives {entries} entries in the memory map, at most {max} can be passed")]
    MemoryMapTooLong {
        /// Entries needed.
        entries: usize,
        /// Entries that fit.
        max: usize,
    },
    /// Guest memory does not reach the fixed boot structures.
    #[error(
        "guest memory does not cover the boot structures at {address:#x}: give the guest at least 1 MiB"
    )]
    Structures {
        /// Where the write was to go.
        address: u64,
    },
}

/// What is wrong with a kernel image.
#[derive(Debug, thiserror::Error)]
pub enum KernelDefect {
    /// The file ends early.
    #[error("truncated: {what} needs {needed} bytes of file, there are {size}")]
    Truncated {
        /// The part that is cut.
        what: &'static str,
        /// File size needed, in bytes.
        needed: u64,
        /// File size, in bytes.
        size: u64,
    },
    /// Not what an x86-64 host can run.
    #[error("{what} is {value:#x}, needed is {needed}")]
    Unsupported {
        /// The header field.
        what: &'static str,
        /// Its value.
        value: u64,
        /// What is accepted.
        needed: &'static str,
    },
    /// A part of the kernel would lie outside RAM.
    #[error(
        "{what} needs guest memory from {start:#x} to {end:#x}, RAM for a kernel is {ram}: \
         give the guest more memory, or link the kernel elsewhere"
    )]
    OutsideRam {
        /// The part.
        what: &'static str,
        /// First address.
        start: u64,
        /// First address behind it.
        end: u64,
        /// The RAM a kernel may use.
        ram: ram::Ranges,
    },
    /// A part of the kernel would overwrite the boot structures.
    #[error(
        "{what} starts at {start:#x}: below {:#x} lie the boot structures, link the kernel higher",
        HIGH_MEMORY_START.0
    )]
    TooLow {
        /// The part.
        what: &'static str,
        /// First address.
        start: u64,
    },
    /// The entry point is not in what was loaded.
    #[error(
        "the {protocol} entry point {entry:#x} is in no loaded segment (it must be a physical address)"
    )]
    Entry {
        /// Boot protocol.
        protocol: &'static str,
        /// The address.
        entry: u64,
    },
    /// There is nothing to load.
    #[error("the ELF file has no segment to load")]
    NoSegments,
    /// Reading failed.
    #[error("cannot read {what}")]
    Read {
        /// What was to be read.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Moving the image into memory failed.
    #[error("cannot load the image into guest memory")]
    Load(#[source] linux_loader::loader::Error),
    /// Clearing memory behind a segment failed.
    #[error("cannot clear guest memory behind a segment")]
    Clear(#[source] vm_memory::GuestMemoryError),
}

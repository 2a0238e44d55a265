//! Loading a kernel into guest memory.
//!
//! A kernel file comes from outside and is not trusted: everything that its headers
//! claim is checked against the file and against guest memory (modules `elf` and `bzimage`),
//! and only then `linux_loader` moves the bytes, through a buffer of fixed size (module `reader`
//! says why).
//!
//! ```text
//! kernel file -> Kernel { entry, end, limits } -> initramfs behind it -> boot_params
//!                                              -> command line           or hvm_start_info
//! ```

use std::path::PathBuf;

use godwit_devices::GuestRam;
use vm_memory::GuestAddress;

use crate::arch::layout;

mod bzimage;
mod elf;
mod error;
mod file;
mod initramfs;
mod params;
mod ram;
mod reader;

#[cfg(test)]
mod tests;

pub use error::{BootError, KernelDefect, Role};

use file::{Format, ImageFile};
use ram::Ram;

/// What to boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// Kernel: a bzImage or an ELF `vmlinux`.
    pub kernel: PathBuf,
    /// Initial RAM file system, passed to the kernel as it is.
    pub initramfs: Option<PathBuf>,
    /// Kernel command line.
    pub cmdline: String,
    /// How to enter the kernel.
    pub protocol: Protocol,
    /// What guest memory holds.
    pub onto: Onto,
}

/// What guest memory holds before a kernel is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Onto {
    /// Zeros: it is new. What a kernel finds cleared is not written, so that its
    /// pages are made when it uses them (a `vmlinux` has megabytes of it).
    Zeros,
    /// What the last boot left.
    Leftovers,
}

/// How a kernel is entered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// PVH where the kernel has a PVH note, else the 64-bit Linux protocol.
    #[default]
    Auto,
    /// The 64-bit Linux protocol, even where there is a PVH note.
    Linux64,
}

/// Where and how the boot processor starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// The 64-bit Linux protocol.
    Linux64 {
        /// First instruction.
        rip: GuestAddress,
        /// Address of `boot_params`.
        zero_page: GuestAddress,
    },
    /// PVH.
    Pvh {
        /// First instruction, below 4 GiB.
        rip: GuestAddress,
        /// Address of `hvm_start_info`.
        start_info: GuestAddress,
    },
}

/// Loads `payload` into `memory`: kernel, initramfs, command line and boot parameters.
///
/// Guest memory is expected to be laid out by [`layout::place_zones`]. The ACPI tables
/// are not written here; the boot parameters say that they start at [`layout::RSDP`].
///
/// # Errors
///
/// A [`BootError`] that names the file, what is wrong with it, and what is accepted.
pub fn load(memory: &GuestRam, payload: &Payload) -> Result<Entry, BootError> {
    let ram = Ram::new(memory);
    let file = ImageFile::open(Role::Kernel, &payload.kernel)?;
    let kernel = match file.format()? {
        Format::BzImage => bzimage::load(&ram, &file),
        Format::Elf => elf::load(&ram, &file, payload),
    }
    .map_err(|defect| BootError::Kernel {
        path: payload.kernel.clone(),
        defect,
    })?;
    params::write_command_line(memory, &payload.cmdline, kernel.cmdline_max)?;
    let initramfs = payload
        .initramfs
        .as_deref()
        .map(|path| initramfs::load(&ram, &kernel, path))
        .transpose()?;
    match kernel.start {
        Start::Linux64(rip) => {
            params::write_zero_page(&ram, &kernel, initramfs.as_ref())?;
            Ok(Entry::Linux64 {
                rip,
                zero_page: layout::ZERO_PAGE,
            })
        }
        Start::Pvh(rip) => {
            params::write_start_info(&ram, initramfs.as_ref())?;
            Ok(Entry::Pvh {
                rip,
                start_info: layout::PVH_START_INFO,
            })
        }
    }
}

/// First instruction of a kernel, by protocol.
#[derive(Clone, Copy, Debug)]
enum Start {
    Linux64(GuestAddress),
    Pvh(GuestAddress),
}

/// A kernel in guest memory.
#[derive(Debug)]
struct Kernel {
    start: Start,
    /// First address behind everything that the kernel uses before it reads its memory map.
    end: u64,
    /// The longest command line it takes, without the NUL.
    cmdline_max: usize,
    /// The last address that its initramfs may take.
    initramfs_last: u64,
    /// What the zero page starts from.
    header: linux_loader::bootparam::setup_header,
}

/// A file placed in guest memory.
#[derive(Clone, Copy, Debug)]
struct Placed {
    start: GuestAddress,
    size: u64,
}

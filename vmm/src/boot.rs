//! Loading a kernel into guest memory.

use std::path::PathBuf;

use vm_memory::GuestAddress;

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

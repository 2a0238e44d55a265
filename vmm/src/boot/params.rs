//! What a kernel is told at its start: command line, `boot_params`, `hvm_start_info`.

use godwit_devices::GuestRam;
use linux_loader::bootparam::{boot_e820_entry, boot_params};
use linux_loader::configurator::linux::LinuxBootConfigurator;
use linux_loader::configurator::pvh::PvhBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::start_info::{
    XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::Bytes;

use super::ram::Ram;
use super::{BootError, Kernel, Placed};
use crate::arch::layout::{self, MapEntry};

/// `type_of_loader` of a loader without a number of its own (`boot.rst`).
const LOADER_UNDEFINED: u8 = 0xff;

/// Checks the command line and writes it with its NUL.
pub(super) fn write_command_line(
    memory: &GuestRam,
    cmdline: &str,
    max: usize,
) -> Result<(), BootError> {
    if let Some((position, byte)) = cmdline
        .bytes()
        .enumerate()
        .find(|(_, byte)| !(byte.is_ascii_graphic() || matches!(byte, b' ' | b'\t')))
    {
        return Err(BootError::CommandLineByte { byte, position });
    }
    if cmdline.len() > max {
        return Err(BootError::CommandLineTooLong {
            length: cmdline.len(),
            max,
        });
    }
    let mut bytes = cmdline.as_bytes().to_vec();
    bytes.push(0);
    memory
        .write_slice(&bytes, layout::COMMAND_LINE)
        .map_err(|_| BootError::Structures {
            address: layout::COMMAND_LINE.0,
        })
}

/// Writes the zero page (kernel document `arch/x86/zero-page.rst`).
pub(super) fn write_zero_page(
    ram: &Ram<'_>,
    kernel: &Kernel,
    initramfs: Option<&Placed>,
) -> Result<(), BootError> {
    let mut params = boot_params {
        acpi_rsdp_addr: layout::RSDP.0,
        hdr: kernel.header,
        ..boot_params::default()
    };
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    (params.hdr.cmd_line_ptr, params.ext_cmd_line_ptr) = split(layout::COMMAND_LINE.0);
    if let Some(initramfs) = initramfs {
        (params.hdr.ramdisk_image, params.ext_ramdisk_image) = split(initramfs.start.0);
        (params.hdr.ramdisk_size, params.ext_ramdisk_size) = split(initramfs.size);
    }
    let map = layout::memory_map(&ram.regions);
    // Copied out and back: a reference into a packed structure is not allowed.
    let mut table = params.e820_table;
    let too_long = BootError::MemoryMapTooLong {
        entries: map.len(),
        max: table.len(),
    };
    if map.len() > table.len() {
        return Err(too_long);
    }
    for (slot, entry) in table.iter_mut().zip(&map) {
        *slot = boot_e820_entry {
            addr: entry.start,
            size: entry.size,
            r#type: entry.kind as u32,
        };
    }
    params.e820_table = table;
    params.e820_entries = u8::try_from(map.len()).map_err(|_| too_long)?;
    LinuxBootConfigurator::write_bootparams(
        &BootParams::new(&params, layout::ZERO_PAGE),
        ram.memory,
    )
    .map_err(|_| BootError::Structures {
        address: layout::ZERO_PAGE.0,
    })
}

/// Low and high half of an address or a size.
fn split(value: u64) -> (u32, u32) {
    #[expect(clippy::cast_possible_truncation, reason = "the two halves are wanted")]
    let halves = (value as u32, (value >> 32) as u32);
    halves
}

/// Writes `hvm_start_info`, version 1, with module list and memory map
/// (Xen `xen/include/public/arch-x86/hvm/start_info.h`).
pub(super) fn write_start_info(ram: &Ram<'_>, initramfs: Option<&Placed>) -> Result<(), BootError> {
    let map: Vec<hvm_memmap_table_entry> = layout::memory_map(&ram.regions)
        .iter()
        .map(|&MapEntry { start, size, kind }| hvm_memmap_table_entry {
            addr: start,
            size,
            type_: kind as u32,
            reserved: 0,
        })
        .collect();
    let room = layout::ZERO_PAGE.0 - layout::PVH_MEMORY_MAP.0;
    let max = usize::try_from(room).map_or(0, |room| room / size_of::<hvm_memmap_table_entry>());
    let too_long = BootError::MemoryMapTooLong {
        entries: map.len(),
        max,
    };
    if map.len() > max {
        return Err(too_long);
    }
    let start_info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: 1,
        nr_modules: u32::from(initramfs.is_some()),
        modlist_paddr: if initramfs.is_some() {
            layout::PVH_MODULES.0
        } else {
            0
        },
        cmdline_paddr: layout::COMMAND_LINE.0,
        rsdp_paddr: layout::RSDP.0,
        memmap_paddr: layout::PVH_MEMORY_MAP.0,
        memmap_entries: u32::try_from(map.len()).map_err(|_| too_long)?,
        ..hvm_start_info::default()
    };
    let mut params = BootParams::new(&start_info, layout::PVH_START_INFO);
    params.set_sections(&map, layout::PVH_MEMORY_MAP);
    if let Some(initramfs) = initramfs {
        let module = hvm_modlist_entry {
            paddr: initramfs.start.0,
            size: initramfs.size,
            ..hvm_modlist_entry::default()
        };
        params.set_modules(&[module], layout::PVH_MODULES);
    }
    PvhBootConfigurator::write_bootparams(&params, ram.memory).map_err(|_| BootError::Structures {
        address: layout::PVH_START_INFO.0,
    })
}

//! The guest-physical address map and the I/O port map.
//!
//! ```text
//!          0  real-mode area, boot structures (zero page, command line, GDT, page tables)
//!    0x9fc00  EBDA and BIOS area, reserved; ACPI tables from 0xe0000
//!   0x100000  RAM: kernel, initramfs                                     up to 3 GiB
//! 0xc0000000  32-bit PCI memory window                                   512 MiB
//! 0xe0000000  PCI configuration space (ECAM, 256 buses)                  256 MiB
//! 0xfe000000  platform register block (power button, hot-plug)           64 KiB
//! 0xfec00000  IOAPIC      0xfee00000  local APIC
//! 0xfffbc000  identity map page, then the three TSS pages of VMX real mode
//!      4 GiB  RAM, the rest
//!    RAM end  64-bit PCI memory window (from the next GiB to the end of the address space)
//! ```
//!
//! All of it is arithmetic on values: nothing here touches memory or KVM.

use std::ops::{Range, RangeInclusive};

use vm_memory::GuestAddress;

mod ram;

#[cfg(test)]
mod tests;

pub use ram::{LayoutError, RamRegion, Zone, place_zones, ram_regions};

/// 1 KiB in bytes.
pub const KIB: u64 = 1 << 10;
/// 1 MiB in bytes.
pub const MIB: u64 = 1 << 20;
/// 1 GiB in bytes.
pub const GIB: u64 = 1 << 30;
/// 1 TiB in bytes.
pub const TIB: u64 = 1 << 40;

/// First address of the hole below 4 GiB: low RAM ends here at the latest.
///
/// 1 GiB aligned, so that a region on 1 GiB pages splits cleanly.
pub const HOLE_START: u64 = 3 * GIB;
/// First address behind the hole: high RAM starts here.
pub const HOLE_END: u64 = 4 * GIB;
/// The most RAM a guest can have, in bytes.
pub const RAM_MAX: u64 = TIB;

/// Start of the RAM that a kernel may be loaded to; below lie the boot structures.
pub const HIGH_MEMORY_START: GuestAddress = GuestAddress(MIB);

/// Global descriptor table of the boot processor.
pub const GDT: GuestAddress = GuestAddress(0x500);
/// `hvm_start_info` of a PVH boot, with its module list and memory map in the same page.
pub const PVH_START_INFO: GuestAddress = GuestAddress(0x6000);
/// Module list of a PVH boot.
pub const PVH_MODULES: GuestAddress = GuestAddress(0x6040);
/// Memory map of a PVH boot; it ends with the page, at 0x7000.
pub const PVH_MEMORY_MAP: GuestAddress = GuestAddress(0x6080);
/// `boot_params`, the "zero page" of a Linux boot.
pub const ZERO_PAGE: GuestAddress = GuestAddress(0x7000);
/// Top of the stack that a 64-bit boot starts with.
pub const BOOT_STACK: GuestAddress = GuestAddress(0x8ff0);
/// Page tables of a 64-bit boot: one PML4, one PDPT, four page directories.
pub const PAGE_TABLES: GuestAddress = GuestAddress(0x9000);
/// Kernel command line.
pub const COMMAND_LINE: GuestAddress = GuestAddress(0x2_0000);
/// Room for the command line and its NUL, in bytes.
pub const COMMAND_LINE_SIZE: u64 = 64 * KIB;

/// Extended BIOS data area: conventional memory ends here.
pub const EBDA_START: u64 = 0x9_fc00;
/// ACPI root pointer; the tables follow it.
///
/// In the range that ACPI 6.5, 5.2.5.1 lets an operating system scan, for guests that
/// do not read `boot_params.acpi_rsdp_addr`.
pub const RSDP: GuestAddress = GuestAddress(0xe_0000);
/// End of the room for ACPI tables.
pub const ACPI_END: u64 = RESET_VECTOR.0;
/// Where a processor in real mode jumps to restart: f000:fff0.
pub const RESET_VECTOR: GuestAddress = GuestAddress(0xf_fff0);

/// The PCI memory window below 4 GiB.
pub const PCI_WINDOW_32: Range<u64> = HOLE_START..ECAM_START;
/// PCI Express enhanced configuration space, 1 MiB for each bus.
pub const ECAM_START: u64 = 0xe000_0000;
/// Size of the ECAM in bytes.
pub const ECAM_SIZE: u64 = (ECAM_LAST_BUS as u64 + 1) * MIB;
/// The last bus that the ECAM covers.
pub const ECAM_LAST_BUS: u8 = 255;
/// Registers of the generic event device and of hot-plug.
pub const PLATFORM_START: u64 = 0xfe00_0000;
/// Size of the platform register block in bytes.
pub const PLATFORM_SIZE: u64 = 64 * KIB;
/// IOAPIC registers (`KVM_CREATE_IRQCHIP` puts them here).
pub const IOAPIC: u32 = 0xfec0_0000;
/// Local APIC registers at reset.
pub const LOCAL_APIC: u32 = 0xfee0_0000;
/// The page for `KVM_SET_IDENTITY_MAP_ADDR`.
pub const IDENTITY_MAP: u64 = 0xfffb_c000;
/// The three pages for `KVM_SET_TSS_ADDR`.
pub const TSS: u64 = IDENTITY_MAP + 0x1000;

/// First 16550 UART.
pub const COM1_PORT: u16 = 0x3f8;
/// Ports of the UART.
pub const COM1_PORT_COUNT: u8 = 8;
/// Interrupt of the UART.
pub const COM1_IRQ: u32 = 4;
/// Command port of the keyboard controller; writing 0xfe pulses the reset line.
pub const I8042_COMMAND_PORT: u16 = 0x64;
/// PCI configuration address register.
pub const PCI_ADDRESS_PORT: u16 = 0xcf8;
/// PCI configuration data register, four ports.
pub const PCI_DATA_PORT: u16 = 0xcfc;
/// ACPI sleep control register (ACPI 6.5, 4.8.3.7).
pub const SLEEP_CONTROL_PORT: u16 = 0x600;
/// ACPI sleep status register (ACPI 6.5, 4.8.3.7).
pub const SLEEP_STATUS_PORT: u16 = 0x601;
/// ACPI reset register (ACPI 6.5, 4.8.3.6).
pub const RESET_PORT: u16 = 0x602;
/// What a guest writes to [`RESET_PORT`] to reset the machine.
pub const RESET_VALUE: u8 = 0x01;
/// What a guest writes to [`SLEEP_CONTROL_PORT`] for S5: `SLP_EN` (bit 5) and
/// [`S5_SLEEP_TYPE`] in `SLP_TYP` (bits 4:2).
pub const SLEEP_S5: u8 = 1 << 5 | S5_SLEEP_TYPE << 2;
/// `SLP_TYP` of S5, as the `\_S5` object names it.
pub const S5_SLEEP_TYPE: u8 = 5;
/// Ports kept for the platform: sleep, reset, and room for more.
pub const PLATFORM_PORTS: Range<u16> = 0x600..0x640;
/// The PCI I/O window.
pub const PCI_IO_WINDOW: RangeInclusive<u16> = 0x1000..=0xffff;

/// The type of a range in the memory map, with the numbers of e820
/// (ACPI 6.5, table 15.2), which PVH shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MemoryKind {
    /// Usable RAM.
    Ram = 1,
    /// Not to be touched.
    Reserved = 2,
}

/// A range in the memory map that the guest's kernel gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapEntry {
    /// First address.
    pub start: u64,
    /// Size in bytes.
    pub size: u64,
    /// What the range is.
    pub kind: MemoryKind,
}

/// The memory map (e820) for a guest with RAM in `regions`, sorted by address.
///
/// The BIOS area and the ECAM are reserved; Linux uses no ECAM that is not.
#[must_use]
pub fn memory_map(regions: &[RamRegion]) -> Vec<MapEntry> {
    let entry = |start: u64, end: u64, kind| MapEntry {
        start,
        size: end.saturating_sub(start),
        kind,
    };
    let mut map = vec![
        entry(EBDA_START, MIB, MemoryKind::Reserved),
        entry(ECAM_START, ECAM_START + ECAM_SIZE, MemoryKind::Reserved),
    ];
    for region in regions {
        let (start, end) = (region.start.0, region.end());
        map.push(entry(start, end.min(EBDA_START), MemoryKind::Ram));
        map.push(entry(start.max(MIB), end, MemoryKind::Ram));
    }
    map.retain(|entry| entry.size > 0);
    map.sort_by_key(|entry| entry.start);
    map
}

/// First address behind all RAM, at least 4 GiB.
#[must_use]
pub fn ram_end(regions: &[RamRegion]) -> u64 {
    regions.iter().map(RamRegion::end).fold(HOLE_END, Ord::max)
}

/// The PCI memory window above 4 GiB: from the GiB after `ram_end` to the end of what
/// `phys_bits` guest-physical address bits can name.
///
/// `None` when RAM fills the address space, or `phys_bits` is below 33. More than 48
/// bits are not used: four levels of nested paging map no more.
#[must_use]
pub fn pci_window_64(ram_end: u64, phys_bits: u8) -> Option<Range<u64>> {
    let start = ram_end.max(HOLE_END).checked_next_multiple_of(GIB)?;
    let end = 1_u64 << phys_bits.min(48);
    (start < end).then_some(start..end)
}

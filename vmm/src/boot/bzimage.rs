//! bzImage, by the 64-bit boot protocol (kernel document `arch/x86/boot.rst`).
//!
//! ```text
//! 0       setup code, (setup_sects + 1) × 512 bytes   stays in the file, but for its header
//! ...     protected-mode code, syssize × 16 bytes     loaded; 64-bit entry at 0x200
//! ```

use linux_loader::bootparam::setup_header;
use linux_loader::loader::{BzImage, KernelLoader};
use vm_memory::{ByteValued, GuestAddress};

use super::file::ImageFile;
use super::ram::Ram;
use super::{Kernel, KernelDefect, Start};
use crate::arch::layout::{COMMAND_LINE_SIZE, HIGH_MEMORY_START, HOLE_START};

const HEADER_OFFSET: u64 = 0x1f1;
/// The byte at 0x201 counts from here to the end of the header.
const HEADER_END_BASE: u64 = 0x202;
const BOOT_FLAG: u16 = 0xaa55;
/// 2.12 brought `xloadflags`, which says that there is a 64-bit entry.
const VERSION_MIN: u16 = 0x020c;
const LOADED_HIGH: u8 = 1 << 0;
const XLF_KERNEL_64: u16 = 1 << 0;
const SECTOR: u64 = 512;
/// The 64-bit entry lies here in the protected-mode code.
const ENTRY_64: u64 = 0x200;
/// The longest command line where the header does not say.
const CMDLINE_DEFAULT: u32 = 255;

/// Checks the image and loads it where it asks to be, or else as low as its alignment
/// allows.
pub(super) fn load(ram: &Ram<'_>, image: &ImageFile) -> Result<Kernel, KernelDefect> {
    let header = read_header(image)?;
    check_header(&header)?;

    let setup_sectors = match header.setup_sects {
        0 => 4,
        sectors => u64::from(sectors),
    };
    let setup_size = (setup_sectors + 1) * SECTOR;
    let syssize = u64::from(header.syssize) * 16;
    image.check(
        "the protected-mode code",
        setup_size,
        syssize.max(ENTRY_64 + 1),
    )?;
    // Signed kernels carry more behind `syssize`; the loader takes it all.
    let size = image.size.saturating_sub(setup_size);
    let needed = size.max(u64::from(header.init_size));
    let start = place(ram, &header, needed)?;

    let loaded = image.load("the protected-mode code", |reader| {
        BzImage::load(ram.memory, Some(start), reader, None)
    })?;
    let cmdline_max = match header.cmdline_size {
        0 => CMDLINE_DEFAULT,
        size => size,
    };
    let room = COMMAND_LINE_SIZE - 1;
    Ok(Kernel {
        start: Start::Linux64(GuestAddress(start.0 + ENTRY_64)),
        end: start.0 + needed,
        cmdline_max: usize::try_from(u64::from(cmdline_max).min(room)).unwrap_or(usize::MAX),
        initramfs_last: match header.initrd_addr_max {
            0 => HOLE_START - 1,
            last => u64::from(last),
        },
        header: loaded.setup_header.unwrap_or(header),
    })
}

/// The setup header, zero behind the end that it states.
fn read_header(image: &ImageFile) -> Result<setup_header, KernelDefect> {
    const WHAT: &str = "the setup header";
    let mut header = setup_header::default();
    image.read_at(WHAT, header.as_mut_slice(), HEADER_OFFSET)?;
    let [_, length] = header.jump.to_le_bytes();
    let end = HEADER_END_BASE + u64::from(length) - HEADER_OFFSET;
    if let Some(behind) = usize::try_from(end)
        .ok()
        .and_then(|end| header.as_mut_slice().get_mut(end..))
    {
        behind.fill(0);
    }
    Ok(header)
}

fn check_header(header: &setup_header) -> Result<(), KernelDefect> {
    let require = |holds: bool, what, value: u64, needed| {
        if holds {
            Ok(())
        } else {
            Err(KernelDefect::Unsupported {
                what,
                value,
                needed,
            })
        }
    };
    let (boot_flag, version) = (header.boot_flag, header.version);
    let (loadflags, xloadflags) = (header.loadflags, header.xloadflags);
    require(
        boot_flag == BOOT_FLAG,
        "the boot flag at 0x1fe",
        boot_flag.into(),
        "0xaa55",
    )?;
    require(
        version >= VERSION_MIN,
        "the boot protocol version",
        version.into(),
        "0x20c (Linux 3.8) or later",
    )?;
    require(
        loadflags & LOADED_HIGH != 0,
        "loadflags",
        loadflags.into(),
        "LOADED_HIGH (bit 0): a bzImage, not a zImage",
    )?;
    require(
        xloadflags & XLF_KERNEL_64 != 0,
        "xloadflags",
        xloadflags.into(),
        "XLF_KERNEL_64 (bit 0): a 64-bit kernel",
    )
}

/// Where `needed` bytes of kernel go.
fn place(ram: &Ram<'_>, header: &setup_header, needed: u64) -> Result<GuestAddress, KernelDefect> {
    const WHAT: &str = "the kernel (unpacked in place)";
    let preferred = header.pref_address;
    if header.relocatable_kernel == 0 || ram.holds(preferred, needed) {
        return ram.check(WHAT, preferred, needed);
    }
    let alignment = u64::from(header.kernel_alignment).max(1);
    let lowest = HIGH_MEMORY_START.0.next_multiple_of(alignment);
    ram.check(WHAT, lowest, needed)
}

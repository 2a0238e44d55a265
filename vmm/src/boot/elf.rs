//! ELF kernels: `vmlinux`, and guests with a PVH note.

use linux_loader::bootparam::setup_header;
use linux_loader::elf::{ELFCLASS64, ELFDATA2LSB, Elf64_Ehdr, Elf64_Phdr, PT_LOAD, PT_NOTE};
use linux_loader::loader::{Elf, KernelLoader};
use vm_memory::{ByteValued, Bytes, GuestAddress};

use super::file::ImageFile;
use super::ram::Ram;
use super::{Kernel, KernelDefect, Onto, Payload, Protocol, Start};
use crate::arch::layout::HOLE_START;

mod note;

const CLASS_OFFSET: usize = 4;
const DATA_OFFSET: usize = 5;
const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const EM_X86_64: u16 = 62;
/// Linux has 5 program headers; a file with more than this is not a kernel.
const SEGMENTS_MAX: u16 = 256;
/// `COMMAND_LINE_SIZE` of Linux on x86 is 2048 with the NUL; an ELF file does not say.
const CMDLINE_MAX: usize = 2047;

/// Checks the image and loads its segments at their physical addresses.
pub(super) fn load(
    ram: &Ram<'_>,
    image: &ImageFile,
    payload: &Payload,
) -> Result<Kernel, KernelDefect> {
    let header = read_header(image)?;
    let segments = read_segments(image, &header)?;
    let loaded: Vec<&Elf64_Phdr> = segments
        .iter()
        .filter(|segment| segment.p_type == PT_LOAD && segment.p_memsz > 0)
        .collect();
    let mut end = 0;
    for segment in &loaded {
        end = end.max(check_segment(ram, image, segment)?);
    }
    if loaded.is_empty() {
        return Err(KernelDefect::NoSegments);
    }

    let pvh = note::pvh_entry(image, segments.iter().filter(|s| s.p_type == PT_NOTE))?;
    let start = match (payload.protocol, pvh) {
        (Protocol::Auto, Some(entry)) => Start::Pvh(entry_in(&loaded, "PVH", entry)?),
        (Protocol::Auto, None) | (Protocol::Linux64, _) => {
            Start::Linux64(entry_in(&loaded, "64-bit Linux", header.e_entry)?)
        }
    };

    if payload.onto == Onto::Leftovers {
        // Cleared first: where segments overlap, what the file has wins.
        for segment in &loaded {
            clear_tail(ram, segment)?;
        }
    }
    image.load("the ELF segments", |reader| {
        Elf::load(ram.memory, None, reader, None)
    })?;
    Ok(Kernel {
        start,
        end,
        cmdline_max: CMDLINE_MAX,
        initramfs_last: HOLE_START - 1,
        header: linux_header(),
    })
}

fn read_header(image: &ImageFile) -> Result<Elf64_Ehdr, KernelDefect> {
    let mut header = Elf64_Ehdr::default();
    image.read_at("the ELF header", header.as_mut_slice(), 0)?;
    let checks = [
        (
            "the ELF class",
            u64::from(header.e_ident[CLASS_OFFSET]),
            [u64::from(ELFCLASS64), u64::from(ELFCLASS64)],
            "2 (64-bit)",
        ),
        (
            "the ELF byte order",
            u64::from(header.e_ident[DATA_OFFSET]),
            [u64::from(ELFDATA2LSB), u64::from(ELFDATA2LSB)],
            "1 (little endian)",
        ),
        (
            "the ELF machine",
            u64::from(header.e_machine),
            [u64::from(EM_X86_64), u64::from(EM_X86_64)],
            "62 (x86-64)",
        ),
        (
            "the ELF type",
            u64::from(header.e_type),
            [u64::from(ET_EXEC), u64::from(ET_DYN)],
            "2 (executable) or 3 (shared)",
        ),
        (
            "the size of an ELF program header",
            u64::from(header.e_phentsize),
            [size_of::<Elf64_Phdr>() as u64; 2],
            "56",
        ),
    ];
    for (what, value, accepted, needed) in checks {
        if !accepted.contains(&value) {
            return Err(KernelDefect::Unsupported {
                what,
                value,
                needed,
            });
        }
    }
    if header.e_phnum > SEGMENTS_MAX {
        return Err(KernelDefect::Unsupported {
            what: "the number of ELF program headers",
            value: u64::from(header.e_phnum),
            needed: "at most 256",
        });
    }
    Ok(header)
}

fn read_segments(image: &ImageFile, header: &Elf64_Ehdr) -> Result<Vec<Elf64_Phdr>, KernelDefect> {
    let mut segments = vec![Elf64_Phdr::default(); usize::from(header.e_phnum)];
    let mut offset = header.e_phoff;
    for segment in &mut segments {
        image.read_at("the ELF program headers", segment.as_mut_slice(), offset)?;
        // No overflow: the file, which is smaller than 2^63 bytes, reaches at least there.
        offset += size_of::<Elf64_Phdr>() as u64;
    }
    Ok(segments)
}

/// Checks a segment against the file and RAM; returns the first address behind it.
fn check_segment(
    ram: &Ram<'_>,
    image: &ImageFile,
    segment: &Elf64_Phdr,
) -> Result<u64, KernelDefect> {
    const WHAT: &str = "an ELF segment";
    image.check(WHAT, segment.p_offset, segment.p_filesz)?;
    let size = segment.p_memsz.max(segment.p_filesz);
    let start = ram.check(WHAT, segment.p_paddr, size)?;
    Ok(start.0 + size)
}

fn entry_in(
    segments: &[&Elf64_Phdr],
    protocol: &'static str,
    entry: u64,
) -> Result<GuestAddress, KernelDefect> {
    // No overflow: check_segment() has seen every segment.
    let inside = |segment: &&Elf64_Phdr| {
        (segment.p_paddr..segment.p_paddr + segment.p_filesz).contains(&entry)
    };
    if segments.iter().any(inside) {
        Ok(GuestAddress(entry))
    } else {
        Err(KernelDefect::Entry { protocol, entry })
    }
}

/// Clears what a segment has in memory but not in the file.
fn clear_tail(ram: &Ram<'_>, segment: &Elf64_Phdr) -> Result<(), KernelDefect> {
    static ZEROS: [u8; 4096] = [0; 4096];
    let mut address = segment.p_paddr + segment.p_filesz;
    let mut left = segment.p_memsz.saturating_sub(segment.p_filesz);
    while left > 0 {
        let step = left.min(ZEROS.len() as u64);
        let zeros = usize::try_from(step)
            .ok()
            .and_then(|step| ZEROS.get(..step))
            .unwrap_or_default();
        ram.memory
            .write_slice(zeros, GuestAddress(address))
            .map_err(KernelDefect::Clear)?;
        address += step;
        left -= step;
    }
    Ok(())
}

/// The setup header that a `vmlinux`, which has none, is told of.
fn linux_header() -> setup_header {
    setup_header {
        boot_flag: 0xaa55,
        header: u32::from_le_bytes(*b"HdrS"),
        version: 0x020f,
        loadflags: 1,
        kernel_alignment: 0x0100_0000,
        ..setup_header::default()
    }
}

//! Small kernels: an ELF file with a PVH note, and a bzImage.

use linux_loader::bootparam::setup_header;
use linux_loader::elf::{Elf64_Ehdr, Elf64_Phdr, PT_LOAD, PT_NOTE};
use vm_memory::ByteValued;

const SEGMENT_OFFSET: usize = 0x100;
const NOTE_OFFSET: usize = 0x200;
const NOTE_SIZE: usize = 20;

/// An ELF file: one segment of code, then one note.
pub(super) struct ElfFile {
    pub(super) header: Elf64_Ehdr,
    pub(super) code: Elf64_Phdr,
    pub(super) pvh_entry: u32,
}

impl ElfFile {
    /// The part of the code segment that is in memory only.
    pub(super) const TAIL: (u64, u64) = (0x20_0100, 0x20_2000);

    pub(super) fn with_pvh_note() -> Self {
        let mut header = Elf64_Ehdr {
            e_type: 2,
            e_machine: 62,
            e_version: 1,
            e_entry: 0x20_0000,
            e_phoff: 64,
            e_ehsize: 64,
            e_phentsize: 56,
            e_phnum: 2,
            ..Elf64_Ehdr::default()
        };
        header.e_ident[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        Self {
            header,
            code: Elf64_Phdr {
                p_type: PT_LOAD,
                p_offset: SEGMENT_OFFSET as u64,
                p_paddr: 0x20_0000,
                p_filesz: 0x100,
                p_memsz: 0x2000,
                ..Elf64_Phdr::default()
            },
            pvh_entry: 0x20_0010,
        }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let note = Elf64_Phdr {
            p_type: PT_NOTE,
            p_offset: NOTE_OFFSET as u64,
            p_filesz: NOTE_SIZE as u64,
            ..Elf64_Phdr::default()
        };
        let mut bytes = self.header.as_slice().to_vec();
        bytes.extend_from_slice(self.code.as_slice());
        bytes.extend_from_slice(note.as_slice());
        bytes.resize(SEGMENT_OFFSET, 0);
        bytes.extend_from_slice(b"code");
        bytes.resize(NOTE_OFFSET, 0x90);
        for word in [4_u32, 4, 18] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(b"Xen\0");
        bytes.extend_from_slice(&self.pvh_entry.to_le_bytes());
        bytes
    }
}

/// A bzImage: one setup sector, 4 KiB of code.
pub(in crate::boot) struct BzImageFile {
    pub(super) header: setup_header,
}

impl BzImageFile {
    /// Every byte of the code.
    pub(super) const CODE: u8 = 0xf4;

    pub(in crate::boot) fn new() -> Self {
        Self {
            header: setup_header {
                setup_sects: 1,
                syssize: 0x1000 / 16,
                boot_flag: 0xaa55,
                jump: 0x6aeb,
                header: u32::from_le_bytes(*b"HdrS"),
                version: 0x20f,
                loadflags: 1,
                initrd_addr_max: 0x2ff_ffff,
                kernel_alignment: 0x20_0000,
                relocatable_kernel: 1,
                xloadflags: 1,
                cmdline_size: 1000,
                pref_address: 0x100_0000,
                init_size: 0x80_0000,
                ..setup_header::default()
            },
        }
    }

    pub(in crate::boot) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; 0x1f1];
        bytes.extend_from_slice(self.header.as_slice());
        bytes.resize(1024, 0);
        bytes.resize(1024 + 0x1000, Self::CODE);
        bytes
    }
}

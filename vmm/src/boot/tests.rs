//! Kernels made here, whole and broken, loaded into real guest memory.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use linux_loader::bootparam::boot_params;
use linux_loader::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use proptest::prelude::*;
use vm_memory::Bytes;

use super::*;
use images::{BzImageFile, ElfFile};

pub(super) mod images;

const MIB: u64 = layout::MIB;

/// A directory of our own, gone when the test ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let path = std::env::temp_dir().join(format!(
            "godwit-boot-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        ));
        fs::create_dir(&path).expect("the directory is new");
        Self(path)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, bytes).expect("the file can be written");
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn memory(size: u64) -> GuestRam {
    let size = usize::try_from(size).expect("64-bit host");
    GuestRam::from_ranges(&[(GuestAddress(0), size)]).expect("memory can be mapped")
}

fn payload(kernel: &Path) -> Payload {
    Payload {
        kernel: kernel.to_owned(),
        initramfs: None,
        cmdline: "console=ttyS0".to_owned(),
        protocol: Protocol::Auto,
        onto: Onto::Leftovers,
    }
}

fn read<T: vm_memory::ByteValued>(memory: &GuestRam, address: u64) -> T {
    memory
        .read_obj(GuestAddress(address))
        .expect("the address is in memory")
}

/// The error with its sources, as the program prints it.
fn text(error: &BootError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

fn fails(memory: &GuestRam, payload: &Payload) -> String {
    text(&load(memory, payload).expect_err("the payload must be refused"))
}

#[test]
fn elf_with_a_note_boots_by_pvh() {
    let scratch = Scratch::new();
    let kernel = scratch.file("guest", &ElfFile::with_pvh_note().bytes());
    let initramfs = scratch.file("initrd", &[0x5a; 5000]);
    let memory = memory(16 * MIB);
    let payload = Payload {
        initramfs: Some(initramfs),
        ..payload(&kernel)
    };
    let entry = load(&memory, &payload).expect("the kernel is whole");
    let expected = Entry::Pvh {
        rip: GuestAddress(0x20_0010),
        start_info: layout::PVH_START_INFO,
    };
    assert_eq!(entry, expected);
    assert_eq!(read::<[u8; 4]>(&memory, 0x20_0000), *b"code");

    let start_info: hvm_start_info = read(&memory, 0x6000);
    assert_eq!((start_info.magic, start_info.version), (0x336e_c578, 1));
    assert_eq!(start_info.rsdp_paddr, 0xe_0000);
    assert_eq!(
        read::<[u8; 14]>(&memory, start_info.cmdline_paddr),
        *b"console=ttyS0\0"
    );
    assert_eq!(start_info.nr_modules, 1);
    let module: hvm_modlist_entry = read(&memory, start_info.modlist_paddr);
    assert_eq!(module.size, 5000);
    assert_eq!(module.paddr, 16 * MIB - 8192);
    assert_eq!(read::<u8>(&memory, module.paddr + 4999), 0x5a);
    let map: Vec<_> = (0..u64::from(start_info.memmap_entries))
        .map(|index| read::<hvm_memmap_table_entry>(&memory, start_info.memmap_paddr + index * 24))
        .map(|entry| (entry.addr, entry.size, entry.type_))
        .collect();
    assert!(map.contains(&(MIB, 15 * MIB, 1)));
    assert!(map.contains(&(0, layout::EBDA_START, 1)));
}

#[test]
fn linux_protocol_can_be_forced() {
    let scratch = Scratch::new();
    let kernel = scratch.file("guest", &ElfFile::with_pvh_note().bytes());
    let memory = memory(16 * MIB);
    let payload = Payload {
        protocol: Protocol::Linux64,
        ..payload(&kernel)
    };
    let entry = load(&memory, &payload).expect("the kernel is whole");
    let expected = Entry::Linux64 {
        rip: GuestAddress(0x20_0000),
        zero_page: layout::ZERO_PAGE,
    };
    assert_eq!(entry, expected);
    let params: boot_params = read(&memory, 0x7000);
    let (magic, loader) = (params.hdr.header, params.hdr.type_of_loader);
    assert_eq!((magic, loader), (0x5372_6448, 0xff));
}

#[test]
fn memory_behind_a_segment_is_cleared() {
    let scratch = Scratch::new();
    let kernel = scratch.file("guest", &ElfFile::with_pvh_note().bytes());
    let memory = memory(16 * MIB);
    let (start, end) = ElfFile::TAIL;
    for address in [start, end - 1, end] {
        memory
            .write_obj(0xee_u8, GuestAddress(address))
            .expect("in memory");
    }
    load(&memory, &payload(&kernel)).expect("the kernel is whole");
    assert_eq!(read::<u8>(&memory, start), 0);
    assert_eq!(read::<u8>(&memory, end - 1), 0);
    assert_eq!(read::<u8>(&memory, end), 0xee);
}

#[test]
fn memory_behind_a_segment_is_left_alone_where_it_is_new() {
    let scratch = Scratch::new();
    let kernel = scratch.file("guest", &ElfFile::with_pvh_note().bytes());
    let memory = memory(16 * MIB);
    let (start, _) = ElfFile::TAIL;
    // No new memory holds this; it shows who writes there.
    memory
        .write_obj(0xee_u8, GuestAddress(start))
        .expect("in memory");
    let payload = Payload {
        onto: Onto::Zeros,
        ..payload(&kernel)
    };
    load(&memory, &payload).expect("the kernel is whole");
    assert_eq!(read::<u8>(&memory, start), 0xee);
}

#[test]
fn bzimage_boots_by_the_linux_protocol() {
    let scratch = Scratch::new();
    let kernel = scratch.file("vmlinuz", &BzImageFile::new().bytes());
    let initramfs = scratch.file("initrd", &[0x5a; 5000]);
    let memory = memory(64 * MIB);
    let payload = Payload {
        initramfs: Some(initramfs),
        ..payload(&kernel)
    };
    let entry = load(&memory, &payload).expect("the kernel is whole");
    let expected = Entry::Linux64 {
        rip: GuestAddress(16 * MIB + 0x200),
        zero_page: layout::ZERO_PAGE,
    };
    assert_eq!(entry, expected);
    assert_eq!(read::<u8>(&memory, 16 * MIB), BzImageFile::CODE);

    let params: boot_params = read(&memory, 0x7000);
    let (rsdp, cmdline) = (params.acpi_rsdp_addr, params.hdr.cmd_line_ptr);
    assert_eq!((rsdp, cmdline), (0xe_0000, 0x2_0000));
    // As high as the header's initrd_addr_max allows.
    let (image, size) = (params.hdr.ramdisk_image, params.hdr.ramdisk_size);
    assert_eq!((image, size), (0x2ff_e000, 5000));
    let table = params.e820_table;
    let map: Vec<_> = table
        .iter()
        .take(params.e820_entries.into())
        .map(|entry| (entry.addr, entry.size, entry.r#type))
        .collect();
    assert!(map.contains(&(MIB, 63 * MIB, 1)), "{map:x?}");
    assert!(map.contains(&(0xe000_0000, 256 * MIB, 2)), "{map:x?}");
}

#[test]
fn bzimage_is_moved_when_its_place_is_not_ram() {
    let scratch = Scratch::new();
    let kernel = scratch.file("vmlinuz", &BzImageFile::new().bytes());
    let entry = load(&memory(12 * MIB), &payload(&kernel)).expect("it is relocatable");
    let expected = Entry::Linux64 {
        rip: GuestAddress(2 * MIB + 0x200),
        zero_page: layout::ZERO_PAGE,
    };
    assert_eq!(entry, expected);
    let error = fails(&memory(8 * MIB), &payload(&kernel));
    assert!(
        error.contains("RAM for a kernel is 0x100000..0x800000"),
        "{error}"
    );
    assert!(error.contains("give the guest more memory"), "{error}");
}

#[test]
fn wrong_files_are_named() {
    let scratch = Scratch::new();
    let memory = memory(16 * MIB);
    let missing = scratch.0.join("missing");
    let error = fails(&memory, &payload(&missing));
    assert!(error.starts_with("cannot open kernel \""), "{error}");
    assert!(error.contains("missing\": No such file"), "{error}");

    let error = fails(&memory, &payload(&scratch.0));
    assert!(error.contains("is not a regular file"), "{error}");

    for (bytes, found) in [
        (&b""[..], "is empty:"),
        (b"hello", "is of no known format:"),
        (b"\x1f\x8b\x08\x00", "is gzip data (uncompress it first):"),
        (b"#!/bin/sh", "is a script:"),
    ] {
        let kernel = scratch.file("kernel", bytes);
        let error = fails(&memory, &payload(&kernel));
        assert!(error.contains(found), "{error}");
        assert!(error.contains("accepted are an x86-64 bzImage"), "{error}");
    }
}

#[test]
fn truncated_kernels_are_refused() {
    let scratch = Scratch::new();
    let memory = memory(64 * MIB);
    let images = [
        (ElfFile::with_pvh_note().bytes(), 5),
        (BzImageFile::new().bytes(), 0x206),
    ];
    for (whole, identified) in images {
        for length in identified..whole.len() {
            // Every length near a border, every 97th between.
            if length % 97 != 0 && (80..whole.len() - 8).contains(&length) {
                continue;
            }
            let kernel = scratch.file("kernel", whole.get(..length).unwrap_or_default());
            let error = fails(&memory, &payload(&kernel));
            assert!(error.contains("truncated: "), "{length}: {error}");
        }
    }
}

#[test]
fn elf_fields_are_checked() {
    let scratch = Scratch::new();
    let memory = memory(16 * MIB);
    let case = |change: fn(&mut ElfFile), expected: &str| {
        let mut image = ElfFile::with_pvh_note();
        change(&mut image);
        let kernel = scratch.file("kernel", &image.bytes());
        let error = fails(&memory, &payload(&kernel));
        assert!(error.contains(expected), "{error}");
    };
    case(
        |elf| elf.header.e_ident[4] = 1,
        "the ELF class is 0x1, needed is 2",
    );
    case(
        |elf| elf.header.e_ident[5] = 2,
        "needed is 1 (little endian)",
    );
    case(|elf| elf.header.e_machine = 183, "the ELF machine is 0xb7");
    case(|elf| elf.header.e_phnum = 0, "no segment to load");
    case(|elf| elf.header.e_phnum = 9999, "needed is at most 256");
    case(|elf| elf.header.e_phoff = u64::MAX - 3, "truncated: ");
    case(
        |elf| elf.code.p_filesz = 1 << 40,
        "truncated: an ELF segment",
    );
    case(
        |elf| elf.code.p_offset = u64::MAX,
        "truncated: an ELF segment",
    );
    case(
        |elf| elf.code.p_paddr = 0x7000,
        "below 0x100000 lie the boot structures",
    );
    case(
        |elf| elf.code.p_memsz = 1 << 30,
        "give the guest more memory",
    );
    case(
        |elf| elf.code.p_memsz = u64::MAX,
        "an ELF segment needs guest memory",
    );
    case(
        |elf| elf.code.p_paddr = u64::MAX - 8,
        "an ELF segment needs guest memory",
    );
    case(
        |elf| elf.pvh_entry = 0x30_0000,
        "the PVH entry point 0x300000 is in no loaded segment",
    );
}

#[test]
fn bzimage_fields_are_checked() {
    let scratch = Scratch::new();
    let memory = memory(64 * MIB);
    let case = |change: fn(&mut BzImageFile), expected: &str| {
        let mut image = BzImageFile::new();
        change(&mut image);
        let kernel = scratch.file("kernel", &image.bytes());
        let error = fails(&memory, &payload(&kernel));
        assert!(error.contains(expected), "{error}");
    };
    case(
        |image| image.header.boot_flag = 0,
        "the boot flag at 0x1fe is 0x0",
    );
    case(
        |image| image.header.version = 0x20b,
        "0x20c (Linux 3.8) or later",
    );
    case(
        |image| image.header.loadflags = 0,
        "a bzImage, not a zImage",
    );
    case(|image| image.header.xloadflags = 0, "a 64-bit kernel");
    case(
        |image| image.header.syssize = u32::MAX,
        "truncated: the protected-mode code",
    );
    case(
        |image| image.header.init_size = u32::MAX,
        "give the guest more memory",
    );
    case(
        |image| {
            image.header.relocatable_kernel = 0;
            image.header.pref_address = 1 << 40;
        },
        "needs guest memory from 0x10000000000",
    );
    case(
        |image| {
            image.header.relocatable_kernel = 0;
            image.header.pref_address = 0;
        },
        "below 0x100000 lie the boot structures",
    );
}

#[test]
fn initramfs_is_checked() {
    let scratch = Scratch::new();
    let kernel = scratch.file("guest", &ElfFile::with_pvh_note().bytes());
    let memory = memory(4 * MIB);
    let with = |initramfs: PathBuf| Payload {
        initramfs: Some(initramfs),
        ..payload(&kernel)
    };
    let error = fails(&memory, &with(scratch.file("empty", b"")));
    assert!(error.contains("empty\" is empty"), "{error}");
    let error = fails(&memory, &with(scratch.0.join("missing")));
    assert!(error.starts_with("cannot open initramfs"), "{error}");

    // Sparse: 4 MiB without a byte on disk.
    let large = scratch.file("large", b"");
    fs::File::options()
        .write(true)
        .open(&large)
        .and_then(|file| file.set_len(4 * MIB))
        .expect("the file can grow");
    let error = fails(&memory, &with(large));
    assert!(error.contains("has 4194304 bytes"), "{error}");
    assert!(
        error.contains("room for 2088960 beside the kernel"),
        "{error}"
    );
    assert!(error.contains("at least 3 MiB more"), "{error}");
}

#[test]
fn command_line_is_checked() {
    let scratch = Scratch::new();
    let elf = scratch.file("guest", &ElfFile::with_pvh_note().bytes());
    let bzimage = scratch.file("vmlinuz", &BzImageFile::new().bytes());
    let memory = memory(64 * MIB);
    let with = |kernel: &Path, cmdline: &str| Payload {
        cmdline: cmdline.to_owned(),
        ..payload(kernel)
    };
    assert!(load(&memory, &with(&elf, &"x".repeat(2047))).is_ok());
    let error = fails(&memory, &with(&elf, &"x".repeat(2050)));
    assert!(error.contains("has 2050 bytes"), "{error}");
    assert!(error.contains("at most 2047: shorten it by 3"), "{error}");
    assert!(load(&memory, &with(&bzimage, &"x".repeat(1000))).is_ok());
    let error = fails(&memory, &with(&bzimage, &"x".repeat(1001)));
    assert!(error.contains("at most 1000"), "{error}");
    let error = fails(&memory, &with(&elf, "a\0b"));
    assert!(error.contains("byte 0x00 at position 1"), "{error}");
    let error = fails(&memory, &with(&elf, "ä"));
    assert!(error.contains("only printable ASCII"), "{error}");
}

#[test]
fn too_little_memory_is_an_error() {
    let scratch = Scratch::new();
    let kernel = scratch.file("guest", &ElfFile::with_pvh_note().bytes());
    let error = fails(&memory(64 << 10), &payload(&kernel));
    assert!(error.contains("RAM for a kernel is none"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever the headers say: loaded or refused, never a panic.
    #[test]
    fn corrupted_kernels_never_panic(
        elf in any::<bool>(),
        changes in proptest::collection::vec((0_usize..0x300, any::<u8>()), 1..8),
        cut in 0_usize..3000,
    ) {
        let scratch = Scratch::new();
        let mut image = if elf {
            ElfFile::with_pvh_note().bytes()
        } else {
            BzImageFile::new().bytes()
        };
        for (offset, byte) in changes {
            // A bzImage's header starts at 0x1f1, an ELF file's at 0.
            let offset = if elf { offset } else { 0x1f1 + offset % 0x80 };
            if let Some(slot) = image.get_mut(offset) {
                *slot = byte;
            }
        }
        image.truncate(image.len().saturating_sub(cut.saturating_sub(2000)));
        let kernel = scratch.file("kernel", &image);
        let _ = load(&memory(32 * MIB), &payload(&kernel));
    }
}

//! The registers and tables that the boot processor starts with.
//!
//! Application processors start in reset state and wait for a startup IPI: they get
//! nothing from here.

use kvm_bindings::{kvm_dtable, kvm_fpu, kvm_regs, kvm_segment, kvm_sregs};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError};

use super::layout;
use crate::boot::Entry;

#[cfg(test)]
mod tests;

/// `__BOOT_CS` of the Linux boot protocol.
pub(crate) const CODE_SELECTOR: u16 = 0x10;
/// `__BOOT_DS` of the Linux boot protocol.
const DATA_SELECTOR: u16 = 0x18;
/// The task register must hold a valid TSS for VM entry (Intel SDM, 26.3.1.2).
const TASK_SELECTOR: u16 = 0x20;

// Segment types (Intel SDM, tables 3-1 and 3-2).
const CODE_EXECUTE_READ_ACCESSED: u8 = 0xb;
const DATA_READ_WRITE_ACCESSED: u8 = 0x3;
const SYSTEM_LDT: u8 = 0x2;
const SYSTEM_TSS_BUSY: u8 = 0xb;

const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_NE: u64 = 1 << 5;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// Bit 1 of RFLAGS always reads as one; IF, TF and VM are clear.
const RFLAGS_RESERVED: u64 = 1 << 1;

const PTE_PRESENT_WRITABLE: u64 = 0b11;
const PDE_LARGE: u64 = 1 << 7;
const TABLE_SIZE: u64 = 4096;
const DIRECTORIES: u64 = 4;

/// Why the boot tables could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write boot tables at {address:#x}: guest memory does not reach there")]
pub struct BootTablesError {
    /// Where the write was to go.
    pub address: u64,
    #[source]
    source: GuestMemoryError,
}

/// General registers at `entry`.
///
/// - 64-bit Linux protocol (kernel document `arch/x86/boot.rst`, "64-bit Boot Protocol"):
///   `rsi` holds the address of the zero page, interrupts are off.
/// - PVH (Xen `docs/misc/pvh.pandoc`): `ebx` holds the address of `hvm_start_info`;
///   VM, IF and TF are clear in EFLAGS.
#[must_use]
pub fn general(entry: &Entry) -> kvm_regs {
    let regs = kvm_regs {
        rflags: RFLAGS_RESERVED,
        ..kvm_regs::default()
    };
    match *entry {
        Entry::Linux64 { rip, zero_page } => kvm_regs {
            rip: rip.0,
            rsi: zero_page.0,
            rsp: layout::BOOT_STACK.0,
            rbp: layout::BOOT_STACK.0,
            ..regs
        },
        Entry::Pvh { rip, start_info } => kvm_regs {
            rip: rip.0,
            rbx: start_info.0,
            ..regs
        },
    }
}

/// Special registers at `entry`, made from what `KVM_GET_SREGS` gave, so that the
/// APIC base stays as KVM set it.
#[must_use]
pub fn special(entry: &Entry, reset: kvm_sregs) -> kvm_sregs {
    let long = matches!(entry, Entry::Linux64 { .. });
    let code = segment(CODE_SELECTOR, CODE_EXECUTE_READ_ACCESSED, u8::from(long));
    let data = segment(DATA_SELECTOR, DATA_READ_WRITE_ACCESSED, 0);
    let flat = kvm_sregs {
        cs: code,
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        tr: system(TASK_SELECTOR, SYSTEM_TSS_BUSY, 0x67),
        ldt: system(0, SYSTEM_LDT, 0xffff),
        gdt: kvm_dtable {
            base: layout::GDT.0,
            limit: GDT_LIMIT,
            ..kvm_dtable::default()
        },
        // Every exception before the kernel sets its own table is a triple fault.
        idt: kvm_dtable::default(),
        cr2: 0,
        cr8: 0,
        ..reset
    };
    if long {
        kvm_sregs {
            cr0: CR0_PE | CR0_ET | CR0_NE | CR0_PG,
            cr3: layout::PAGE_TABLES.0,
            cr4: CR4_PAE,
            efer: EFER_LME | EFER_LMA,
            ..flat
        }
    } else {
        // "cr0: bit 0 (PE) must be set. All the other writeable bits are cleared.
        // cr4: all bits are cleared." (pvh.pandoc)
        kvm_sregs {
            cr0: CR0_PE | CR0_ET,
            cr3: 0,
            cr4: 0,
            efer: 0,
            ..flat
        }
    }
}

/// The x87 and SSE state after FNINIT, with all exceptions masked.
#[must_use]
pub fn floating_point() -> kvm_fpu {
    kvm_fpu {
        fcw: 0x37f,
        mxcsr: 0x1f80,
        ..kvm_fpu::default()
    }
}

/// Writes the descriptor table that [`special`] points at and, for a 64-bit entry,
/// page tables that map the first 4 GiB onto themselves in 2 MiB pages (1 GiB pages
/// would need a CPUID flag that not every host has).
///
/// # Errors
///
/// When guest memory does not cover the tables, which end below 64 KiB.
pub fn write_tables<M: GuestMemoryBackend>(
    memory: &M,
    entry: &Entry,
) -> Result<(), BootTablesError> {
    let sregs = special(entry, kvm_sregs::default());
    let [task_low, task_high] = system_descriptor(&sregs.tr);
    let gdt = [
        0,
        0,
        descriptor(&sregs.cs),
        descriptor(&sregs.ds),
        task_low,
        task_high,
    ];
    write_words(memory, layout::GDT, &gdt)?;
    match entry {
        Entry::Linux64 { .. } => write_page_tables(memory),
        Entry::Pvh { .. } => Ok(()),
    }
}

/// Six descriptors of eight bytes.
const GDT_LIMIT: u16 = 6 * 8 - 1;

fn write_page_tables<M: GuestMemoryBackend>(memory: &M) -> Result<(), BootTablesError> {
    let base = layout::PAGE_TABLES.0;
    let pointers = base + TABLE_SIZE;
    let directories = pointers + TABLE_SIZE;

    let mut table = [0_u64; 512];
    table[0] = pointers | PTE_PRESENT_WRITABLE;
    write_words(memory, GuestAddress(base), &table)?;

    table = [0; 512];
    for (slot, index) in table.iter_mut().zip(0..DIRECTORIES) {
        *slot = (directories + index * TABLE_SIZE) | PTE_PRESENT_WRITABLE;
    }
    write_words(memory, GuestAddress(pointers), &table)?;

    for index in 0..DIRECTORIES {
        for (slot, page) in table.iter_mut().zip(0_u64..) {
            let address = index * layout::GIB + page * 2 * layout::MIB;
            *slot = address | PDE_LARGE | PTE_PRESENT_WRITABLE;
        }
        write_words(
            memory,
            GuestAddress(directories + index * TABLE_SIZE),
            &table,
        )?;
    }
    Ok(())
}

fn write_words<M: GuestMemoryBackend>(
    memory: &M,
    address: GuestAddress,
    words: &[u64],
) -> Result<(), BootTablesError> {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    memory
        .write_slice(&bytes, address)
        .map_err(|source| BootTablesError {
            address: address.0,
            source,
        })
}

/// A code or data segment over all 4 GiB.
fn segment(selector: u16, type_: u8, long: u8) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        s: 1,
        // D and L exclude each other (Intel SDM, 5.2.1).
        db: 1 - long,
        l: long,
        g: 1,
        ..kvm_segment::default()
    }
}

fn system(selector: u16, type_: u8, limit: u32) -> kvm_segment {
    kvm_segment {
        limit,
        selector,
        type_,
        present: 1,
        ..kvm_segment::default()
    }
}

/// A segment as the eight bytes of its descriptor (Intel SDM, figure 3-8).
fn descriptor(segment: &kvm_segment) -> u64 {
    let limit = u64::from(if segment.g == 1 {
        segment.limit >> 12
    } else {
        segment.limit
    });
    let flag = |value: u8, bit: u32| u64::from(value) << bit;
    limit & 0xffff
        | (segment.base & 0xff_ffff) << 16
        | flag(segment.type_, 40)
        | flag(segment.s, 44)
        | flag(segment.dpl, 45)
        | flag(segment.present, 47)
        | (limit >> 16 & 0xf) << 48
        | flag(segment.avl, 52)
        | flag(segment.l, 53)
        | flag(segment.db, 54)
        | flag(segment.g, 55)
        | (segment.base >> 24 & 0xff) << 56
}

/// A system segment as the sixteen bytes that long mode reads (Intel SDM, figure 8-4);
/// protected mode reads the first eight.
fn system_descriptor(segment: &kvm_segment) -> [u64; 2] {
    [descriptor(segment), segment.base >> 32]
}

//! Boot registers against the two boot protocols.

use godwit_devices::GuestRam;
use vm_memory::Bytes;

use super::*;

const LINUX: Entry = Entry::Linux64 {
    rip: GuestAddress(0x100_0200),
    zero_page: layout::ZERO_PAGE,
};
const PVH: Entry = Entry::Pvh {
    rip: GuestAddress(0x10_0000),
    start_info: layout::PVH_START_INFO,
};

fn memory() -> GuestRam {
    GuestRam::from_ranges(&[(GuestAddress(0), 1 << 20)]).expect("memory can be mapped")
}

fn word(memory: &GuestRam, address: u64) -> u64 {
    memory
        .read_obj(GuestAddress(address))
        .expect("the address is in memory")
}

#[test]
fn linux_starts_in_long_mode() {
    let reset = kvm_sregs {
        apic_base: 0xfee0_0900,
        ..kvm_sregs::default()
    };
    let sregs = special(&LINUX, reset);
    assert_eq!((sregs.cs.selector, sregs.ds.selector), (0x10, 0x18));
    assert_eq!((sregs.cs.l, sregs.cs.db), (1, 0));
    assert_eq!(sregs.efer, 0x500);
    assert_eq!(sregs.cr0 & 0x8000_0001, 0x8000_0001);
    assert_eq!(sregs.cr4, 0x20);
    assert_eq!(sregs.apic_base, 0xfee0_0900);
    let regs = general(&LINUX);
    assert_eq!((regs.rip, regs.rsi), (0x100_0200, 0x7000));
    assert_eq!(regs.rflags, 2);
}

#[test]
fn pvh_starts_in_protected_mode_without_paging() {
    let sregs = special(&PVH, kvm_sregs::default());
    assert_eq!((sregs.cr0, sregs.cr4, sregs.efer), (0x11, 0, 0));
    assert_eq!((sregs.cs.l, sregs.cs.db, sregs.cs.limit), (0, 1, u32::MAX));
    assert_eq!(
        (sregs.tr.base, sregs.tr.limit, sregs.tr.type_),
        (0, 0x67, 0xb)
    );
    assert_eq!(general(&PVH).rbx, layout::PVH_START_INFO.0);
}

#[test]
fn descriptors_match_the_segments() {
    let memory = memory();
    write_tables(&memory, &LINUX).expect("tables fit");
    assert_eq!(word(&memory, 0x510), 0x00af_9b00_0000_ffff);
    assert_eq!(word(&memory, 0x518), 0x00cf_9300_0000_ffff);
    assert_eq!(word(&memory, 0x520), 0x0000_8b00_0000_0067);
    write_tables(&memory, &PVH).expect("tables fit");
    assert_eq!(word(&memory, 0x510), 0x00cf_9b00_0000_ffff);
}

/// Walks the page tables as the processor does.
fn translate(memory: &GuestRam, address: u64) -> Option<u64> {
    let mut table = layout::PAGE_TABLES.0;
    for shift in [39, 30, 21] {
        let entry = word(memory, table + (address >> shift & 0x1ff) * 8);
        if entry & 1 == 0 {
            return None;
        }
        table = entry & 0x000f_ffff_ffff_f000;
        if entry & PDE_LARGE != 0 {
            return Some(table | address & 0x1f_ffff);
        }
    }
    None
}

#[test]
fn page_tables_map_the_first_four_gib_onto_themselves() {
    let memory = memory();
    write_tables(&memory, &LINUX).expect("tables fit");
    for address in [0, 0x7000, 0x100_0200, 0xbfff_ffff, 0xc000_0000, 0xffff_ffff] {
        assert_eq!(translate(&memory, address), Some(address));
    }
    assert_eq!(translate(&memory, 1 << 32), None);
}

#[test]
fn tables_end_before_the_command_line() {
    const { assert!(layout::PAGE_TABLES.0 + 6 * TABLE_SIZE <= layout::COMMAND_LINE.0) };
    let tiny = GuestRam::from_ranges(&[(GuestAddress(0), 0x8000)]).expect("memory can be mapped");
    let error = write_tables(&tiny, &LINUX).expect_err("memory is too small");
    assert_eq!(error.address, 0x9000);
}

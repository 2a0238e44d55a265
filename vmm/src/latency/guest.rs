//! The guest that measures: a few hundred bytes of assembly in this binary, an
//! ELF image that the machine boots like any other kernel.
//!
//! ```text
//!  block of a vCPU, in guest memory            written by
//!  +0x000  period, mode, wait, scale           host, before the start
//!  +0x040  tail: samples taken                 host
//!  +0x080  head: samples given, missed, lost   guest
//!  +0xff0  stack, downwards                    guest
//!  +0x1000 ring of samples, 8 bytes each       guest
//! ```
//!
//! Each interrupt of the timer is one sample: the guest's time-stamp counter when
//! the handler read it, less the deadline. It goes into the ring, which the host
//! reads while the guest runs: no sample costs an exit. Host and guest write to
//! different cache lines. A deadline that passed before its turn came is missed,
//! and the next one in step is taken, so that the times stay multiples of the
//! period from the start.

use std::arch::global_asm;

use vm_memory::GuestAddress;

use crate::arch::layout::{HIGH_MEMORY_START, MIB};
use crate::arch::regs::CODE_SELECTOR;
use crate::boot::Entry;
use crate::spec::VcpuId;

/// Samples that a ring holds: 32 ms of the shortest period.
pub(super) const RING_ENTRIES: u64 = 1 << 15;
pub(super) const PERIOD: u64 = 0x00;
pub(super) const MODE: u64 = 0x08;
pub(super) const WAIT: u64 = 0x10;
pub(super) const SCALE: u64 = 0x18;
pub(super) const TAIL: u64 = 0x40;
pub(super) const HEAD: u64 = 0x80;
pub(super) const MISSED: u64 = 0x88;
pub(super) const LOST: u64 = 0x90;
pub(super) const STATE: u64 = 0x98;
const STACK: u64 = 0xff0;
pub(super) const RING: u64 = 0x1000;
const BLOCK_SIZE: u64 = RING + RING_ENTRIES * 8;
/// The first block; the image lies below.
const BLOCKS: u64 = 2 * MIB;

/// What [`STATE`] holds when the timer runs.
pub(super) const STATE_RUNS: u64 = 1;
/// The same, when there is no x2APIC.
pub(super) const STATE_NO_X2APIC: u64 = 2;

/// The timer's interrupt. Any from 32 on is free for it.
const VECTOR: u64 = 0x40;
const LOAD: u64 = HIGH_MEMORY_START.0;

global_asm!(
    include_str!("guest.s"),
    load = const LOAD,
    code = const CODE_SELECTOR,
    vector = const VECTOR,
    period = const PERIOD,
    mode = const MODE,
    wait = const WAIT,
    scale = const SCALE,
    tail = const TAIL,
    head = const HEAD,
    missed = const MISSED,
    lost = const LOST,
    state = const STATE,
    state_runs = const STATE_RUNS,
    state_no_x2apic = const STATE_NO_X2APIC,
    stack = const STACK,
    ring = const RING,
    ring_entries = const RING_ENTRIES,
);

unsafe extern "C" {
    #[link_name = "godwit_latency_guest"]
    static START: u8;
    #[link_name = "godwit_latency_guest_end"]
    static END: u8;
}

/// The image.
pub(super) fn image() -> &'static [u8] {
    let (start, end) = (&raw const START, &raw const END);
    // SAFETY: the two symbols are the first byte of one read-only section and the
    // one behind its last; nothing writes there.
    unsafe { std::slice::from_raw_parts(start, end.addr() - start.addr()) }
}

/// Where the block of a vCPU is.
pub(super) fn block(vcpu: VcpuId) -> GuestAddress {
    GuestAddress(BLOCKS + u64::from(vcpu.0) * BLOCK_SIZE)
}

/// How much memory the guest needs for this many vCPUs, in bytes.
pub(super) fn memory_needed(vcpus: u64) -> u64 {
    BLOCKS + vcpus * BLOCK_SIZE
}

/// Where a vCPU begins. The image's own entry point is what the loader found.
pub(super) fn entry(rip: GuestAddress, vcpu: VcpuId) -> Entry {
    Entry::Linux64 {
        rip,
        zero_page: block(vcpu),
    }
}

/// The image's entry point.
pub(super) fn entry_point() -> GuestAddress {
    const E_ENTRY: usize = 24;
    let field = image().get(E_ENTRY..).and_then(<[u8]>::first_chunk);
    GuestAddress(field.map_or(0, |bytes| u64::from_le_bytes(*bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_is_an_elf_file_below_the_blocks() {
        let image = image();
        assert!(image.starts_with(b"\x7fELF"), "{:?}", image.get(..16));
        let end = LOAD + image.len() as u64;
        assert!(end < BLOCKS, "{end:#x}");
        // The handler's address is 16 bits in the gate.
        assert!(image.len() < 1 << 16);
        let entry = entry_point().0;
        assert!((LOAD..end).contains(&entry), "{entry:#x}");
    }

    #[test]
    fn blocks_do_not_overlap() {
        assert_eq!(block(VcpuId(1)).0 - block(VcpuId(0)).0, BLOCK_SIZE);
        assert_eq!(memory_needed(2), block(VcpuId(2)).0);
    }
}

use std::sync::Arc;
use std::sync::atomic::Ordering;

use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use crate::GuestRam;
use crate::virtio::{Ring, RingPosition};

/// A part of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Guest-physical address.
    pub address: u64,
    /// Bytes.
    pub length: u32,
    /// The device writes it; else it reads it.
    pub writable: bool,
}

const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// The driver's half of a split virtqueue (virtio 1.2, 2.7), in guest RAM.
///
/// Descriptors are taken in turn: not more than `size` may be in use at once.
#[derive(Debug)]
pub struct DriverRing {
    memory: Arc<GuestRam>,
    size: u16,
    desc: u64,
    avail: u64,
    used: u64,
    next_desc: u16,
    next_avail: u16,
    next_used: u16,
}

impl DriverRing {
    /// A ring of `size` descriptors at `base` (aligned to 16 bytes), whose
    /// indices both stand at `start`.
    ///
    /// # Panics
    /// It does not fit into `memory`.
    #[must_use]
    pub fn new(memory: Arc<GuestRam>, base: u64, size: u16, start: u16) -> Self {
        let avail = base + 16 * u64::from(size);
        let used = (avail + 6 + 2 * u64::from(size)).next_multiple_of(4);
        let ring = Self {
            memory,
            size,
            desc: base,
            avail,
            used,
            next_desc: 0,
            next_avail: start,
            next_used: start,
        };
        for area in [avail, used] {
            ring.put(area, 0);
            ring.put(area + 2, start);
        }
        ring
    }

    /// The first address after the ring.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.used + 6 + 8 * u64::from(self.size)
    }

    /// Addresses of descriptor, driver and device area.
    #[must_use]
    pub fn areas(&self) -> [u64; 3] {
        [self.desc, self.avail, self.used]
    }

    /// The ring as a device gets it, starting where the driver stands.
    ///
    /// # Panics
    /// No descriptors are left.
    #[must_use]
    pub fn ring(&self, index: u16, kick: &EventFd, call: &EventFd) -> Ring {
        Ring {
            index,
            size: self.size,
            desc: GuestAddress(self.desc),
            avail: GuestAddress(self.avail),
            used: GuestAddress(self.used),
            start: RingPosition {
                next_avail: self.next_avail,
                next_used: self.next_used,
            },
            kick: kick.try_clone().expect("a descriptor"),
            call: call.try_clone().expect("a descriptor"),
        }
    }

    /// Makes a request available, and answers its number.
    ///
    /// # Panics
    /// The chain is empty, or longer than the ring.
    pub fn push(&mut self, chain: &[Buffer]) -> u16 {
        assert!(!chain.is_empty() && chain.len() <= usize::from(self.size));
        let head = self.next_desc;
        for (left, buffer) in (0..chain.len()).rev().zip(chain) {
            let at = self.desc + 16 * u64::from(self.next_desc);
            self.next_desc = (self.next_desc + 1) % self.size;
            let write = if buffer.writable { WRITE } else { 0 };
            let next = if left > 0 { NEXT } else { 0 };
            self.put(at, buffer.address);
            self.put(at + 8, buffer.length);
            self.put(at + 12, write | next);
            self.put(at + 14, self.next_desc);
        }
        let slot = u64::from(self.next_avail % self.size);
        self.put(self.avail + 4 + 2 * slot, head);
        self.next_avail = self.next_avail.wrapping_add(1);
        let index = GuestAddress(self.avail + 2);
        self.memory
            .store(self.next_avail.to_le(), index, Ordering::SeqCst)
            .expect("the ring lies in guest RAM");
        head
    }

    /// The next request that the device has used: its number, and the bytes
    /// written.
    ///
    /// # Panics
    /// The device wrote a number that is not 16 bits.
    pub fn pop(&mut self) -> Option<(u16, u32)> {
        let index: u16 = self
            .memory
            .load(GuestAddress(self.used + 2), Ordering::SeqCst)
            .expect("the ring lies in guest RAM");
        if u16::from_le(index) == self.next_used {
            return None;
        }
        let slot = u64::from(self.next_used % self.size);
        let at = self.used + 4 + 8 * slot;
        self.next_used = self.next_used.wrapping_add(1);
        let (id, length): (u32, u32) = (self.get(at), self.get(at + 4));
        Some((u16::try_from(id).expect("a descriptor's number"), length))
    }

    fn put<T: vm_memory::ByteValued>(&self, address: u64, value: T) {
        // x86-64 is little-endian, as the ring is.
        self.memory
            .write_obj(value, GuestAddress(address))
            .expect("the ring lies in guest RAM");
    }

    fn get<T: vm_memory::ByteValued>(&self, address: u64) -> T {
        self.memory
            .read_obj(GuestAddress(address))
            .expect("the ring lies in guest RAM")
    }
}

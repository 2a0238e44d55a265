//! The driver's half of a split ring, for tests: lays descriptors in guest RAM,
//! makes them available, and looks at what was used.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use crate::GuestRam;
use crate::virtio::{ConfigChange, Ring, RingPosition};

/// The buffer continues in the next descriptor.
pub const NEXT: u16 = 1;
/// The device writes the buffer.
pub const WRITE: u16 = 2;
/// The buffer is a table of descriptors.
pub const INDIRECT: u16 = 4;

/// One descriptor of a split ring (virtio 1.2, 2.7.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// Guest-physical address.
    pub address: u64,
    /// Length in bytes.
    pub len: u32,
    /// [`NEXT`], [`WRITE`], [`INDIRECT`].
    pub flags: u16,
    /// Index of the next descriptor.
    pub next: u16,
}

impl Descriptor {
    fn bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&self.next.to_le_bytes());
        bytes
    }
}

/// Hears how often a device gave up.
#[derive(Debug, Default)]
pub struct Heard(pub AtomicU32);

impl ConfigChange for Heard {
    fn notify(&self) {}
    fn needs_reset(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// The driver's half of one ring.
#[derive(Debug)]
pub struct Driver {
    memory: Arc<GuestRam>,
    base: u64,
    size: u16,
    index: u16,
    free: u16,
    available: u16,
    seen: u16,
    kick: EventFd,
    call: EventFd,
}

#[allow(clippy::unwrap_used, reason = "a test's driver fails loudly")]
impl Driver {
    fn avail_len(size: u16) -> u64 {
        (u64::from(size) * 2 + 6).next_multiple_of(4)
    }

    /// A ring of `size` descriptors at `base`, which is a multiple of 16.
    #[must_use]
    pub fn new(memory: Arc<GuestRam>, index: u16, base: u64, size: u16) -> Self {
        Self {
            memory,
            base,
            size,
            index,
            free: 0,
            available: 0,
            seen: 0,
            kick: EventFd::new(libc::EFD_NONBLOCK).unwrap(),
            call: EventFd::new(libc::EFD_NONBLOCK).unwrap(),
        }
    }

    fn avail(&self) -> u64 {
        self.base + u64::from(self.size) * 16
    }

    fn used(&self) -> u64 {
        self.avail() + Self::avail_len(self.size)
    }

    /// The ring as a transport hands it to a device, starting at `start`.
    #[must_use]
    pub fn ring(&self, start: RingPosition) -> Ring {
        Ring {
            index: self.index,
            size: self.size,
            desc: GuestAddress(self.base),
            avail: GuestAddress(self.avail()),
            used: GuestAddress(self.used()),
            start,
            kick: self.kick.try_clone().unwrap(),
            call: self.call.try_clone().unwrap(),
        }
    }

    /// Writes one descriptor, whatever it says.
    pub fn set(&self, at: u16, descriptor: Descriptor) {
        let address = GuestAddress(self.base + u64::from(at) * 16);
        self.memory
            .write_slice(&descriptor.bytes(), address)
            .unwrap();
    }

    /// Writes a table of descriptors at `address`.
    pub fn set_table(&self, address: u64, table: &[Descriptor]) {
        for (i, descriptor) in table.iter().enumerate() {
            let at = GuestAddress(address + i as u64 * 16);
            self.memory.write_slice(&descriptor.bytes(), at).unwrap();
        }
    }

    /// Makes the chain at `head` available.
    pub fn make_available(&mut self, head: u16) {
        let slot = self.avail() + 4 + u64::from(self.available % self.size) * 2;
        self.memory.write_obj(head, GuestAddress(slot)).unwrap();
        self.available = self.available.wrapping_add(1);
        self.set_available(self.available);
    }

    /// Writes the available index, whatever it says.
    pub fn set_available(&mut self, index: u16) {
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        self.memory
            .write_obj(index, GuestAddress(self.avail() + 2))
            .unwrap();
    }

    /// Chains `(address, length, flags)` buffers and makes them available;
    /// answers the head. Descriptors are taken round robin.
    pub fn post(&mut self, buffers: &[(u64, u32, u16)]) -> u16 {
        let head = self.free;
        for (i, &(address, len, flags)) in buffers.iter().enumerate() {
            let at = self.free;
            self.free = (self.free + 1) % self.size;
            let last = i + 1 == buffers.len();
            self.set(
                at,
                Descriptor {
                    address,
                    len,
                    flags: if last { flags } else { flags | NEXT },
                    next: self.free,
                },
            );
        }
        self.make_available(head);
        head
    }

    /// Notifies the device.
    pub fn kick(&self) {
        self.kick.write(1).unwrap();
    }

    /// The next used entry, if there is one: head and written length.
    pub fn used_entry(&mut self) -> Option<(u16, u32)> {
        let index: u16 = self.memory.read_obj(GuestAddress(self.used() + 2)).unwrap();
        if index == self.seen {
            return None;
        }
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        let at = self.used() + 4 + u64::from(self.seen % self.size) * 8;
        self.seen = self.seen.wrapping_add(1);
        // Asks for an interrupt at the next entry (EVENT_IDX).
        let used_event = self.avail() + 4 + u64::from(self.size) * 2;
        self.memory
            .write_obj(self.seen, GuestAddress(used_event))
            .unwrap();
        let head: u32 = self.memory.read_obj(GuestAddress(at)).unwrap();
        let len: u32 = self.memory.read_obj(GuestAddress(at + 4)).unwrap();
        Some((u16::try_from(head).unwrap(), len))
    }

    /// Waits for the next used entry.
    ///
    /// # Panics
    /// There is none for 20 seconds.
    pub fn wait(&mut self) -> (u16, u32) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(entry) = self.used_entry() {
                return entry;
            }
            assert!(Instant::now() < deadline, "nothing was used");
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// How many interrupts came since the last call.
    #[must_use]
    pub fn interrupts(&self) -> u64 {
        self.call.read().unwrap_or(0)
    }

    /// Available minus used entries, as the device's position tells.
    #[must_use]
    pub fn posted(&self) -> u16 {
        self.available
    }
}

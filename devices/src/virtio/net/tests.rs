//! The device with a real tap (root and `/dev/net/tun` are needed), and a vhost
//! back end that only writes down what it is asked, or the kernel's.

mod commands;
mod device;
mod kernel;

use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::device_loop::DeviceLoop;
use crate::virtio::Ring;
use crate::virtio::vhost::rings_tests::{Fake, memory, ring};

/// Where the control queue of these tests lies, and its buffers.
const CONTROL_AT: u64 = 0x8000;
const BUFFERS_AT: u64 = 0x9000;
const QUEUE: u16 = 16;

const NEXT: u16 = 1;
const WRITE: u16 = 2;

pub(super) const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];

pub(super) fn config(queue_pairs: u16) -> NetDeviceConfig {
    NetDeviceConfig {
        id: "_net0".into(),
        mac: MAC,
        queue_pairs,
        queue_size: 256,
        mtu: None,
        offloads: Offloads::default(),
        tap: TapSource::Create(None),
        worker_cpus: None,
    }
}

pub(super) fn open_tap(queues: u16) -> Tap {
    Tap::open(TapSource::Create(None), queues)
        .expect("this test needs root and /dev/net/tun to create a TAP interface")
}

/// The driver's half of the control queue.
pub(super) struct Driver {
    pub memory: Arc<GuestRam>,
    pub sent: u16,
}

impl Driver {
    fn write<T: vm_memory::ByteValued>(&self, at: u64, value: T) {
        self.memory.write_obj(value, GuestAddress(at)).unwrap();
    }

    pub fn used(&self) -> u16 {
        self.memory
            .read_obj(GuestAddress(CONTROL_AT + 0x202))
            .unwrap()
    }

    pub fn descriptor(&self, index: u16, addr: u64, len: u32, flags: u16, next: u16) {
        let at = CONTROL_AT + 16 * u64::from(index);
        self.write(at, addr);
        self.write(at + 8, len);
        self.write(at + 12, flags);
        self.write(at + 14, next);
    }

    pub fn make_available(&mut self, head: u16) {
        let slot = u64::from(self.sent % QUEUE);
        self.write(CONTROL_AT + 0x104 + 2 * slot, head);
        self.sent = self.sent.wrapping_add(1);
        self.write(CONTROL_AT + 0x102, self.sent);
    }

    /// Makes a command available, in as many pieces as given, with room for a
    /// status that is no valid one yet.
    pub fn send(&mut self, pieces: &[&[u8]]) {
        let mut at = BUFFERS_AT;
        let mut index = 0;
        for piece in pieces {
            self.memory.write_slice(piece, GuestAddress(at)).unwrap();
            let len = u32::try_from(piece.len()).unwrap();
            self.descriptor(index, at, len, NEXT, index + 1);
            at += u64::from(len);
            index += 1;
        }
        self.write(BUFFERS_AT - 1, 0xaau8);
        self.descriptor(index, BUFFERS_AT - 1, 1, WRITE, 0);
        self.make_available(0);
    }

    pub fn status(&self) -> u8 {
        self.memory.read_obj(GuestAddress(BUFFERS_AT - 1)).unwrap()
    }
}

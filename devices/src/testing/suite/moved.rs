//! A device behind its transport, saved in one machine and restored in another.

use std::sync::Arc;

use crate::GuestRam;
use crate::pci::{Bdf, PciFunction, PciRoot, Windows};
use crate::testing::{DriverRing, FakeDoorbells, FakeMsi};
use crate::virtio::VirtioDevice;
use crate::virtio::pci::{VirtioPci, VirtioPciV1};

const HIGH: u64 = 0x10_0000_0000;
const SIZE: u16 = 16;
/// Bytes for one ring, and to the next.
const STRIDE: u64 = 0x400;

struct Machine {
    root: Arc<PciRoot>,
    ram: Arc<GuestRam>,
    doorbells: Arc<FakeDoorbells>,
    msi: FakeMsi,
}

impl Machine {
    fn new(ram: Arc<GuestRam>) -> Self {
        Self {
            root: PciRoot::new(Windows {
                ecam: 0xe000_0000,
                low: 0..0,
                high: HIGH..HIGH + 0x10_0000,
            }),
            ram,
            doorbells: Arc::default(),
            msi: FakeMsi::default(),
        }
    }

    fn function(&self, device: Box<dyn VirtioDevice>) -> VirtioPci {
        let ram = Arc::clone(&self.ram);
        let function = VirtioPci::new(device, ram, &self.msi, self.doorbells.clone());
        function.expect("a device that virtio-pci can carry")
    }

    fn restored(&self, device: Box<dyn VirtioDevice>, saved: &VirtioPciV1) -> Arc<VirtioPci> {
        let function = self.function(device).restored(saved);
        let function = Arc::new(function.expect("what was saved fits"));
        let slot = self.root.attach_restored(5, function.clone());
        assert_eq!(slot.ok(), Bdf::from_slot(5));
        function
    }
}

fn put(function: &VirtioPci, at: u64, data: &[u8]) {
    let _ = function.bar_write(0, at, data);
}

/// From reset to DRIVER_OK with all features and queues, each ring at `start`
/// as a driver leaves it that has been running.
fn bring_up(machine: &Machine, function: &VirtioPci, queues: usize) {
    let _ = function.config_write(4, &[6, 4]);
    // MSI-X on; every vector stays masked but the configuration's.
    let capability = (0x40..0x100_u16).step_by(4).find(|at| {
        let mut id = [0];
        function.config_read(*at, &mut id);
        id == [0x11]
    });
    let capability = capability.expect("MSI-X");
    let _ = function.config_write(capability + 2, &[0, 0x80]);
    put(function, 0x4000, &0xfee0_0000_u64.to_le_bytes());
    put(function, 0x4008, &0x41_u64.to_le_bytes());
    for status in [0, 1, 3] {
        put(function, 0x14, &[status]);
    }
    for select in 0..2_u32 {
        put(function, 0x00, &select.to_le_bytes());
        let mut features = [0; 4];
        function.bar_read(0, 4, &mut features);
        put(function, 0x08, &select.to_le_bytes());
        put(function, 0x0c, &features);
    }
    put(function, 0x14, &[0xb]);
    put(function, 0x10, &[0, 0]);
    for (queue, base) in (0..queues).zip((0x1000..).step_by(0x400)) {
        let ring = DriverRing::new(Arc::clone(&machine.ram), base, SIZE, 0);
        assert!(ring.end() <= base + STRIDE);
        let queue = u16::try_from(queue).expect("few queues");
        put(function, 0x16, &queue.to_le_bytes());
        let mut max = [0; 2];
        function.bar_read(0, 0x18, &mut max);
        let size = SIZE.min(u16::from_le_bytes(max));
        put(function, 0x18, &size.to_le_bytes());
        put(function, 0x1a, &(queue + 1).to_le_bytes());
        for (register, area) in [0x20, 0x28, 0x30].into_iter().zip(ring.areas()) {
            put(function, register, &area.to_le_bytes());
        }
        put(function, 0x1c, &[1, 0]);
    }
    put(function, 0x14, &[0xf]);
    assert!(function.is_active(), "the driver is ready");
}

/// Save, carry as bytes, restore, go on; twice, as a guest may move again.
pub fn moves(make: &impl Fn() -> Box<dyn VirtioDevice>, ram: &Arc<GuestRam>) {
    let first = Machine::new(Arc::clone(ram));
    let device = make();
    let queues = device.queue_sizes().len();
    let mut function = Arc::new(first.function(device));
    first
        .root
        .attach(Some(5), function.clone())
        .expect("a slot");
    bring_up(&first, &function, queues);
    // A signal that waits behind a masked vector.
    let vectors = first.msi.vectors(0);
    let call = crate::irq::MsiVectors::eventfd(&vectors, 1).expect("vector 1");
    call.write(1).expect("signals");
    function.config_change().notify();

    let mut machines = vec![first];
    for _ in 0..2 {
        function.pause().expect("pauses");
        let saved = function.save();
        assert!(saved.vectors[1].pending && saved.vectors[1].masked);
        assert_eq!(
            (saved.isr, saved.generation, saved.config_vector),
            (2, 1, 0)
        );
        let bytes = postcard::to_allocvec(&saved).expect("serializes");
        let carried: VirtioPciV1 = postcard::from_bytes(&bytes).expect("the same");
        assert_eq!(carried, saved);

        let next = Machine::new(Arc::clone(ram));
        let moved = next.restored(make(), &carried);
        assert!(!moved.is_active(), "not before it is resumed");
        assert_eq!(moved.save(), saved);
        assert_eq!(next.doorbells.bound().len(), queues);
        moved.resume();
        assert!(moved.is_active());
        assert_eq!(next.msi.vectors(0).take(1), 0, "it is still masked");
        put(&moved, 0x4010, &0xfee0_0000_u64.to_le_bytes());
        put(&moved, 0x4018, &0x42_u64.to_le_bytes());
        assert!(next.msi.vectors(0).take(1) > 0, "the signal came along");
        put(&moved, 0x401c, &[1, 0, 0, 0]);
        let call = next.msi.vectors(0);
        let call = crate::irq::MsiVectors::eventfd(&call, 1).expect("vector 1");
        call.write(1).expect("signals");
        function = moved;
        machines.push(next);
    }
    put(&function, 0x14, &[0]);
    assert!(!function.is_active());
}

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::pci::Windows;
use crate::testing::{FakeDevice, FakeDoorbells, FakeMsi, guest_ram};
use crate::virtio::pci::VirtioPci;

#[derive(Debug, Default)]
struct Line(AtomicU32);

impl IrqLine for Line {
    fn trigger(&self) -> io::Result<()> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

struct Rig {
    root: Arc<PciRoot>,
    line: Arc<Line>,
    controller: HotPlug,
}

impl Rig {
    fn new() -> Self {
        let high = 0x10_0000_0000;
        let root = PciRoot::new(Windows {
            ecam: 0xe000_0000,
            low: 0..0,
            high: high..high + 0x100_0000,
        });
        let line = Arc::new(Line::default());
        let controller = HotPlug::new(Arc::clone(&root), line.clone()).unwrap();
        Self {
            root,
            line,
            controller,
        }
    }

    fn interrupts(&self) -> u32 {
        self.line.0.swap(0, Ordering::SeqCst)
    }

    fn read(&self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.controller.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    fn write(&self, offset: u64, value: u32) {
        let action = self.controller.write(offset, &value.to_le_bytes());
        assert_eq!(action, Action::Continue);
    }
}

fn function() -> Arc<VirtioPci> {
    let (device, _) = FakeDevice::new(&[16], 0);
    let (ram, bells) = (
        guest_ram(&[(0, 0x1000)]),
        Arc::new(FakeDoorbells::default()),
    );
    let function = VirtioPci::new(Box::new(device), ram, &FakeMsi::default(), bells);
    Arc::new(function.unwrap())
}

#[test]
fn a_function_comes_and_goes() {
    let rig = Rig::new();
    let bdf = rig.controller.plug(Some(5), function()).unwrap();
    assert_eq!((bdf.device(), rig.interrupts()), (5, 1));
    assert_eq!((rig.read(UP), rig.read(DOWN)), (1 << 5, 0));
    assert_eq!(rig.read(UP), 1 << 5, "reading changes nothing");
    assert!(rig.controller.plug(Some(5), function()).is_err());
    assert_eq!(rig.interrupts(), 0);
    rig.write(UP, 1 << 5);
    assert_eq!(rig.read(UP), 0);

    for _ in 0..2 {
        rig.controller.request_unplug(bdf).unwrap();
        assert_eq!((rig.read(DOWN), rig.interrupts()), (1 << 5, 1));
    }
    rig.write(DOWN, u32::MAX);
    assert_eq!(rig.read(DOWN), 0);
    assert_eq!(rig.root.functions().len(), 2, "the guest decides when");
    assert!(rig.controller.take_ejected().is_empty());

    rig.write(EJECT, 1 << 5);
    assert_eq!(rig.root.functions().len(), 1);
    assert_eq!(rig.controller.ejected().read().unwrap(), 1);
    let gone = rig.controller.take_ejected();
    assert_eq!(gone.iter().map(|(bdf, _)| *bdf).collect::<Vec<_>>(), [bdf]);
    assert!(rig.controller.take_ejected().is_empty());
    rig.controller.plug(Some(5), function()).unwrap();
}

#[test]
fn what_is_not_there_cannot_leave() {
    let rig = Rig::new();
    let error = |bdf| rig.controller.request_unplug(bdf).unwrap_err();
    let slot = |slot| Bdf::from_slot(slot).unwrap();
    assert!(matches!(error(slot(5)), UnplugError::Empty(5)));
    assert!(matches!(error(slot(0)), UnplugError::NoSlot(_)));
    assert!(matches!(
        error(Bdf::from_number(0x129)),
        UnplugError::NoSlot(_)
    ));
    // A guest ejects what it likes: empty slots, and the host bridge.
    rig.write(EJECT, u32::MAX);
    assert_eq!(rig.root.functions().len(), 1);
    assert!(rig.controller.ejected().read().is_err());
    assert_eq!(rig.interrupts(), 0);
}

#[test]
fn other_accesses_do_nothing() {
    let rig = Rig::new();
    rig.controller.plug(Some(1), function()).unwrap();
    for length in [1, 2, 3, 5, 8] {
        for offset in [0, 1, 4, 7, 8, 12, 15, u64::MAX] {
            let mut data = vec![0; length];
            rig.controller.read(offset, &mut data);
            assert_eq!(data, vec![0xff; length]);
            let _ = rig.controller.write(offset, &data);
        }
    }
    rig.write(2, u32::MAX);
    rig.write(12, u32::MAX);
    assert_eq!(
        (rig.read(UP), rig.read(EJECT), rig.read(12)),
        (2, 0, u32::MAX)
    );
}

#[test]
fn what_is_pending_moves_and_interrupts_again() {
    let rig = Rig::new();
    let bdf = rig.controller.plug(None, function()).unwrap();
    rig.controller.request_unplug(bdf).unwrap();
    rig.controller.plug(None, function()).unwrap();
    let saved = rig.controller.save();
    assert_eq!(saved, HotPlugV1 { up: 6, down: 2 });

    let other = Rig::new();
    other.controller.restore(saved);
    let nothing = HotPlugV1::default();
    assert_eq!((other.controller.save(), other.interrupts()), (nothing, 0));
    for slot in [1, 2] {
        other.root.attach_restored(slot, function()).unwrap();
    }
    other.controller.restore(HotPlugV1 {
        up: u32::MAX,
        ..saved
    });
    assert_eq!((other.controller.save(), other.interrupts()), (saved, 1));
}

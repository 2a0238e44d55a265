use std::sync::{Arc, Mutex};

use vm_memory::GuestAddress;

use super::{DriverRing, FakeDevice, FakeDeviceLog, FakeDoorbells, FakeMsi, guest_ram};
use crate::GuestRam;
use crate::bus::Bus;
use crate::pci::{Bdf, PciFunction, PciRoot, Windows};
use crate::virtio::pci::VirtioPci;

const ECAM: u64 = 0xe000_0000;
const LOW: u64 = 0xc000_0000;
const HIGH: u64 = 0x10_0000_0000;
/// Two ranges of RAM with a hole between them.
const RAM: [(u64, usize); 2] = [(0, 0x1_0000), (0x2_0000, 0x1_0000)];
const FEATURES: u64 = 1 << 5 | 1 << 29;
const SIZES: [u16; 3] = [256, 256, 64];

/// What a guest can reach, and where an access goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Ports from 0xcf0 on.
    Ports,
    /// The ECAM window.
    Ecam,
    /// The 32-bit window.
    Low,
    /// The 64-bit window.
    High,
    /// Configuration space of one function.
    Config(u8),
    /// The BAR of one function, wherever it is decoded.
    Bar(u8),
}

/// One thing that happens to the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The guest reads `length` bytes.
    Read(Space, u32, u8),
    /// The guest writes the low `length` bytes.
    Write(Space, u32, u8, u64),
    /// The driver of one function brings it up, up to DRIVER_OK, with the
    /// ring areas moved by an offset.
    BringUp(u8, u32),
    /// One function is paused.
    Pause(u8),
    /// One function is resumed.
    Resume(u8),
    /// One function is paused, saved, and restored to a new one.
    Restore(u8),
    /// One function's device raises the configuration interrupt.
    Change(u8),
    /// One function's device will fail from now on, or not any more.
    Fail(u8, bool),
}

/// A machine with two virtio functions behind a root, driven from outside as a
/// guest (or the one who pauses it) would: for tests of what a guest may write.
#[derive(Debug)]
pub struct PciGuest {
    /// The root.
    pub root: Arc<PciRoot>,
    /// Port I/O.
    pub ports: Bus,
    /// Memory-mapped I/O.
    pub memory: Bus,
    /// RAM.
    pub ram: Arc<GuestRam>,
    /// Doorbells of all functions.
    pub doorbells: Arc<FakeDoorbells>,
    /// Interrupt vectors of all functions.
    pub msi: FakeMsi,
    /// The functions.
    pub functions: Vec<(Bdf, Arc<VirtioPci>)>,
    /// What their devices saw.
    pub logs: Vec<Arc<Mutex<FakeDeviceLog>>>,
}

impl Default for PciGuest {
    fn default() -> Self {
        Self::new()
    }
}

impl PciGuest {
    /// The machine, as it is when the guest starts.
    ///
    /// # Panics
    /// The host is out of descriptors or memory.
    #[must_use]
    pub fn new() -> Self {
        let root = PciRoot::new(Windows {
            ecam: ECAM,
            low: LOW..LOW + 0x10_0000,
            high: HIGH..HIGH + 0x10_0000,
        });
        let (mut ports, mut memory) = (Bus::new(), Bus::new());
        root.connect(&mut ports, &mut memory).expect("free buses");
        let mut guest = Self {
            root,
            ports,
            memory,
            ram: guest_ram(&RAM),
            doorbells: Arc::default(),
            msi: FakeMsi::default(),
            functions: Vec::new(),
            logs: Vec::new(),
        };
        for _ in 0..2 {
            let (function, log) = guest.function();
            let attached = guest.root.attach(None, function.clone());
            guest
                .functions
                .push((attached.expect("a free slot"), function));
            guest.logs.push(log);
        }
        guest
    }

    fn function(&self) -> (Arc<VirtioPci>, Arc<Mutex<FakeDeviceLog>>) {
        let (function, log) = self.bare();
        (Arc::new(function), log)
    }

    fn bare(&self) -> (VirtioPci, Arc<Mutex<FakeDeviceLog>>) {
        let (device, log) = FakeDevice::new(&SIZES, FEATURES);
        let doorbells = self.doorbells.clone();
        let ram = Arc::clone(&self.ram);
        let function = VirtioPci::new(Box::new(device), ram, &self.msi, doorbells);
        (function.expect("descriptors"), log)
    }

    fn pick(&self, which: u8) -> usize {
        usize::from(which) % self.functions.len()
    }

    /// Lets one step happen, and checks what has to hold after each.
    ///
    /// # Panics
    /// It does not hold.
    pub fn step(&mut self, step: Step) {
        match step {
            Step::Read(space, offset, length) => {
                let mut data = [0; 8];
                let length = usize::from(length.clamp(1, 8));
                self.read(space, offset, &mut data[..length]);
            }
            Step::Write(space, offset, length, value) => {
                let length = usize::from(length.clamp(1, 8));
                self.write(space, offset, &value.to_le_bytes()[..length]);
            }
            Step::BringUp(which, offset) => self.bring_up(which, offset),
            Step::Pause(which) => {
                // Told to fail it may.
                let _ = self.functions[self.pick(which)].1.pause();
            }
            Step::Resume(which) => self.functions[self.pick(which)].1.resume(),
            Step::Restore(which) => self.restore(which),
            Step::Change(which) => {
                let function = &self.functions[self.pick(which)].1;
                function.config_change().notify();
            }
            Step::Fail(which, fail) => {
                let mut log = self.logs[self.pick(which)].lock().expect("not poisoned");
                (log.fail_activate, log.fail_stop) = (fail, fail);
            }
        }
        assert_eq!(self.doorbells.refused(), 0, "doorbells are bound in turn");
    }

    /// Reads through one of the spaces.
    pub fn read(&self, space: Space, offset: u32, data: &mut [u8]) {
        let offset = u64::from(offset);
        match space {
            Space::Ports => self.ports.read(0xcf0 + (offset & 0x1f), data),
            Space::Ecam => self.memory.read(ECAM + offset, data),
            Space::Low => self.memory.read(LOW + offset, data),
            Space::High => self.memory.read(HIGH + offset, data),
            Space::Config(which) => self.memory.read(self.config(which, offset), data),
            Space::Bar(which) => {
                let function = &self.functions[self.pick(which)].1;
                function.bar_read(0, offset & 0xffff, data);
            }
        }
    }

    /// Writes through one of the spaces.
    pub fn write(&self, space: Space, offset: u32, data: &[u8]) {
        let offset = u64::from(offset);
        let _ = match space {
            Space::Ports => self.ports.write(0xcf0 + (offset & 0x1f), data),
            Space::Ecam => self.memory.write(ECAM + offset, data),
            Space::Low => self.memory.write(LOW + offset, data),
            Space::High => self.memory.write(HIGH + offset, data),
            Space::Config(which) => self.memory.write(self.config(which, offset), data),
            Space::Bar(which) => {
                let function = &self.functions[self.pick(which)].1;
                function.bar_write(0, offset & 0xffff, data)
            }
        };
    }

    fn config(&self, which: u8, offset: u64) -> u64 {
        let bdf = self.functions[self.pick(which)].0;
        ECAM + (u64::from(bdf.number()) << 12) + (offset & 0xfff)
    }

    /// Reads a number of `N` bytes from a function's configuration space.
    #[must_use]
    pub fn config_read<const N: usize>(&self, which: u8, offset: u32) -> u64 {
        let mut data = [0; 8];
        self.read(Space::Config(which), offset, &mut data[..N]);
        u64::from_le_bytes(data)
    }

    /// Reads a number of `N` bytes from a function's BAR.
    #[must_use]
    pub fn bar_read<const N: usize>(&self, which: u8, offset: u32) -> u64 {
        let mut data = [0; 8];
        self.read(Space::Bar(which), offset, &mut data[..N]);
        u64::from_le_bytes(data)
    }

    /// Where a function's BAR points.
    #[must_use]
    pub fn bar_address(&self, which: u8) -> GuestAddress {
        GuestAddress(self.config_read::<8>(which, 0x10) & !0xf)
    }

    /// A driver's way from reset to DRIVER_OK, with vectors and all queues.
    pub fn bring_up(&self, which: u8, offset: u32) {
        let put = |at: u32, data: &[u8]| self.write(Space::Bar(which), at, data);
        // Memory decoding and bus mastering, as a driver's first step.
        self.write(Space::Config(which), 4, &[6, 4]);
        for status in [0, 1, 3] {
            put(0x14, &[status]);
        }
        for select in 0..2_u32 {
            put(0x00, &select.to_le_bytes());
            let features = self.bar_read::<4>(which, 4);
            put(0x08, &select.to_le_bytes());
            put(0x0c, &features.to_le_bytes()[..4]);
        }
        put(0x14, &[0xb]);
        put(0x10, &[0, 0]);
        let base = 0x1000 + u64::from(offset);
        for queue in 0..3_u16 {
            put(0x16, &queue.to_le_bytes());
            put(0x18, &16_u16.to_le_bytes());
            put(0x1a, &(queue + 1).to_le_bytes());
            let desc = base + u64::from(queue) * 0x1000;
            for (register, address) in [(0x20, desc), (0x28, desc + 0x100), (0x30, desc + 0x200)] {
                let [low, high] = [address, address >> 32].map(u64::to_le_bytes);
                put(register, &low[..4]);
                put(register + 4, &high[..4]);
            }
            put(0x1c, &[1, 0]);
        }
        put(0x14, &[0xf]);
    }

    /// A ring where [`bring_up`](Self::bring_up) puts it, for its first queue.
    #[must_use]
    pub fn first_ring(&self) -> DriverRing {
        DriverRing::new(Arc::clone(&self.ram), 0x1000, 16, 0)
    }

    /// Saves a function, and puts one that was made from the saved state in its
    /// place.
    fn restore(&mut self, which: u8) {
        let at = self.pick(which);
        let (bdf, function) = &self.functions[at];
        let _ = function.pause();
        let saved = function.save();
        let gone = self.root.detach(*bdf);
        assert!(gone.is_some());
        let (new, log) = self.bare();
        let restored = new.restored(&saved).expect("what was saved fits");
        assert_eq!(restored.save(), saved);
        let restored = Arc::new(restored);
        let back = self.root.attach_restored(bdf.device(), restored.clone());
        assert_eq!(back.expect("the slot is free"), *bdf);
        self.functions[at].1 = restored;
        self.logs[at] = log;
    }

    /// Resets and removes everything: nothing may be left.
    ///
    /// # Panics
    /// Something is.
    pub fn finish(self) {
        for (which, (bdf, function)) in (0..).zip(&self.functions) {
            let _ = function.pause();
            function.resume();
            self.write(Space::Bar(which), 0x14, &[0]);
            let log = &self.logs[usize::from(which)];
            assert!(log.lock().expect("not poisoned").active.is_none());
            assert!(!function.is_active());
            self.root.detach(*bdf);
        }
        assert_eq!(self.doorbells.bound(), Vec::<u64>::new());
        assert_eq!(self.doorbells.refused(), 0);
    }
}

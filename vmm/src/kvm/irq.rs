//! Interrupts by KVM's routes and irqfds.
//!
//! ```text
//!  GSI 0..23   the pins of the PIC and the I/O APIC, as after KVM_CREATE_IRQCHIP
//!  GSI 24..    one MSI route for each MSI-X vector, while it is enabled
//! ```
//!
//! `KVM_SET_GSI_ROUTING` replaces the whole table, so one owner keeps it. A
//! vector's eventfd is attached to its GSI only while the vector is enabled:
//! detached, signals count up in the eventfd, and KVM delivers them when it is
//! attached again. That is just what a pending bit does.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use godwit_devices::irq::{IrqLine, MsiController, MsiMessage, MsiVectors};
use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, KvmIrqRouting, kvm_irq_routing_entry,
};
use kvm_ioctls::VmFd;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{KvmError, attempt};

/// Pins of the I/O APIC.
const IOAPIC_PINS: u32 = 24;
/// Pins of one of the two PICs.
const PIC_PINS: u32 = 8;
/// The largest table that KVM takes (`KVM_MAX_IRQ_ROUTES`).
const MAX_ROUTES: usize = 4096;

#[derive(Debug)]
struct Routes {
    vm: Arc<VmFd>,
    /// One entry a GSI from 24 up; `None` while the vector is disabled.
    messages: Vec<Option<MsiMessage>>,
    /// How many of them belong to a function.
    allocated: usize,
}

impl Routes {
    fn entries(&self) -> Vec<kvm_irq_routing_entry> {
        let pic = (0..PIC_PINS).map(|pin| pin_route(pin, KVM_IRQCHIP_PIC_MASTER, pin));
        let second = (0..PIC_PINS).map(|pin| pin_route(PIC_PINS + pin, KVM_IRQCHIP_PIC_SLAVE, pin));
        let ioapic = (0..IOAPIC_PINS).map(|pin| pin_route(pin, KVM_IRQCHIP_IOAPIC, pin));
        let messages = (IOAPIC_PINS..)
            .zip(&self.messages)
            .filter_map(|(gsi, message)| message.map(|message| message_route(gsi, message)));
        pic.chain(second).chain(ioapic).chain(messages).collect()
    }

    fn apply(&self) -> io::Result<()> {
        let table = KvmIrqRouting::from_entries(&self.entries())
            .map_err(|_| io::Error::other("the interrupt routing table is full"))?;
        Ok(self.vm.set_gsi_routing(&table)?)
    }

    /// Sets routes, with one new table for all of them.
    fn set(&mut self, routes: impl IntoIterator<Item = (u32, MsiMessage)>) -> io::Result<()> {
        let mut changed = false;
        for (gsi, message) in routes {
            let slot = gsi
                .checked_sub(IOAPIC_PINS)
                .and_then(|index| self.messages.get_mut(index as usize))
                .ok_or(io::ErrorKind::InvalidInput)?;
            changed |= slot.replace(message) != Some(message);
        }
        if changed { self.apply() } else { Ok(()) }
    }
}

fn pin_route(gsi: u32, irqchip: u32, pin: u32) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_IRQCHIP,
        ..Default::default()
    };
    entry.u.irqchip.irqchip = irqchip;
    entry.u.irqchip.pin = pin;
    entry
}

fn message_route(gsi: u32, message: MsiMessage) -> kvm_irq_routing_entry {
    let [a0, a1, a2, a3, a4, a5, a6, a7] = message.address.to_le_bytes();
    let mut entry = kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        ..Default::default()
    };
    entry.u.msi.address_lo = u32::from_le_bytes([a0, a1, a2, a3]);
    entry.u.msi.address_hi = u32::from_le_bytes([a4, a5, a6, a7]);
    entry.u.msi.data = message.data;
    entry
}

/// The interrupt controllers of one virtual machine, as devices use them.
#[derive(Clone, Debug)]
pub struct Interrupts {
    vm: Arc<VmFd>,
    routes: Arc<Mutex<Routes>>,
}

fn lock(routes: &Mutex<Routes>) -> MutexGuard<'_, Routes> {
    // A panic while the lock was held left the table as the kernel has it.
    routes.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Interrupts {
    /// Takes over the routing table of `vm`.
    #[must_use]
    pub fn new(vm: Arc<VmFd>) -> Self {
        let routes = Routes {
            vm: Arc::clone(&vm),
            messages: Vec::new(),
            allocated: 0,
        };
        Self {
            vm,
            routes: Arc::new(Mutex::new(routes)),
        }
    }

    /// The routes of all vectors, to be told ahead of a machine's state.
    #[must_use]
    pub fn table(&self) -> Vec<Option<(u64, u32)>> {
        let routes = lock(&self.routes);
        let route = |message: &Option<MsiMessage>| message.map(|m| (m.address, m.data));
        routes.messages.iter().map(route).collect()
    }

    /// Sets the routes that vectors will have, before any is allocated. A new
    /// table costs a grace period of the kernel's; a vector that finds its
    /// route set costs none.
    ///
    /// # Errors
    /// More than fit, or the ioctl's.
    pub fn preset(&self, table: &[Option<(u64, u32)>]) -> Result<(), KvmError> {
        let mut routes = lock(&self.routes);
        routes.messages = table
            .iter()
            .map(|route| route.map(|(address, data)| MsiMessage { address, data }))
            .collect();
        routes.apply().map_err(|source| KvmError::Ioctl {
            attempt: "set the interrupt routes of the machine that comes",
            source,
        })
    }

    /// Connects `line` to pin `gsi` of the I/O APIC (and the PIC).
    ///
    /// # Errors
    /// The ioctl's.
    pub fn connect(&self, line: &EventLine, gsi: u32) -> Result<(), KvmError> {
        self.vm
            .register_irqfd(&line.0, gsi)
            .map_err(attempt("connect an interrupt line"))
    }
}

/// A wired, edge-triggered interrupt: an eventfd that outlives the virtual
/// machine it is connected to.
#[derive(Debug)]
pub struct EventLine(EventFd);

impl EventLine {
    /// A wire that leads nowhere yet.
    ///
    /// # Errors
    /// No more descriptors.
    pub fn new() -> io::Result<Self> {
        Ok(Self(EventFd::new(EFD_NONBLOCK)?))
    }
}

impl IrqLine for EventLine {
    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

impl MsiController for Interrupts {
    fn allocate(&self, count: u16) -> io::Result<Box<dyn MsiVectors>> {
        let vectors = (0..count)
            .map(|_| {
                Ok(Mutex::new(Vector {
                    fd: EventFd::new(EFD_NONBLOCK)?,
                    attached: false,
                }))
            })
            .collect::<io::Result<Vec<_>>>()?;
        let fds = vectors
            .iter()
            .map(|v| {
                v.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .fd
                    .try_clone()
            })
            .collect::<io::Result<Vec<_>>>()?;
        let mut routes = lock(&self.routes);
        let first = routes.allocated;
        let fixed = (2 * PIC_PINS + IOAPIC_PINS) as usize;
        if fixed + first + usize::from(count) > MAX_ROUTES {
            return Err(io::Error::other(format!(
                "no more than {} MSI-X vectors fit into the interrupt routing table",
                MAX_ROUTES - fixed
            )));
        }
        routes.allocated = first + usize::from(count);
        if routes.messages.len() < routes.allocated {
            let count = routes.allocated;
            routes.messages.resize(count, None);
        }
        let first_gsi = IOAPIC_PINS + u32::try_from(first).map_err(io::Error::other)?;
        Ok(Box::new(Vectors {
            vm: Arc::clone(&self.vm),
            routes: Arc::clone(&self.routes),
            first_gsi,
            vectors,
            fds,
        }))
    }
}

#[derive(Debug)]
struct Vector {
    fd: EventFd,
    attached: bool,
}

#[derive(Debug)]
struct Vectors {
    vm: Arc<VmFd>,
    routes: Arc<Mutex<Routes>>,
    first_gsi: u32,
    vectors: Vec<Mutex<Vector>>,
    /// The same eventfds, to be handed out without a lock.
    fds: Vec<EventFd>,
}

impl Vectors {
    fn vector(&self, vector: u16) -> io::Result<(MutexGuard<'_, Vector>, u32)> {
        let entry = self
            .vectors
            .get(usize::from(vector))
            .ok_or(io::ErrorKind::InvalidInput)?;
        let entry = entry.lock().unwrap_or_else(PoisonError::into_inner);
        Ok((entry, self.first_gsi + u32::from(vector)))
    }
}

impl MsiVectors for Vectors {
    fn count(&self) -> u16 {
        u16::try_from(self.vectors.len()).unwrap_or(u16::MAX)
    }

    fn eventfd(&self, vector: u16) -> Option<&EventFd> {
        self.fds.get(usize::from(vector))
    }

    fn enable(&self, vector: u16, message: MsiMessage) -> io::Result<()> {
        self.enable_many(&[(vector, message)])
    }

    fn enable_many(&self, routes: &[(u16, MsiMessage)]) -> io::Result<()> {
        let gsis = routes
            .iter()
            .map(|&(vector, message)| (self.first_gsi + u32::from(vector), message));
        lock(&self.routes).set(gsis)?;
        for &(vector, _) in routes {
            let (mut entry, gsi) = self.vector(vector)?;
            if !entry.attached {
                self.vm.register_irqfd(&entry.fd, gsi)?;
                entry.attached = true;
            }
        }
        Ok(())
    }

    fn disable(&self, vector: u16) -> io::Result<()> {
        // The route stays: without the irqfd nobody uses it, and a vector that
        // is only masked for a while costs no new table.
        let (mut entry, gsi) = self.vector(vector)?;
        if entry.attached {
            self.vm.unregister_irqfd(&entry.fd, gsi)?;
            entry.attached = false;
        }
        Ok(())
    }

    fn is_pending(&self, vector: u16) -> bool {
        let Ok((entry, _)) = self.vector(vector) else {
            return false;
        };
        if entry.attached {
            return false;
        }
        // SAFETY: the descriptor is open for as long as `entry` is borrowed.
        let fd = unsafe { BorrowedFd::borrow_raw(entry.fd.as_raw_fd()) };
        let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
        matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1..))
    }
}

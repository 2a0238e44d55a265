//! virtio over PCI, modern only, MSI-X only (virtio 1.2, 4.1).
//!
//! ```text
//!  PciRoot --config_*--> [ConfigSpace] --message control--> [Msix] --> MsiVectors
//!          --bar_*-----> common | isr | device | notify | MSI-X table | pending
//!                          |                      |
//!                       [Common] --Effect--> [Transport] --activate/stop--> device
//!                                                 |
//!                                              [Bells] --bind/unbind--> Doorbells
//! ```
//!
//! One lock holds the function while a vCPU changes it. It is not on the packet
//! path: a kick is an ioeventfd, a call an irqfd. A device's thread must never
//! take it; what it needs, [`ConfigChange`], has none.
//!
//! There is no INTx: the interrupt pin reads 0, and a driver without MSI-X
//! polls, as DPDK's does.

mod absent;
mod bells;
mod common;
mod layout;
mod notifier;
mod queue;
mod state;
mod status;
mod transport;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use self::bells::Bells;
use self::common::{Common, VERSION_1};
use self::layout::{NOTIFY_MULTIPLIER, Part, Window};
use self::notifier::Notifier;
use self::queue::Queue;
use self::transport::Transport;
use super::{ConfigChange, Kind, StopError, VirtioDevice};
use crate::GuestRam;
use crate::bus::Action;
use crate::doorbell::Doorbells;
use crate::irq::{MsiController, MsiVectors};
use crate::pci::bar::BarError;
use crate::pci::config::CapabilityError;
use crate::pci::{ConfigSpace, Identity, Msix, PciFunction, ids};

pub use self::queue::QueueError;
pub use self::state::{QueueV1, RestoreError, VirtioPciV1};
pub use self::transport::{DriverMove, DriverWatch};

/// A device could not be put behind PCI.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// Too many queues, or none.
    #[error(
        "Device {device} has {count} queues: virtio-pci takes 1 to {}",
        layout::MAX_QUEUES
    )]
    QueueCount {
        /// The device's id.
        device: String,
        /// How many it has.
        count: usize,
    },
    /// A queue size that virtio does not know.
    #[error("Device {device} has a queue of {size}: sizes are powers of two up to 32768")]
    QueueSize {
        /// The device's id.
        device: String,
        /// The size.
        size: u16,
    },
    /// No interrupt vectors.
    #[error("Could not get {count} MSI-X vectors for device {device}")]
    Vectors {
        /// The device's id.
        device: String,
        /// How many it needs: one for each queue and one for its configuration.
        count: u16,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No eventfd.
    #[error("Could not create an eventfd for a queue: is the limit of open files too low?")]
    EventFd(#[source] io::Error),
    /// The capabilities do not fit.
    #[error(transparent)]
    Capability(#[from] CapabilityError),
    /// The base address register cannot be.
    #[error(transparent)]
    Bar(#[from] BarError),
}

#[derive(Debug)]
struct Function {
    config: ConfigSpace,
    window: Window,
    msix: Msix,
    transport: Transport,
}

/// A virtio device as a PCI function.
#[derive(Debug)]
pub struct VirtioPci {
    function: Mutex<Function>,
    notifier: Arc<Notifier>,
}

/// Device id and class code: 4.1.2.1, and what drivers expect of the kind.
fn identity(kind: Kind) -> Identity {
    let device = 0x1040 + kind.id();
    Identity {
        vendor: ids::VENDOR_VIRTIO,
        device,
        // Not a transitional device (4.1.2.1).
        revision: 1,
        class: match kind {
            Kind::Net => ids::CLASS_ETHERNET,
            Kind::Block => ids::CLASS_STORAGE,
            Kind::Console => ids::CLASS_COMMUNICATION,
            Kind::Rng | Kind::Balloon => ids::CLASS_OTHER,
        },
        subsystem_vendor: ids::VENDOR_VIRTIO,
        subsystem: device,
    }
}

fn eventfd() -> Result<EventFd, CreateError> {
    EventFd::new(EFD_NONBLOCK).map_err(CreateError::EventFd)
}

impl VirtioPci {
    /// Puts `device` behind PCI: one MSI-X vector for each queue and one for
    /// the configuration, one doorbell for each queue.
    ///
    /// # Errors
    /// The device's queues are not what virtio-pci can carry, or the host has no
    /// more vectors or descriptors.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        memory: Arc<GuestRam>,
        msi: &dyn MsiController,
        doorbells: Arc<dyn Doorbells>,
    ) -> Result<Self, CreateError> {
        let id = device.id().to_owned();
        let sizes = device.queue_sizes();
        let bad_count = |count| CreateError::QueueCount {
            device: id.clone(),
            count,
        };
        if sizes.is_empty() || sizes.len() > layout::MAX_QUEUES {
            return Err(bad_count(sizes.len()));
        }
        let bad = sizes.iter().find(|s| !s.is_power_of_two() || **s > 1 << 15);
        if let Some(&size) = bad {
            return Err(CreateError::QueueSize { device: id, size });
        }
        let count = u16::try_from(sizes.len() + 1).map_err(|_| bad_count(sizes.len()))?;
        let vectors = msi.allocate(count).map_err(|source| CreateError::Vectors {
            device: id,
            count,
            source,
        })?;
        let vectors: Arc<dyn MsiVectors> = Arc::from(vectors);

        let mut config = ConfigSpace::new(identity(device.kind()));
        let window = layout::declare(&mut config, sizes.len())?;
        let (table, pending) = layout::msix();
        let msix = Msix::new(Arc::clone(&vectors), &mut config, table, pending)?;

        let kicks = sizes.iter().map(|_| eventfd()).collect::<Result<_, _>>()?;
        let notifier = Arc::new(Notifier::new(Arc::clone(&vectors)));
        let common = Common {
            offered: device.features() | VERSION_1,
            accepted: 0,
            status: 0,
            device_feature_select: 0,
            driver_feature_select: 0,
            queue_select: 0,
            queues: sizes.iter().copied().map(Queue::new).collect(),
            notifier: Arc::clone(&notifier),
            vectors: vectors.count(),
        };
        let transport = Transport {
            device,
            memory,
            common,
            bells: Bells::new(doorbells, kicks),
            vectors,
            nowhere: eventfd()?,
            bar: None,
            running: None,
            paused: false,
            watch: None,
        };
        Ok(Self {
            function: Mutex::new(Function {
                config,
                window,
                msix,
                transport,
            }),
            notifier,
        })
    }

    /// Tells `watch` from now on what drivers do with the device.
    pub fn watch_driver(&self, watch: DriverWatch) {
        self.lock().transport.watch = Some(watch);
    }

    fn lock(&self) -> MutexGuard<'_, Function> {
        self.function.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops the device and keeps where its rings stand. Register accesses
    /// still work; a device that becomes ready meanwhile starts at
    /// [`resume`](Self::resume).
    ///
    /// # Errors
    /// The device could not say where its rings stand. It is stopped, and its
    /// driver sees DEVICE_NEEDS_RESET.
    pub fn pause(&self) -> Result<(), StopError> {
        self.lock().transport.pause()
    }

    /// Starts the device again where its rings stand. When it cannot start, its
    /// driver sees DEVICE_NEEDS_RESET, and the reason is logged.
    pub fn resume(&self) {
        self.lock().transport.resume();
    }

    /// Does ahead what [`resume`](Self::resume) needs of the host, as far as no one
    /// touches guest RAM.
    pub fn prepare(&self) {
        self.lock().transport.prepare();
    }

    /// What kind of device it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.lock().transport.device.kind()
    }

    /// Stops the device and takes it out, to be put behind a new function: the
    /// guest is reset, and the device's back end stays open.
    #[must_use]
    pub fn into_device(self) -> Box<dyn VirtioDevice> {
        let function = self.function.into_inner();
        let mut function = function.unwrap_or_else(PoisonError::into_inner);
        let transport = &mut function.transport;
        if let Err(error) = transport.halt() {
            tracing::warn!("{error}");
        }
        // Its eventfds are this transport's.
        transport.device.prepare(None);
        std::mem::replace(&mut transport.device, Box::new(absent::Absent))
    }

    /// Whether the device is serving its rings now.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.lock().transport.running.is_some()
    }

    /// The doorbells that are bound, to be told ahead of the state: the address of
    /// the first queue's BAR, and the queues. `None`: there are none.
    #[must_use]
    pub fn doorbells(&self) -> Option<(u64, Vec<u16>)> {
        let function = self.lock();
        let bar = function.transport.bar?;
        let queues: Vec<_> = function.transport.bells.bound().collect();
        (!queues.is_empty()).then_some((bar.0, queues))
    }

    /// Binds the doorbells that a state that comes will most likely want: each
    /// costs KVM a grace period. The state itself decides; until then nobody
    /// rings them.
    pub fn expect_doorbells(&self, bar: u64, queues: &[u16]) {
        let bells = &mut self.lock().transport.bells;
        let queues = queues.iter().copied().take(layout::MAX_QUEUES);
        bells.set(Some(GuestAddress(bar)), queues);
    }

    /// How to announce a change of the device's configuration.
    #[must_use]
    pub fn config_change(&self) -> Arc<dyn ConfigChange> {
        self.notifier.clone()
    }

    /// Calls `call` with the device, which nobody else uses meanwhile.
    pub fn with_device<T>(&self, call: impl FnOnce(&mut dyn VirtioDevice) -> T) -> T {
        call(self.lock().transport.device.as_mut())
    }
}

impl Function {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let transport = &self.transport;
        match layout::find(offset) {
            Some((Part::Common, at)) => transport.common.read(at, data),
            Some((Part::Isr, 0)) => {
                if let Some(byte) = data.first_mut() {
                    *byte = transport.common.notifier.take_isr();
                }
            }
            Some((Part::Device, at)) => transport.device.read_config(at, data),
            Some((Part::MsixTable, at)) => self.msix.read_table(at, data),
            Some((Part::MsixPending, at)) => self.msix.read_pending(at, data),
            Some((Part::Isr | Part::Notify, _)) | None => {}
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        match layout::find(offset) {
            Some((Part::Common, at)) => self.transport.write_common(at, data),
            Some((Part::Device, at)) => self.transport.device.write_config(at, data),
            Some((Part::Notify, at)) => {
                let step = u64::from(NOTIFY_MULTIPLIER);
                if at.is_multiple_of(step)
                    && let Ok(queue) = u16::try_from(at / step)
                {
                    self.transport.notify(queue);
                }
            }
            Some((Part::MsixTable, at)) => self.msix.write_table(at, data),
            Some((Part::Isr | Part::MsixPending, _)) | None => {}
        }
    }
}

impl PciFunction for VirtioPci {
    fn config_read(&self, offset: u16, data: &mut [u8]) {
        let function = self.lock();
        match function.window.target(&function.config, offset, data.len()) {
            Some(at) => function.read(at, data),
            None => function.config.read(offset, data),
        }
    }

    fn config_write(&self, offset: u16, data: &[u8]) -> Action {
        let mut guard = self.lock();
        let function = &mut *guard;
        match function.window.target(&function.config, offset, data.len()) {
            Some(at) => function.write(at, data),
            None => {
                function.config.write(offset, data);
                function.msix.config_written(&function.config);
            }
        }
        Action::Continue
    }

    fn bar_read(&self, _: u8, offset: u64, data: &mut [u8]) {
        self.lock().read(offset, data);
    }

    fn bar_write(&self, _: u8, offset: u64, data: &[u8]) -> Action {
        self.lock().write(offset, data);
        Action::Continue
    }

    fn bar_moved(&self, bar: u8, address: Option<GuestAddress>) {
        if bar == layout::BAR {
            let transport = &mut self.lock().transport;
            transport.bar = address;
            transport.place_bells();
        }
    }
}

#[cfg(test)]
mod tests;

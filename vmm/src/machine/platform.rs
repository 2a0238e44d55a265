//! What a machine has beside processors, memory and PCI functions: the power
//! button, and the hot-plug of functions.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use godwit_devices::device_loop::{Joined, Leaving, LoopError, LoopHandle};
use godwit_devices::hotplug::{HotPlug, UnplugError};
use godwit_devices::irq::IrqLine;
use godwit_devices::pci::{AttachError, Bdf};
use godwit_devices::virtio::pci::{CreateError, VirtioPci};
use vmm_sys_util::eventfd::EventFd;

use super::{Function, Machine};
use crate::host::{self, HostError};
use crate::kvm::{EventLine, Interrupts, KvmDoorbells};
use crate::spec::NetSpec;

/// See the module.
#[derive(Debug)]
pub struct Platform {
    pub(crate) hotplug: Arc<HotPlug>,
    pub(crate) power_button: EventLine,
    pub(crate) interrupts: Interrupts,
    /// Ends with the machine: the device loop outlives a reset.
    pub(crate) _watch: Watch,
}

/// An [`EjectWatch`] on the device loop; dropping it takes it back.
#[derive(Debug)]
pub(crate) struct Watch {
    device_loop: LoopHandle,
    joined: Option<Joined>,
}

impl Watch {
    pub(crate) fn start(device_loop: LoopHandle, watch: EjectWatch) -> Result<Self, LoopError> {
        let joined = Some(device_loop.join(Box::new(watch))?);
        Ok(Self {
            device_loop,
            joined,
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(joined) = self.joined.take()
            && let Err(error) = self.device_loop.leave(joined).and_then(Leaving::wait)
        {
            tracing::debug!("Ejected devices are watched on: {error}");
        }
    }
}

/// A device could not be added to a machine that runs.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// Its resources of the host.
    #[error(transparent)]
    Host(#[from] HostError),
    /// Its transport.
    #[error("Could not build its PCI function")]
    Function(#[from] CreateError),
    /// It found no place.
    #[error("Could not attach it")]
    Attach(#[from] AttachError),
}

/// A device cannot be taken away.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// There is none of that name.
    #[error("the VM has no device {0:?}; vm.info lists them")]
    NoSuchDevice(String),
    /// The guest cannot be asked.
    #[error(transparent)]
    Unplug(#[from] UnplugError),
}

impl Machine {
    /// Adds a network device and tells the guest.
    ///
    /// # Errors
    /// See [`AddError`]; the machine is as it was.
    pub fn add_net(&mut self, spec: &NetSpec) -> Result<Bdf, AddError> {
        let device = host::open_net(spec, &self.host)?;
        let doorbells = Arc::new(KvmDoorbells(Arc::clone(self.vm.fd())));
        let memory = Arc::clone(self.host.memory.ram());
        let interrupts = &self.platform.interrupts;
        let function = Arc::new(VirtioPci::new(device, memory, interrupts, doorbells)?);
        let at = self
            .platform
            .hotplug
            .plug(None, Arc::clone(&function) as _)?;
        tracing::info!("Device {} came to {at}", spec.id);
        let function = Function {
            id: spec.id.clone(),
            at,
            device: function,
        };
        self.watch.add(&function);
        self.functions.push(function);
        Ok(at)
    }

    /// Asks the guest to let go of a device; it is gone when
    /// [`take_ejected`](Self::take_ejected) says so.
    ///
    /// # Errors
    /// There is no such device.
    pub fn request_removal(&self, id: &str) -> Result<(), RemoveError> {
        let function = self.functions.iter().find(|function| function.id == id);
        let function = function.ok_or_else(|| RemoveError::NoSuchDevice(id.to_owned()))?;
        Ok(self.platform.hotplug.request_unplug(function.at)?)
    }

    /// Closes the devices that the guest has let go of, and names them.
    pub fn take_ejected(&mut self) -> Vec<(String, Bdf)> {
        let mut gone = Vec::new();
        for (at, function) in self.platform.hotplug.take_ejected() {
            drop(function);
            let place = self.functions.iter().position(|f| f.at == at);
            if let Some(place) = place {
                gone.push((self.functions.remove(place).id, at));
            }
        }
        gone
    }

    /// Presses the power button.
    ///
    /// # Errors
    /// The operating system's.
    pub fn press_power_button(&self) -> std::io::Result<()> {
        self.platform.power_button.trigger()
    }
}

/// Tells that the guest has let go of devices, from the device loop.
pub(crate) struct EjectWatch {
    pub(crate) ejected: EventFd,
    pub(crate) tell: Box<dyn Fn() + Send>,
}

impl MutEventSubscriber for EjectWatch {
    fn process(&mut self, _: Events, _: &mut EventOps<'_>) {
        let _ = self.ejected.read();
        (self.tell)();
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        let events = Events::new_raw(self.ejected.as_raw_fd(), EventSet::IN);
        if let Err(error) = ops.add(events) {
            tracing::error!("Ejected devices cannot be watched: {error:?}");
        }
    }
}

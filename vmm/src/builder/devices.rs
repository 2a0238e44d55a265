//! The devices of a machine, behind their addresses and interrupts.

use std::sync::Arc;

use godwit_devices::bus::Bus;
use godwit_devices::hotplug::HotPlug;
use godwit_devices::pci::PciRoot;
use godwit_devices::reset::{KeyboardReset, ResetRegister, SleepRegisters};
use godwit_devices::virtio::pci::VirtioPci;

use super::{BuildError, Start};
use crate::arch::{acpi, layout};
use crate::host::{HostError, HostResources};
use crate::kvm::{EventLine, Interrupts, KvmDoorbells, Vm};
use crate::machine::{EjectWatch, Function, Platform, Watch};
use crate::vcpu::Buses;

/// Each device of the host behind its function.
pub(super) fn attach_functions(
    vm: &Vm,
    interrupts: &Interrupts,
    root: &PciRoot,
    start: Start<'_>,
    host: &mut HostResources,
) -> Result<Vec<Function>, BuildError> {
    let mut functions = Vec::new();
    for device in std::mem::take(&mut host.devices) {
        let id = device.id().to_owned();
        let doorbells = Arc::new(KvmDoorbells(Arc::clone(vm.fd())));
        let memory = Arc::clone(host.memory.ram());
        let function = VirtioPci::new(device, memory, interrupts, doorbells)
            .map(Arc::new)
            .map_err(|source| BuildError::Function {
                id: id.clone(),
                source,
            })?;
        // A guest that has run knows where its devices are.
        let slot = start
            .description()
            .map(|known| known.slot(&id))
            .transpose()?;
        let at = root
            .attach(slot, Arc::clone(&function) as _)
            .map_err(|source| BuildError::Attach {
                id: id.clone(),
                source,
            })?;
        tracing::info!("Device {id} is at {at}");
        functions.push(Function {
            id,
            at,
            device: function,
        });
    }
    Ok(functions)
}

/// The power button and the hot-plug controller, each with its interrupt.
pub(super) fn platform(
    root: &Arc<PciRoot>,
    interrupts: &Interrupts,
    host: &HostResources,
    ejected: Box<dyn Fn() + Send>,
) -> Result<Platform, BuildError> {
    let system = |attempt| move |source| BuildError::from(HostError::System { attempt, source });
    let line = || EventLine::new().map_err(system("make an interrupt line"));
    let (power_button, events) = (line()?, Arc::new(line()?));
    interrupts.connect(&power_button, acpi::power::INTERRUPT)?;
    interrupts.connect(&events, acpi::hotplug::INTERRUPT)?;
    let hotplug =
        HotPlug::new(Arc::clone(root), events).map_err(system("make the hot-plug controller"))?;
    let watch = EjectWatch {
        ejected: hotplug
            .ejected()
            .try_clone()
            .map_err(system("watch the hot-plug controller"))?,
        tell: ejected,
    };
    let watch = Watch::start(host.device_loop.handle(), watch).map_err(HostError::from)?;
    Ok(Platform {
        hotplug: Arc::new(hotplug),
        power_button,
        interrupts: interrupts.clone(),
        _watch: watch,
    })
}

/// What a vCPU's accesses reach.
pub(super) fn connect_buses(
    root: &Arc<PciRoot>,
    interrupts: &Interrupts,
    platform: &Platform,
    host: &HostResources,
) -> Result<Buses, BuildError> {
    let (mut ports, mut memory) = (Bus::new(), Bus::new());
    let at = |port: u16, count: u64| u64::from(port)..u64::from(port) + count;
    ports.add(
        at(layout::SLEEP_CONTROL_PORT, SleepRegisters::PORTS),
        Arc::new(SleepRegisters),
    )?;
    ports.add(at(layout::RESET_PORT, 1), Arc::new(ResetRegister))?;
    ports.add(
        at(layout::I8042_COMMAND_PORT, KeyboardReset::PORTS),
        Arc::new(KeyboardReset),
    )?;
    if let Some(serial) = &host.serial {
        interrupts.connect(&serial.line, layout::COM1_IRQ)?;
        let range = at(layout::COM1_PORT, layout::COM1_PORT_COUNT.into());
        ports.add(range, Arc::clone(&serial.device) as _)?;
    }
    root.connect(&mut ports, &mut memory)?;
    let registers = acpi::hotplug::REGISTERS..acpi::hotplug::REGISTERS + HotPlug::SIZE;
    memory.add(registers, Arc::clone(&platform.hotplug) as _)?;
    Ok(Buses { ports, memory })
}

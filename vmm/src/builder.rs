//! From a spec to a machine, in numbered steps. Each step is short, needs what
//! the ones before it made, and names what failed.

mod devices;
mod error;
mod processors;

use std::sync::Arc;

use godwit_devices::pci::{PciRoot, Windows};

use crate::arch::{acpi, layout, regs, reset_vector};
use crate::boot::{self, Entry, Onto, Payload, Protocol};
use crate::host::HostResources;
use crate::kvm::stats::KvmStats;
use crate::kvm::{Hypervisor, Interrupts, Vm};
use crate::machine::{Description, DeviceWatch, Machine};
use crate::spec::MachineSpec;
use crate::vcpu::Report;

pub use error::BuildError;
pub use processors::cpuid_here;

use processors::Processors;

/// What a built machine begins with.
#[derive(Clone, Copy, Debug)]
pub enum Start<'a> {
    /// Its kernel is loaded into new memory.
    Boot,
    /// Its kernel is loaded again, onto what the guest left.
    Reboot,
    /// Memory and state come from a machine that was described so.
    Incoming(&'a Description),
}

impl<'a> Start<'a> {
    /// What the guest knows of its machine; `None`: nothing yet.
    fn description(self) -> Option<&'a Description> {
        match self {
            Self::Boot | Self::Reboot => None,
            Self::Incoming(description) => Some(description),
        }
    }
}

/// Who is told what the machine does by itself.
pub struct Told {
    /// A vCPU left the guest for good.
    pub report: Report,
    /// The guest let go of devices.
    pub ejected: Box<dyn Fn() + Send>,
}

impl std::fmt::Debug for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Told").finish_non_exhaustive()
    }
}

/// Builds the machine of `spec` on `host`; its vCPUs are ready, and paused.
///
/// # Errors
/// See [`BuildError`].
pub fn build(
    spec: &Arc<MachineSpec>,
    mut host: HostResources,
    start: Start<'_>,
    told: Told,
) -> Result<Machine, BuildError> {
    // 1. The virtual machine, with the guest's RAM and interrupt controllers.
    let hypervisor = Hypervisor::open()?;
    let vm = create_vm(&hypervisor, spec, &host)?;
    // 2. What the guest's processors look like, and so where PCI fits.
    let processors = Processors::describe(&hypervisor, &vm, spec, start)?;
    let root = PciRoot::new(windows(&host, processors.phys_bits())?);
    // 3. The devices behind their addresses.
    let interrupts = Interrupts::new(Arc::clone(vm.fd()));
    if let Some(description) = start.description() {
        interrupts.preset(&description.routes)?;
    }
    let functions = devices::attach_functions(&vm, &interrupts, &root, start, &mut host)?;
    if let Some(description) = start.description() {
        // Once for each device that is here, whatever the other side says.
        for function in &functions {
            let mut expected = description.doorbells.iter();
            if let Some(expected) = expected.find(|expected| expected.id == function.id) {
                let (bar, queues) = (expected.bar, &expected.queues);
                function.device.expect_doorbells(bar, queues);
            }
        }
    }
    let platform = devices::platform(&root, &interrupts, &host, told.ejected)?;
    let buses = devices::connect_buses(&root, &interrupts, &platform, &host)?;
    // 4. The kernel and what it is told about the machine.
    let entry = match start {
        Start::Boot => Some(load(spec, &host, &root, Onto::Zeros)?),
        Start::Reboot => Some(load(spec, &host, &root, Onto::Leftovers)?),
        Start::Incoming(_) => None,
    };
    // 5. The processors, and then each on its thread.
    let vcpus = processors.make(spec, &vm, entry)?;
    let stats = KvmStats::of(&vm, vcpus.iter().map(|vcpu| (vcpu.id(), vcpu.fd())));
    let processors = processors.facts(&vcpus, start)?;
    let (anywhere, buses) = (&host.allowed, Arc::new(buses));
    let vcpus = processors::start_threads(vcpus, spec, anywhere, &buses, &told.report)?;
    Ok(Machine {
        spec: Arc::clone(spec),
        vcpus,
        watch: Arc::new(DeviceWatch::of(&functions)),
        functions,
        platform,
        root,
        vm,
        stats: Arc::new(stats),
        processors,
        host,
        fill: None,
    })
}

fn create_vm(
    hypervisor: &Hypervisor,
    spec: &MachineSpec,
    host: &HostResources,
) -> Result<Vm, BuildError> {
    let vm = hypervisor.create_vm(spec.cpus.topology.vcpus(), host.memory.ram())?;
    if !spec.cpus.disable_exits.is_empty() {
        let kept = vm.disable_exits(spec.cpus.disable_exits)?;
        if !kept.is_empty() {
            tracing::warn!("This host's KVM cannot disable these exits: {kept:?}");
        }
    }
    if let Some(nanoseconds) = spec.cpus.halt_poll_ns
        && let Err(error) = vm.set_halt_poll(nanoseconds)
    {
        tracing::warn!("{error}; the module's halt_poll_ns holds");
    }
    Ok(vm)
}

fn windows(host: &HostResources, phys_bits: u8) -> Result<Windows, BuildError> {
    let ram_end = layout::ram_end(host.memory.regions());
    let high = layout::pci_window_64(ram_end, phys_bits)
        .ok_or(BuildError::AddressSpace { ram_end, phys_bits })?;
    Ok(Windows {
        ecam: layout::ECAM_START,
        low: layout::PCI_WINDOW_32,
        high,
    })
}

fn load(
    spec: &MachineSpec,
    host: &HostResources,
    root: &PciRoot,
    onto: Onto,
) -> Result<Entry, BuildError> {
    let ram = host.memory.ram();
    let payload = Payload {
        kernel: spec.payload.kernel.clone(),
        initramfs: spec.payload.initramfs.clone(),
        cmdline: spec.payload.cmdline.clone(),
        protocol: Protocol::Auto,
        onto,
    };
    let entry = boot::load(ram, &payload)?;
    let tables = acpi::AcpiSpec {
        topology: spec.cpus.topology,
        regions: host.memory.regions(),
        numa: &spec.numa,
        pci_window_64: Some(root.windows().high.clone()),
        devices: &[&acpi::power::PowerButton, &acpi::hotplug::PciHotPlug],
    };
    acpi::write(ram.as_ref(), &tables)?;
    regs::write_tables(ram.as_ref(), &entry)?;
    reset_vector::write(ram.as_ref()).map_err(BuildError::ResetVector)?;
    Ok(entry)
}

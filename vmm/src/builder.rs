//! From a spec to a machine, in numbered steps. Each step is short, needs what
//! the ones before it made, and names what failed.

use std::sync::Arc;
use std::thread;

use godwit_devices::bus::{Bus, OverlapError};
use godwit_devices::hotplug::HotPlug;
use godwit_devices::pci::{AttachError, PciRoot, Windows};
use godwit_devices::reset::{KeyboardReset, ResetRegister, SleepRegisters};
use godwit_devices::virtio::pci::{CreateError, VirtioPci};
use kvm_bindings::{CpuId, Msrs, kvm_cpuid_entry2};
use kvm_ioctls::VcpuFd;

use crate::arch::{Topology, acpi, cpuid, layout, msr, regs, reset_vector};
use crate::boot::{self, BootError, Entry, Payload, Protocol};
use crate::core_scheduling::CoreGroup;
use crate::host::{HostError, HostResources};
use crate::kvm::stats::KvmStats;
use crate::kvm::{EventLine, Hypervisor, Interrupts, KvmDoorbells, KvmError, Vm, attempt};
use crate::machine::{
    Description, DeviceWatch, EjectWatch, Function, Machine, NotDescribed, Platform, ProcessorFacts,
};
use crate::spec::{CpuSet, MachineSpec, VcpuId};
use crate::vcpu::{Answer, Buses, Placement, Report, SpawnError, VcpuHandle, VcpuStateError};

/// The machine could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A resource of the host.
    #[error(transparent)]
    Host(#[from] HostError),
    /// KVM.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The kernel, the initramfs or the command line.
    #[error("Could not load the guest's kernel")]
    Boot(#[from] BootError),
    /// The ACPI tables.
    #[error("Could not write the ACPI tables")]
    Acpi(#[from] acpi::AcpiError),
    /// The boot processor's tables.
    #[error("Could not write the boot processor's tables")]
    Tables(#[from] regs::BootTablesError),
    /// The code at the reset vector.
    #[error("Could not write the code at the reset vector")]
    ResetVector(#[source] vm_memory::GuestMemoryError),
    /// A virtio device's transport.
    #[error("Could not build the PCI function of device {id}")]
    Function {
        /// The device's id.
        id: String,
        /// Why.
        #[source]
        source: CreateError,
    },
    /// A PCI function found no place.
    #[error("Could not attach device {id}")]
    Attach {
        /// The device's id.
        id: String,
        /// Why.
        #[source]
        source: AttachError,
    },
    /// Two devices claim the same addresses: a defect of the layout.
    #[error("Could not arrange the devices")]
    Overlap(#[from] OverlapError),
    /// A vCPU thread.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// The thread that mapped guest memory panicked: a defect.
    #[error("The thread that maps guest memory ended early")]
    MemoryThread,
    /// What the guest's processors are could not be learnt.
    #[error("Could not learn what the guest's processors are")]
    Processor(#[source] VcpuStateError),
    /// The time-stamp counter counts differently here.
    #[error(
        "The guest's time-stamp counter counts {guest} kHz and this host's {here} kHz, which its KVM cannot scale"
    )]
    Tsc {
        /// The guest's, in kHz.
        guest: u32,
        /// This host's, in kHz.
        here: u32,
    },
    /// A description that does not fit its config.
    #[error(transparent)]
    Described(#[from] NotDescribed),
    /// The guest has more memory than its processor can address.
    #[error(
        "The guest's memory ends at {ram_end:#x}, and its processor addresses only {phys_bits} bits: \
         no room is left for PCI; give it less memory"
    )]
    AddressSpace {
        /// First address behind RAM.
        ram_end: u64,
        /// Physical address bits of the guest's processor.
        phys_bits: u8,
    },
}

/// What a built machine begins with.
#[derive(Clone, Copy, Debug)]
pub enum Start<'a> {
    /// Its kernel is loaded.
    Boot,
    /// Memory and state come from a machine that was described so.
    Incoming(&'a Description),
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
    // 1. The virtual machine, with interrupt controllers. It gets the guest's RAM
    //    on the side: KVM waits for a grace period there, a tick or two of the
    //    host's clock, which the next steps need not wait for.
    let hypervisor = Hypervisor::open()?;
    let vm = create_vm(&hypervisor, spec)?;
    let (owner, ram) = (vm.clone(), Arc::clone(host.memory.ram()));
    let mapped = thread::Builder::new()
        .name("memory".to_owned())
        .spawn(move || owner.set_memory(&ram))
        .map_err(|source| HostError::System {
            attempt: "start a thread that maps guest memory",
            source,
        })?;
    // 2. What the guest's processors look like, and so where PCI fits.
    let processors = Processors::describe(&hypervisor, &vm, spec, start, &host.allowed)?;
    let root = PciRoot::new(windows(&host, processors.phys_bits())?);
    // 3. The devices behind their addresses.
    let interrupts = Interrupts::new(Arc::clone(vm.fd()));
    if let Start::Incoming(description) = start {
        interrupts.preset(&description.routes)?;
    }
    let functions = attach_functions(&vm, &interrupts, &root, start, &mut host)?;
    let platform = platform(&root, &interrupts, &host, told.ejected)?;
    let buses = Arc::new(connect_buses(&root, &interrupts, &platform, &host)?);
    // 4. The kernel and what it is told about the machine.
    let entry = match start {
        Start::Boot => Some(load(spec, &host, &root)?),
        Start::Incoming(_) => None,
    };
    match mapped.join() {
        Ok(result) => result?,
        Err(_) => return Err(BuildError::MemoryThread),
    }
    // 5. The processors, each on its thread.
    let (vcpus, stats) = start_vcpus(spec, &vm, &processors, entry, &buses, &told.report)?;
    let processors = processors.facts(&vcpus, start)?;
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

fn create_vm(hypervisor: &Hypervisor, spec: &MachineSpec) -> Result<Vm, BuildError> {
    let vm = hypervisor.create_vm(spec.cpus.topology.vcpus())?;
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

/// The CPUID of each vCPU of a machine of `spec`.
fn cpuid_of(
    hypervisor: &Hypervisor,
    tsc_deadline: bool,
    spec: &MachineSpec,
) -> Result<Vec<Vec<kvm_cpuid_entry2>>, KvmError> {
    let supported = hypervisor.supported_cpuid()?;
    let mwait = spec.cpus.disable_exits.mwait;
    let cpuid = cpuid::CpuidSpec {
        topology: spec.cpus.topology,
        nested: spec.cpus.nested,
        realtime_hint: spec.cpus.realtime_hint,
        max_phys_bits: spec.cpus.max_phys_bits,
        tsc_deadline,
        mwait: mwait.then(cpuid::host_mwait).flatten(),
    };
    let of = |vcpu: VcpuId| cpuid::for_vcpu(supported.as_slice(), &cpuid, vcpu.0.into());
    Ok(spec.cpus.vcpus().map(of).collect())
}

/// The CPUID that the first vCPU of a machine of `spec` would have here.
///
/// # Errors
/// KVM does not tell.
pub fn cpuid_here(spec: &MachineSpec) -> Result<Vec<kvm_cpuid_entry2>, KvmError> {
    let hypervisor = Hypervisor::open()?;
    let deadline = hypervisor.has_tsc_deadline();
    let all = cpuid_of(&hypervisor, deadline, spec)?;
    Ok(all.into_iter().next().unwrap_or_default())
}

/// What is the same for all vCPUs, and what CPUID each gets.
struct Processors {
    topology: Topology,
    /// One list for each vCPU.
    cpuid: Vec<Vec<kvm_cpuid_entry2>>,
    /// What KVM lists.
    msrs: Vec<u32>,
    /// Where a vCPU runs that has no CPUs of its own.
    anywhere: CpuSet,
}

impl Processors {
    fn describe(
        hypervisor: &Hypervisor,
        vm: &Vm,
        spec: &MachineSpec,
        start: Start<'_>,
        anywhere: &CpuSet,
    ) -> Result<Self, KvmError> {
        let cpuid = match start {
            // The guest has seen these.
            Start::Incoming(description) => description.cpuid.clone(),
            Start::Boot => cpuid_of(hypervisor, vm.has_tsc_deadline(), spec)?,
        };
        Ok(Self {
            topology: spec.cpus.topology,
            cpuid,
            msrs: hypervisor.msr_indices()?,
            anywhere: anywhere.clone(),
        })
    }

    fn of(&self, vcpu: VcpuId) -> &[kvm_cpuid_entry2] {
        self.cpuid
            .get(usize::from(vcpu.0))
            .map_or(&[], Vec::as_slice)
    }

    fn phys_bits(&self) -> u8 {
        cpuid::phys_bits(self.of(VcpuId(0)))
    }

    /// What only a vCPU can tell: which registers it has, and how fast its
    /// counter is.
    fn facts(self, vcpus: &[VcpuHandle], start: Start<'_>) -> Result<ProcessorFacts, BuildError> {
        let state = BuildError::Processor;
        let first = vcpus.first();
        let readable = first.map(|vcpu| vcpu.readable_msrs(self.msrs));
        let tsc_khz = first.map(VcpuHandle::tsc_khz);
        let msrs = readable
            .map_or(Ok(Vec::new()), Answer::wait)
            .map_err(state)?;
        let here = tsc_khz.map_or(Ok(0), Answer::wait).map_err(state)?;
        let tsc_khz = match start {
            Start::Boot => here,
            Start::Incoming(description) => {
                let guest = description.tsc_khz;
                if !same_rate(guest, here) {
                    for vcpu in vcpus {
                        let scaled = vcpu.set_tsc_khz(guest).wait();
                        scaled.map_err(|_| BuildError::Tsc { guest, here })?;
                    }
                }
                guest
            }
        };
        Ok(ProcessorFacts {
            cpuid: self.cpuid,
            msrs: msrs.into(),
            tsc_khz,
        })
    }
}

/// Whether a guest cannot tell the two rates apart: clocks are corrected by more
/// (KVM's own tolerance, `tsc_tolerance_ppm`, is 250 parts in a million).
fn same_rate(guest_khz: u32, host_khz: u32) -> bool {
    let difference = u64::from(guest_khz.abs_diff(host_khz));
    guest_khz == 0 || host_khz == 0 || difference * 1_000_000 <= u64::from(host_khz) * 250
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

fn attach_functions(
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
        let slot = match start {
            Start::Boot => None,
            Start::Incoming(description) => Some(description.slot(&id)?),
        };
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
fn platform(
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
    let handle = host.device_loop.handle();
    handle
        .add(Box::new(watch))
        .map_err(|source| BuildError::from(HostError::from(source)))?;
    Ok(Platform {
        hotplug: Arc::new(hotplug),
        power_button,
        interrupts: interrupts.clone(),
    })
}

fn connect_buses(
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

fn load(spec: &MachineSpec, host: &HostResources, root: &PciRoot) -> Result<Entry, BuildError> {
    let ram = host.memory.ram();
    let payload = Payload {
        kernel: spec.payload.kernel.clone(),
        initramfs: spec.payload.initramfs.clone(),
        cmdline: spec.payload.cmdline.clone(),
        protocol: Protocol::Auto,
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

/// The vCPUs, and where KVM counts what they do.
fn start_vcpus(
    spec: &MachineSpec,
    vm: &Vm,
    processors: &Processors,
    entry: Option<Entry>,
    buses: &Arc<Buses>,
    report: &Report,
) -> Result<(Vec<VcpuHandle>, KvmStats), BuildError> {
    let mut stats = KvmStats::of(vm);
    let mut handles = Vec::new();
    let core = CoreGroup::of(spec.cpus.core_scheduling);
    for vcpu in spec.cpus.vcpus() {
        let fd = create_vcpu(vm, processors, entry, vcpu)?;
        stats.add(vcpu, &fd);
        let placement = Placement {
            cpus: spec
                .cpus
                .affinity
                .get(&vcpu)
                .unwrap_or(&processors.anywhere)
                .clone(),
            fifo: spec.cpus.sched,
            core: core.clone(),
        };
        handles.push(VcpuHandle::spawn(
            vcpu,
            fd,
            Arc::clone(buses),
            placement,
            Arc::clone(report),
        )?);
    }
    Ok((handles, stats))
}

/// A vCPU with its CPUID, and with its registers where it is the first: the
/// others wait for the start-up interrupt of the guest.
fn create_vcpu(
    vm: &Vm,
    processors: &Processors,
    entry: Option<Entry>,
    vcpu: VcpuId,
) -> Result<VcpuFd, KvmError> {
    // KVM takes the id of a vCPU for its APIC id.
    let apic_id = processors.topology.apic_id(vcpu.0.into());
    let fd = vm
        .fd()
        .create_vcpu(apic_id.into())
        .map_err(attempt("create a vCPU"))?;
    let cpuid = processors.of(vcpu);
    let has_mtrr = cpuid::has_mtrr(cpuid);
    let cpuid = CpuId::from_entries(cpuid).map_err(|_| KvmError::Ioctl {
        attempt: "hold that many CPUID leaves",
        source: std::io::ErrorKind::InvalidInput.into(),
    })?;
    fd.set_cpuid2(&cpuid)
        .map_err(attempt("set a vCPU's CPUID"))?;
    let Some(entry) = entry else {
        // Its registers come with the state.
        return Ok(fd);
    };
    set_msrs(&fd, &msr::boot(&processors.msrs, has_mtrr))?;
    if vcpu == VcpuId(0) {
        let reset = fd.get_sregs().map_err(attempt("read a vCPU's segments"))?;
        fd.set_sregs(&regs::special(&entry, reset))
            .map_err(attempt("set a vCPU's segments"))?;
        fd.set_regs(&regs::general(&entry))
            .map_err(attempt("set a vCPU's registers"))?;
        fd.set_fpu(&regs::floating_point())
            .map_err(attempt("set a vCPU's floating-point state"))?;
    }
    Ok(fd)
}

fn set_msrs(fd: &VcpuFd, entries: &[kvm_bindings::kvm_msr_entry]) -> Result<(), KvmError> {
    let refused = |source| KvmError::Ioctl {
        attempt: "set a vCPU's model-specific registers",
        source,
    };
    let msrs = Msrs::from_entries(entries)
        .map_err(|_| refused(std::io::ErrorKind::InvalidInput.into()))?;
    let set = fd.set_msrs(&msrs).map_err(|e| refused(e.into()))?;
    match entries.get(set) {
        None => Ok(()),
        Some(first) => Err(refused(std::io::Error::other(format!(
            "KVM refused MSR {:#x}",
            first.index
        )))),
    }
}

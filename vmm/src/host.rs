//! What the machine holds of the host: memory, back ends of its devices, and the
//! thread that serves them.
//!
//! All of it is opened before the guest's first instruction, so that a missing
//! tap or a locked disk is an error at the start. A reset of the guest takes
//! the machine apart and builds it again from the same resources: nothing is
//! opened twice, and a terminal or a socket keeps its client.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Sender;

use godwit_devices::device_loop::{DeviceLoop, LoopError};
use godwit_devices::serial::{Backend, Serial, SerialError, SerialHandle, SerialSetup, SerialV1};
use godwit_devices::tap::TapSource;
use godwit_devices::virtio::VirtioDevice;
use godwit_devices::virtio::block::{Block, BlockConfig, BlockError};
use godwit_devices::virtio::net::{self, Net, NetDeviceConfig, NetError};

use godwit_devices::virtio::rng::{Rng, RngConfig, RngError};

use crate::affinity::{self, PlacementError};
use crate::control::Event;
use crate::kvm::EventLine;
use crate::memory::{Memory, MemoryError};
use crate::spec::{CpuSet, DiskSpec, MachineSpec, NetSpec, SerialSpec, TapSpec};

/// The entropy device's id; ids that start so are not the config's.
const RNG_ID: &str = "__rng";

/// A resource of the host could not be had.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// CPUs for the threads that are no vCPU's.
    #[error("Could not use platform.emulator_cpus")]
    Place(#[from] PlacementError),
    /// Guest memory.
    #[error("Could not make guest memory")]
    Memory(#[from] MemoryError),
    /// The thread that serves devices.
    #[error("Could not start the device loop")]
    Loop(#[from] LoopError),
    /// Descriptors.
    #[error("Could not {attempt}")]
    System {
        /// What was attempted.
        attempt: &'static str,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// The serial port.
    #[error("Could not open the serial port")]
    Serial(#[from] SerialError),
    /// A network device.
    #[error(transparent)]
    Net(#[from] NetError),
    /// A disk.
    #[error(transparent)]
    Disk(#[from] BlockError),
    /// The entropy device.
    #[error(transparent)]
    Rng(#[from] RngError),
}

/// What the resources are opened for.
#[derive(Debug)]
pub struct Origin<'a> {
    /// Where guest memory comes from.
    pub memory: MemorySource,
    /// The serial port that another instance hands over, as
    /// [`SerialHandle::hand_over`] gave it; empty: it is opened.
    pub serial: Vec<OwnedFd>,
    /// Where the process was started.
    pub home: &'a CpuSet,
}

/// Where guest memory comes from.
#[derive(Debug)]
pub enum MemorySource {
    /// It is new, and filled as the spec says.
    New,
    /// It is new, and what it holds is put in place later, by whoever serves its
    /// faults; huge pages are reserved all the same.
    Unfilled,
    /// It is new, and what it holds comes from another instance.
    Awaited,
    /// It is that of another instance: one file for each region, in the order
    /// of guest addresses.
    Files(Vec<OwnedFd>),
}

/// See the module.
#[derive(Debug)]
pub struct HostResources {
    pub(crate) devices: Vec<Box<dyn VirtioDevice>>,
    pub(crate) serial: Option<SerialPort>,
    /// Its thread ends when this is dropped.
    pub(crate) device_loop: DeviceLoop,
    pub(crate) memory: Memory,
    /// Where the process was started: for vCPUs that have no CPUs of their own.
    pub(crate) allowed: CpuSet,
}

/// The serial port and its wire.
#[derive(Debug)]
pub(crate) struct SerialPort {
    pub(crate) device: Arc<Serial>,
    pub(crate) line: Arc<EventLine>,
    /// Its back end closes when this is dropped.
    pub(crate) handle: SerialHandle,
}

impl SerialPort {
    /// Where the pseudo-terminal is, when there is one.
    pub(crate) fn pty_path(&self) -> Option<PathBuf> {
        self.handle.pty_path().map(Path::to_path_buf)
    }
}

impl HostResources {
    /// Opens everything that `spec` names.
    ///
    /// # Errors
    /// The first resource that could not be had; the others are closed again.
    pub fn open(
        spec: &MachineSpec,
        origin: Origin<'_>,
        events: &Sender<Event>,
    ) -> Result<Self, HostError> {
        let emulator_cpus = spec.platform.emulator_cpus.clone();
        // First: threads that this one starts, the kernel's included, begin
        // where it is.
        if let Some(cpus) = &emulator_cpus {
            affinity::place_process(cpus)?;
        }
        let comes = !matches!(origin.memory, MemorySource::New);
        let in_use = matches!(origin.memory, MemorySource::Files(_));
        let fill_cpus = emulator_cpus.as_ref().unwrap_or(origin.home);
        let memory = match origin.memory {
            MemorySource::New => Memory::create(&spec.memory, fill_cpus)?,
            MemorySource::Unfilled => Memory::unfilled(&spec.memory)?,
            MemorySource::Awaited => Memory::awaiting(&spec.memory)?,
            MemorySource::Files(files) => Memory::adopt(&spec.memory, files)?,
        };
        if comes && spec.memory.lock {
            memory.lock_on_fault()?;
        }
        let device_loop = DeviceLoop::spawn("devices", move || {
            if let Some(Err(error)) =
                emulator_cpus.map(|cpus| affinity::place_current("devices", &cpus))
            {
                tracing::warn!("{error}");
            }
        })?;
        let serial = open_serial(&spec.serial, origin.serial, comes, &device_loop, events)?;
        let devices = open_devices(spec, comes, in_use, &memory, &device_loop)?;
        Ok(Self {
            devices,
            serial,
            device_loop,
            memory,
            allowed: origin.home.clone(),
        })
    }
}

fn open_serial(
    spec: &SerialSpec,
    handed: Vec<OwnedFd>,
    comes: bool,
    device_loop: &DeviceLoop,
    events: &Sender<Event>,
) -> Result<Option<SerialPort>, HostError> {
    let backend = match spec {
        SerialSpec::Off => return Ok(None),
        SerialSpec::Null => Backend::Null,
        SerialSpec::Tty => Backend::Tty,
        SerialSpec::Pty => Backend::Pty,
        SerialSpec::File(path) if comes => Backend::Append(path.clone()),
        SerialSpec::File(path) => Backend::File(path.clone()),
        SerialSpec::Socket(path) => Backend::Socket(path.clone()),
    };
    let line = EventLine::new().map_err(|source| HostError::System {
        attempt: "make an interrupt line",
        source,
    })?;
    let line = Arc::new(line);
    let events = events.clone();
    let (device, handle) = Serial::new(SerialSetup {
        backend: &backend,
        handed,
        irq: Arc::clone(&line) as _,
        device_loop: &device_loop.handle(),
        escape: Box::new(move |escape| {
            let _ = events.send(Event::Escape(escape));
        }),
        state: SerialV1::default(),
    })?;
    if let Some(path) = handle.pty_path() {
        tracing::warn!("The serial port is at {}", path.display());
    }
    Ok(Some(SerialPort {
        device,
        line,
        handle,
    }))
}

fn open_devices(
    spec: &MachineSpec,
    comes: bool,
    in_use: bool,
    memory: &Memory,
    device_loop: &DeviceLoop,
) -> Result<Vec<Box<dyn VirtioDevice>>, HostError> {
    let mut devices: Vec<Box<dyn VirtioDevice>> = Vec::new();
    for net in &spec.net {
        let config = net_config(net, in_use)?;
        let net = Net::new(config, Arc::clone(memory.ram()), device_loop.handle())?;
        devices.push(Box::new(net));
    }
    for disk in &spec.disks {
        let config = disk_config(disk);
        // Whoever has the guest now holds the image.
        let disk = if comes {
            Block::incoming(config, device_loop.handle())?
        } else {
            Block::new(config, device_loop.handle())?
        };
        devices.push(Box::new(disk));
    }
    let rng = RngConfig {
        id: RNG_ID.to_owned(),
        src: spec.rng.source.clone(),
    };
    devices.push(Box::new(Rng::new(rng, device_loop.handle())?));
    Ok(devices)
}

/// Opens one more network device, for a machine that runs.
///
/// # Errors
/// Its tap or vhost-net could not be had.
pub(crate) fn open_net(
    spec: &NetSpec,
    host: &HostResources,
) -> Result<Box<dyn VirtioDevice>, HostError> {
    let ram = Arc::clone(host.memory.ram());
    let net = Net::new(net_config(spec, false)?, ram, host.device_loop.handle())?;
    Ok(Box::new(net))
}

fn disk_config(spec: &DiskSpec) -> BlockConfig {
    BlockConfig {
        id: spec.id.clone(),
        path: spec.path.clone(),
        readonly: spec.readonly,
        direct: spec.direct,
        num_queues: spec.num_queues,
        queue_size: spec.queue_size,
        serial: spec.serial.clone(),
    }
}

/// A tap whose queues are `in_use` is another process's until that hands the guest
/// over.
fn net_config(spec: &NetSpec, in_use: bool) -> Result<NetDeviceConfig, HostError> {
    let system = |attempt| move |source| HostError::System { attempt, source };
    let tap = match &spec.tap {
        TapSpec::Name(name) => TapSource::Existing(name.clone()),
        TapSpec::Fds(fds) => {
            let queues = fds.iter().map(|fd| duplicate(*fd));
            let queues = queues
                .collect::<io::Result<_>>()
                .map_err(system("duplicate the descriptors of a tap"))?;
            if in_use {
                TapSource::InUse(queues)
            } else {
                TapSource::Fds(queues)
            }
        }
    };
    let worker_cpus = spec
        .worker_cpus
        .as_ref()
        .map(affinity::kernel_set)
        .transpose()
        .map_err(system("make the CPU set of vhost workers"))?;
    Ok(NetDeviceConfig {
        id: spec.id.clone(),
        mac: spec.mac.octets(),
        queue_pairs: spec.queue_pairs,
        queue_size: spec.queue_size,
        mtu: spec.mtu,
        offloads: net::Offloads {
            checksum: spec.offloads.csum,
            tcp_segmentation: spec.offloads.tso,
            udp_fragmentation: spec.offloads.ufo,
        },
        tap,
        worker_cpus,
    })
}

/// Whoever made the config owns its descriptors: we keep a copy.
fn duplicate(fd: std::os::fd::RawFd) -> io::Result<std::os::fd::OwnedFd> {
    use std::os::fd::{FromRawFd, OwnedFd};
    // SAFETY: the call takes any number, and a descriptor that is not open is
    // an error.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

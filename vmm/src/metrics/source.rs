//! Where the facts come from.

use std::fs::File;
use std::os::linux::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Instant;

use godwit_api::error::{ApiError, ErrorKind};
use godwit_api::handler::Reply;
use godwit_api::response::Response;
use godwit_devices::serial::Serial;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use super::{DeviceFacts, Facts, MachineFacts, ProcessFacts, ZoneFacts, page, threads};
use crate::control::Migration;
use crate::control::phase::Phase;
use crate::kvm::stats::{KvmReadings, KvmStats};
use crate::machine::{DeviceWatch, Machine};
use crate::vcpu::{ExitCount, VcpuHandle};

/// Gathers what `GET /metrics` shows. The control loop tells it of changes;
/// anyone may ask.
#[derive(Debug)]
pub struct MetricsSource {
    started: Instant,
    observed: Mutex<Observed>,
    /// Held while one answer is made: many at once would be no faster.
    turn: Mutex<()>,
}

#[derive(Clone, Debug)]
struct Observed {
    phase: Phase,
    machine: Option<Arc<MachineSource>>,
    /// The migration under way, or the last one.
    migration: Option<Migration>,
}

/// What can be asked of a machine. Nothing of it is kept alive: what is gone
/// with the machine is not shown.
#[derive(Debug)]
struct MachineSource {
    built: Instant,
    vcpus: Vec<ExitCount>,
    kvm: Weak<KvmStats>,
    zones: Vec<Zone>,
    serial: Option<Weak<Serial>>,
    devices: Weak<DeviceWatch>,
}

#[derive(Debug)]
struct Zone {
    id: String,
    page_bytes: u64,
    size_bytes: u64,
    file: Weak<File>,
}

impl Default for MetricsSource {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            observed: Mutex::new(Observed {
                phase: Phase::Empty,
                machine: None,
                migration: None,
            }),
            turn: Mutex::new(()),
        }
    }
}

impl MetricsSource {
    /// Tells where the machine is, and the machine when it is at hand: else it
    /// stays what it was.
    pub(crate) fn observe(&self, phase: Phase, machine: Option<&Machine>) {
        let mut observed = lock(&self.observed);
        observed.phase = phase;
        let known = |machine: &Machine| {
            let known = observed.machine.as_ref();
            known.is_some_and(|known| known.kvm.as_ptr() == Arc::as_ptr(&machine.stats))
        };
        if let Some(machine) = machine.filter(|machine| !known(machine)) {
            observed.machine = Some(Arc::new(MachineSource::of(machine)));
        }
        if matches!(phase, Phase::Empty | Phase::Created | Phase::Shutdown) {
            observed.machine = None;
        }
    }

    /// Tells of the migration under way, or the last one.
    pub(crate) fn observe_migration(&self, migration: Option<&Migration>) {
        lock(&self.observed).migration = migration.cloned();
    }

    /// Answers on a thread of its own: hundreds of small files are read for a
    /// large machine, and who else is served by this thread must not wait.
    pub fn answer(self: &Arc<Self>, reply: Reply) {
        let source = Arc::clone(self);
        // Where no thread starts, the reply is dropped, and says that nobody
        // answered; this is only to name the reason.
        let reply = Arc::new(Mutex::new(Some(reply)));
        let theirs = Arc::clone(&reply);
        let started = thread::Builder::new()
            .name(threads::OWN_NAME.to_owned())
            .spawn(move || {
                let text = {
                    let _turn = lock(&source.turn);
                    page(&source.gather()).to_text()
                };
                if let Some(reply) = lock(&theirs).take() {
                    reply.send(Ok(Response::Text(text)));
                }
            });
        if let Err(error) = started
            && let Some(reply) = lock(&reply).take()
        {
            let reason = format!("no thread to gather the metrics: {error}");
            reply.send(Err(ApiError::new(ErrorKind::Internal, reason)));
        }
    }

    /// The facts of this moment.
    #[must_use]
    pub fn gather(&self) -> Facts {
        let observed = lock(&self.observed).clone();
        Facts {
            phase: observed.phase,
            uptime: self.started.elapsed(),
            machine: observed.machine.and_then(|machine| machine.gather()),
            migration: observed.migration.map(|migration| migration.shown()),
            process: ProcessFacts::gather(),
            threads: threads::gather(),
        }
    }
}

impl MachineSource {
    fn of(machine: &Machine) -> Self {
        let memory = &machine.host.memory;
        let zones = machine.spec.memory.zones.iter().enumerate();
        let zones = zones.filter_map(|(index, zone)| {
            // All regions of a zone lie in one file.
            let region = memory.regions().iter().find(|r| r.zone == index)?;
            let file = memory.ram().find_region(region.start)?.file_offset()?.arc();
            Some(Zone {
                id: zone.id.clone(),
                page_bytes: zone.page_size.bytes(),
                size_bytes: zone.size_bytes,
                file: Arc::downgrade(file),
            })
        });
        let serial = machine.host.serial.as_ref();
        Self {
            built: Instant::now(),
            vcpus: machine.vcpus.iter().map(VcpuHandle::exit_count).collect(),
            kvm: Arc::downgrade(&machine.stats),
            zones: zones.collect(),
            serial: serial.map(|serial| Arc::downgrade(&serial.device)),
            devices: Arc::downgrade(&machine.watch),
        }
    }

    /// `None`: all of it is gone.
    fn gather(&self) -> Option<MachineFacts> {
        let zones: Vec<_> = self.zones.iter().filter_map(Zone::gather).collect();
        if zones.is_empty() {
            return None;
        }
        let kvm = self.kvm.upgrade();
        let serial = self.serial.as_ref().and_then(Weak::upgrade);
        let watch = self.devices.upgrade();
        let devices = watch
            .map_or_else(Vec::new, |watch| watch.counters())
            .into_iter();
        Some(MachineFacts {
            uptime: self.built.elapsed(),
            vcpus: self.vcpus.len(),
            exits: self.vcpus.iter().filter_map(ExitCount::read).collect(),
            zones,
            serial: serial.map(|serial| serial.counters()),
            devices: devices.map(DeviceFacts::of).collect(),
            kvm: kvm.map_or_else(KvmReadings::default, |kvm| kvm.read()),
        })
    }
}

impl Zone {
    fn gather(&self) -> Option<ZoneFacts> {
        let file = self.file.upgrade()?;
        /// Of `st_blocks`, whatever the file system (stat(2)).
        const BLOCK_BYTES: u64 = 512;
        let metadata = file.metadata().ok()?;
        Some(ZoneFacts {
            id: self.id.clone(),
            page_bytes: self.page_bytes,
            size_bytes: self.size_bytes,
            allocated_bytes: metadata.st_blocks() * BLOCK_BYTES,
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! Where a machine is built: what all builds need of the process.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use godwit_api::events::EventSender;

use super::{Event, LostMemory};
use crate::arch::cpuid;
use crate::builder::{self, BuildError, Start, Told};
use crate::host::{HostResources, MemorySource, Origin};
use crate::kvm::KvmError;
use crate::machine::{Description, Machine};
use crate::spec::{CpuSet, MachineSpec};

/// See the module.
#[derive(Clone, Debug)]
pub struct Site {
    pub(super) events: Sender<Event>,
    pub(super) incarnation: u64,
    pub(super) home: CpuSet,
    pub(super) monitor: Option<EventSender>,
}

impl Site {
    /// Builds and starts a machine.
    pub(super) fn boot(&self, spec: &Arc<MachineSpec>) -> Result<Box<Machine>, BuildError> {
        let host = self.open(spec, MemorySource::New, Vec::new())?;
        self.build(spec, host, Start::Boot)
    }

    /// The same, on what another machine of `spec` held.
    pub(super) fn reboot(
        &self,
        spec: &Arc<MachineSpec>,
        host: HostResources,
    ) -> Result<Box<Machine>, BuildError> {
        self.build(spec, host, Start::Reboot)
    }

    fn build(
        &self,
        spec: &Arc<MachineSpec>,
        host: HostResources,
        start: Start<'_>,
    ) -> Result<Box<Machine>, BuildError> {
        let machine = builder::build(spec, host, start, self.told())?;
        self.follow(&machine);
        machine.resume();
        Ok(Box::new(machine))
    }

    /// Builds a machine whose memory and state come later, on a serial port that is
    /// handed over if `serial` is not empty.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn build_incoming(
        &self,
        spec: MachineSpec,
        memory: MemorySource,
        serial: Vec<OwnedFd>,
        description: &Description,
    ) -> Result<Box<Machine>, BuildError> {
        let host = self.open(&spec, memory, serial)?;
        let start = Start::Incoming(description);
        let machine = builder::build(&Arc::new(spec), host, start, self.told())?;
        self.follow(&machine);
        Ok(Box::new(machine))
    }

    /// What the guest's processors have and those of this host have not, if
    /// anything.
    ///
    /// # Errors
    /// KVM does not tell.
    pub fn missing_features(
        &self,
        spec: &MachineSpec,
        description: &Description,
    ) -> Result<Option<String>, KvmError> {
        let here = builder::cpuid_here(spec)?;
        let promised = description.cpuid.first().map_or(&[][..], Vec::as_slice);
        let missing = cpuid::missing(promised, &here);
        let names: Vec<_> = missing.iter().map(ToString::to_string).collect();
        Ok((!names.is_empty()).then(|| names.join(", ")))
    }

    /// Who is told how the filling of the machine's memory from `file` ended.
    #[must_use]
    pub fn filled(&self, file: &Path) -> godwit_migration::store::Told {
        let (incarnation, events) = (self.incarnation, self.events.clone());
        let file = file.to_owned();
        Box::new(move |end| {
            let end = end.map_err(|source| LostMemory { file, source });
            let _ = events.send(Event::Filled { incarnation, end });
        })
    }

    fn follow(&self, machine: &Machine) {
        if let Some(monitor) = &self.monitor {
            machine.watch.tell(monitor.clone());
        }
    }

    fn open(
        &self,
        spec: &MachineSpec,
        memory: MemorySource,
        serial: Vec<OwnedFd>,
    ) -> Result<HostResources, BuildError> {
        let origin = Origin {
            memory,
            serial,
            home: &self.home,
        };
        Ok(HostResources::open(spec, origin, &self.events)?)
    }

    fn told(&self) -> Told {
        let incarnation = self.incarnation;
        let (events, ejections) = (self.events.clone(), self.events.clone());
        Told {
            report: Arc::new(move |event| {
                // Without a receiver the machine is being taken apart already.
                let _ = events.send(Event::Vcpu { incarnation, event });
            }),
            ejected: Box::new(move || {
                let _ = ejections.send(Event::Ejected { incarnation });
            }),
        }
    }
}

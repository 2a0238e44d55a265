//! A machine that comes.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use godwit_migration::guest::{Cause, Destination, Prepared, Refusal};
use godwit_migration::stats::Moment;

use super::announce;
use super::places::Places;
use crate::control::Definition;
use crate::control::site::Site;
use crate::host::MemorySource;
use crate::kvm::Elapsed;
use crate::machine::{Description, Laps, Machine, MachineV1};
use crate::memory::regions;

/// How long the first vCPU may take to enter the guest.
const ENTRY: Duration = Duration::from_secs(10);

/// A machine on its way from another instance.
#[derive(Debug)]
pub struct Arrival {
    site: Site,
    places: Places,
    built: Option<Built>,
}

#[derive(Debug)]
struct Built {
    machine: Box<Machine>,
    definition: Definition,
    running: bool,
}

/// The machine could not be taken over.
#[derive(Debug, thiserror::Error)]
pub enum ArrivalError {
    /// Nothing was built.
    #[error("The machine was not built")]
    NotBuilt,
    /// No vCPU entered the guest.
    #[error("No vCPU entered the guest within {} s", ENTRY.as_secs())]
    NotEntered,
    /// This host's processor lacks features that the guest was promised.
    #[error("This host's processor lacks what the guest uses: {0}")]
    Features(String),
    /// Registers of the guest's processor that this KVM does not have.
    #[error("This host's KVM does not keep model-specific registers that the guest has: {0}")]
    Registers(String),
}

impl Arrival {
    /// A machine that will be built at `site`.
    #[must_use]
    pub fn new(site: Site, places: Places) -> Self {
        Self {
            site,
            places,
            built: None,
        }
    }

    /// The machine that came, its description, and whether it runs.
    #[must_use]
    pub fn into_machine(self) -> Option<(Box<Machine>, Definition, bool)> {
        self.built.map(|mut built| {
            built.machine.settle();
            (built.machine, built.definition, built.running)
        })
    }

    fn build(
        &mut self,
        description: &[u8],
        memory: MemorySource,
        devices: Vec<OwnedFd>,
    ) -> Result<Prepared, Refusal> {
        let because = |error: &(dyn std::error::Error + 'static)| Refusal::because(error);
        let description = Description::decode(description).map_err(|e| because(&e))?;
        let mut config = description.config().map_err(|e| because(&e))?;
        let local = matches!(memory, MemorySource::Files(_));
        let mut serial = Vec::new();
        if local {
            let handed = self.places.add_handed(&config, devices);
            serial = handed.map_err(|e| because(&e))?;
        }
        let taps = self
            .places
            .apply(&mut config)
            .map_err(|errors| Refusal(errors.iter().map(ToString::to_string).collect()))?;
        let definition = Definition::incoming(config, taps);
        let spec = definition.incoming_spec().map_err(|e| because(&e))?;
        let missing = self.site.missing_features(&spec, &description);
        if let Some(missing) = missing.map_err(|e| because(&e))? {
            return Err(because(&ArrivalError::Features(missing)));
        }
        let machine = self
            .site
            .build_incoming(spec, memory, serial, &description)
            .map_err(|e| because(&e))?;
        check_registers(&machine, &description).map_err(|e| because(&e))?;
        let regions = regions(machine.host.memory.ram()).map_err(|e| because(&e))?;
        // Setting one vCPU's state costs about as much; they are set in parallel.
        let restore_cost = Duration::from_micros(300 + 20 * machine.vcpus.len() as u64);
        self.built = Some(Built {
            machine,
            definition,
            running: description.running,
        });
        Ok(Prepared {
            regions,
            restore_cost,
        })
    }

    fn built(&self) -> Result<&Built, ArrivalError> {
        self.built.as_ref().ok_or(ArrivalError::NotBuilt)
    }
}

/// Registers and time: what only the built machine can tell.
fn check_registers(machine: &Machine, description: &Description) -> Result<(), ArrivalError> {
    let here = &machine.processors.msrs;
    let lost: Vec<_> = description
        .msrs
        .iter()
        .filter(|index| !here.contains(index))
        .map(|index| format!("{index:#x}"))
        .collect();
    if !lost.is_empty() {
        return Err(ArrivalError::Registers(lost.join(", ")));
    }
    Ok(())
}

impl Destination for Arrival {
    fn prepare(&mut self, description: &[u8]) -> Result<Prepared, Refusal> {
        self.build(description, MemorySource::Awaited, Vec::new())
    }

    fn prepare_with_files(
        &mut self,
        description: &[u8],
        memory: Vec<OwnedFd>,
        devices: Vec<OwnedFd>,
    ) -> Result<Prepared, Refusal> {
        self.build(description, MemorySource::Files(memory), devices)
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), Cause> {
        let state = MachineV1::decode(state)?;
        let machine = &self.built()?.machine;
        machine.restore(state, Elapsed::Counts)?;
        let mut laps = Laps::begin("restoring");
        for function in &machine.functions {
            function.device.with_device(|device| device.acquire())?;
        }
        if let Some(serial) = &machine.host.serial {
            serial.handle.read_note()?;
        }
        laps.lap("places of devices");
        for function in &machine.functions {
            function.device.prepare();
        }
        laps.lap("rings");
        machine.tell_stop();
        laps.lap("word of the stop");
        Ok(())
    }

    fn run(&mut self) -> Result<Moment, Cause> {
        let built = self.built()?;
        if !built.running {
            built.machine.claim_serial();
            return Ok(Moment::now());
        }
        let mut laps = Laps::begin("resuming");
        announce::once(&built.machine);
        laps.lap("announcement");
        built.machine.resume();
        laps.lap("vCPUs and devices");
        announce::start(&built.machine);
        let start = Instant::now();
        loop {
            if let Some(entered) = built.machine.entered_ns() {
                return Ok(Moment::from_nanos(entered));
            }
            if start.elapsed() > ENTRY {
                return Err(ArrivalError::NotEntered.into());
            }
            std::thread::yield_now();
        }
    }

    fn abandon(&mut self) {
        self.built = None;
    }
}

//! What takes long, on a thread of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use godwit_api::error::ApiError;
use godwit_api::handler::Reply;
use godwit_api::response::Response;

use super::answer::failed;
use super::phase::{Phase, Verb};
use super::{Control, Event, RunError, State};
use crate::builder::{self, BuildError, Start};
use crate::host::{HostResources, MemorySource, Origin};
use crate::machine::Machine;
use crate::spec::{CpuSet, MachineSpec};

/// Work under way.
#[derive(Debug)]
pub(super) struct Work {
    phase: Phase,
    hurry: Hurry,
}

/// Asks a worker to give up soon: what waits for it cannot wait.
#[derive(Clone, Debug, Default)]
pub(super) struct Hurry(Arc<AtomicBool>);

impl Work {
    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    /// Something waits for the machine.
    pub(super) fn hurry(&self) {
        self.hurry.0.store(true, Ordering::Relaxed);
    }
}

/// What a worker ended with.
#[derive(Debug)]
pub enum Done {
    /// A machine was built and runs, or could not be.
    Booted {
        /// What came of it.
        result: Result<Box<Machine>, BuildError>,
        /// Who asked; nobody for the machine of the command line and for a
        /// guest that resets itself.
        reply: Option<Reply>,
        /// Boot, or reboot.
        verb: Verb,
    },
}

/// What all builds need.
#[derive(Clone, Debug)]
struct Site {
    events: std::sync::mpsc::Sender<Event>,
    incarnation: u64,
    home: CpuSet,
}

impl Site {
    fn boot(&self, spec: &Arc<MachineSpec>) -> Result<Box<Machine>, BuildError> {
        let origin = Origin {
            memory: MemorySource::New,
            home: &self.home,
        };
        let host = HostResources::open(spec, origin, &self.events)?;
        self.build(spec, host)
    }

    fn build(
        &self,
        spec: &Arc<MachineSpec>,
        host: HostResources,
    ) -> Result<Box<Machine>, BuildError> {
        let events = self.events.clone();
        let incarnation = self.incarnation;
        let report = Arc::new(move |event| {
            // Without a receiver the machine is being taken apart already.
            let _ = events.send(Event::Vcpu { incarnation, event });
        });
        let machine = builder::build(spec, host, Start::Boot, report)?;
        machine.resume();
        Ok(Box::new(machine))
    }
}

impl Control {
    /// A place for the next machine.
    fn site(&mut self) -> Site {
        self.incarnation += 1;
        Site {
            events: self.events.clone(),
            incarnation: self.incarnation,
            home: self.home.clone(),
        }
    }

    /// Runs `work` on a thread; what it answers comes back as an event.
    fn start(
        &self,
        phase: Phase,
        work: impl FnOnce(&Hurry) -> Done + Send + 'static,
    ) -> Result<State, RunError> {
        let hurry = Hurry::default();
        let (events, asked) = (self.events.clone(), hurry.clone());
        thread::Builder::new()
            .name("worker".to_owned())
            .spawn(move || {
                // The loop lives as long as there is work.
                let _ = events.send(Event::Done(work(&asked)));
            })
            .map_err(RunError::Worker)?;
        Ok(State::Busy(Work { phase, hurry }))
    }

    pub(super) fn start_boot(
        &mut self,
        spec: MachineSpec,
        reply: Option<Reply>,
    ) -> Result<State, RunError> {
        let site = self.site();
        let spec = Arc::new(spec);
        self.start(Phase::Booting, move |_| Done::Booted {
            result: site.boot(&spec),
            reply,
            verb: Verb::Boot,
        })
    }

    pub(super) fn start_reboot(
        &mut self,
        machine: Box<Machine>,
        reply: Option<Reply>,
    ) -> Result<State, RunError> {
        // The same as before: what the machine holds of the host is not free now.
        let spec = Arc::clone(&machine.spec);
        let site = self.site();
        self.start(Phase::Rebooting, move |_| Done::Booted {
            result: site.build(&spec, machine.dismantle()),
            reply,
            verb: Verb::Reboot,
        })
    }

    pub(super) fn done(&mut self, state: State, done: Done) -> Result<State, RunError> {
        let State::Busy(_) = state else {
            return Ok(state);
        };
        match done {
            Done::Booted {
                result: Ok(machine),
                reply,
                ..
            } => {
                let pty = machine.host.serial.as_ref().and_then(|s| s.pty_path());
                if let Some(definition) = &mut self.definition {
                    definition.set_serial_place(pty);
                }
                answer(reply, Ok(Response::Done));
                Ok(State::Running(machine))
            }
            Done::Booted {
                result: Err(error),
                reply,
                verb,
            } => match reply {
                Some(reply) => {
                    reply.send(Err(failed(verb, &error)));
                    Ok(State::Created)
                }
                None => Err(error.into()),
            },
        }
    }
}

fn answer(reply: Option<Reply>, outcome: Result<Response, ApiError>) {
    if let Some(reply) = reply {
        reply.send(outcome);
    }
}

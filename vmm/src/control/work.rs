//! What takes long, on a thread of its own.

use std::sync::Arc;
use std::thread;

use godwit_api::error::ApiError;
use godwit_api::events::EventKind;
use godwit_api::handler::Reply;
use godwit_api::request::{FolderUrl, NetFds, Restore};
use godwit_api::response::Response;

use godwit_migration::cancel::Cancel;
use godwit_migration::destination::{Arrived, ReceiveError};
use godwit_migration::source::{Outcome, SendFailure};
use godwit_migration::store::Stored;

use super::answer::failed;
use super::phase::{Phase, Verb};
use super::site::Site;
use super::{Control, Definition, Ending, Event, LostMemory, RunError, State};
use crate::builder::BuildError;
use crate::machine::Machine;
use crate::migrate::{Arrival, Departure, Places};
use crate::snapshot::{self, SnapshotError};
use crate::spec::MachineSpec;
use crate::trim;

/// Work under way.
#[derive(Debug)]
pub(super) struct Work {
    phase: Phase,
    /// Ends it early, where that can be.
    cancel: Option<Cancel>,
}

impl Work {
    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    /// A client asks for the end.
    pub(super) fn cancel(&self) {
        if let Some(cancel) = &self.cancel {
            cancel.cancel();
        }
    }

    /// Something else waits for the machine: `reason` is what the work fails for.
    pub(super) fn cancel_because(&self, reason: String) {
        if let Some(cancel) = &self.cancel {
            cancel.because(reason);
        }
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
    /// A machine was stopped.
    Paused {
        /// The machine.
        machine: Box<Machine>,
        /// Who asked.
        reply: Reply,
    },
    /// A machine was stopped whose memory is lost.
    Lost {
        /// The machine.
        machine: Box<Machine>,
        /// What is lost.
        lost: LostMemory,
    },
    /// A machine was taken apart.
    Stopped {
        /// What comes next.
        then: Then,
    },
    /// A machine goes on.
    Resumed {
        /// The machine.
        machine: Box<Machine>,
        /// Who asked.
        reply: Reply,
    },
    /// A machine was written to a folder, or not.
    Snapshotted {
        /// What came of it.
        result: Result<Stored, SnapshotError>,
        /// The machine, paused as it was.
        machine: Box<Machine>,
        /// Who asked.
        reply: Reply,
    },
    /// A machine was made from a folder, or not.
    Restored {
        /// What came of it.
        result: Result<(Box<Machine>, Box<Definition>), SnapshotError>,
        /// Whether it was let go on at once.
        resume: bool,
        /// Who asked.
        reply: Reply,
    },
    /// A machine left, or did not.
    Sent {
        /// What came of it.
        result: Result<Outcome, SendFailure>,
        /// The machine, if it is still here.
        departure: Box<Departure>,
    },
    /// A machine came, or did not.
    Received {
        /// What came of it.
        result: Result<Arrived, ReceiveError>,
        /// The machine, if it is here.
        arrival: Box<Arrival>,
        /// Who asked.
        reply: Reply,
    },
}

/// Why a machine was taken apart, and what comes next.
#[derive(Debug)]
pub enum Then {
    /// A client shut it down: its description stays.
    ShutDown(Reply),
    /// A client deleted it.
    Delete(Reply),
    /// Its guest switched itself off: its description stays.
    Stay,
    /// The process ends, and tells who asked for that.
    End(Ending, Option<Reply>),
    /// The process ends, for this reason.
    Fail(RunError),
}

impl Control {
    /// A place for the next machine.
    pub(super) fn site(&mut self) -> Site {
        self.incarnation += 1;
        Site {
            events: self.events.clone(),
            incarnation: self.incarnation,
            home: self.home.clone(),
            monitor: self.monitor.clone(),
        }
    }

    /// Runs `work` on a thread; what it answers comes back as an event.
    pub(super) fn start(
        &self,
        phase: Phase,
        cancel: Option<Cancel>,
        work: impl FnOnce() -> Done + Send + 'static,
    ) -> Result<State, RunError> {
        let events = self.events.clone();
        thread::Builder::new()
            .name("worker".to_owned())
            .spawn(move || {
                let done = work();
                let booted = matches!(done, Done::Booted { .. });
                // The loop lives as long as there is work.
                let _ = events.send(Event::Done(Box::new(done)));
                // Not after other work: unmapping interrupts the CPUs that run
                // vCPUs, which only a guest that boots does not feel.
                if booted {
                    trim::startup_code();
                }
            })
            .map_err(RunError::Worker)?;
        Ok(State::Busy(Work { phase, cancel }))
    }

    pub(super) fn start_boot(
        &mut self,
        spec: MachineSpec,
        reply: Option<Reply>,
    ) -> Result<State, RunError> {
        self.tell(EventKind::Booting);
        let site = self.site();
        let spec = Arc::new(spec);
        self.start(Phase::Booting, None, move || Done::Booted {
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
        self.tell(EventKind::Rebooting);
        // The same as before: what the machine holds of the host is not free now.
        let spec = Arc::clone(&machine.spec);
        let site = self.site();
        self.start(Phase::Rebooting, None, move || Done::Booted {
            result: site.reboot(&spec, machine.dismantle()),
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
                verb,
            } => {
                self.note_serial_place(&machine);
                self.tell(match verb {
                    Verb::Reboot => EventKind::Rebooted,
                    _ => EventKind::Booted,
                });
                answer(reply, Ok(Response::Done));
                Ok(State::Running(machine))
            }
            Done::Booted {
                result: Err(error),
                reply,
                verb,
            } => match reply {
                Some(reply) => {
                    self.leave_cpus();
                    reply.send(Err(failed(verb, &error)));
                    Ok(State::Created)
                }
                None => Err(error.into()),
            },
            Done::Paused { machine, reply } => {
                self.tell(EventKind::Paused);
                reply.send(Ok(Response::Done));
                Ok(State::Paused(machine))
            }
            Done::Lost { machine, lost } => Ok(self.lost(machine, &lost)),
            Done::Stopped { then } => self.stopped(then),
            Done::Resumed { machine, reply } => {
                self.tell(EventKind::Resumed);
                reply.send(Ok(Response::Done));
                Ok(State::Running(machine))
            }
            Done::Snapshotted {
                result,
                machine,
                reply,
            } => {
                reply.send(match result {
                    Ok(stored) => {
                        tracing::info!("Wrote {} MiB of memory", stored.data_bytes >> 20);
                        self.tell(EventKind::Snapshotted);
                        Ok(Response::Done)
                    }
                    Err(error) => Err(failed(Verb::Snapshot, &error)),
                });
                Ok(State::Paused(machine))
            }
            Done::Restored {
                result,
                resume,
                reply,
            } => Ok(self.restored(result, resume, reply)),
            Done::Sent { result, departure } => Ok(self.sent(result, *departure)),
            Done::Received {
                result,
                arrival,
                reply,
            } => Ok(self.received(result, *arrival, reply)),
        }
    }

    /// A device may take long to finish what it does, or never end: a disk whose
    /// storage does not answer.
    pub(super) fn start_pause(
        &mut self,
        machine: Box<Machine>,
        reply: Reply,
    ) -> Result<State, RunError> {
        self.tell(EventKind::Pausing);
        self.start(Phase::Pausing, None, move || {
            machine.pause();
            Done::Paused { machine, reply }
        })
    }

    /// As for [`start_pause`](Self::start_pause); and unmapping the memory of a large
    /// guest takes a while.
    pub(super) fn start_stop(
        &mut self,
        machine: Box<Machine>,
        then: Then,
    ) -> Result<State, RunError> {
        self.start(Phase::Stopping, None, move || {
            machine.retire();
            drop(machine);
            Done::Stopped { then }
        })
    }

    /// The machine was taken apart.
    fn stopped(&mut self, then: Then) -> Result<State, RunError> {
        self.taken_apart();
        match then {
            Then::Delete(reply) => Ok(self.deleted(reply)),
            Then::ShutDown(reply) => {
                self.tell(EventKind::Shutdown);
                reply.send(Ok(Response::Done));
                Ok(State::Created)
            }
            Then::Stay => {
                self.tell(EventKind::Shutdown);
                Ok(State::Shutdown)
            }
            Then::End(ending, reply) => {
                self.tell(EventKind::Shutdown);
                Ok(self.ended(ending, reply))
            }
            Then::Fail(error) => Err(error),
        }
    }

    /// There is no machine any more, and its description goes too.
    pub(super) fn deleted(&mut self, reply: Reply) -> State {
        if self.definition.take().is_some() {
            self.tell(EventKind::Deleted);
        }
        reply.send(Ok(Response::Done));
        State::Empty
    }

    pub(super) fn start_resume(
        &mut self,
        machine: Box<Machine>,
        reply: Reply,
    ) -> Result<State, RunError> {
        self.tell(EventKind::Resuming);
        self.start(Phase::Resuming, None, move || {
            machine.resume_after_pause();
            Done::Resumed { machine, reply }
        })
    }

    pub(super) fn start_snapshot(
        &mut self,
        machine: Box<Machine>,
        folder: &FolderUrl,
        reply: Reply,
    ) -> Result<State, RunError> {
        let config = self.definition.as_ref().map(|d| d.config().clone());
        let folder = folder.path().to_owned();
        self.tell(EventKind::Snapshotting);
        self.start(Phase::Snapshotting, None, move || Done::Snapshotted {
            result: snapshot::write(&machine, &config.unwrap_or_default(), &folder),
            machine,
            reply,
        })
    }

    pub(super) fn start_restore(
        &mut self,
        request: Restore,
        fds: Vec<NetFds>,
        reply: Reply,
    ) -> Result<State, RunError> {
        let site = self.site();
        self.tell(EventKind::Restoring);
        self.start(Phase::Restoring, None, move || {
            let folder = request.source_url.path();
            let result = snapshot::read(&site, folder, Places::taps(fds), request.prefault);
            if let (Ok((machine, _)), true) = (&result, request.resume) {
                machine.resume_after_pause();
            }
            Done::Restored {
                result,
                resume: request.resume,
                reply,
            }
        })
    }

    fn restored(
        &mut self,
        result: Result<(Box<Machine>, Box<Definition>), SnapshotError>,
        resume: bool,
        reply: Reply,
    ) -> State {
        let (machine, definition) = match result {
            Ok(came) => came,
            Err(error) => {
                self.leave_cpus();
                reply.send(Err(failed(Verb::Restore, &error)));
                return State::Empty;
            }
        };
        self.definition = Some(*definition);
        self.note_serial_place(&machine);
        self.tell(EventKind::Restored);
        reply.send(Ok(Response::Done));
        if resume {
            self.tell(EventKind::Resumed);
            State::Running(machine)
        } else {
            State::Paused(machine)
        }
    }

    pub(super) fn note_serial_place(&mut self, machine: &Machine) {
        let pty = machine.host.serial.as_ref().and_then(|s| s.pty_path());
        if let Some(definition) = &mut self.definition {
            definition.set_serial_place(pty);
        }
    }
}

fn answer(reply: Option<Reply>, outcome: Result<Response, ApiError>) {
    if let Some(reply) = reply {
        reply.send(outcome);
    }
}

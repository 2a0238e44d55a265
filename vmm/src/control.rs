//! The one owner of the machine: a loop that takes events and moves the state.
//!
//! ```text
//!  api thread --Request--+
//!  vCPU threads --Vcpu---+--> [ step(state, event) -> state ] --> answers, events
//!  signals, escape key --+             |        ^
//!                                      v        |  Done(machine)
//!                                 worker thread: boot, pause, snapshot, migration, end
//! ```
//!
//! Nothing but this loop changes what the machine is doing, and it never does
//! anything long: that goes to a worker, with the machine, and comes back with
//! [`Event::Done`]. Meanwhile requests are answered.

mod answer;
mod definition;
mod fill;
mod migration;
pub mod phase;
mod request;
pub mod site;
mod work;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Instant;

use godwit_api::config::VmConfig;
use godwit_api::events::{Event as Told, EventKind, EventSender};
use godwit_api::handler::Reply;
use godwit_api::request::Request;
use godwit_api::response::Response;
use godwit_devices::serial::Escape;
use godwit_migration::store::Stored;

use crate::affinity;
use crate::builder::BuildError;
use crate::machine::Machine;
use crate::metrics::MetricsSource;
use crate::spec::CpuSet;
use crate::vcpu::{ExitError, Stop, VcpuEvent};

pub use definition::{Definition, DefinitionError};
pub use fill::LostMemory;
pub(crate) use migration::Migration;
pub use request::Door;

use phase::Phase;
use work::{Done, Then, Work};

/// What the loop is told.
#[derive(Debug)]
pub enum Event {
    /// A vCPU left the guest for good.
    Vcpu {
        /// Which machine's: a reset makes a new one.
        incarnation: u64,
        /// What happened.
        event: VcpuEvent,
    },
    /// The guest let go of devices.
    Ejected {
        /// Which machine's.
        incarnation: u64,
    },
    /// Memory that was read while the guest ran is complete, or lost.
    Filled {
        /// Which machine's.
        incarnation: u64,
        /// What came of it.
        end: Result<Stored, LostMemory>,
    },
    /// A key on the serial port's terminal asks for something.
    Escape(Escape),
    /// The process was asked to end (SIGTERM, SIGINT, SIGHUP).
    Terminate {
        /// The signal's number.
        signal: i32,
    },
    /// A client asks for something.
    Request(Request, Reply),
    /// A worker has ended.
    Done(Box<Done>),
}

impl Event {
    /// Why it is no use to go on with what a worker does, if it is none.
    fn ends_work(&self) -> Option<String> {
        Some(match self {
            Self::Vcpu { event, .. } => match &event.stop {
                Stop::PowerOff => "The guest switched itself off".to_owned(),
                Stop::Reset => "The guest asked for a reset".to_owned(),
                Stop::TripleFault => "The guest shut down by a triple fault".to_owned(),
                Stop::Failed(error) => {
                    format!("vCPU {} of the guest stopped: {error}", event.vcpu.0)
                }
            },
            Self::Terminate { .. } | Self::Escape(_) => PROCESS_ENDS.to_owned(),
            // A device less does not stop a migration.
            Self::Ejected { .. } | Self::Filled { .. } | Self::Request(..) | Self::Done(_) => {
                return None;
            }
        })
    }
}

/// What work fails for that the process does not wait for.
const PROCESS_ENDS: &str = "The process was asked to end";

/// How the guest, or the process, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The guest switched itself off.
    PoweredOff,
    /// The guest asked for a reset, and it was not to be restarted.
    Reset,
    /// The guest's processor shut down by a triple fault, and it was not to be
    /// restarted.
    TripleFault,
    /// The operator ended it: a signal, the escape key, or `vmm.shutdown`.
    Terminated,
    /// The guest runs elsewhere.
    Migrated,
}

/// What to do when the guest resets, by request or by a triple fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnReset {
    /// Start again from the kernel image, as a real machine would.
    #[default]
    Restart,
    /// End the process.
    End,
}

/// What to do when the guest switches itself off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnPowerOff {
    /// End the process.
    #[default]
    End,
    /// Keep the description, to be booted again by request.
    Stay,
}

/// How the process behaves.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// When the guest resets.
    pub on_reset: OnReset,
    /// When the guest switches itself off.
    pub on_power_off: OnPowerOff,
}

/// The machine could not be started, or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The config is not one of a machine on this host.
    #[error(transparent)]
    Define(#[from] DefinitionError),
    /// It could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// A vCPU could not go on.
    #[error("vCPU {vcpu} of the guest stopped")]
    Vcpu {
        /// Which one.
        vcpu: u8,
        /// Why.
        #[source]
        source: ExitError,
    },
    /// No thread for work that takes long.
    #[error("Could not start a worker thread")]
    Worker(#[source] std::io::Error),
    /// What is lost holds up what is to be stopped.
    #[error("The guest cannot be stopped: something of it waits for memory that is lost")]
    Stuck(#[source] LostMemory),
    /// The process's own CPUs could not be learnt.
    #[error("Could not read this process's CPU affinity")]
    Affinity(#[source] std::io::Error),
    /// All who could send an event are gone: a defect.
    #[error("The control loop lost all its senders")]
    Disconnected,
}

/// Where the machine is in its life, and the machine.
#[derive(Debug)]
enum State {
    Empty,
    Created,
    Running(Box<Machine>),
    Paused(Box<Machine>),
    Shutdown,
    /// It may run elsewhere; its vCPUs are stopped.
    Unsettled(Box<Machine>),
    /// Part of its memory is lost; it is stopped.
    Lost(Box<Machine>),
    /// A worker has the machine, or makes one.
    Busy(Work),
    Ended(Ending),
}

impl State {
    fn phase(&self) -> Phase {
        match self {
            Self::Empty => Phase::Empty,
            Self::Created => Phase::Created,
            Self::Running(_) => Phase::Running,
            Self::Paused(_) => Phase::Paused,
            Self::Shutdown | Self::Ended(_) => Phase::Shutdown,
            Self::Unsettled(_) => Phase::Unsettled,
            Self::Lost(_) => Phase::Lost,
            Self::Busy(work) => work.phase(),
        }
    }

    /// The machine, when no worker has it.
    fn machine(&self) -> Option<&Machine> {
        match self {
            Self::Running(machine)
            | Self::Paused(machine)
            | Self::Unsettled(machine)
            | Self::Lost(machine) => Some(machine),
            _ => None,
        }
    }
}

/// The owner.
#[derive(Debug)]
pub struct Control {
    options: Options,
    events: Sender<Event>,
    received: Receiver<Event>,
    /// Told of each change, and so answers also while a worker has the machine.
    metrics: Arc<MetricsSource>,
    /// Where the process was started: vCPUs without CPUs of their own run there.
    home: CpuSet,
    /// Who follows what happens, if anybody does.
    monitor: Option<EventSender>,
    definition: Option<Definition>,
    incarnation: u64,
    /// The migration under way, or the last one.
    migration: Option<Migration>,
    /// A client asked to cancel it.
    cancelled: bool,
    /// Somebody asked how the migration under way goes.
    watched: bool,
    /// What came while a worker had the machine, and concerns it.
    deferred: VecDeque<Event>,
    /// Part of the machine's memory is lost, and whoever has the machine must be
    /// done by then.
    ultimatum: Option<(LostMemory, Instant)>,
}

impl Control {
    /// An owner of no machine yet.
    ///
    /// # Errors
    /// The process's CPUs cannot be learnt.
    pub fn new(options: Options) -> Result<Self, RunError> {
        let (events, received) = mpsc::channel();
        Ok(Self {
            options,
            events,
            received,
            metrics: Arc::default(),
            home: affinity::allowed().map_err(RunError::Affinity)?,
            monitor: None,
            definition: None,
            incarnation: 0,
            migration: None,
            cancelled: false,
            watched: false,
            deferred: VecDeque::new(),
            ultimatum: None,
        })
    }

    /// Tells `monitor` what happens from now on.
    #[must_use]
    pub fn with_monitor(mut self, monitor: EventSender) -> Self {
        self.monitor = Some(monitor);
        self
    }

    fn tell(&self, event: impl Into<Told>) {
        if let Some(monitor) = &self.monitor {
            monitor.send(event.into());
        }
    }

    /// Where events go.
    #[must_use]
    pub fn events(&self) -> Sender<Event> {
        self.events.clone()
    }

    /// Serves until the guest or the process ends. A machine of `first` is
    /// booted at once, and an error of it is ours.
    ///
    /// # Errors
    /// See [`RunError`]; whatever was opened is closed again.
    pub fn run(mut self, first: Option<VmConfig>) -> Result<Ending, RunError> {
        self.tell(EventKind::VmmStarting);
        let mut state = State::Empty;
        if let Some(config) = first {
            let (definition, spec) = Definition::with_spec(config)?;
            self.definition = Some(definition);
            state = self.start_boot(spec, None)?;
        }
        loop {
            self.metrics.observe(state.phase(), state.machine());
            self.metrics.observe_migration(self.migration.as_ref());
            if let State::Ended(ending) = state {
                if ending == Ending::Migrated {
                    self.last_words();
                }
                return Ok(ending);
            }
            let event = match self.next_deferred(&state) {
                Some(event) => event,
                None => self.next_event(&state)?,
            };
            state = self.step(state, event)?;
        }
    }

    fn next_deferred(&mut self, state: &State) -> Option<Event> {
        match state {
            State::Busy(_) => None,
            _ => self.deferred.pop_front(),
        }
    }

    fn step(&mut self, state: State, event: Event) -> Result<State, RunError> {
        match event {
            Event::Request(request, reply) => self.request(state, request, reply),
            Event::Done(done) => self.done(state, *done),
            Event::Filled { incarnation, end } => self.filled(state, incarnation, end),
            Event::Vcpu { incarnation, .. } | Event::Ejected { incarnation }
                if incarnation != self.incarnation =>
            {
                // Of a machine that is gone.
                Ok(state)
            }
            event if matches!(state, State::Busy(_)) => {
                if let (State::Busy(work), Some(reason)) = (&state, event.ends_work()) {
                    work.cancel_because(reason);
                }
                self.deferred.push_back(event);
                Ok(state)
            }
            Event::Vcpu { event, .. } => self.vcpu_stopped(state, event),
            Event::Ejected { .. } => Ok(self.devices_left(state)),
            Event::Escape(Escape::Quit) => self.end(state, Ending::Terminated, None),
            Event::Terminate { signal } => {
                tracing::info!("Signal {signal}: switching the guest off");
                self.end(state, Ending::Terminated, None)
            }
        }
    }

    fn vcpu_stopped(&mut self, state: State, event: VcpuEvent) -> Result<State, RunError> {
        let (State::Running(machine) | State::Paused(machine)) = state else {
            return Ok(state);
        };
        let vcpu = event.vcpu.0;
        match event.stop {
            Stop::PowerOff => {
                tracing::info!("The guest switched itself off");
                let then = match self.options.on_power_off {
                    OnPowerOff::End => Then::End(Ending::PoweredOff, None),
                    OnPowerOff::Stay => Then::Stay,
                };
                self.start_stop(machine, then)
            }
            Stop::Reset => {
                tracing::info!("The guest asked for a reset");
                self.reset(machine, Ending::Reset)
            }
            Stop::TripleFault => {
                tracing::warn!("vCPU {vcpu} of the guest shut down by a triple fault");
                self.reset(machine, Ending::TripleFault)
            }
            Stop::Failed(source) => {
                self.start_stop(machine, Then::Fail(RunError::Vcpu { vcpu, source }))
            }
        }
    }

    fn reset(&mut self, machine: Box<Machine>, ending: Ending) -> Result<State, RunError> {
        match self.options.on_reset {
            OnReset::Restart => self.start_reboot(machine, None),
            OnReset::End => self.start_stop(machine, Then::End(ending, None)),
        }
    }

    /// No machine is there any more; its description stays.
    fn taken_apart(&mut self) {
        self.incarnation += 1;
        self.leave_cpus();
    }

    /// No machine says where this process's threads are to be.
    fn leave_cpus(&self) {
        if let Err(error) = affinity::place_process(&self.home) {
            tracing::warn!("{error}");
        }
    }

    /// The process is to end, and `reply` hears when the machine is gone.
    fn end(
        &mut self,
        state: State,
        ending: Ending,
        reply: Option<Reply>,
    ) -> Result<State, RunError> {
        match state {
            State::Running(machine)
            | State::Paused(machine)
            | State::Unsettled(machine)
            | State::Lost(machine) => self.start_stop(machine, Then::End(ending, reply)),
            _ => Ok(self.ended(ending, reply)),
        }
    }

    fn ended(&mut self, ending: Ending, reply: Option<Reply>) -> State {
        self.tell(EventKind::VmmShutdown);
        // Others may have asked for the same while the machine was taken apart.
        let waiting = self.deferred.drain(..).filter_map(|event| match event {
            Event::Request(Request::ShutdownVmm, reply) => Some(reply),
            _ => None,
        });
        for reply in reply.into_iter().chain(waiting) {
            reply.send(Ok(Response::Done));
        }
        State::Ended(ending)
    }
}

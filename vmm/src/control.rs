//! The one owner of the machine: a loop that takes events and moves the state.
//!
//! ```text
//!            boot                        power off, SIGTERM, escape key
//!   Created ------> Running(Machine) ---------------------------------> Ended
//!                      ^      |
//!                      +------+  reset: taken apart, built again from the
//!                                same host resources
//! ```
//!
//! vCPU threads, the serial port's escape key and signals only send [`Event`]s;
//! nothing but this loop changes what the machine is doing.

use std::sync::mpsc::{self, Receiver, Sender};

use godwit_devices::serial::Escape;

use crate::builder::{self, BuildError, Start};
use crate::host::HostResources;
use crate::machine::Machine;
use crate::spec::MachineSpec;
use crate::vcpu::{ExitError, Stop, VcpuEvent};

/// What the loop is told.
#[derive(Debug)]
pub enum Event {
    /// A vCPU left the guest for good.
    Vcpu(VcpuEvent),
    /// A key on the serial port's terminal asks for something.
    Escape(Escape),
    /// The process was asked to end (SIGTERM, SIGINT, SIGHUP).
    Terminate {
        /// The signal's number.
        signal: i32,
    },
}

/// How the guest ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The guest switched itself off.
    PoweredOff,
    /// The guest asked for a reset, and it was not to be restarted.
    Reset,
    /// The guest's processor shut down by a triple fault, and it was not to be
    /// restarted.
    TripleFault,
    /// The operator ended it: a signal, or the escape key.
    Terminated,
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

/// The machine could not be started, or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
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
    /// All who could send an event are gone: a defect.
    #[error("The control loop lost all its senders")]
    Disconnected,
}

enum State {
    Running(Box<Machine>),
    Restart(Box<Machine>),
    Ended(Ending),
}

/// Boots the machine of `spec` and runs it until it ends.
///
/// # Errors
/// See [`RunError`]; whatever was opened is closed again.
pub fn run(spec: &MachineSpec, on_reset: OnReset) -> Result<Ending, RunError> {
    let (events, received) = mpsc::channel();
    let host = HostResources::open(spec, &events).map_err(BuildError::from)?;
    let machine = boot(spec, host, &events)?;
    drive(spec, State::Running(machine), on_reset, &events, &received)
}

fn boot(
    spec: &MachineSpec,
    host: HostResources,
    events: &Sender<Event>,
) -> Result<Box<Machine>, RunError> {
    let machine = builder::build(spec, host, Start::Boot, events)?;
    machine.resume();
    Ok(Box::new(machine))
}

fn drive(
    spec: &MachineSpec,
    mut state: State,
    on_reset: OnReset,
    events: &Sender<Event>,
    received: &Receiver<Event>,
) -> Result<Ending, RunError> {
    loop {
        state = match state {
            State::Running(machine) => {
                let event = received.recv().map_err(|_| RunError::Disconnected)?;
                step(machine, event, on_reset)?
            }
            State::Restart(machine) => {
                let host = machine.dismantle();
                // What the old vCPUs said on their way out is of no use now.
                let pending: Vec<_> = received.try_iter().collect();
                for event in pending {
                    if !matches!(event, Event::Vcpu(_)) {
                        // The receiver is ours, so this cannot fail.
                        let _ = events.send(event);
                    }
                }
                State::Running(boot(spec, host, events)?)
            }
            State::Ended(ending) => return Ok(ending),
        };
    }
}

/// What `event` makes of a running machine.
fn step(machine: Box<Machine>, event: Event, on_reset: OnReset) -> Result<State, RunError> {
    let reset = |machine, ending| match on_reset {
        OnReset::Restart => State::Restart(machine),
        OnReset::End => State::Ended(ending),
    };
    Ok(match event {
        Event::Vcpu(VcpuEvent { vcpu, stop }) => match stop {
            Stop::PowerOff => {
                tracing::info!("The guest switched itself off");
                State::Ended(Ending::PoweredOff)
            }
            Stop::Reset => {
                tracing::info!("The guest asked for a reset");
                reset(machine, Ending::Reset)
            }
            Stop::TripleFault => {
                tracing::warn!("vCPU {} of the guest shut down by a triple fault", vcpu.0);
                reset(machine, Ending::TripleFault)
            }
            Stop::Failed(source) => {
                return Err(RunError::Vcpu {
                    vcpu: vcpu.0,
                    source,
                });
            }
        },
        Event::Escape(Escape::Quit) => State::Ended(Ending::Terminated),
        Event::Terminate { signal } => {
            tracing::info!("Signal {signal}: switching the guest off");
            State::Ended(Ending::Terminated)
        }
    })
}

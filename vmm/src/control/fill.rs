//! Memory that is read from a snapshot while the guest runs: its end, and its loss.
//!
//! A loss stops the guest: vCPUs first, then devices, on a worker. Something may
//! wait for what is lost and not get out of it; then the process ends, since a
//! guest that cannot be stopped must not go on either.

use std::path::PathBuf;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use godwit_api::error::{ApiError, ErrorKind};
use godwit_api::events::{Event as Told, EventKind};
use godwit_migration::store::{Lost, Stored};

use super::phase::Phase;
use super::work::Done;
use super::{Control, Event, RunError, State};
use crate::machine::Machine;

/// Memory of the machine that does not come.
#[derive(Clone, Debug, thiserror::Error)]
#[error("Could not load {}", file.display())]
pub struct LostMemory {
    pub(super) file: PathBuf,
    #[source]
    pub(super) source: Lost,
}

/// How long who has the machine may take once part of its memory is lost.
const PATIENCE: Duration = Duration::from_secs(30);

impl Control {
    /// The next event, unless who has the machine does not give it back.
    pub(super) fn next_event(&mut self, state: &State) -> Result<Event, RunError> {
        let Some((lost, deadline)) = &self.ultimatum else {
            return self.received.recv().map_err(|_| RunError::Disconnected);
        };
        if !matches!(state, State::Busy(_)) {
            self.ultimatum = None;
            return self.next_event(state);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        self.received
            .recv_timeout(left)
            .map_err(|error| match error {
                RecvTimeoutError::Timeout => RunError::Stuck(lost.clone()),
                RecvTimeoutError::Disconnected => RunError::Disconnected,
            })
    }

    pub(super) fn filled(
        &mut self,
        state: State,
        incarnation: u64,
        end: Result<Stored, LostMemory>,
    ) -> Result<State, RunError> {
        if incarnation != self.incarnation {
            // Of a machine that is gone.
            return Ok(state);
        }
        match (state, end) {
            (state @ State::Busy(_), end) => {
                if let Err(lost) = &end {
                    self.ultimatum = Some((lost.clone(), Instant::now() + PATIENCE));
                }
                self.deferred.push_back(Event::Filled { incarnation, end });
                Ok(state)
            }
            (state @ (State::Running(_) | State::Paused(_)), Ok(stored)) => {
                tracing::info!("Read all {} MiB of memory", stored.data_bytes >> 20);
                let event = Told::from(EventKind::MemoryFilled);
                self.tell(event.with("bytes", stored.data_bytes));
                Ok(state)
            }
            (State::Running(machine) | State::Paused(machine), Err(lost)) => {
                self.ultimatum = Some((lost.clone(), Instant::now() + PATIENCE));
                self.start(Phase::Pausing, None, move || {
                    machine.pause();
                    Done::Lost { machine, lost }
                })
            }
            // The machine could not be made, or is given up.
            (state, _) => Ok(state),
        }
    }

    /// The guest stands still for good.
    pub(super) fn lost(&mut self, machine: Box<Machine>, lost: &LostMemory) -> State {
        let chain = ApiError::of(ErrorKind::Internal, lost).chain().clone();
        let reason = chain.0.join(": ");
        tracing::error!("The guest is stopped for good: {reason}");
        self.tell(Told::from(EventKind::MemoryLost).with("reason", reason));
        State::Lost(machine)
    }
}

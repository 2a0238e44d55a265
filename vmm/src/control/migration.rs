//! A migration under way, or the last one: what is told of it, and its steps.

use std::sync::Arc;
use std::time::{Duration, Instant};

use godwit_api::error::{ApiError, ErrorChain, ErrorKind};
use godwit_api::events::{Event as Told, EventKind, EventSender};
use godwit_api::handler::{Outcome as Answered, Reply};
use godwit_api::request::{
    Endpoint, Means as Without, NetFds, ReceiveMigration, Request, SendMigration, TimeoutStrategy,
    ZeroLines,
};
use godwit_api::response::{
    MigrationRole, MigrationStatus, PhaseTime, Progress as Shown, Response,
};
use godwit_migration::address::Address;
use godwit_migration::cancel::Cancel;
use godwit_migration::channel::Listener;
use godwit_migration::destination::{self, Arrived, ReceiveError};
use godwit_migration::options::{AtTimeout, Means, Options, ZeroLines as Lines};
use godwit_migration::source::{self, Outcome, SendFailure};
use godwit_migration::stats::{Progress, Step};

use super::answer::failed;
use super::phase::{Phase, Verb};
use super::work::Done;
use super::{Control, Ending, Event, RunError, State};
use crate::affinity;
use crate::machine::Machine;
use crate::migrate::{Arrival, Departure, Places};

/// A migration, as `vm.migration-progress` shows it.
#[derive(Clone, Debug)]
pub(crate) struct Migration {
    role: MigrationRole,
    status: MigrationStatus,
    progress: Arc<Progress>,
    error: ErrorChain,
}

impl Migration {
    fn new(role: MigrationRole, monitor: Option<EventSender>) -> Self {
        let progress = Progress::watched(Box::new(move |step| {
            if let Some(monitor) = &monitor {
                monitor.send(match step {
                    Step::Announced => EventKind::MigrationReceiveStarted.into(),
                    Step::Round(number) => {
                        Told::from(EventKind::MigrationMemoryIteration).with("id", number)
                    }
                });
            }
        }));
        Self {
            role,
            status: MigrationStatus::Ongoing,
            progress: Arc::new(progress),
            error: ErrorChain::default(),
        }
    }

    /// What is known now.
    pub(crate) fn shown(&self) -> Shown {
        let now = self.progress.snapshot();
        let known = |us: u64| (us != 0).then_some(us);
        let spent = now.phase_us.iter().filter(|(_, us)| *us != 0);
        Shown {
            role: self.role,
            status: self.status,
            phase: now.phase.name().to_owned(),
            phases: spent
                .map(|(phase, us)| PhaseTime {
                    phase: phase.name().to_owned(),
                    us: *us,
                })
                .collect(),
            rounds: now.rounds.len() as u64,
            present_bytes: now.present_bytes,
            scanned_bytes: now.scanned_bytes,
            zero_bytes: now.zero_bytes + now.elided_bytes,
            sent_bytes: now.sent_bytes,
            remaining_bytes: now.remaining_bytes,
            dirty_pages_per_second: now.dirty_pages_per_second,
            predicted_downtime_us: known(now.predicted_us),
            downtime_us: known(now.downtime_us),
            total_us: now.total_us,
            error: self.error.clone(),
        }
    }

    fn end(&mut self, status: MigrationStatus, error: ErrorChain) {
        self.status = status;
        self.error = error;
    }
}

/// The address that `endpoint` names.
fn address(endpoint: &Endpoint) -> Address {
    match endpoint {
        Endpoint::Tcp { host, port } => Address::Tcp {
            host: host.clone(),
            port: *port,
        },
        Endpoint::Unix(path) => Address::Unix(path.clone()),
    }
}

/// What a request asks for.
fn options(request: &SendMigration) -> Options {
    let mut options = Options {
        streams: u16::try_from(request.connections).unwrap_or(u16::MAX),
        downtime: Duration::from_millis(request.downtime_ms),
        timeout: Duration::from_secs(request.timeout_s),
        at_timeout: match request.timeout_strategy {
            TimeoutStrategy::Cancel => AtTimeout::Cancel,
            TimeoutStrategy::Ignore => AtTimeout::Ignore,
        },
        bandwidth: request.bandwidth_bps,
        local: request.local,
        ..Options::default()
    };
    options.means.zero_lines = match request.zero_lines {
        ZeroLines::Auto => Lines::Auto,
        ZeroLines::On => Lines::On,
        ZeroLines::Off => Lines::Off,
    };
    do_without(&mut options.means, &request.without);
    options
}

/// Switches means off.
fn do_without(means: &mut Means, without: &[Without]) {
    for name in without {
        *match name {
            Without::Discovery => &mut means.discovery,
            Without::Untouched => &mut means.untouched,
            Without::ZeroPages => &mut means.zero_pages,
            Without::ClearBeforeRead => &mut means.clear_before_read,
            Without::HotPagesLast => &mut means.hot_pages_last,
            Without::StripedFinal => &mut means.striped_final,
            Without::StopAtMinimum => &mut means.stop_at_minimum,
            Without::ChecksumPages => &mut means.checksum_pages,
            Without::PopulateAhead => &mut means.populate_ahead,
            Without::WriteThroughFile => &mut means.write_through_file,
        } = false;
    }
}

fn no_tls() -> ApiError {
    ApiError::not_supported(
        "tls_dir: migration over TLS is not built yet; leave it out, and use a private network or a tunnel",
    )
}

/// How long the process stays for whoever watches its guest leave: a few of the
/// client's looks.
const LAST_WORDS: Duration = Duration::from_millis(500);

impl Control {
    /// Tells whoever watched the migration how it ended. Without that, a source
    /// that has sent its guest looks like one that crashed. Nothing else is
    /// answered any more, and nobody waits for the process but who asked.
    pub(super) fn last_words(&mut self) {
        if !self.watched {
            return;
        }
        let end = Instant::now() + LAST_WORDS;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.received.recv_timeout(left) {
                Ok(Event::Request(Request::MigrationProgress, reply)) => {
                    reply.send(self.progress());
                    return;
                }
                // Its reply says, as it drops, that the process ends.
                Ok(_) => (),
                Err(_) => return,
            }
        }
    }

    pub(super) fn progress(&self) -> Answered {
        match &self.migration {
            Some(migration) => Ok(Response::Progress(Box::new(migration.shown()))),
            None => Err(ApiError::new(
                ErrorKind::NotFound,
                "this instance has sent or received no VM yet",
            )),
        }
    }

    pub(super) fn send(
        &mut self,
        machine: Box<Machine>,
        running: bool,
        request: SendMigration,
        reply: Reply,
    ) -> Result<State, RunError> {
        let back = |machine| {
            if running {
                State::Running(machine)
            } else {
                State::Paused(machine)
            }
        };
        if request.tls_dir.is_some() {
            reply.send(Err(no_tls().during(Verb::Send.attempt())));
            return Ok(back(machine));
        }
        let (Some(definition), cancel) = (&self.definition, Cancel::new()) else {
            return Ok(back(machine));
        };
        let cancel = match cancel {
            Ok(cancel) => cancel,
            Err(error) => {
                reply.send(Err(failed(Verb::Send, &error)));
                return Ok(back(machine));
            }
        };
        let migration = Migration::new(MigrationRole::Source, self.monitor.clone());
        let progress = Arc::clone(&migration.progress);
        self.migration = Some(migration);
        self.watched = false;
        let config = definition.config().clone();
        let cpus = machine.spec.platform.migration_cpus.clone();
        let (to, options) = (address(&request.destination_url), options(&request));
        let asked = cancel.clone();
        // Told first: its rounds are told by the worker.
        self.tell(EventKind::MigrationStarted);
        let state = self.start(Phase::Sending, Some(cancel), move || {
            if let Some(Err(error)) = cpus.map(|cpus| affinity::place_current("migration", &cpus)) {
                tracing::warn!("{error}");
            }
            let mut departure = Departure::new(machine, config, running);
            let result = departure
                .settle(&asked)
                .and_then(|()| source::send(&mut departure, &to, &options, &progress, &asked));
            Done::Sent {
                result,
                departure: Box::new(departure),
            }
        })?;
        reply.send(Ok(Response::Done));
        Ok(state)
    }

    pub(super) fn sent(
        &mut self,
        result: Result<Outcome, SendFailure>,
        departure: Departure,
    ) -> State {
        let running = departure.was_running();
        let machine = departure.into_machine();
        let (status, error, state) = match (result, machine) {
            (Ok(Outcome::Moved(snapshot)), _) => {
                tracing::info!(
                    "The guest left: {} ms in all, {} us of them stopped, {} bytes sent",
                    snapshot.total_us / 1000,
                    snapshot.downtime_us,
                    snapshot.sent_bytes
                );
                let event = Told::from(EventKind::MigrationFinished)
                    .with("total_us", snapshot.total_us)
                    .with("downtime_us", snapshot.downtime_us);
                self.tell(event);
                self.tell(EventKind::SourceReleased);
                (
                    MigrationStatus::Finished,
                    ErrorChain::default(),
                    State::Ended(Ending::Migrated),
                )
            }
            (Ok(Outcome::Ambiguous { reason, .. }), machine) => {
                tracing::error!(
                    "The guest was handed over, and nobody said that it runs ({reason}): \
                     it is paused here. Look at the destination, then resume it here or delete it"
                );
                let chain = vec![
                    "the destination did not say that the guest runs there".to_owned(),
                    reason,
                ];
                let state = machine.map_or(State::Empty, State::Unsettled);
                (MigrationStatus::Failed, ErrorChain(chain), state)
            }
            (Err(failure), machine) => {
                tracing::warn!("{failure}: {}", failure.error);
                let error = ApiError::of(ErrorKind::Internal, &failure);
                let here = matches!(failure.guest, source::GuestIs::Here);
                let state = match machine {
                    Some(machine) if running && here => State::Running(machine),
                    Some(machine) => State::Paused(machine),
                    None => State::Empty,
                };
                let status = if self.cancelled {
                    MigrationStatus::Cancelled
                } else {
                    MigrationStatus::Failed
                };
                (status, error.chain().clone(), state)
            }
        };
        match status {
            MigrationStatus::Cancelled => self.tell(EventKind::MigrationCancelled),
            MigrationStatus::Failed => {
                self.tell(Told::from(EventKind::MigrationFailed).with("reason", error.0.join(": ")))
            }
            MigrationStatus::Finished | MigrationStatus::Ongoing => {}
        }
        self.cancelled = false;
        if let Some(migration) = &mut self.migration {
            migration.end(status, error);
        }
        state
    }

    pub(super) fn receive(
        &mut self,
        state: State,
        request: ReceiveMigration,
        fds: Vec<NetFds>,
        reply: Reply,
    ) -> Result<State, RunError> {
        if request.tls_dir.is_some() {
            reply.send(Err(no_tls().during(Verb::Receive.attempt())));
            return Ok(state);
        }
        let listener = match Listener::bind(&address(&request.receiver_url)) {
            Ok(listener) => listener,
            Err(error) => {
                reply.send(Err(failed(Verb::Receive, &error)));
                return Ok(state);
            }
        };
        let cancel = match Cancel::new() {
            Ok(cancel) => cancel,
            Err(error) => {
                reply.send(Err(failed(Verb::Receive, &error)));
                return Ok(state);
            }
        };
        let migration = Migration::new(MigrationRole::Destination, self.monitor.clone());
        let progress = Arc::clone(&migration.progress);
        self.migration = Some(migration);
        self.tell(EventKind::MigrationReceiveReady);
        let mut options = Options::default();
        do_without(&mut options.means, &request.without);
        let mut arrival = Arrival::new(self.site(), Places::new(request, fds));
        let asked = cancel.clone();
        self.start(Phase::Receiving, Some(cancel), move || {
            let result = destination::receive(&listener, &mut arrival, &options, &progress, &asked);
            Done::Received {
                result,
                arrival: Box::new(arrival),
                reply,
            }
        })
    }

    pub(super) fn received(
        &mut self,
        result: Result<Arrived, ReceiveError>,
        arrival: Arrival,
        reply: Reply,
    ) -> State {
        let came = arrival.into_machine();
        let cancelled = std::mem::take(&mut self.cancelled);
        let (status, outcome, state) = match (result, came) {
            (Ok(_), Some((machine, definition, running))) => {
                self.definition = Some(definition);
                self.note_serial_place(&machine);
                let state = if running {
                    State::Running(machine)
                } else {
                    State::Paused(machine)
                };
                (MigrationStatus::Finished, Ok(Response::Done), state)
            }
            // It is ours, and does not run: an operator decides.
            (Err(error @ ReceiveError::Run(_)), Some((machine, definition, _))) => {
                tracing::error!("{error}");
                self.definition = Some(definition);
                let error = failed(Verb::Receive, &error);
                (MigrationStatus::Failed, Err(error), State::Paused(machine))
            }
            (Err(error), _) => {
                let status = if cancelled {
                    MigrationStatus::Cancelled
                } else {
                    MigrationStatus::Failed
                };
                self.leave_cpus();
                (status, Err(failed(Verb::Receive, &error)), State::Empty)
            }
            (Ok(_), None) => {
                let error = ApiError::new(ErrorKind::Internal, "the machine was not built");
                (MigrationStatus::Failed, Err(error), State::Empty)
            }
        };
        self.tell(match &outcome {
            Ok(_) => {
                let event = Told::from(EventKind::MigrationReceiveFinished);
                let shown = self.migration.as_ref().map(Migration::shown);
                let shown = shown.map(|shown| (shown.total_us, shown.downtime_us));
                let (total, downtime) = shown.unwrap_or_default();
                let event = event.with("total_us", total);
                match downtime {
                    Some(us) => event.with("downtime_us", us),
                    None => event,
                }
            }
            Err(error) => {
                let event = Told::from(EventKind::MigrationReceiveFailed);
                event.with("reason", error.chain().0.join(": "))
            }
        });
        if let Some(migration) = &mut self.migration {
            let chain = outcome.as_ref().err().map(|error| error.chain().clone());
            migration.end(status, chain.unwrap_or_default());
        }
        reply.send(outcome);
        state
    }
}

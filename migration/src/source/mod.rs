//! The leaving side: one worker thread runs [`send`] to its end.
//!
//! The list of phases is [`Phase`]; everything up to the hand-over is in
//! `Driver::until_handover`, and has one unwind: `Driver::unwind`.

mod copy;
mod encode;
mod error;
mod hot;
mod round;
mod sender;
mod session;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::address::Address;
use crate::bitmap::Bitmap;
use crate::cancel::Cancel;
use crate::channel::Patience;
use crate::clock::PeerClock;
use crate::guest::Source;
use crate::memory::Region;
use crate::options::Options;
use crate::phase::{Phase, Unwind};
use crate::stats::{Moment, Progress, Snapshot, micros};
use crate::wire::message::Message;
use crate::wire::{DESCRIPTION_BYTES, STATE_BYTES};

pub use error::{GuestIs, SendError, SendFailure};

use sender::{Senders, Setup};
use session::Session;

/// How a migration that was not called off ended, as the source sees it.
#[derive(Debug)]
pub enum Outcome {
    /// The guest runs at the destination; everything here was released.
    Moved(Snapshot),
    /// The guest was handed over, and the destination did not say that it runs.
    /// It is paused here, with its memory. Whether it runs there an operator must
    /// find out, and then resume it here or remove it.
    Ambiguous {
        /// What is known of the migration.
        snapshot: Snapshot,
        /// Why the answer is missing.
        reason: String,
    },
}

/// Moves `guest` to the destination that listens at `to`.
///
/// # Errors
/// The guest did not leave. [`SendFailure::guest`] says whether it goes on here;
/// it does unless [`Source::resume`] itself failed.
pub fn send<S: Source>(
    guest: &mut S,
    to: &Address,
    options: &Options,
    progress: &Arc<Progress>,
    cancel: &Cancel,
) -> Result<Outcome, SendFailure> {
    let mut driver = Driver {
        guest,
        options,
        progress,
        phase: Phase::Connect,
        session: None,
        senders: None,
        stopped: None,
    };
    let result = driver.until_handover(to, cancel);
    match result {
        Ok(()) => Ok(driver.after_handover()),
        Err(error) => Err(driver.unwind(error)),
    }
}

struct Driver<'a, S: Source> {
    guest: &'a mut S,
    options: &'a Options,
    progress: &'a Arc<Progress>,
    phase: Phase,
    session: Option<Session>,
    senders: Option<Senders>,
    /// When the first vCPU was told to stop.
    stopped: Option<Moment>,
}

impl<S: Source> Driver<'_, S> {
    /// Runs one phase, timed.
    fn timed<T>(
        &mut self,
        phase: Phase,
        step: impl FnOnce(&mut Self) -> Result<T, SendError>,
    ) -> Result<T, SendError> {
        debug_assert!(
            phase == Phase::Connect || self.phase.may_become(phase, self.options.local),
            "{:?} does not follow {:?}",
            phase,
            self.phase
        );
        self.phase = phase;
        self.progress.enter(phase);
        tracing::debug!(phase = phase.name(), "migration");
        let began = Moment::now();
        let result = step(self);
        self.progress.leave(phase, Moment::now().since(began));
        result
    }

    /// Everything before the point of no return, and the step over it.
    fn until_handover(&mut self, to: &Address, cancel: &Cancel) -> Result<(), SendError> {
        self.timed(Phase::Connect, |d| {
            d.session = Some(Session::connect(to, d.options, cancel)?);
            let trip = micros(d.clock()?.round_trip);
            d.progress.round_trip_us.store(trip, Ordering::Relaxed);
            Ok(())
        })?;
        let (regions, restore_cost) = self.timed(Phase::Describe, |d| {
            let regions = d.guest.regions().map_err(SendError::Describe)?;
            let restore_cost = d.describe(&regions)?;
            Ok((regions, restore_cost))
        })?;
        let dirty = if self.options.local {
            self.timed(Phase::Stop, Self::stop)?;
            None
        } else {
            Some(self.copy_memory(regions, restore_cost)?)
        };
        if let Some(dirty) = dirty {
            self.timed(Phase::Last, |d| d.post_last(dirty))?;
        }
        self.timed(Phase::State, Self::send_state)?;
        self.timed(Phase::Await, Self::await_ready)?;
        self.timed(Phase::Handover, |d| {
            let stopped = d.stopped.ok_or(SendError::Order)?;
            Ok(d.session()?.hand_over(stopped)?)
        })
    }

    fn session(&self) -> Result<&Session, SendError> {
        self.session.as_ref().ok_or(SendError::Order)
    }

    fn clock(&self) -> Result<PeerClock, SendError> {
        Ok(self.session()?.clock)
    }

    /// Tells the destination what comes; answers what restoring will cost.
    fn describe(&mut self, regions: &[Region]) -> Result<Duration, SendError> {
        let description = self.guest.description().map_err(SendError::Describe)?;
        if description.len() > DESCRIPTION_BYTES / 2 {
            return Err(SendError::TooLarge {
                what: "description",
                bytes: description.len(),
                limit: DESCRIPTION_BYTES / 2,
            });
        }
        let options = self.options;
        let devices = match options.local {
            true => self.guest.device_files().map_err(SendError::Describe)?,
            false => Vec::new(),
        };
        self.session()?
            .describe(regions, description, &devices, options)
    }

    /// Log, discovery and the rounds; the guest is stopped when it returns.
    /// Answers what the last round must send.
    fn copy_memory(
        &mut self,
        regions: Vec<Region>,
        restore_cost: Duration,
    ) -> Result<Vec<Bitmap>, SendError> {
        let start = self.timed(Phase::Log, |d| d.guest.start_log().map_err(SendError::Log))?;
        let present = self.timed(Phase::Discover, |d| d.discover(&regions, start))?;
        let mut dirty = self.timed(Phase::Copy, |d| {
            let session = d.session.as_mut().ok_or(SendError::Order)?;
            let setup = Setup {
                regions,
                means: d.options.means,
                bandwidth: d.options.bandwidth,
                progress: Arc::clone(d.progress),
                stop: session.control.stop().clone(),
            };
            let links = std::mem::take(&mut session.data);
            d.senders = Some(Senders::start(setup, d.guest.log(), links)?);
            d.rounds(present, restore_cost)
        })?;
        self.timed(Phase::Stop, |d| {
            d.stop()?;
            d.harvest_last(&mut dirty)
        })?;
        Ok(dirty)
    }

    fn stop(&mut self) -> Result<(), SendError> {
        self.session()?.control.stop().check()?;
        self.stopped = Some(Moment::now());
        self.guest.stop().map_err(SendError::Stop)
    }

    fn send_state(&mut self) -> Result<(), SendError> {
        let state = self.guest.save().map_err(SendError::Save)?;
        if state.len() > STATE_BYTES {
            return Err(SendError::TooLarge {
                what: "state",
                bytes: state.len(),
                limit: STATE_BYTES,
            });
        }
        let patience = Patience::For(self.options.stopped);
        let message = Message::State(state);
        self.session()?
            .control
            .send_patiently(&message, patience, "sending the state")?;
        Ok(())
    }

    fn await_ready(&mut self) -> Result<(), SendError> {
        Ok(self.session()?.await_ready(self.options.stopped)?)
    }

    /// The guest is the destination's: only its word is still missing.
    fn after_handover(&mut self) -> Outcome {
        debug_assert_eq!(self.phase, Phase::Handover);
        let heard = self.timed(Phase::Running, |d| {
            let since = d.session()?.await_running(d.options.stopped)?;
            let stopped = d.stopped.ok_or(SendError::Order)?;
            Ok(d.clock()?.between(stopped, since))
        });
        let downtime = match heard {
            Ok(downtime) => downtime,
            Err(error) => {
                debug_assert_eq!(self.phase.unwind(), Unwind::StayPaused);
                let reason = crate::chain(&error);
                tracing::error!(
                    reason,
                    "the guest was handed over, but whether it runs is not known: it stays paused here"
                );
                self.drop_session();
                self.progress.finish();
                return Outcome::Ambiguous {
                    snapshot: self.progress.snapshot(),
                    reason,
                };
            }
        };
        self.progress
            .downtime_us
            .store(micros(downtime), Ordering::Relaxed);
        // Nothing in here can fail: the phase is timed like the others.
        let _ = self.timed(Phase::Release, |d| {
            d.drop_session();
            d.guest.release();
            Ok(())
        });
        self.progress.finish();
        Outcome::Moved(self.progress.snapshot())
    }

    /// Threads, connections and regions go.
    fn drop_session(&mut self) {
        self.senders = None;
        self.session = None;
    }

    /// The one way back: the destination hears why, and the guest goes on here.
    fn unwind(&mut self, error: SendError) -> SendFailure {
        debug_assert_eq!(self.phase.unwind(), Unwind::Resume);
        let error = match &self.session {
            Some(session) => session.explain(error),
            None => error,
        };
        tracing::warn!(
            phase = self.phase.name(),
            reason = crate::chain(&error),
            "the migration failed; the guest stays"
        );
        // The guest first: it may be standing still.
        let guest = match self.guest.resume() {
            Ok(()) => GuestIs::Here,
            Err(cause) => GuestIs::Stuck(cause),
        };
        if let Some(session) = &self.session {
            session.abort(&error);
        }
        self.drop_session();
        self.progress.finish();
        SendFailure {
            phase: self.phase,
            guest,
            error,
        }
    }
}

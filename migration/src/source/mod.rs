//! The leaving side: one worker thread runs [`send`] to its end.
//!
//! The list of phases is [`Phase`]; everything up to the hand-over is in
//! `Driver::until_handover`, and has one unwind: `Driver::unwind`.

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
use crate::discover;
use crate::guest::{LogStart, Source};
use crate::memory::Region;
use crate::options::{AtTimeout, Options};
use crate::phase::{Phase, Unwind};
use crate::precopy::{Decision, Forecast, Limits, Round};
use crate::stats::{Moment, Progress, Snapshot, micros};
use crate::wire::message::{EXTENTS_PER_FRAME, Extent, Message};
use crate::wire::{DESCRIPTION_BYTES, FRAME_PAGES, STATE_BYTES};

pub use error::{GuestIs, SendError, SendFailure};

use hot::Hot;
use round::Work;
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
        let regions = self.guest.regions();
        let restore_cost = self.timed(Phase::Describe, |d| d.describe(&regions))?;
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
        self.timed(Phase::Handover, |d| Ok(d.session()?.hand_over()?))
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
        self.session()?.describe(regions, description, options)
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
            d.harvest(&mut dirty)?;
            Ok(())
        })?;
        Ok(dirty)
    }

    /// Finds what is present, has the log track all the rest, and announces it.
    ///
    /// A log that starts all dirty says nothing of pages that are absent now and
    /// touched later, until they are cleared: so they are cleared first, and what
    /// was touched before that is found by looking again.
    fn discover(&mut self, regions: &[Region], start: LogStart) -> Result<Vec<Bitmap>, SendError> {
        let mut present = if self.options.means.discovery {
            discover::present(regions)
        } else {
            discover::everything(regions)
        };
        if start == LogStart::AllDirty {
            let log = self.guest.log();
            let mut absent_pages = 0;
            for (index, map) in present.iter().enumerate() {
                let absent = map.complement();
                absent_pages += absent.count();
                clear_all(log.as_ref(), index, &absent)?;
            }
            if absent_pages != 0 && self.options.means.discovery {
                discover::add_present(regions, &mut present);
            }
            if !self.options.means.clear_before_read {
                for (index, map) in present.iter().enumerate() {
                    clear_all(log.as_ref(), index, map)?;
                }
            }
        }
        let pages: u64 = present.iter().map(Bitmap::count).sum();
        let bytes = pages * crate::memory::PAGE;
        self.progress.present.store(bytes, Ordering::Relaxed);
        let mut extents = (0..).zip(&present).flat_map(|(region, map)| {
            map.extents().map(move |pages| Extent {
                region,
                first: pages.start,
                count: pages.end - pages.start,
            })
        });
        loop {
            let some: Vec<_> = extents.by_ref().take(EXTENTS_PER_FRAME).collect();
            if some.is_empty() {
                break;
            }
            let message = Message::Extents(some);
            self.session()?
                .control
                .send(&message, "announcing memory")?;
        }
        drop(extents);
        Ok(present)
    }

    /// Copies until stopping is cheapest; answers the pages that are dirty then.
    fn rounds(
        &mut self,
        mut dirty: Vec<Bitmap>,
        restore_cost: Duration,
    ) -> Result<Vec<Bitmap>, SendError> {
        let limits = Limits {
            downtime: self.options.downtime,
            timeout: self.options.timeout,
            at_timeout: self.options.at_timeout,
            at_minimum: self.options.means.stop_at_minimum,
        };
        let mut forecast = Forecast::new(restore_cost, self.clock()?.round_trip);
        let mut hot = Hot::default();
        let mut fits = false;
        for number in 0.. {
            let mut take = dirty.clone();
            // Only as long as the stop stays short enough: what is left out stays
            // dirty in the log, and would otherwise be left out for ever.
            if self.options.means.hot_pages_last && fits {
                hot.leave_out(&mut take);
            }
            let left: u64 = count(&dirty) - count(&take);
            for (map, taken) in dirty.iter_mut().zip(&take) {
                map.subtract(taken);
            }
            let began = Moment::now();
            let work = self.run_round(number, take)?;
            let elapsed = Moment::now().since(began);
            let harvested = self.harvest(&mut dirty)?;
            hot.note(harvested);
            let remaining = count(&dirty);
            let streams = u32::try_from(self.senders()?.streams()).unwrap_or(u32::MAX);
            let round = Round {
                number,
                pages: work.pages,
                wire_bytes: work.wire_bytes.load(Ordering::Relaxed),
                elapsed,
                sending: Duration::from_nanos(work.sending_ns.load(Ordering::Relaxed)) / streams,
                remaining,
                dirtied: remaining.saturating_sub(left),
            };
            let predicted = forecast.learn(&round);
            fits = predicted <= limits.downtime;
            self.report(&round, predicted);
            let so_far = Moment::now().since(self.progress.started());
            match forecast.decide(so_far, &limits) {
                Decision::Continue => {}
                Decision::Stop => break,
                Decision::GiveUp => {
                    return Err(SendError::TimedOut {
                        after: so_far,
                        predicted,
                        wanted: limits.downtime,
                    });
                }
            }
        }
        Ok(dirty)
    }

    fn report(&self, round: &Round, predicted: Duration) {
        let per_second = |amount: u64| {
            let us = u128::from(micros(round.elapsed).max(1));
            u64::try_from(u128::from(amount) * 1_000_000 / us).unwrap_or(u64::MAX)
        };
        let progress = self.progress;
        for (counter, value) in [
            (&progress.dirty_rate, per_second(round.dirtied)),
            (&progress.byte_rate, per_second(round.wire_bytes)),
            (&progress.predicted_us, micros(predicted)),
        ] {
            counter.store(value, Ordering::Relaxed);
        }
        tracing::debug!(?round, predicted_us = micros(predicted), "round");
        progress.add_round(*round);
    }

    fn senders(&self) -> Result<&Senders, SendError> {
        self.senders.as_ref().ok_or(SendError::Order)
    }

    /// Sends `pages` and waits until all of them have arrived.
    fn run_round(&self, number: u32, pages: Vec<Bitmap>) -> Result<Arc<Work>, SendError> {
        let senders = self.senders()?;
        let mut work = Work::new(number, pages, senders.streams(), FRAME_PAGES);
        work.clear = self.options.means.clear_before_read;
        let work = Arc::new(work);
        senders.post(Arc::clone(&work));
        let deadline = match self.options.at_timeout {
            AtTimeout::Cancel => Some(self.options.timeout),
            AtTimeout::Ignore => None,
        };
        while !senders.take_done() {
            let so_far = Moment::now().since(self.progress.started());
            if deadline.is_some_and(|limit| so_far >= limit) {
                return Err(SendError::TimedOutCopying {
                    after: so_far,
                    round: number,
                });
            }
            let patience = deadline.map_or(Duration::MAX, |limit| limit - so_far);
            self.session()?.watch(senders.done(), patience)?;
        }
        Ok(work)
    }

    /// Adds to `dirty` what the log has; answers what it had.
    fn harvest(&mut self, dirty: &mut [Bitmap]) -> Result<Vec<Bitmap>, SendError> {
        let log = self.guest.log();
        let mut found = Vec::with_capacity(dirty.len());
        for (region, all) in dirty.iter_mut().enumerate() {
            let mut map = Bitmap::new(all.pages());
            log.dirty(region, &mut map).map_err(SendError::Log)?;
            if !self.options.means.clear_before_read && self.stopped.is_none() {
                clear_all(log.as_ref(), region, &map)?;
            }
            all.union(&map);
            found.push(map);
        }
        Ok(found)
    }

    fn stop(&mut self) -> Result<(), SendError> {
        self.session()?.control.stop().check()?;
        self.stopped = Some(Moment::now());
        self.guest.stop().map_err(SendError::Stop)
    }

    /// Has the senders send the last pages, while the state is read.
    fn post_last(&mut self, pages: Vec<Bitmap>) -> Result<(), SendError> {
        const LEAST: usize = 16;
        let senders = self.senders()?;
        let streams = if self.options.means.striped_final {
            senders.streams()
        } else {
            1
        };
        let total = usize::try_from(count(&pages)).unwrap_or(usize::MAX);
        let frame = total.div_ceil(streams.max(1)).clamp(LEAST, FRAME_PAGES);
        let mut work = Work::new(u32::MAX, pages, senders.streams(), frame);
        work.last = true;
        work.clear = false;
        senders.post(Arc::new(work));
        Ok(())
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

fn count(maps: &[Bitmap]) -> u64 {
    maps.iter().map(Bitmap::count).sum()
}

/// Clears a whole map, in pieces that hold KVM's lock for a moment only.
fn clear_all(
    log: &dyn crate::guest::DirtyLog,
    region: usize,
    map: &Bitmap,
) -> Result<(), SendError> {
    const WORDS: usize = 256;
    let firsts = (0_u64..).step_by(WORDS * 64);
    for (first, words) in firsts.zip(map.words().chunks(WORDS)) {
        if words.iter().any(|w| *w != 0) {
            log.clear(region, first, words).map_err(SendError::Log)?;
        }
    }
    Ok(())
}

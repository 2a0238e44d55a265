//! Memory: what is present, round after round, and the last pages.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Driver;
use super::error::SendError;
use super::hot::Hot;
use super::round::Work;
use super::sender::Senders;
use crate::bitmap::Bitmap;
use crate::discover::{self, Fresh};
use crate::guest::{DirtyLog, LogStart, Source};
use crate::memory::{PAGE, Region};
use crate::options::AtTimeout;
use crate::precopy::{Decision, Forecast, Limits, Round};
use crate::stats::{Moment, Step, micros};
use crate::wire::FRAME_PAGES;
use crate::wire::message::{EXTENTS_PER_FRAME, Extent, Message};

impl<S: Source> Driver<'_, S> {
    /// Finds what is present, has the log track all the rest, and announces it.
    ///
    /// A log that starts all dirty says nothing of pages that are absent now and
    /// touched later, until they are cleared: so they are cleared first, and what
    /// was touched before that is found by looking again.
    pub(super) fn discover(
        &mut self,
        regions: &[Region],
        start: LogStart,
    ) -> Result<Vec<Bitmap>, SendError> {
        let fresh = if self.options.means.untouched {
            Fresh::LeaveOut
        } else {
            Fresh::Count
        };
        let mut present = if self.options.means.discovery {
            discover::present(regions, fresh)
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
                discover::add_present(regions, fresh, &mut present);
            }
            if !self.options.means.clear_before_read {
                for (index, map) in present.iter().enumerate() {
                    clear_all(log.as_ref(), index, map)?;
                }
            }
        }
        let pages: u64 = present.iter().map(Bitmap::count).sum();
        let bytes = pages * PAGE;
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
    pub(super) fn rounds(
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
                Decision::OutOfReach => {
                    return Err(SendError::OutOfReach {
                        floor: forecast.floor(),
                        wanted: limits.downtime,
                    });
                }
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

    pub(super) fn senders(&self) -> Result<&Senders, SendError> {
        self.senders.as_ref().ok_or(SendError::Order)
    }

    /// Sends `pages` and waits until all of them have arrived.
    fn run_round(&self, number: u32, pages: Vec<Bitmap>) -> Result<Arc<Work>, SendError> {
        let senders = self.senders()?;
        let mut work = Work::new(number, pages, senders.streams(), FRAME_PAGES);
        work.clear = self.options.means.clear_before_read;
        let work = Arc::new(work);
        let scanned = self.progress.scanned.load(Ordering::Relaxed);
        let end = scanned.saturating_add(work.pages * PAGE);
        self.progress.round_end.store(end, Ordering::Relaxed);
        self.progress.tell(Step::Round(number));
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

    /// Adds to `dirty` what the log has, and keeps no account of it: the guest
    /// stands still meanwhile.
    pub(super) fn harvest_last(&mut self, dirty: &mut [Bitmap]) -> Result<(), SendError> {
        let log = self.guest.log();
        for (region, all) in dirty.iter_mut().enumerate() {
            log.dirty(region, all).map_err(SendError::Log)?;
        }
        Ok(())
    }

    /// Adds to `dirty` what the log has; answers what it had.
    fn harvest(&mut self, dirty: &mut [Bitmap]) -> Result<Vec<Bitmap>, SendError> {
        let log = self.guest.log();
        let mut found = Vec::with_capacity(dirty.len());
        for (region, all) in dirty.iter_mut().enumerate() {
            let mut map = Bitmap::new(all.pages());
            log.dirty(region, &mut map).map_err(SendError::Log)?;
            if !self.options.means.clear_before_read {
                clear_all(log.as_ref(), region, &map)?;
            }
            all.union(&map);
            found.push(map);
        }
        Ok(found)
    }

    /// Has the senders send the last pages, while the state is read.
    pub(super) fn post_last(&mut self, pages: Vec<Bitmap>) -> Result<(), SendError> {
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
}

fn count(maps: &[Bitmap]) -> u64 {
    maps.iter().map(Bitmap::count).sum()
}

/// Clears a whole map, in pieces that hold KVM's lock for a moment only.
fn clear_all(log: &dyn DirtyLog, region: usize, map: &Bitmap) -> Result<(), SendError> {
    const WORDS: usize = 256;
    let firsts = (0_u64..).step_by(WORDS * 64);
    for (first, words) in firsts.zip(map.words().chunks(WORDS)) {
        if words.iter().any(|w| *w != 0) {
            log.clear(region, first, words).map_err(SendError::Log)?;
        }
    }
    Ok(())
}

//! When to stop copying: values in, a decision out.
//!
//! Each round sends what the one before left dirty. Rounds get shorter, and so
//! does what the stopped guest would still have to wait for, until the guest
//! dirties pages as fast as they travel. The guest is stopped at that minimum,
//! not as soon as the wait is short enough: the last factor of two costs one
//! more round of a few milliseconds in which the guest runs.

use std::time::Duration;

use crate::memory::PAGE;
use crate::options::AtTimeout;

/// A round that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Round {
    /// Its number, from 0.
    pub number: u32,
    /// Pages looked at.
    pub pages: u64,
    /// Bytes that travelled.
    pub wire_bytes: u64,
    /// From the first page to the last acknowledgement.
    pub elapsed: Duration,
    /// Of that, time in which a stream was busy sending, averaged over streams.
    pub sending: Duration,
    /// Pages that are dirty now, those left for last included.
    pub remaining: u64,
    /// Pages that became dirty meanwhile.
    pub dirtied: u64,
}

/// What was asked for.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long the guest may stand still.
    pub downtime: Duration,
    /// How long copying may take.
    pub timeout: Duration,
    /// What happens then.
    pub at_timeout: AtTimeout,
    /// Stop at the minimum, or as soon as it fits.
    pub at_minimum: bool,
}

/// What to do after a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Another round.
    Continue,
    /// Stop the guest: it cannot get shorter, or time is over.
    Stop,
    /// Time is over, and the guest shall stay.
    GiveUp,
    /// Stopping alone takes longer than is allowed, however little is left to
    /// copy, and the guest shall stay.
    OutOfReach,
}

/// What stopping costs, learned from the rounds so far.
#[derive(Debug, Clone)]
pub struct Forecast {
    /// Stop, save, restore and run, without memory.
    fixed: Duration,
    /// What a page has cost, in ns.
    page_ns: f64,
    /// What a round costs however few pages it has.
    latency: Duration,
    best: Option<Duration>,
    last: Option<Duration>,
}

/// A page before anything was measured: 1 GiB a second.
const UNKNOWN_PAGE_NS: f64 = 3815.0;
/// Rounds with fewer pages tell latency rather than speed.
const TELLING_PAGES: u64 = 256;
/// A fall by less than an eighth is none.
const FALL: f64 = 0.875;

impl Forecast {
    /// Knows only the fixed cost.
    #[must_use]
    pub fn new(fixed: Duration, latency: Duration) -> Self {
        Self {
            fixed,
            page_ns: UNKNOWN_PAGE_NS,
            latency,
            best: None,
            last: None,
        }
    }

    /// Learns from a round; answers what stopping now would cost.
    pub fn learn(&mut self, round: &Round) -> Duration {
        if round.number > 0 && round.pages > 0 {
            let measured = as_ns(round.elapsed) / as_f64(round.pages);
            // Few pages cost mostly latency: they tell only that it is not more.
            self.page_ns = if round.pages >= TELLING_PAGES {
                measured
            } else {
                measured.min(self.page_ns)
            };
        } else if round.number == 0 && round.wire_bytes >= TELLING_PAGES * PAGE {
            // The first round scans and allocates more than it sends, which the
            // last will not: only what travelled counts.
            self.page_ns = as_ns(round.sending) / as_f64(round.wire_bytes / PAGE);
        }
        let memory = self.page_ns * as_f64(round.remaining) / 1000.0;
        let predicted = self.fixed + self.latency + from_us(memory);
        self.last = Some(predicted);
        predicted
    }

    /// What to do after the round whose cost [`learn`](Self::learn) predicted.
    pub fn decide(&mut self, elapsed: Duration, limits: &Limits) -> Decision {
        let Some(predicted) = self.last else {
            return Decision::Continue;
        };
        let fits = predicted <= limits.downtime;
        let falls = self.best.is_none_or(|best| predicted < best.mul_f64(FALL));
        let floor = self.floor();
        let worth = predicted > floor.mul_f64(1.0 / FALL);
        self.best = Some(self.best.map_or(predicted, |best| best.min(predicted)));
        if fits && !(limits.at_minimum && falls && worth) {
            return Decision::Stop;
        }
        // Rounds take the memory's share away, and nothing else.
        let in_vain = floor > limits.downtime && !worth;
        if elapsed < limits.timeout && !in_vain {
            return Decision::Continue;
        }
        match limits.at_timeout {
            _ if fits => Decision::Stop,
            AtTimeout::Ignore => Decision::Stop,
            AtTimeout::Cancel if in_vain => Decision::OutOfReach,
            AtTimeout::Cancel => Decision::GiveUp,
        }
    }

    /// What no further round can take away.
    #[must_use]
    pub fn floor(&self) -> Duration {
        self.fixed + self.latency
    }
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn as_f64(value: u64) -> f64 {
    value as f64
}

fn as_ns(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e9
}

/// A duration of so many microseconds, capped at a day.
fn from_us(us: f64) -> Duration {
    Duration::from_secs_f64((us / 1e6).clamp(0.0, 86_400.0))
}

#[cfg(test)]
mod tests;

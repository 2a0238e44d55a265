//! What a migration has done so far, for whoever asks meanwhile.
//!
//! Counters are atomics: threads add to them once a frame, and a reader never
//! holds anybody up. Only the list of rounds is behind a lock, taken once a round.

use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::phase::Phase;
use crate::precopy::Round;

/// A moment of `CLOCK_MONOTONIC`, in ns: comparable between processes of one
/// boot, which [`std::time::Instant`] does not promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

impl Moment {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        // The call fails only for clocks that do not exist; zero is harmless then.
        let time = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
        Self(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
    }

    /// From what another process said.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// As nanoseconds of its clock.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The time since `earlier`; none if that is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// A duration in whole microseconds.
pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// What is told when it happens, beside what is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A guest announced itself to its destination.
    Announced,
    /// A round over memory begins, by its number.
    Round(u32),
}

/// Who is told; from a thread of the migration, which it must not hold up.
type Watcher = Box<dyn Fn(Step) + Send + Sync>;

/// A migration's counters. Shared by its threads and its watchers.
pub struct Progress {
    /// In ns, as a [`Moment`] has it.
    started: AtomicU64,
    phase: AtomicU8,
    phase_us: [AtomicU64; Phase::ALL.len()],
    /// Bytes of guest memory that are backed by pages.
    pub(crate) present: AtomicU64,
    /// Bytes looked at.
    pub(crate) scanned: AtomicU64,
    /// What `scanned` is when the round under way is over.
    pub(crate) round_end: AtomicU64,
    /// Bytes that were zero and so did not travel.
    pub(crate) zero: AtomicU64,
    /// Bytes of zero lines that did not travel.
    pub(crate) elided: AtomicU64,
    /// Bytes handed to the sockets, or received: memory with its frames.
    pub(crate) wire: AtomicU64,
    /// Pages dirtied a second, as of the last round.
    pub(crate) dirty_rate: AtomicU64,
    /// Bytes a second, as of the last round.
    pub(crate) byte_rate: AtomicU64,
    /// Predicted downtime.
    pub(crate) predicted_us: AtomicU64,
    /// Measured downtime.
    pub(crate) downtime_us: AtomicU64,
    /// The whole time, once it is over.
    pub(crate) total_us: AtomicU64,
    /// The shortest round trip.
    pub(crate) round_trip_us: AtomicU64,
    rounds: Mutex<Vec<Round>>,
    watcher: Option<Watcher>,
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Progress").field(&self.snapshot()).finish()
    }
}

/// A reading of [`Progress`].
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// What is being done.
    pub phase: Phase,
    /// Microseconds spent in each phase so far.
    pub phase_us: Vec<(Phase, u64)>,
    /// Since the request, at a destination since its source's first word; the whole
    /// time, once it is over.
    pub total_us: u64,
    /// Measured from the first vCPU's stop at the source to the first `KVM_RUN` at
    /// the destination; zero while unknown, and at the destination of a source of
    /// version 1.
    pub downtime_us: u64,
    /// What stopping now would cost; zero while unknown.
    pub predicted_us: u64,
    /// Guest memory backed by pages, in bytes.
    pub present_bytes: u64,
    /// Guest memory looked at, in bytes; pages sent twice count twice.
    pub scanned_bytes: u64,
    /// What the round under way has still to look at, in bytes.
    pub remaining_bytes: u64,
    /// Of what was looked at, pages that were zero and did not travel.
    pub zero_bytes: u64,
    /// Of that, zero lines that did not travel.
    pub elided_bytes: u64,
    /// Bytes on the wire.
    pub sent_bytes: u64,
    /// Pages dirtied a second, as of the last round.
    pub dirty_pages_per_second: u64,
    /// Bytes a second, as of the last round.
    pub bytes_per_second: u64,
    /// The shortest round trip to the peer.
    pub round_trip_us: u64,
    /// The rounds that are over.
    pub rounds: Vec<Round>,
}

impl Default for Progress {
    fn default() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            started: AtomicU64::new(Moment::now().as_nanos()),
            phase: AtomicU8::new(0),
            phase_us: std::array::from_fn(|_| zero()),
            present: zero(),
            scanned: zero(),
            round_end: zero(),
            zero: zero(),
            elided: zero(),
            wire: zero(),
            dirty_rate: zero(),
            byte_rate: zero(),
            predicted_us: zero(),
            downtime_us: zero(),
            total_us: zero(),
            round_trip_us: zero(),
            rounds: Mutex::new(Vec::new()),
            watcher: None,
        }
    }
}

impl Progress {
    /// Counters at zero; time counts from here.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same; `watcher` is told of each step.
    #[must_use]
    pub fn watched(watcher: Watcher) -> Self {
        Self {
            watcher: Some(watcher),
            ..Self::default()
        }
    }

    pub(crate) fn tell(&self, step: Step) {
        if let Some(watcher) = &self.watcher {
            watcher(step);
        }
    }

    pub(crate) fn started(&self) -> Moment {
        Moment::from_nanos(self.started.load(Ordering::Relaxed))
    }

    /// Time counts from here: a destination has waited for its source until now.
    pub(crate) fn start_anew(&self) {
        let now = Moment::now().as_nanos();
        self.started.store(now, Ordering::Relaxed);
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    pub(crate) fn leave(&self, phase: Phase, took: Duration) {
        if let Some(us) = self.phase_us.get(phase as usize) {
            us.fetch_add(micros(took), Ordering::Relaxed);
        }
    }

    pub(crate) fn add_round(&self, round: Round) {
        self.rounds
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(round);
    }

    pub(crate) fn finish(&self) {
        let total = micros(Moment::now().since(self.started()));
        self.total_us.store(total, Ordering::Relaxed);
    }

    /// What was done so far.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let get = |value: &AtomicU64| value.load(Ordering::Relaxed);
        let phase = usize::from(self.phase.load(Ordering::Relaxed));
        let total = match get(&self.total_us) {
            0 => micros(Moment::now().since(self.started())),
            total => total,
        };
        Snapshot {
            phase: Phase::ALL.get(phase).copied().unwrap_or(Phase::Connect),
            phase_us: Phase::ALL
                .into_iter()
                .zip(self.phase_us.iter().map(get))
                .collect(),
            total_us: total,
            downtime_us: get(&self.downtime_us),
            predicted_us: get(&self.predicted_us),
            present_bytes: get(&self.present),
            scanned_bytes: get(&self.scanned),
            remaining_bytes: get(&self.round_end).saturating_sub(get(&self.scanned)),
            zero_bytes: get(&self.zero),
            elided_bytes: get(&self.elided),
            sent_bytes: get(&self.wire),
            dirty_pages_per_second: get(&self.dirty_rate),
            bytes_per_second: get(&self.byte_rate),
            round_trip_us: get(&self.round_trip_us),
            rounds: self
                .rounds
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        }
    }
}

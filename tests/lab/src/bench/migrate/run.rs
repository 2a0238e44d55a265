//! One migration, seen from outside.
//!
//! ```text
//!          fill, beat     listen   send                 gone           beats go on
//! source   ───────────────────────┼──── pre-copy ──┤stop├─ cleanup ─┤
//! destination                ─────┼────────────────────┤run──────────┼──────────
//!                                 │◄──────────── total ─────────────►│
//!                                              last beat ◄gap► first
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::wait::WaitStatus;
use serde::Serialize;

use super::beats::{Beats, Side};
use super::case::{Case, Workload};
use super::interrupt;
use super::network;
use super::vmm::{DriveError, Pair, Reported, Vmm};

/// How long the guest may take to write its memory: an interpreted one writes 4,000 pages a second
/// on a good day.
const FILL_LIMIT: Duration = Duration::from_secs(600);

/// How long a migration may take.
const LIMIT: Duration = Duration::from_secs(300);

/// How often a running migration is looked at.
const GLANCE: Duration = Duration::from_millis(2);

/// Time that both sides are left alone before the migration.
const SETTLE: Duration = Duration::from_millis(300);

/// How long the guest may take for its next beats.
const BEAT_LIMIT: Duration = Duration::from_secs(30);

/// What one migration showed.
#[derive(Debug, Clone, Serialize)]
pub struct Sample {
    /// From sending the request to the source process being gone, in milliseconds.
    pub total_ms: f64,
    /// To the VMM's word that the guest runs at the destination; `None` when the source was gone
    /// before it was seen.
    pub completed_ms: Option<f64>,
    /// From the source's last beat to the destination's first, in microseconds.
    pub gap_us: f64,
    /// The longest time without a beat, from the request on, in microseconds.
    pub silence_us: f64,
    /// Pages a second that the guest was writing, as it says itself.
    pub dirty_rate: Option<f64>,
    /// Bytes on the loopback interface, headers included; `None` where they cannot be counted.
    pub wire_bytes: Option<u64>,
    /// By how much the source's memory grew, at its most.
    pub growth_bytes: u64,
    /// Seconds of CPU of the source, its vCPUs included, from the request to its end.
    pub source_cpu_s: f64,
    /// The destination's, from the request to the source's end.
    pub destination_cpu_s: f64,
    /// Whether the reader of beats had a real-time priority.
    pub real_time: bool,
    /// What the VMM says.
    pub reported: Reported,
}

/// Why there is no sample.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A VMM did not do what it was told.
    #[error(transparent)]
    Drive(#[from] DriveError),
    /// Something of this machine.
    #[error("cannot {attempt}")]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// The reason.
        source: io::Error,
    },
    /// Something did not happen in time.
    #[error(
        "{what} did not come within {limit:?}; the source printed {source_end:?}, the destination {destination_end:?}; on standard error: {said:?}"
    )]
    Late {
        /// What was waited for.
        what: &'static str,
        /// The limit.
        limit: Duration,
        /// The end of the source's serial line.
        source_end: String,
        /// The end of the destination's.
        destination_end: String,
        /// What the processes said.
        said: String,
    },
    /// A process ended that should not have.
    #[error("the {side} ended with {status:?}; it said: {said:?}")]
    Ended {
        /// Which.
        side: &'static str,
        /// How.
        status: WaitStatus,
        /// What it said.
        said: String,
    },
    /// Somebody asked for the end.
    #[error("interrupted")]
    Interrupted,
}

/// A folder for one run, gone with it.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A source, a destination, and what both print.
struct Run {
    pair: Box<dyn Pair>,
    beats: Beats,
}

/// Measures one migration.
///
/// # Errors
/// See [`RunError`].
pub fn measure(vmm: &Vmm, case: &Case, payload: &Path, folder: &Path) -> Result<Sample, RunError> {
    let io = |attempt| move |source| RunError::Io { attempt, source };
    let folder = Folder(folder.to_owned());
    fs::create_dir_all(&folder.0).map_err(io("make a folder for sockets"))?;
    let (beats, [source, destination]) = Beats::start().map_err(io("read the serial lines"))?;
    let pair = vmm.start(case, payload, &folder.0, source)?;
    let mut run = Run { pair, beats };

    run.wait(
        "the guest's word that it has filled its memory",
        FILL_LIMIT,
        |run| run.beats.has(Side::Source, "@filled "),
    )?;
    run.wait_for_beats(Side::Source, 200)?;
    let dirty_rate = match case.workload {
        Workload::Dirtying(_) => Some(run.dirty_rate()?),
        Workload::Idle | Workload::Written(_) => None,
    };
    run.pair.receive(destination)?;
    thread::sleep(SETTLE);
    run.migrate(dirty_rate)
}

impl Run {
    fn migrate(&mut self, dirty_rate: Option<f64>) -> Result<Sample, RunError> {
        let cpu = |run: &Self| {
            let destination = run.pair.destination();
            let theirs = destination.map_or(0.0, |process| process.cpu_seconds());
            (run.pair.source().cpu_seconds(), theirs)
        };
        let held = self.pair.source().held_bytes();
        let (source_cpu, destination_cpu) = cpu(self);
        let wire = network::wire_bytes();
        self.beats.forget_silence();
        let started = Instant::now();
        self.pair.send()?;

        let mut most = held;
        let mut completed = None;
        let total = loop {
            most = most.max(self.pair.source().held_bytes());
            if let Some(status) = self.end_of_source()? {
                if !matches!(status, WaitStatus::Exited(_, 0)) {
                    return Err(self.ended("source", status));
                }
                break started.elapsed();
            }
            if completed.is_some() {
                self.pair.wait_for_end(GLANCE / 4);
            } else if self.completed()? {
                completed = Some(started.elapsed());
            }
            self.check("the end of the source", started, LIMIT)?;
        };
        let wire_bytes = wire
            .zip(network::wire_bytes())
            .map(|(before, after)| after - before);
        let (source_end, destination_end) = cpu(self);
        self.wait_for_beats(Side::Destination, 50)?;
        let millis = |time: Duration| time.as_secs_f64() * 1e3;
        Ok(Sample {
            total_ms: millis(total),
            completed_ms: completed.map(millis),
            gap_us: self.beats.gap_us().unwrap_or(f64::NAN),
            silence_us: millis(self.beats.longest_silence()) * 1e3,
            dirty_rate,
            wire_bytes,
            growth_bytes: most.saturating_sub(held),
            source_cpu_s: source_end - source_cpu,
            destination_cpu_s: destination_end - destination_cpu,
            real_time: self.beats.real_time,
            reported: self.pair.reported(),
        })
    }

    /// A control that breaks off when the source ends is no failure: its end is looked at next.
    fn completed(&mut self) -> Result<bool, RunError> {
        match self.pair.completed(GLANCE) {
            Ok(done) => Ok(done),
            Err(DriveError::Control { .. } | DriveError::Rest { .. })
                if self.end_of_source()?.is_some() =>
            {
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn end_of_source(&self) -> Result<Option<WaitStatus>, RunError> {
        let status = self.pair.source().ended();
        status.map_err(|source| RunError::Io {
            attempt: "look after the source",
            source,
        })
    }

    /// Waits until `holds`, while both processes live.
    fn wait(
        &self,
        what: &'static str,
        limit: Duration,
        holds: impl Fn(&Self) -> bool,
    ) -> Result<(), RunError> {
        let start = Instant::now();
        while !holds(self) {
            self.check(what, start, limit)?;
            if let (true, Some(status)) = (self.pair.destination().is_none(), self.end_of_source()?)
            {
                return Err(self.ended("source", status));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Waits for `count` bytes more.
    fn wait_for_beats(&self, side: Side, count: usize) -> Result<(), RunError> {
        let wanted = self.beats.count(side) + count;
        let what = match side {
            Side::Source => "beats of the source",
            Side::Destination => "beats of the destination",
        };
        self.wait(what, BEAT_LIMIT, |run| run.beats.count(side) >= wanted)
    }

    /// Pages a second, from two of the guest's reports.
    fn dirty_rate(&self) -> Result<f64, RunError> {
        let dirtied = || self.beats.last_number(Side::Source, "report", "dirtied");
        let next = |before: Option<u64>| {
            self.wait("the guest's report", BEAT_LIMIT, |_| {
                dirtied().is_some_and(|now| before.is_none_or(|before| now > before))
            })
        };
        next(None)?;
        next(dirtied())?;
        let (start, first) = (Instant::now(), dirtied());
        thread::sleep(Duration::from_secs(1));
        next(first)?;
        let pages = dirtied().unwrap_or(0) - first.unwrap_or(0);
        // Far below 2^52.
        #[allow(clippy::cast_precision_loss)]
        Ok(pages as f64 / start.elapsed().as_secs_f64())
    }

    /// Fails when it is too late, when somebody asked for the end, or without a destination.
    fn check(&self, what: &'static str, start: Instant, limit: Duration) -> Result<(), RunError> {
        if interrupt::asked() {
            return Err(RunError::Interrupted);
        }
        let destination = self.pair.destination();
        if let Some(status) = destination.and_then(|process| process.ended().ok().flatten()) {
            return Err(self.ended("destination", status));
        }
        if start.elapsed() > limit {
            return Err(RunError::Late {
                what,
                limit,
                source_end: self.beats.tail(Side::Source),
                destination_end: self.beats.tail(Side::Destination),
                said: self.said(),
            });
        }
        Ok(())
    }

    fn said(&self) -> String {
        let destination = self.pair.destination().map(|process| process.said());
        self.pair.source().said() + &destination.unwrap_or_default()
    }

    fn ended(&self, side: &'static str, status: WaitStatus) -> RunError {
        RunError::Ended {
            side,
            status,
            said: self.said(),
        }
    }
}

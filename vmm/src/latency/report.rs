//! What was measured, as text, as JSON and as a picture.

mod picture;
mod text;

use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use super::stress::Class;
use super::{Exits, Histogram, Plan, Scheduled, Series, Wait, What};

pub use picture::svg;
pub use text::{progress, text};

/// The version of the JSON document.
const VERSION: u32 = 1;

/// All that was measured. Times are in nanoseconds.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Report {
    /// The version of this document.
    pub version: u32,
    /// The version of godwit.
    pub godwit: String,
    /// From one time to the next.
    pub period_ns: u64,
    /// What was asked for, of each measurement.
    pub duration_ns: u64,
    /// Whether a signal ended it early.
    pub interrupted: bool,
    /// What vCPUs did between two times; absent on the host.
    pub wait: Option<Wait>,
    /// What ran beside it.
    pub stress: Class,
    /// The settings of machine or threads, in words.
    pub settings: String,
    /// What was not as asked for.
    pub warnings: Vec<String>,
    /// One for each vCPU and way to measure.
    pub series: Vec<Measured>,
}

/// What was measured on one CPU.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Measured {
    /// What it is of.
    pub what: What,
    /// Of which vCPU, or in the place of which.
    pub vcpu: u8,
    /// The host CPUs, as `2-5,8`.
    pub cpus: String,
    /// How long it was measured.
    pub elapsed_ns: u64,
    /// Samples.
    pub samples: u64,
    /// Times that passed before their turn came.
    pub missed: u64,
    /// Samples that were not taken in time.
    pub lost: u64,
    /// Samples that came too early, counted as not late.
    pub early: u64,
    /// How late; absent without samples.
    pub late: Option<Late>,
    /// Buckets that hold samples, ascending.
    pub histogram: Vec<Bar>,
    /// What the scheduler counted of the thread.
    pub scheduled: Option<Scheduled>,
    /// What KVM and godwit counted of the vCPU.
    pub exits: Option<Exits>,
}

/// How late, in nanoseconds. Least, greatest and mean are exact; the others are to
/// 1/64 of themselves, rounded up.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Late {
    /// The least.
    pub min_ns: u64,
    /// The mean.
    pub mean_ns: f64,
    /// What half of all do not exceed.
    pub p50_ns: u64,
    /// What 99 of 100 do not exceed.
    pub p99_ns: u64,
    /// What 999 of 1,000 do not exceed.
    pub p99_9_ns: u64,
    /// What 9,999 of 10,000 do not exceed.
    pub p99_99_ns: u64,
    /// The greatest.
    pub max_ns: u64,
}

/// A bucket of the histogram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Bar {
    /// Its least value.
    pub from_ns: u64,
    /// Its greatest value.
    pub to_ns: u64,
    /// Samples.
    pub count: u64,
}

/// How a measurement went, besides what it found.
#[derive(Clone, Copy, Debug)]
pub struct Course {
    /// A signal ended it early.
    pub interrupted: bool,
    /// What ran beside it.
    pub stress: Class,
    /// Whether it was of a guest.
    pub of_guest: bool,
}

impl Report {
    /// The report of `series` that were measured by `plan`.
    #[must_use]
    pub fn new(plan: &Plan, course: Course, series: &[Series]) -> Self {
        let timing = plan.timing();
        Self {
            version: VERSION,
            godwit: env!("CARGO_PKG_VERSION").to_owned(),
            period_ns: nanoseconds(timing.period),
            duration_ns: nanoseconds(timing.duration),
            interrupted: course.interrupted,
            wait: course.of_guest.then_some(timing.wait),
            stress: course.stress,
            settings: if course.of_guest {
                plan.settings()
            } else {
                plan.scheduling()
            },
            warnings: plan.warnings.clone(),
            series: series.iter().map(Measured::of).collect(),
        }
    }

    /// As a JSON document.
    ///
    /// # Errors
    /// None that is known.
    pub fn json(&self) -> serde_json::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The JSON schema of [`Report`].
#[must_use]
pub fn schema() -> schemars::Schema {
    schemars::schema_for!(Report)
}

impl Measured {
    fn of(series: &Series) -> Self {
        let buckets = series.late.buckets();
        Self {
            what: series.what,
            vcpu: series.vcpu.0,
            cpus: series.cpus.clone(),
            elapsed_ns: nanoseconds(series.elapsed),
            samples: series.late.samples(),
            missed: series.missed,
            lost: series.lost,
            early: series.early,
            late: Late::of(&series.late),
            histogram: buckets
                .map(|bucket| Bar {
                    from_ns: bucket.from,
                    to_ns: bucket.to,
                    count: bucket.count,
                })
                .collect(),
            scheduled: series.scheduled.clone(),
            exits: series.exits.clone(),
        }
    }
}

impl Late {
    fn of(histogram: &Histogram) -> Option<Self> {
        Some(Self {
            min_ns: histogram.min()?,
            mean_ns: histogram.mean()?,
            p50_ns: histogram.percentile(50_000)?,
            p99_ns: histogram.percentile(99_000)?,
            p99_9_ns: histogram.percentile(99_900)?,
            p99_99_ns: histogram.percentile(99_990)?,
            max_ns: histogram.max()?,
        })
    }
}

/// Bars joined for the eye: `steps` for each power of two, or less where buckets
/// are wider. Bounds are those of the steps; those without samples are there too.
fn joined(bars: &[Bar], steps: u64) -> Vec<Bar> {
    let (Some(first), Some(last)) = (bars.first(), bars.last()) else {
        return Vec::new();
    };
    let mut joined = Vec::new();
    let mut from = step_start(first.from_ns, steps);
    let mut rest = bars.iter().copied().peekable();
    loop {
        let end = step_end(from, steps);
        let mut count = 0;
        while let Some(bar) = rest.next_if(|bar| bar.from_ns <= end) {
            count += bar.count;
        }
        joined.push(Bar {
            from_ns: from,
            to_ns: end,
            count,
        });
        if end >= last.from_ns {
            return joined;
        }
        from = end + 1;
    }
}

/// How wide a step is that starts at `from`, or holds it.
fn step_width(value: u64, steps: u64) -> u64 {
    let power = 1_u64 << value.max(1).ilog2();
    (power / steps).max(1)
}

fn step_start(value: u64, steps: u64) -> u64 {
    if value == 0 {
        return 0;
    }
    value - value % step_width(value, steps)
}

fn step_end(from: u64, steps: u64) -> u64 {
    from.saturating_add(step_width(from, steps) - 1)
}

#[cfg(test)]
mod tests;

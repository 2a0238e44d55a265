//! How late a timer reaches a guest on this host, and how late it reaches a
//! thread of the host on the same CPU.
//!
//! ```text
//!  config or CPU --> Plan --+--> Guest: vCPUs --ring in guest memory--> Series
//!                           |    (godwit's, KVM's and the host's part)
//!                           +--> Host: threads on the same CPUs ------> Series
//!                                (the host's part)
//! ```
//!
//! The guest is built by [`crate::builder`] as any other: what is measured is what a
//! guest of that config gets. Only its devices are left out, and its kernel is the
//! one that is built in (`latency/guest.rs`).

mod guest;
mod histogram;
mod host;
mod machine;
mod plan;
pub mod report;
mod scheduled;
pub mod stress;

use std::time::Duration;

use crate::builder::BuildError;
use crate::spec::{HostFactsError, SpecError, VcpuId};
use crate::vcpu::VcpuStateError;

pub use histogram::{Bucket, Histogram, SUB_BUCKETS};
pub use host::Host;
pub use machine::Guest;
pub use plan::{MAX_PERIOD, Plan, Timer, Timing, Wait, for_cpu, last_cpu};
pub use scheduled::Scheduled;

/// What a series is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// A guest's timer in TSC-deadline mode.
    TscDeadline,
    /// A guest's timer in one-shot mode.
    OneShot,
    /// Spinning on the host: the longest gap of each period.
    Gap,
    /// `clock_nanosleep` on the host.
    Nanosleep,
}

impl What {
    /// In words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::TscDeadline => "timer interrupts of a guest, by TSC deadline",
            Self::OneShot => "timer interrupts of a guest, one-shot",
            Self::Gap => "the longest gap of each period, spinning on the host",
            Self::Nanosleep => "clock_nanosleep on the host",
        }
    }
}

/// What was measured on one CPU.
#[derive(Clone, Debug)]
pub struct Series {
    /// What it is of.
    pub what: What,
    /// Of which vCPU, or in the place of which.
    pub vcpu: VcpuId,
    /// The host CPUs that it ran on, as `2-5,8`.
    pub cpus: String,
    /// How long it was measured.
    pub elapsed: Duration,
    /// How late, in nanoseconds.
    pub late: Histogram,
    /// Times that passed before their turn came.
    pub missed: u64,
    /// Samples that nobody took in time.
    pub lost: u64,
    /// Samples that came too early, counted as not late.
    pub early: u64,
    /// What the scheduler counted of the thread.
    pub scheduled: Option<Scheduled>,
    /// What KVM and godwit counted of the vCPU.
    pub exits: Option<Exits>,
}

impl Series {
    fn new(what: What, vcpu: VcpuId, cpus: String) -> Self {
        Self {
            what,
            vcpu,
            cpus,
            elapsed: Duration::ZERO,
            late: Histogram::default(),
            missed: 0,
            lost: 0,
            early: 0,
            scheduled: None,
            exits: None,
        }
    }
}

/// What was counted of a vCPU while it was measured.
#[derive(Clone, Debug, Default, serde::Serialize, schemars::JsonSchema)]
pub struct Exits {
    /// Times that it came out of KVM to godwit.
    pub to_user_space: u64,
    /// What KVM counts, by KVM's names; what did not move is left out.
    pub kvm: std::collections::BTreeMap<String, u64>,
}

/// How it goes so far, over all vCPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Progress {
    /// Samples.
    pub samples: u64,
    /// The least, in nanoseconds.
    pub min: u64,
    /// The mean, in nanoseconds.
    pub mean: f64,
    /// The greatest, in nanoseconds.
    pub max: u64,
}

impl Progress {
    fn of<'a>(all: impl Iterator<Item = &'a Histogram>) -> Self {
        let mut progress = Self {
            min: u64::MAX,
            ..Self::default()
        };
        let mut sum = 0.0;
        for one in all {
            progress.samples += one.samples();
            progress.min = progress.min.min(one.min().unwrap_or(u64::MAX));
            progress.max = progress.max.max(one.max().unwrap_or(0));
            sum += one.mean().unwrap_or(0.0) * one.samples() as f64;
        }
        if progress.samples == 0 {
            return Self::default();
        }
        progress.mean = sum / progress.samples as f64;
        progress
    }
}

/// It could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum LatencyError {
    /// This host could not be read.
    #[error(transparent)]
    Facts(#[from] HostFactsError),
    /// The config is not one of a machine on this host.
    #[error(transparent)]
    Config(#[from] SpecError),
    /// The CPU that was asked for.
    #[error("--cpu {cpu}: {reason}")]
    Cpu {
        /// Which one.
        cpu: u32,
        /// What is wrong with it.
        reason: String,
    },
    /// A thread cannot run where the config wants the vCPU.
    #[error(transparent)]
    Place(#[from] crate::affinity::PlacementError),
    /// This process's own CPUs, its image of the guest, a thread.
    #[error("Could not {attempt}")]
    System {
        /// What was attempted.
        attempt: &'static str,
        /// The operating system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The machine could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The guest's memory is too small for what it notes.
    #[error(
        "To measure {vcpus} vCPUs takes {needed} bytes of guest memory from address 0 on, and the config has {has}; raise memory.size"
    )]
    Memory {
        /// How many vCPUs.
        vcpus: u64,
        /// What is needed.
        needed: u64,
        /// What there is.
        has: u64,
    },
    /// KVM does not say how fast a guest's time-stamp counter is.
    #[error(
        "This host's KVM does not tell the frequency of the guest's time-stamp counter, so that no tick can be told as time"
    )]
    Frequency,
    /// A vCPU's registers could not be set.
    #[error("Could not start the measuring guest")]
    Begin(#[from] VcpuStateError),
    /// The guest's processor lacks what the guest needs.
    #[error("This host's KVM gives vCPU {0} no x2APIC, which the measuring guest needs")]
    X2Apic(VcpuId),
    /// A vCPU stopped.
    #[error("vCPU {vcpu} stopped while it was measured: {reason}")]
    Stopped {
        /// Which one.
        vcpu: VcpuId,
        /// Why.
        reason: String,
    },
    /// No interrupt came.
    #[error("The timer of vCPU {vcpu} did not fire once in {elapsed:?}")]
    Silent {
        /// Which one.
        vcpu: VcpuId,
        /// For how long.
        elapsed: Duration,
    },
}

fn system(attempt: &'static str) -> impl Fn(std::io::Error) -> LatencyError {
    move |source| LatencyError::System { attempt, source }
}

//! `cargo lab test`: every test, each where it can run.
//!
//! ```text
//! unit     cargo nextest run (or cargo test), and doc tests
//! payload  all other integration tests: directly, or in the lab without KVM
//! schema   the OpenAPI document against a live instance, by schemathesis
//! tuning   `godwit check` in the lab, on a kernel booted with and without isolated CPUs, and the
//!          integration tests in `isolated` on the former
//! linux    integration tests in `linux` and `dpdk`: directly on hardware, else in the lab
//! ```
//!
//! One outer machine serves all tests of a run. A test that fails in it runs once more in a fresh
//! one, and both results are told: a machine of emulated CPUs can stand still for seconds.

mod integration;
mod schema;
mod tuning;
mod unit;

use std::io;
use std::time::Duration;

use clap::Args;

use crate::build::BuildError;
use crate::command::CommandError;
use crate::doctor::{MachineKind, Runner};
use crate::image::{Image, ImageError, Variant};
use crate::outer::{OuterError, Shape};
use crate::packages;
use crate::payload::PayloadError;
use crate::seam::{self, Place};
use integration::Lab;

/// What to run.
#[derive(Debug, Clone, Args)]
pub struct Selection {
    /// Only tests whose name contains this
    pub filter: Option<String>,
    /// Only these suites
    #[arg(long, value_enum, value_delimiter = ',')]
    pub only: Vec<Suite>,
    /// Run Linux and payload tests in the lab even where they could run directly
    #[arg(long)]
    pub in_lab: bool,
    /// Seconds after which a single integration test is ended
    #[arg(long, default_value_t = 600)]
    pub limit: u64,
}

/// A set of tests that one runner takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Suite {
    /// Unit and doc tests of the workspace.
    Unit,
    /// Integration tests with payload guests, and of refusals.
    Payload,
    /// The OpenAPI document against a live instance.
    Schema,
    /// `godwit check` on a kernel with and without isolated CPUs, and tests on an isolated CPU.
    Tuning,
    /// Integration tests with Linux and DPDK guests.
    Linux,
}

/// Why tests could not be run at all.
#[derive(Debug, thiserror::Error)]
pub enum SuiteError {
    /// A command could not be run.
    #[error("cannot run the tests")]
    Command(#[from] CommandError),
    /// The tests do not build.
    #[error("cannot build the integration tests")]
    Build(#[from] BuildError),
    /// There is no guest image.
    #[error("tests need the guest image")]
    Image(#[from] ImageError),
    /// There are no payload images.
    #[error("tests need the payload guest")]
    Payload(#[from] PayloadError),
    /// There is no outer machine.
    #[error("tests need the outer machine")]
    Outer(#[from] OuterError),
    /// The instance that schemathesis asks.
    #[error("the instance under test failed")]
    Instance(#[source] io::Error),
    /// A folder could not be made.
    #[error("cannot make the folder for results")]
    Folder(#[source] io::Error),
}

/// What one runner has to say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Count {
    /// Tests that passed.
    pub passed: usize,
    /// Tests that failed.
    pub failed: usize,
    /// Tests among those that passed which failed once, in another outer machine.
    pub later_run: usize,
}

impl Count {
    fn line(&self, runner: &str, took: Duration) -> String {
        let mut line = format!("{runner}: {} passed, {} failed", self.passed, self.failed);
        if self.later_run > 0 {
            line.push_str(&format!(", {} of them in a later run", self.later_run));
        }
        line.push_str(&format!(" ({:.0} s)", took.as_secs_f64()));
        line
    }
}

/// Runs what `selection` asks for; true when everything passed.
///
/// # Errors
/// When tests could not be run at all.
pub fn run(selection: &Selection) -> Result<bool, SuiteError> {
    let machine = MachineKind::detect();
    let wanted = |suite| selection.only.is_empty() || selection.only.contains(&suite);
    let runner = |direct| {
        if selection.in_lab {
            Runner::Lab
        } else {
            direct
        }
    };
    let mut lines = Vec::new();
    let mut passed = true;
    let mut close = |count: &Count, line: String| {
        passed &= count.failed == 0;
        lines.push(line);
    };
    if wanted(Suite::Unit) {
        let started = std::time::Instant::now();
        let count = unit::run(selection.filter.as_deref())?;
        close(&count, count.line("unit tests", started.elapsed()));
    }
    if wanted(Suite::Schema) && selection.filter.is_none() {
        let started = std::time::Instant::now();
        let count = schema::run()?;
        close(&count, count.line("schemathesis", started.elapsed()));
    }
    let limit = Duration::from_secs(selection.limit);
    if wanted(Suite::Tuning) || wanted(Suite::Payload) || wanted(Suite::Linux) {
        packages::install_missing(packages::FOR_TESTS).map_err(ImageError::from)?;
        let tests = integration::Tests::build(Image::build()?)?;
        if wanted(Suite::Linux) {
            Image::build_variant(Variant::Rt)?;
        }
        let chosen = |place| {
            let fits = |test: &&String| {
                let filter = selection.filter.as_ref();
                seam::place(test) == place && filter.is_none_or(|filter| test.contains(filter))
            };
            tests.names().iter().filter(fits).collect::<Vec<_>>()
        };
        if wanted(Suite::Tuning) {
            let mut isolated = tuning::isolated();
            if selection.filter.is_none() {
                let started = std::time::Instant::now();
                let count = tuning::run(&mut isolated)?;
                close(
                    &count,
                    count.line("godwit check in the lab", started.elapsed()),
                );
            }
            let started = std::time::Instant::now();
            let count = tests.run_in_lab(&chosen(Place::Isolated), limit, &mut isolated)?;
            close(
                &count,
                count.line("tests on an isolated CPU in the lab", started.elapsed()),
            );
        }
        let mut lab = Lab::new(Shape::default());
        for (suite, place, name, direct) in [
            (
                Suite::Payload,
                Place::Payload,
                "payload tests",
                machine.payload_runner(),
            ),
            (
                Suite::Linux,
                Place::Linux,
                "Linux tests",
                machine.linux_runner(),
            ),
        ] {
            if !wanted(suite) {
                continue;
            }
            let started = std::time::Instant::now();
            let chosen = chosen(place);
            let runner = runner(direct);
            let count = match runner {
                Runner::Direct => tests.run_directly(&chosen, limit)?,
                Runner::Lab => tests.run_in_lab(&chosen, limit, &mut lab)?,
            };
            close(
                &count,
                count.line(&format!("{name} {runner}"), started.elapsed()),
            );
        }
    }
    for line in lines {
        println!("{line}");
    }
    Ok(passed)
}

//! `cargo lab bench`: godwit measured beside other VMMs.
//!
//! Peers are interleaved round by round, in an order that turns, so that a slow minute of the
//! machine falls on all of them. Results go to the terminal and, with every sample, to
//! `target/lab/bench/*.json`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde::Serialize;

mod api;
mod cyclictest;
mod dpdk;
mod latency;
mod measure;
mod migrate;
mod peer;
mod pool;
mod prefault;
mod sample;
mod start;
mod times;
mod turns;

pub use api::{ApiOptions, BenchApiError};
pub use cyclictest::CyclictestOptions;
pub use dpdk::DpdkOptions;
pub use latency::LatencyOptions;
pub use measure::MeasureError;
pub use migrate::{BenchMigrateError, MEANS, MigrateOptions};
pub(crate) use migrate::{interrupt, qmp, rest};
pub use peer::Peer;
pub use pool::{HugePagePool, PoolError};
pub use sample::Summary;
pub(crate) use start::godwit_binary;
pub use start::{BenchStartError, StartOptions};
pub use turns::{TurnOptions, TurnsError};

/// What can be measured.
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// Process start to the guest's first byte, memory beyond the guest's, threads, binary size
    Start(StartOptions),
    /// Time, gap and cost of moving a running guest to another process
    Migrate(MigrateOptions),
    /// Time to the answers of the REST API, also while a guest prefaults or moves
    Api(ApiOptions),
    /// Moves of a DPDK guest under traffic, godwit and QEMU in turn in one machine
    Dpdk(DpdkOptions),
    /// Round trips of frames through a DPDK guest, godwit and QEMU in turn in one machine
    Latency(LatencyOptions),
    /// How late a PREEMPT_RT guest wakes up, godwit and QEMU in turn in one machine
    Cyclictest(CyclictestOptions),
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// Of the start.
    #[error(transparent)]
    Start(#[from] BenchStartError),
    /// Of the migration.
    #[error(transparent)]
    Migrate(#[from] BenchMigrateError),
    /// Of the API.
    #[error(transparent)]
    Api(#[from] BenchApiError),
    /// Of what VMMs do in turn.
    #[error(transparent)]
    Turns(#[from] TurnsError),
}

/// Runs a benchmark.
///
/// # Errors
/// When a peer cannot be run or measured: the error names it.
pub fn run(bench: &Bench) -> Result<(), BenchError> {
    match bench {
        Bench::Start(options) => start::run(options)?,
        Bench::Migrate(options) => migrate::run(options)?,
        Bench::Api(options) => api::run(options)?,
        Bench::Dpdk(options) => dpdk::run(options)?,
        Bench::Latency(options) => latency::run(options)?,
        Bench::Cyclictest(options) => cyclictest::run(options)?,
    }
    Ok(())
}

/// The checkout this tool was built from.
fn checkout() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest
        .ancestors()
        .nth(2)
        .unwrap_or(manifest)
        .to_path_buf()
}

/// Writes a result with all its samples beside the others.
fn save(name: &str, result: &impl Serialize) -> io::Result<PathBuf> {
    save_text(name, &serde_json::to_string_pretty(result)?)
}

/// Writes a file beside the results.
fn save_text(name: &str, text: &str) -> io::Result<PathBuf> {
    let path = saved(name);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(&path, text)?;
    Ok(path)
}

/// Where a result is, or will be.
fn saved(name: &str) -> PathBuf {
    checkout().join("target/lab/bench").join(name)
}

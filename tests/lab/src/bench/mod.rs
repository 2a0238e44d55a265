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

mod measure;
mod peer;
mod pool;
mod prefault;
mod sample;
mod start;

pub use measure::MeasureError;
pub use peer::Peer;
pub use pool::{HugePagePool, PoolError};
pub use sample::Summary;
pub use start::{BenchStartError, StartOptions};

/// What can be measured.
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// Process start to the guest's first byte, memory beyond the guest's, threads, binary size
    Start(StartOptions),
}

/// Runs a benchmark.
///
/// # Errors
/// When a peer cannot be run or measured: the error names it.
pub fn run(bench: &Bench) -> Result<(), BenchStartError> {
    match bench {
        Bench::Start(options) => start::run(options),
    }
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
    let folder = checkout().join("target/lab/bench");
    fs::create_dir_all(&folder)?;
    let path = folder.join(name);
    fs::write(&path, serde_json::to_vec_pretty(result)?)?;
    Ok(path)
}

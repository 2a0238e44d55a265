//! `cargo lab bench dpdk`: the demo's switch, by godwit and by QEMU in turn.
//!
//! All runs are in one machine, so that ratios count even where it is emulated. Each run boots the
//! guest anew, and has its control within: the silence of the same stream before and after.

mod plot;
mod report;

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::start::{self, BenchStartError};
use super::{interrupt, save, save_text};
use crate::demo::here::{self, Plan};
use crate::demo::outcome::Outcome;
use crate::demo::{DemoError, lab};
use crate::doctor::{MachineKind, Runner};
use crate::image::{Image, ImageError};
use crate::peer::{Account, Vmm};

/// Frames before each move, one in flight: they warm the path up.
const FRAMES: u64 = 1000;

/// Longest time for a run: boot, stream, move, power-off.
const RUN_LIMIT: Duration = Duration::from_secs(600);

/// What to compare, and how often.
#[derive(Debug, Args)]
pub struct DpdkOptions {
    /// Moves of each VMM
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// How long the guest may stand still, in ms, for both; by default 1000 in the lab, and
    /// elsewhere what each VMM has
    #[arg(long)]
    downtime_ms: Option<u64>,
    /// godwit's binary; by default a release build is made
    #[arg(long)]
    godwit: Option<PathBuf>,
    /// Do it on this machine; the lab runs itself so in the outer machine
    #[arg(long, hide = true, requires_all = ["result", "godwit"])]
    here: bool,
    /// Where to write the samples, with `--here`
    #[arg(long, hide = true)]
    result: Option<PathBuf>,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum BenchDpdkError {
    /// godwit is not there.
    #[error("no godwit to measure")]
    Program(#[from] BenchStartError),
    /// There is no guest image.
    #[error("no guest to move")]
    Image(#[from] ImageError),
    /// There is no outer machine, or it was lost.
    #[error("no machine to measure in")]
    Lab(#[from] Box<DemoError>),
    /// A result could not be written.
    #[error("cannot save the result")]
    Save(#[from] io::Error),
    /// Nothing came out of the outer machine.
    #[error("no samples came out of the outer machine: {0}")]
    Nothing(String),
    /// Somebody asked for the end.
    #[error("interrupted; what was measured until then is saved")]
    Interrupted,
    /// Some runs failed.
    #[error("{0} runs failed, or lost frames where none may be; the table says why")]
    Failed(usize),
}

/// What one run came to.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Sample {
    /// Of the whole move, as the VMM counts it.
    total_ms: f64,
    /// As the VMM says.
    downtime_ms: f64,
    /// Frames lost in the switch.
    lost: u64,
    /// Frames lost elsewhere in the stream.
    lost_outside: u64,
    /// Longest silence in the switch.
    silence_ms: f64,
    /// Longest silence before or after it.
    control_ms: f64,
    /// Frames a second.
    rate: f64,
    /// What the guest was allowed.
    limit_ms: Option<u64>,
    /// All that the VMM says.
    account: Account,
}

impl Sample {
    fn of(outcome: &Outcome) -> Self {
        let span = outcome.span();
        let (from, to) = outcome.switch();
        let before = outcome.record.span(0.0, from).silence;
        let after = outcome.record.span(to, outcome.end().max(to)).silence;
        let account = outcome.account.clone();
        #[allow(clippy::cast_precision_loss)] // far below 2^52
        let ms = |us: u64| us as f64 / 1e3;
        Self {
            total_ms: ms(account.total_us),
            downtime_ms: ms(account.downtime_us),
            lost: span.lost,
            lost_outside: outcome.lost_outside(),
            silence_ms: span.silence * 1e3,
            control_ms: before.max(after) * 1e3,
            rate: outcome.rate(),
            limit_ms: outcome.limit_ms,
            account,
        }
    }
}

/// All runs of one VMM.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Row {
    vmm: String,
    samples: Vec<Sample>,
    failures: Vec<String>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Comparison {
    emulated: bool,
    kernel: String,
    rows: Vec<Row>,
}

/// Measures, prints a table, saves every sample and a plot.
///
/// # Errors
/// When something cannot be set up. A run that fails is told in the table, and the next one goes
/// on; in the end it is an error, too.
pub fn run(options: &DpdkOptions) -> Result<(), BenchDpdkError> {
    let godwit = start::godwit_binary(options.godwit.as_deref())?;
    if let (true, Some(path)) = (options.here, &options.result) {
        measure(options, &godwit, true, |comparison| {
            fs::write(path, serde_json::to_vec(comparison)?)
        })?;
        return Ok(());
    }
    Image::build()?;
    let comparison = match MachineKind::detect().linux_runner() {
        Runner::Direct => measure(options, &godwit, false, |comparison| {
            save("dpdk.json", comparison).map(drop)
        })?,
        Runner::Lab => in_lab(options, &godwit)?,
    };
    let saved = save("dpdk.json", &comparison)?;
    let plot = save_text("dpdk.svg", &plot::svg(&comparison))?;
    println!("{}", report::table(&comparison));
    println!("every sample: {}", saved.display());
    println!("plot: {}", plot.display());
    if interrupt::asked() {
        return Err(BenchDpdkError::Interrupted);
    }
    let rows = comparison.rows.iter();
    match rows.map(Row::faults).sum() {
        0 => Ok(()),
        faults => Err(BenchDpdkError::Failed(faults)),
    }
}

impl Row {
    fn faults(&self) -> usize {
        let lossy = self.samples.iter().filter(|sample| sample.lost_outside > 0);
        self.failures.len() + lossy.count()
    }
}

/// Both VMMs once in each round, each round beginning with the other one. `keep` gets what there
/// is after each run.
fn measure(
    options: &DpdkOptions,
    godwit: &std::path::Path,
    emulated: bool,
    mut keep: impl FnMut(&Comparison) -> io::Result<()>,
) -> Result<Comparison, BenchDpdkError> {
    let vmms = [Vmm::Godwit(godwit.to_owned()), Vmm::Qemu];
    let row = |vmm: &Vmm| Row {
        vmm: vmm.name().to_owned(),
        ..Row::default()
    };
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut comparison = Comparison {
        emulated,
        kernel: kernel.trim().to_owned(),
        rows: vmms.iter().map(row).collect(),
    };
    for round in 0..options.rounds {
        let first = usize::from(round % 2 == 1);
        for index in [first, 1 - first] {
            if interrupt::asked() {
                return Ok(comparison);
            }
            let (Some(vmm), Some(row)) = (vmms.get(index), comparison.rows.get_mut(index)) else {
                continue;
            };
            eprintln!("round {} of {}, {}", round + 1, options.rounds, row.vmm);
            let plan = Plan {
                vmm: vmm.clone(),
                frames: FRAMES,
                emulated,
                downtime_ms: options.downtime_ms,
            };
            match here::run(&plan) {
                Ok(outcome) => {
                    let sample = Sample::of(&outcome);
                    eprintln!("{}", report::line(&row.vmm, &sample));
                    row.samples.push(sample);
                }
                Err(error) => {
                    let text = chain(&error);
                    eprintln!("{}: {text}", row.vmm);
                    row.failures.push(text);
                }
            }
            keep(&comparison)?;
        }
    }
    Ok(comparison)
}

fn in_lab(options: &DpdkOptions, godwit: &std::path::Path) -> Result<Comparison, BenchDpdkError> {
    let mut arguments = ["bench", "dpdk", "--rounds"].map(str::to_owned).to_vec();
    arguments.push(options.rounds.to_string());
    if let Some(limit) = options.downtime_ms {
        arguments.extend(["--downtime-ms".to_owned(), limit.to_string()]);
    }
    arguments.extend(["--godwit".to_owned(), godwit.display().to_string()]);
    arguments.extend(["--here".to_owned(), "--result".to_owned()]);
    let limit = RUN_LIMIT * 2 * options.rounds;
    let left = lab::run("godwit and QEMU in the lab", &arguments, limit).map_err(Box::new)?;
    eprintln!(
        "the outer machine's longest time without a heartbeat: {:.1} s",
        left.gap.as_secs_f64()
    );
    // A machine that was cut off leaves the runs before.
    let file = left.file.unwrap_or_default();
    serde_json::from_slice(&file).map_err(|_| BenchDpdkError::Nothing(left.ending.to_string()))
}

fn chain(error: &DemoError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}\n  because: {error}");
        cause = error.source();
    }
    text
}

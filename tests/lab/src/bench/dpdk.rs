//! `cargo lab bench dpdk`: the demo's switch, by godwit and by QEMU in turn.
//!
//! All runs are in one machine, so that ratios count even where it is emulated. Each run boots the
//! guest anew, and has its control within: the silence of the same stream before and after.

mod plot;
mod report;

use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::turns::{self, Row, TurnOptions, Turns, TurnsError, verdict};
use super::{save_text, saved, start};
use crate::demo::here::{self, Plan};
use crate::demo::outcome::Outcome;
use crate::image::Image;
use crate::peer::{Account, Vmm};

type Comparison = turns::Comparison<Sample>;

/// Frames before each move, one in flight: they warm the path up.
const FRAMES: u64 = 1000;

/// Longest time for a stream and a move.
const LIMIT: Duration = Duration::from_secs(300);

/// What to compare, and how often.
#[derive(Debug, Args)]
pub struct DpdkOptions {
    #[command(flatten)]
    turns: TurnOptions,
    /// How long the guest may stand still, in ms, for both; by default 1000 in the lab, and
    /// elsewhere what each VMM has
    #[arg(long)]
    downtime_ms: Option<u64>,
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

/// Measures, prints a table, saves every sample and a plot.
///
/// # Errors
/// When something cannot be set up. A run that fails is told in the table, and the next one goes
/// on; in the end it is an error, too.
pub fn run(options: &DpdkOptions) -> Result<(), TurnsError> {
    let godwit = start::godwit_binary(options.turns.godwit.as_deref())?;
    if options.turns.here().is_none() {
        Image::build()?;
    }
    let mut arguments = Vec::new();
    if let Some(limit) = options.downtime_ms {
        arguments.extend(["--downtime-ms".to_owned(), limit.to_string()]);
    }
    let turns = Turns {
        verb: "dpdk",
        rounds: options.turns.rounds,
        godwit: &godwit,
        here: options.turns.here(),
        arguments,
        limit: LIMIT,
        parameters: "",
    };
    let one = |vmm: &Vmm, emulated| {
        let plan = Plan {
            vmm: vmm.clone(),
            frames: FRAMES,
            emulated,
            downtime_ms: options.downtime_ms,
        };
        here::run(&plan).map(|outcome| Sample::of(&outcome))
    };
    let Some(comparison) = turns.compare(one, report::line)? else {
        return Ok(());
    };
    let plot = save_text("dpdk.svg", &plot::svg(&comparison))?;
    println!("{}", report::text(&comparison));
    println!("every sample: {}", saved(&turns.file()).display());
    println!("plot: {}", plot.display());
    verdict(comparison.rows.iter().map(faults).sum())
}

/// Runs that failed, or lost frames outside of a switch.
fn faults(row: &Row<Sample>) -> usize {
    let lossy = row.samples.iter().filter(|sample| sample.lost_outside > 0);
    row.failures.len() + lossy.count()
}

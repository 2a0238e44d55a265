//! `cargo lab demo`: a DPDK guest moves to another instance while real packets pass through it,
//! and what that cost is shown.

mod bars;
mod chart;
pub(crate) mod forwarder;
pub(crate) mod here;
pub(crate) mod lab;
pub(crate) mod outcome;
mod table;

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::bench::{self, BenchStartError, PoolError};
use crate::command::CommandError;
use crate::doctor::{MachineKind, Runner};
use crate::image::{Image, ImageError};
use crate::outer::client::AgentError;
use crate::outer::protocol::Ending;
use crate::outer::{OuterError, STALL, Shape};
use crate::packages::PackageError;
use crate::peer::{PeerError, Vmm};
use crate::traffic::TrafficError;
use crate::workspace;
use here::Plan;
use outcome::Outcome;

/// The configuration the demo boots, from the root of the checkout.
const CONFIG: &str = "resources/configs/dpdk-l2fwd.json";

/// Longest time for all of it in the outer machine.
const LAB_LIMIT: Duration = Duration::from_secs(1200);

/// What to show.
#[derive(Debug, Clone, Args)]
pub struct Demo {
    /// Frames to send before the move, one in flight
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub frames: u64,
    /// How long the guest may stand still, in ms; by default what the VMM has, and 1000 in the lab
    #[arg(long)]
    downtime_ms: Option<u64>,
    /// Run and move the same guest in another VMM, to compare with
    #[arg(long, value_enum)]
    peer: Option<Peer>,
    /// The `godwit` to run; by default a release build is made
    #[arg(long)]
    godwit: Option<PathBuf>,
    /// Do it on this machine; the lab runs itself so in the outer machine
    #[arg(long, hide = true, requires = "outcome")]
    here: bool,
    /// Where to write what came of it, with `--here`
    #[arg(long, hide = true)]
    outcome: Option<PathBuf>,
}

/// Another VMM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Peer {
    /// QEMU's q35 machine.
    Qemu,
}

/// Why there was nothing to see, or not what there should have been.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// `godwit` does not build.
    #[error("the demo needs godwit")]
    Build(#[from] BenchStartError),
    /// A package is missing.
    #[error("the demo needs packages of the distribution")]
    Package(#[from] PackageError),
    /// There are not enough huge pages for both sides.
    #[error("the demo needs huge pages for the guest at both sides")]
    Pool(#[from] PoolError),
    /// A command failed.
    #[error("the demo needs a command")]
    Command(#[from] CommandError),
    /// There is no guest image.
    #[error("the demo needs the guest image")]
    Image(#[from] ImageError),
    /// There is no outer machine.
    #[error("the demo needs the outer machine")]
    Outer(#[from] OuterError),
    /// The outer machine was lost.
    #[error("the demo was cut off")]
    Agent(#[from] AgentError),
    /// Frames could not be sent.
    #[error("no frames could be sent")]
    Traffic(#[from] TrafficError),
    /// A file could not be read or written.
    #[error("cannot use {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The guest or a VMM did not do what it should.
    #[error("the guest or its VMM failed; what they said last:\n{said}")]
    Guest {
        /// The end of both sides' consoles.
        said: String,
        /// What they did not do.
        source: PeerError,
    },
    /// The demo in the outer machine failed; its own words were printed.
    #[error("the demo failed in the outer machine: {0}")]
    Inside(Ending),
    /// Frames were lost or damaged where none may be.
    #[error("not every frame fared as it should: {fault}{stall}")]
    Fault {
        /// What happened.
        fault: String,
        /// Whether the lab itself stood still meanwhile.
        stall: String,
    },
}

/// Runs the demo where a Linux guest can run.
///
/// # Errors
/// See [`DemoError`]; a frame that is lost outside of the switch is one.
pub fn run(demo: &Demo) -> Result<(), DemoError> {
    let vmm = match demo.peer {
        Some(Peer::Qemu) => Vmm::Qemu,
        None => Vmm::Godwit(bench::godwit_binary(demo.godwit.as_deref())?),
    };
    let plan = Plan {
        vmm,
        frames: demo.frames,
        emulated: demo.here,
        downtime_ms: demo.downtime_ms,
    };
    if let (true, Some(path)) = (demo.here, &demo.outcome) {
        let outcome = here::run(&plan)?;
        let json = serde_json::to_vec(&outcome).unwrap_or_default();
        return fs::write(path, json).map_err(|source| DemoError::Io {
            path: path.clone(),
            source,
        });
    }
    Image::build()?;
    let (outcome, gap) = match MachineKind::detect().linux_runner() {
        Runner::Direct => (here::run(&plan)?, Duration::ZERO),
        Runner::Lab => in_lab(&plan)?,
    };
    show(&outcome)?;
    match outcome.fault(plan.frames) {
        None => {
            println!("{}", table::verdict(&outcome));
            Ok(())
        }
        Some(fault) => Err(DemoError::Fault {
            fault,
            stall: if gap > STALL {
                format!(
                    "; the emulated machine itself stood still for {gap:.0?} meanwhile: run it again"
                )
            } else {
                String::new()
            },
        }),
    }
}

fn show(outcome: &Outcome) -> Result<(), DemoError> {
    println!("one in flight, before the move: {}", outcome.tally);
    println!("{}", bars::bars(&outcome.tally));
    println!("{}", table::table(outcome));
    let json = serde_json::to_string(outcome).unwrap_or_default();
    for (name, text) in [("demo.json", json), ("demo.svg", chart::svg(outcome))] {
        let path = workspace::lab().join(name);
        let written = fs::write(&path, text);
        written.map_err(|source| DemoError::Io {
            path: path.clone(),
            source,
        })?;
        println!("written: {}", path.display());
    }
    println!();
    Ok(())
}

/// What came of it, and the longest time for which the outer machine's heart stood still.
fn in_lab(plan: &Plan) -> Result<(Outcome, Duration), DemoError> {
    let mut arguments = vec!["demo".to_owned(), "--frames".to_owned()];
    arguments.push(plan.frames.to_string());
    if let Some(limit) = plan.downtime_ms {
        arguments.extend(["--downtime-ms".to_owned(), limit.to_string()]);
    }
    arguments.extend(match &plan.vmm {
        Vmm::Godwit(program) => ["--godwit".to_owned(), program.display().to_string()],
        Vmm::Qemu => ["--peer".to_owned(), "qemu".to_owned()],
    });
    arguments.extend(["--here".to_owned(), "--outcome".to_owned()]);
    let left = lab::run("demo in the lab", &arguments, LAB_LIMIT, Shape::default())?;
    let file = left.file.unwrap_or_default();
    match serde_json::from_slice(&file) {
        Ok(outcome) if left.ending.success() => Ok((outcome, left.gap)),
        _ => Err(DemoError::Inside(left.ending)),
    }
}

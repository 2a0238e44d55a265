//! `cargo lab demo`: a DPDK guest, real packets through it, and a picture of how they fared.

mod here;
mod picture;

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use clap::Args;

use crate::command::{self, CommandError};
use crate::doctor::{MachineKind, Runner};
use crate::image::{Image, ImageError};
use crate::outer::client::AgentError;
use crate::outer::protocol::{Ending, Stream};
use crate::outer::{Outer, OuterError, Shape, exec};
use crate::progress::Step;
use crate::traffic::{Tally, TrafficError};
use crate::workspace;

/// The configuration the demo boots, from the root of the checkout.
const CONFIG: &str = "resources/configs/dpdk-l2fwd.json";

/// What to show.
#[derive(Debug, Clone, Args)]
pub struct Demo {
    /// Frames to send, one in flight
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub frames: u64,
    /// Do it on this machine, with this `godwit`; the lab runs itself so in the outer machine
    #[arg(long, hide = true)]
    here: Option<PathBuf>,
    /// Where to write the tally, with `--here`
    #[arg(long, hide = true)]
    tally: Option<PathBuf>,
}

/// Why there was nothing to see, or not what there should have been.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
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
    /// The guest did not do what it should.
    #[error("{what}; the end of its console:\n{console}")]
    Guest {
        /// What it did instead.
        what: String,
        /// The last lines of the console.
        console: String,
    },
    /// The demo in the outer machine failed; its own words were printed.
    #[error("the demo failed in the outer machine: {0}")]
    Inside(Ending),
    /// Frames were lost or damaged.
    #[error("not every frame came back whole: {0}")]
    Loss(String),
}

/// Runs the demo where a Linux guest can run.
///
/// # Errors
/// See [`DemoError`]; a lost frame is one.
pub fn run(demo: &Demo) -> Result<(), DemoError> {
    if let (Some(godwit), Some(path)) = (&demo.here, &demo.tally) {
        let tally = here::run(godwit, demo.frames)?;
        let json = serde_json::to_vec(&tally).unwrap_or_default();
        return fs::write(path, json).map_err(|source| DemoError::Io {
            path: path.clone(),
            source,
        });
    }
    Image::build()?;
    let godwit = build()?;
    let tally = match MachineKind::detect().linux_runner() {
        Runner::Direct => here::run(&godwit, demo.frames)?,
        Runner::Lab => in_lab(&godwit, demo.frames)?,
    };
    println!("{tally}");
    println!("{}", picture::bars(&tally));
    let path = workspace::lab().join("demo.svg");
    fs::write(&path, picture::svg(&tally)).map_err(|source| DemoError::Io {
        path: path.clone(),
        source,
    })?;
    println!("picture: {}", path.display());
    if tally.sent == demo.frames && tally.lost() == 0 && tally.damaged == 0 {
        Ok(())
    } else {
        Err(DemoError::Loss(tally.to_string()))
    }
}

/// Builds `godwit`; gives its path.
fn build() -> Result<PathBuf, DemoError> {
    let step = Step::start("building godwit");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--package", "godwit", "--bin", "godwit"]);
    cargo
        .args(["--message-format", "json-render-diagnostics"])
        .current_dir(workspace::root());
    let built = command::succeed(cargo, Duration::from_secs(900))?.stdout;
    let executable = |line: &str| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        message.get("executable")?.as_str().map(PathBuf::from)
    };
    let path = built.lines().filter_map(executable).next_back();
    step.done("done");
    path.ok_or_else(|| DemoError::Io {
        path: "godwit".into(),
        source: io::Error::new(io::ErrorKind::NotFound, "cargo built no such program"),
    })
}

fn in_lab(godwit: &std::path::Path, frames: u64) -> Result<Tally, DemoError> {
    let outer = Outer::start(Shape::default())?;
    let step = Step::start("demo in the lab");
    let path = outer.share().join("tally.json");
    let at = |source| DemoError::Io {
        path: path.clone(),
        source,
    };
    let program = std::env::current_exe().map_err(at)?;
    let mut arguments = vec![program.display().to_string(), "demo".to_owned()];
    arguments.extend(["--frames".to_owned(), frames.to_string()]);
    arguments.extend(["--here".to_owned(), godwit.display().to_string()]);
    arguments.extend(["--tally".to_owned(), path.display().to_string()]);
    let result = outer.client().run(
        exec(arguments, Duration::from_secs(600)),
        |_: Stream, data| {
            for line in String::from_utf8_lossy(data)
                .lines()
                .filter(|line| !line.trim().is_empty())
            {
                step.line(&format!("  {line}"));
            }
        },
    )?;
    if !result.ending.success() {
        return Err(DemoError::Inside(result.ending));
    }
    let tally = fs::read(&path).map_err(at)?;
    step.done("done");
    serde_json::from_slice(&tally).map_err(|error| at(error.into()))
}

//! `cargo lab demo`: a DPDK guest, real packets through it, and a picture of how they fared.

mod here;
mod picture;

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::build::{self, BuildError};
use crate::command::CommandError;
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
    /// Run the same guest in another VMM, to compare with
    #[arg(long, value_enum)]
    peer: Option<Peer>,
    /// Do it on this machine; the lab runs itself so in the outer machine
    #[arg(long, hide = true, requires = "tally")]
    here: bool,
    /// The `godwit` to run
    #[arg(long, hide = true)]
    godwit: Option<PathBuf>,
    /// Where to write the tally, with `--here`
    #[arg(long, hide = true)]
    tally: Option<PathBuf>,
}

/// Another VMM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Peer {
    /// QEMU's q35 machine.
    Qemu,
}

/// What runs the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Vmm {
    Godwit(PathBuf),
    Qemu,
}

/// Why there was nothing to see, or not what there should have been.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// `godwit` does not build.
    #[error("the demo needs godwit")]
    Build(#[from] BuildError),
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
    let vmm = match (&demo.peer, &demo.godwit) {
        (Some(Peer::Qemu), _) => Vmm::Qemu,
        (None, Some(godwit)) => Vmm::Godwit(godwit.clone()),
        (None, None) => Vmm::Godwit(build::godwit()?),
    };
    if let (true, Some(path)) = (demo.here, &demo.tally) {
        let tally = here::run(&vmm, demo.frames)?;
        let json = serde_json::to_vec(&tally).unwrap_or_default();
        return fs::write(path, json).map_err(|source| DemoError::Io {
            path: path.clone(),
            source,
        });
    }
    Image::build()?;
    let tally = match MachineKind::detect().linux_runner() {
        Runner::Direct => here::run(&vmm, demo.frames)?,
        Runner::Lab => in_lab(&vmm, demo.frames)?,
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

fn in_lab(vmm: &Vmm, frames: u64) -> Result<Tally, DemoError> {
    let outer = Outer::start(Shape::default())?;
    let step = Step::start("demo in the lab");
    let path = outer.share().join("tally.json");
    let at = |source| DemoError::Io {
        path: path.clone(),
        source,
    };
    let program = workspace::this_program().map_err(at)?;
    let mut arguments = vec![program.display().to_string(), "demo".to_owned()];
    arguments.extend(["--frames".to_owned(), frames.to_string()]);
    arguments.push("--here".to_owned());
    arguments.extend(match vmm {
        Vmm::Godwit(program) => ["--godwit".to_owned(), program.display().to_string()],
        Vmm::Qemu => ["--peer".to_owned(), "qemu".to_owned()],
    });
    arguments.extend(["--tally".to_owned(), path.display().to_string()]);
    let mut unfinished = String::new();
    let exec = exec(arguments, Duration::from_secs(600));
    let result = outer.client().run(exec, |_: Stream, data| {
        unfinished.push_str(&String::from_utf8_lossy(data));
        while let Some((line, rest)) = unfinished.split_once('\n') {
            step.line(&format!("  {line}"));
            unfinished = rest.to_owned();
        }
    })?;
    if !result.ending.success() {
        return Err(DemoError::Inside(result.ending));
    }
    let tally = fs::read(&path).map_err(at)?;
    step.done("done");
    serde_json::from_slice(&tally).map_err(|error| at(error.into()))
}

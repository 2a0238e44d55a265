//! Both VMMs once in each round, each round beginning with the other one, in one machine: this one,
//! or where it has no hardware virtualization an outer machine of the lab.
//!
//! ```text
//! cargo lab bench VERB            ─┬─ direct: every run here
//!                                  └─ lab: cargo lab bench VERB --here --result FILE, in there
//! ```

mod table;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub(super) use table::{Figure, remark, table};

use super::start::BenchStartError;
use super::{interrupt, save, saved};
use crate::demo::{DemoError, lab};
use crate::doctor::{MachineKind, Runner};
use crate::image::ImageError;
use crate::outer::Shape;
use crate::peer::Vmm;

/// Longest time for a run beside what it measures: boot and power-off.
pub(super) const BOOT_LIMIT: Duration = Duration::from_secs(300);

/// For a kernel of the outer machine whose guests tell times. Its emulated TSCs are one, but not seen
/// to be: KVM would catch up with them at every entry, and guests' timers would come late by that.
pub(super) const ONE_TSC: &str = "tsc=reliable";

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum TurnsError {
    /// godwit is not there.
    #[error("no godwit to measure")]
    Program(#[from] BenchStartError),
    /// There is no guest image.
    #[error("no guest to measure")]
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
    /// The options contradict each other.
    #[error("{0}")]
    Options(String),
    /// Somebody asked for the end.
    #[error("interrupted; what was measured until then is saved")]
    Interrupted,
    /// Some runs failed.
    #[error("{0} runs failed, or lost frames where none may be; the table says why")]
    Failed(usize),
}

/// All runs of one VMM.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Row<S> {
    pub vmm: String,
    pub samples: Vec<S>,
    pub failures: Vec<String>,
}

/// What came of all runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Comparison<S> {
    /// Whether CPUs and KVM were emulated.
    pub emulated: bool,
    /// The host's kernel.
    pub kernel: String,
    /// A row to each VMM, godwit first.
    pub rows: Vec<Row<S>>,
}

impl<S> Comparison<S> {
    /// The names of the first VMM and the other.
    pub(super) fn names(&self) -> (&str, &str) {
        let first = self.rows.first().map_or("?", |row| row.vmm.as_str());
        (first, self.rows.last().map_or("?", |row| row.vmm.as_str()))
    }
}

/// Who is measured, how often and where.
#[derive(Debug)]
pub(super) struct Turns<'a> {
    /// The verb of `cargo lab bench`.
    pub verb: &'static str,
    /// Runs of each VMM.
    pub rounds: u32,
    /// godwit's program.
    pub godwit: &'a Path,
    /// This is the outer machine, and the file is for what is measured.
    pub here: Option<&'a Path>,
    /// Further words for the verb in the outer machine.
    pub arguments: Vec<String>,
    /// Longest time for what one run measures.
    pub limit: Duration,
    /// Words for the kernel of the outer machine.
    pub parameters: &'static str,
}

impl Turns<'_> {
    /// Measures by `run`, which is told whether the machine is emulated; `told` puts a sample into
    /// a line. What there is is saved after each run. `None` in the outer machine, which leaves
    /// the result in its file.
    ///
    /// # Errors
    /// When there is no machine to measure in, or nothing can be saved. A run that fails is no
    /// error here: its reason is in its row.
    pub(super) fn compare<S: Serialize + DeserializeOwned>(
        &self,
        run: impl FnMut(&Vmm, bool) -> Result<S, DemoError>,
        told: impl Fn(&S) -> String,
    ) -> Result<Option<Comparison<S>>, TurnsError> {
        if let Some(path) = self.here {
            let keep =
                |comparison: &Comparison<S>| fs::write(path, serde_json::to_vec(comparison)?);
            self.measure(true, run, told, keep)?;
            return Ok(None);
        }
        let name = self.file();
        let keep = |comparison: &Comparison<S>| save(&name, comparison).map(drop);
        let comparison = match MachineKind::detect().linux_runner() {
            Runner::Direct => self.measure(false, run, told, keep)?,
            Runner::Lab => self.in_lab()?,
        };
        save(&name, &comparison)?;
        Ok(Some(comparison))
    }

    /// Prints `comparison`, as JSON or by `text`, and is an error where a run failed.
    pub(super) fn conclude<S: Serialize>(
        &self,
        comparison: &Comparison<S>,
        as_json: bool,
        text: impl Fn(&Comparison<S>) -> String,
    ) -> Result<(), TurnsError> {
        if as_json {
            let document = serde_json::to_string_pretty(comparison);
            println!("{}", document.map_err(io::Error::from)?);
        } else {
            println!("{}", text(comparison));
            println!("every run: {}", saved(&self.file()).display());
        }
        verdict(comparison.rows.iter().map(|row| row.failures.len()).sum())
    }

    /// Where the samples are, beside those of other benchmarks.
    pub(super) fn file(&self) -> String {
        format!("{}.json", self.verb)
    }

    fn measure<S>(
        &self,
        emulated: bool,
        mut run: impl FnMut(&Vmm, bool) -> Result<S, DemoError>,
        told: impl Fn(&S) -> String,
        mut keep: impl FnMut(&Comparison<S>) -> io::Result<()>,
    ) -> io::Result<Comparison<S>> {
        let vmms = [Vmm::Godwit(self.godwit.to_owned()), Vmm::Qemu];
        let row = |vmm: &Vmm| Row {
            vmm: vmm.name().to_owned(),
            samples: Vec::new(),
            failures: Vec::new(),
        };
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
        let mut comparison = Comparison {
            emulated,
            kernel: kernel.trim().to_owned(),
            rows: vmms.iter().map(row).collect(),
        };
        for round in 0..self.rounds {
            let first = usize::from(round % 2 == 1);
            for index in [first, 1 - first] {
                if interrupt::asked() {
                    return Ok(comparison);
                }
                let (Some(vmm), Some(row)) = (vmms.get(index), comparison.rows.get_mut(index))
                else {
                    continue;
                };
                eprintln!("round {} of {}, {}", round + 1, self.rounds, row.vmm);
                match run(vmm, emulated) {
                    Ok(sample) => {
                        eprintln!("{}: {}", row.vmm, told(&sample));
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

    fn in_lab<S: DeserializeOwned>(&self) -> Result<Comparison<S>, TurnsError> {
        let mut arguments = ["bench", self.verb, "--rounds"].map(str::to_owned).to_vec();
        arguments.push(self.rounds.to_string());
        arguments.extend_from_slice(&self.arguments);
        arguments.extend(["--godwit".to_owned(), self.godwit.display().to_string()]);
        arguments.extend(["--here".to_owned(), "--result".to_owned()]);
        let limit = (BOOT_LIMIT + self.limit) * 2 * self.rounds;
        let shape = Shape {
            parameters: self.parameters,
            ..Shape::default()
        };
        let name = "godwit and QEMU in the lab";
        let left = lab::run(name, &arguments, limit, shape).map_err(Box::new)?;
        eprintln!(
            "the outer machine's longest time without a heartbeat: {:.1} s",
            left.gap.as_secs_f64()
        );
        // A machine that was cut off leaves the runs before.
        let file = left.file.unwrap_or_default();
        serde_json::from_slice(&file).map_err(|_| TurnsError::Nothing(left.ending.to_string()))
    }
}

/// An error where there was one: Ctrl-C, or `faults` runs.
pub(super) fn verdict(faults: usize) -> Result<(), TurnsError> {
    if interrupt::asked() {
        return Err(TurnsError::Interrupted);
    }
    match faults {
        0 => Ok(()),
        faults => Err(TurnsError::Failed(faults)),
    }
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

/// What every benchmark of this kind can be told.
#[derive(Debug, Clone, clap::Args)]
pub struct TurnOptions {
    /// Runs of each VMM
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) rounds: u32,
    /// godwit's binary; by default a release build is made
    #[arg(long)]
    pub(super) godwit: Option<PathBuf>,
    /// Do it on this machine; the lab runs itself so in the outer machine
    #[arg(long, hide = true, requires_all = ["result", "godwit"])]
    here: bool,
    /// Where to write the samples, with `--here`
    #[arg(long, hide = true)]
    result: Option<PathBuf>,
}

impl TurnOptions {
    /// The file for the samples, in the outer machine.
    pub(super) fn here(&self) -> Option<&Path> {
        self.result.as_deref().filter(|_| self.here)
    }
}

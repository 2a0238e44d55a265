//! `cargo lab bench migrate`: how fast a running guest moves, and what it costs.
//!
//! Two processes on one machine, over the loopback interface of a network of their own, so that
//! the bytes on it are the migration's. The guest beats on its serial port; both sides' ports are
//! read and time-stamped by one thread, which has the clock for the gap.

use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};

mod beats;
mod case;
pub(crate) mod interrupt;
mod network;
mod plot;
pub(super) mod process;
mod qemu;
pub(crate) mod qmp;
mod report;
pub(crate) mod rest;
mod rest_vmm;
mod run;
mod vmm;

use super::pool::{HugePagePool, PoolError};
use super::start::{self, BenchStartError};
use super::{save, save_text};
use crate::doctor;
use crate::payload::{self, PayloadError};
use case::Case;
use report::Row;
use run::RunError;
use vmm::{Control, Vmm};

/// What to compare, and how often.
#[derive(Debug, Args)]
pub struct MigrateOptions {
    /// Migrations of each VMM in each case
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Only cases whose name contains one of these; --list prints the names
    #[arg(long, value_delimiter = ',')]
    case: Vec<String>,
    /// Print the names of the cases, and measure nothing
    #[arg(long)]
    list: bool,
    /// Guest memory in MiB, in cases where something else varies
    #[arg(long, default_value_t = 8192)]
    size_mib: u64,
    /// godwit's binary; by default a release build is made
    #[arg(long)]
    godwit: Option<PathBuf>,
    /// QEMU's binary
    #[arg(long, default_value = "qemu-system-x86_64")]
    qemu: PathBuf,
    /// QEMU's machine
    #[arg(long, default_value = "q35")]
    qemu_machine: String,
    /// Another VMM with the same REST routes, as NAME=PATH; may be repeated
    #[arg(long, value_parser = named_path)]
    peer: Vec<(String, PathBuf)>,
    /// A field more of `vm.send-migration`, as KEY=JSON, such as zero_lines="off"; may be repeated
    #[arg(long, value_parser = field)]
    send: Vec<(String, Value)>,
    /// godwit as it is and with each means of speed left out in turn, and no other VMM
    #[arg(long, conflicts_with_all = ["peers_only", "peer", "send"])]
    means: bool,
    /// Leave out godwit: what the others do
    #[arg(long)]
    peers_only: bool,
    /// Leave out QEMU
    #[arg(long)]
    without_qemu: bool,
}

/// What `vm.send-migration` and `vm.receive-migration` can do without.
pub const MEANS: [&str; 10] = [
    "discovery",
    "untouched",
    "zero-pages",
    "clear-before-read",
    "hot-pages-last",
    "striped-final",
    "stop-at-minimum",
    "checksum-pages",
    "populate-ahead",
    "write-through-file",
];

fn field(text: &str) -> Result<(String, Value), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=JSON")?;
    // A bare word is a string.
    let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
    Ok((key.to_owned(), value))
}

fn named_path(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && Path::new(path).is_file() => {
            Ok((name.to_owned(), path.into()))
        }
        Some((_, path)) => Err(format!("no file {path:?}")),
        None => Err("expected NAME=PATH".to_owned()),
    }
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum BenchMigrateError {
    /// The payload could not be built.
    #[error("no payload to boot")]
    Payload(#[from] PayloadError),
    /// A VMM is not there.
    #[error("no VMM to measure")]
    Program(#[from] BenchStartError),
    /// No case has such a name.
    #[error("no case has {0:?} in its name; --list prints the names")]
    NoCase(Vec<String>),
    /// There is nothing to measure.
    #[error("every VMM is left out")]
    NoVmm,
    /// Something of this machine.
    #[error("cannot {attempt}")]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// The reason.
        source: io::Error,
    },
    /// Some runs failed.
    #[error("{0} migrations failed; the table says why")]
    Failed(usize),
    /// Somebody asked for the end.
    #[error("interrupted; what was measured until then is saved")]
    Interrupted,
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    rounds: usize,
    qemu_machine: &'a str,
    kernel: String,
    rows: &'a [Row],
}

/// Measures, prints a table, saves every sample and a plot.
///
/// # Errors
/// When something cannot be set up. A run that fails is told in the table, and the next one goes
/// on; in the end it is an error, too.
pub fn run(options: &MigrateOptions) -> Result<(), BenchMigrateError> {
    let cases = chosen(options)?;
    if options.list {
        for case in &cases {
            println!("{case}");
        }
        return Ok(());
    }
    let io = |attempt| move |source| BenchMigrateError::Io { attempt, source };
    let payload = payload::build()?.elf_pvh;
    let vmms = vmms(options)?;
    interrupt::note_signals().map_err(io("catch signals"))?;
    network::apart().map_err(io("make a network of our own: is this root?"))?;
    let name = format!("godwit-migrate-{}", std::process::id());
    let folder = std::env::temp_dir().join(name);

    let mut rows = Vec::new();
    for (index, case) in cases.iter().enumerate() {
        eprintln!("case {} of {}: {case}", index + 1, cases.len());
        rows.extend(measure(case, &vmms, options.rounds, &payload, &folder));
        // After each case: hours of samples do not wait for the last one.
        let saved = write(options, &rows).map_err(io("save the result"))?;
        if interrupt::asked() {
            println!("{}", report::table(&rows));
            return Err(BenchMigrateError::Interrupted);
        }
        if index + 1 == cases.len() {
            println!("{}", report::table(&rows));
            println!("every sample: {}", saved.display());
            println!("plot: {}", saved.with_extension("svg").display());
        }
    }
    match rows.iter().map(|row| row.failures.len()).sum() {
        0 => Ok(()),
        failures => Err(BenchMigrateError::Failed(failures)),
    }
}

fn chosen(options: &MigrateOptions) -> Result<Vec<Case>, BenchMigrateError> {
    let wanted = |case: &Case| {
        let name = case.to_string();
        options.case.is_empty() || options.case.iter().any(|part| name.contains(part))
    };
    let cases: Vec<Case> = case::all(options.size_mib)
        .into_iter()
        .filter(wanted)
        .collect();
    if cases.is_empty() {
        return Err(BenchMigrateError::NoCase(options.case.clone()));
    }
    Ok(cases)
}

fn vmms(options: &MigrateOptions) -> Result<Vec<Vmm>, BenchMigrateError> {
    let mut vmms = Vec::new();
    if !options.peers_only {
        vmms.push(Vmm {
            name: "godwit".to_owned(),
            program: start::godwit_binary(options.godwit.as_deref())?,
            control: Control::Rest(options.send.clone()),
        });
    }
    if options.means {
        let godwit = vmms.first().map(|vmm| vmm.program.clone());
        let without = MEANS.iter().map(|means| ("without", json!([means])));
        let lines = [("zero_lines", json!("off"))];
        for (field, value) in without.chain(lines) {
            vmms.push(Vmm {
                name: match value.get(0) {
                    Some(means) => format!("without {}", means.as_str().unwrap_or_default()),
                    None => "without zero-lines".to_owned(),
                },
                program: godwit.clone().unwrap_or_default(),
                control: Control::Rest(vec![(field.to_owned(), value)]),
            });
        }
        return Ok(vmms);
    }
    if !options.without_qemu {
        let program = start::installed(&options.qemu)
            .ok_or_else(|| BenchStartError::Missing(options.qemu.clone()))?;
        vmms.push(Vmm {
            name: "qemu".to_owned(),
            program,
            control: Control::Qmp(options.qemu_machine.clone()),
        });
    }
    vmms.extend(options.peer.iter().map(|(name, program)| Vmm {
        name: name.clone(),
        program: program.clone(),
        control: Control::Rest(Vec::new()),
    }));
    if vmms.is_empty() {
        return Err(BenchMigrateError::NoVmm);
    }
    Ok(vmms)
}

/// All VMMs once in each round, each round beginning with the next one.
fn measure(case: &Case, vmms: &[Vmm], rounds: usize, payload: &Path, folder: &Path) -> Vec<Row> {
    let pool = pool_for(case);
    let mut rows: Vec<Row> = vmms
        .iter()
        .map(|vmm| Row {
            case: *case,
            name: case.to_string(),
            vmm: vmm.name.clone(),
            left_out: match (&pool, vmm.lacks(case)) {
                (_, Some(why)) => Some(why.to_owned()),
                (Err(why), None) => Some(why.clone()),
                (Ok(_), None) => no_room_for(case, vmm),
            },
            failures: Vec::new(),
            samples: Vec::new(),
        })
        .collect();
    for round in 0..rounds {
        let first = round % vmms.len().max(1);
        for index in (first..vmms.len()).chain(0..first) {
            let (Some(vmm), Some(row)) = (vmms.get(index), rows.get_mut(index)) else {
                continue;
            };
            if row.left_out.is_some() || interrupt::asked() {
                continue;
            }
            let result = run::measure(vmm, case, payload, folder);
            match result {
                Ok(sample) => {
                    eprintln!(
                        "  {} of {rounds}, {}: total {:.1} ms, gap {:.2} ms",
                        round + 1,
                        vmm.name,
                        sample.total_ms,
                        sample.gap_us / 1e3
                    );
                    row.samples.push(sample);
                }
                Err(error) => {
                    let text = chain(&error);
                    eprintln!("  {} of {rounds}, {}: {text}", round + 1, vmm.name);
                    row.failures.push(text);
                }
            }
        }
    }
    rows
}

/// Huge pages for both sides, given back when dropped, or why there is not enough memory.
/// Why there is not enough memory, if there is not.
fn no_room_for(case: &Case, vmm: &Vmm) -> Option<String> {
    // Huge pages were taken for both sides already.
    if case.memory.is_huge() {
        return None;
    }
    let available = doctor::memory_available_mib();
    let needed = case.needs_mib(vmm.touches_all());
    (available < needed)
        .then(|| format!("both sides may take {needed} MiB, and {available} MiB are free"))
}

fn pool_for(case: &Case) -> Result<Option<HugePagePool>, String> {
    match case.huge_pages() {
        0 => Ok(None),
        pages => {
            let (available, needed) = (doctor::memory_available_mib(), case.needs_mib(true));
            if available < needed {
                return Err(format!(
                    "both sides may take {needed} MiB, and {available} MiB are free"
                ));
            }
            HugePagePool::with_free(pages)
                .map(Some)
                .map_err(|error: PoolError| error.to_string())
        }
    }
}

fn chain(error: &RunError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn write(options: &MigrateOptions, rows: &[Row]) -> io::Result<PathBuf> {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    save_text("migrate.svg", &plot::svg(rows))?;
    save(
        "migrate.json",
        &Report {
            rounds: options.rounds,
            qemu_machine: &options.qemu_machine,
            kernel: kernel.trim().to_owned(),
            rows,
        },
    )
}

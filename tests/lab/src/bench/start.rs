//! `cargo lab bench start`: how fast a guest starts, and what it costs the host.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, id};

use clap::Args;
use serde::Serialize;

use super::measure::{self, MeasureError, Start};
use super::peer::{GUEST_MIB, Peer};
use super::pool::{HugePagePool, PoolError};
use super::prefault::{self, HUGE_PAGE, Prefault};
use super::sample::Summary;
use super::{checkout, save};
use crate::payload::{self, PayloadError};

/// What to compare, and how often.
#[derive(Debug, Args)]
pub struct StartOptions {
    /// Starts of each VMM
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// godwit's binary; by default a release build is made
    #[arg(long)]
    godwit: Option<PathBuf>,
    /// QEMU's binary
    #[arg(long, default_value = "qemu-system-x86_64")]
    qemu: PathBuf,
    /// Cloud Hypervisor's binary, to compare with it too
    #[arg(long)]
    cloud_hypervisor: Option<PathBuf>,
    /// Firecracker's binary, to compare with it too
    #[arg(long)]
    firecracker: Option<PathBuf>,
    /// Leave out godwit: what the machine and the others do
    #[arg(long)]
    peers_only: bool,
    /// Huge pages to prefault, in MiB; 0: none
    #[arg(long, default_value_t = 8192)]
    prefault_mib: u64,
    /// Repetitions of each way to prefault
    #[arg(long, default_value_t = 5)]
    prefault_rounds: usize,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum BenchStartError {
    /// The payload could not be built.
    #[error("no payload to boot")]
    Payload(#[from] PayloadError),
    /// godwit could not be built.
    #[error("`cargo build --release -p godwit` failed")]
    Build,
    /// A program is not on this machine.
    #[error("{0} is not installed (Debian: `apt-get install qemu-system-x86`)")]
    Missing(PathBuf),
    /// A VMM could not be measured.
    #[error("cannot measure {peer}")]
    Measure {
        /// Which.
        peer: &'static str,
        /// The reason.
        source: MeasureError,
    },
    /// Huge pages could not be had.
    #[error("no huge pages to prefault; ask for less with --prefault-mib, or for none with 0")]
    Pool(#[from] PoolError),
    /// A file could not be used, or a program not be run.
    #[error("cannot {attempt}")]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// The reason.
        source: io::Error,
    },
}

fn io_error(attempt: &'static str) -> impl FnOnce(io::Error) -> BenchStartError {
    move |source| BenchStartError::Io { attempt, source }
}

/// One VMM's figures.
#[derive(Debug, Serialize)]
struct Figures {
    name: &'static str,
    binary_kib: u64,
    first_byte_ms: Option<Summary>,
    beyond_guest_kib: Option<Summary>,
    threads: Option<Summary>,
    samples: Vec<Start>,
}

#[derive(Debug, Serialize)]
struct Report {
    rounds: usize,
    guest_mib: u64,
    peers: Vec<Figures>,
    prefault: Option<Prefault>,
}

/// A folder for configs and logs, removed with what is in it.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new() -> io::Result<Self> {
        let scratch = Self(std::env::temp_dir().join(format!("godwit-bench-{}", id())));
        fs::create_dir_all(&scratch.0)?;
        Ok(scratch)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Measures, prints a table, and saves every sample.
///
/// # Errors
/// When a VMM is missing or cannot be measured.
pub fn run(options: &StartOptions) -> Result<(), BenchStartError> {
    let payload = payload::build()?.elf_pvh;
    let godwit = if options.peers_only {
        None
    } else {
        Some(godwit_binary(options.godwit.as_deref())?)
    };
    let peers = peers(options, godwit.as_ref())?;
    let scratch = Scratch::new().map_err(io_error("make a folder for configs"))?;

    let samples = rounds(&peers, &payload, &scratch.0, options.rounds)?;
    let figures = peers
        .iter()
        .zip(samples)
        .map(|(peer, samples)| figures(peer, samples, &scratch.0))
        .collect::<Result<Vec<_>, _>>()?;
    print_table(&figures);

    let prefault = match options.prefault_mib {
        0 => None,
        mib => Some(prefault(
            mib,
            options.prefault_rounds,
            godwit.as_deref(),
            &payload,
            &scratch.0,
        )?),
    };
    if let Some(prefault) = &prefault {
        print_prefault(prefault);
    }
    let report = Report {
        rounds: options.rounds,
        guest_mib: GUEST_MIB,
        peers: figures,
        prefault,
    };
    let saved = save("start.json", &report).map_err(io_error("save the result"))?;
    println!("\nevery sample: {}", saved.display());
    Ok(())
}

/// Asks cargo where the binary is: the target directory may be anywhere.
pub(crate) fn godwit_binary(given: Option<&Path>) -> Result<PathBuf, BenchStartError> {
    if let Some(path) = given {
        return std::path::absolute(path).map_err(io_error("use the path of godwit"));
    }
    eprintln!("building godwit (release) ...");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(checkout())
        .args([
            "build",
            "--release",
            "--package",
            "godwit",
            "--bin",
            "godwit",
            "--message-format=json",
        ])
        .stderr(std::process::Stdio::inherit())
        .output()
        .map_err(io_error("run cargo"))?;
    let executable = |line: &str| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        (message["target"]["name"] == "godwit").then_some(())?;
        message["executable"].as_str().map(PathBuf::from)
    };
    let found = String::from_utf8_lossy(&output.stdout)
        .lines()
        .find_map(executable);
    if !output.status.success() {
        return Err(BenchStartError::Build);
    }
    found.ok_or(BenchStartError::Build)
}

fn peers(options: &StartOptions, godwit: Option<&PathBuf>) -> Result<Vec<Peer>, BenchStartError> {
    let qemu =
        installed(&options.qemu).ok_or_else(|| BenchStartError::Missing(options.qemu.clone()))?;
    let mut peers: Vec<Peer> = godwit.cloned().map(Peer::godwit).into_iter().collect();
    peers.extend(Peer::qemu(&qemu));
    peers.extend(options.cloud_hypervisor.clone().map(Peer::cloud_hypervisor));
    peers.extend(options.firecracker.clone().map(Peer::firecracker));
    Ok(peers)
}

/// A name's file in PATH, or the path itself.
pub(super) fn installed(program: &Path) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(PathBuf::new()).chain(std::env::split_paths(&path));
    folders
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// All peers once in each round, each round beginning with the next one.
fn rounds(
    peers: &[Peer],
    payload: &Path,
    folder: &Path,
    rounds: usize,
) -> Result<Vec<Vec<Start>>, BenchStartError> {
    let mut samples = vec![Vec::with_capacity(rounds); peers.len()];
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        let first = round % peers.len().max(1);
        for index in (first..peers.len()).chain(0..first) {
            let (Some(peer), Some(kept)) = (peers.get(index), samples.get_mut(index)) else {
                continue;
            };
            let command = peer
                .command(payload, folder)
                .map_err(io_error("write a config"))?;
            let start = measure::start(command, folder, GUEST_MIB);
            kept.push(start.map_err(|source| BenchStartError::Measure {
                peer: peer.name,
                source,
            })?);
        }
    }
    Ok(samples)
}

fn figures(peer: &Peer, samples: Vec<Start>, folder: &Path) -> Result<Figures, BenchStartError> {
    // Counts of threads and KiB are far below 2^52, so they are exact as f64.
    #[allow(clippy::cast_precision_loss)]
    let (kib, threads) = (
        |s: &Start| s.beyond_guest_kib as f64,
        |s: &Start| s.threads as f64,
    );
    Ok(Figures {
        name: peer.name,
        binary_kib: stripped_size(&peer.program, folder)
            .map_err(io_error("strip a copy of a binary"))?
            >> 10,
        first_byte_ms: Summary::of(samples.iter().map(|s| s.first_byte_ms)),
        beyond_guest_kib: Summary::of(samples.iter().map(kib)),
        threads: Summary::of(samples.iter().map(threads)),
        samples,
    })
}

/// Of the file alone: the shared libraries that QEMU loads (about 30) are not counted.
fn stripped_size(program: &Path, folder: &Path) -> io::Result<u64> {
    let copy = folder.join(program.file_name().unwrap_or(OsStr::new("program")));
    fs::copy(program, &copy)?;
    let stripped = Command::new("strip")
        .arg("--strip-all")
        .arg(&copy)
        .status()?;
    let size = fs::metadata(&copy)?.len();
    fs::remove_file(&copy)?;
    if stripped.success() {
        Ok(size)
    } else {
        Err(io::Error::other("strip failed"))
    }
}

fn prefault(
    mib: u64,
    rounds: usize,
    godwit: Option<&Path>,
    payload: &Path,
    folder: &Path,
) -> Result<Prefault, BenchStartError> {
    let bytes = mib << 20;
    let _pool = HugePagePool::with_free(bytes.div_ceil(HUGE_PAGE))?;
    let mut kernel = [Vec::new(), Vec::new()];
    let mut godwits = [Vec::new(), Vec::new()];
    // One round that is not counted: the first use of host memory can cost extra below this kernel.
    for round in 0..=rounds {
        eprintln!("prefault round {round} of {rounds}");
        for (threads, (kernel, godwits)) in (1..).zip(kernel.iter_mut().zip(&mut godwits)) {
            let took =
                prefault::populate(bytes, threads).map_err(io_error("populate huge pages"))?;
            let started = godwit
                .map(|godwit| prefault::godwit_start(godwit, payload, folder, bytes, threads));
            let started = started
                .transpose()
                .map_err(|source| BenchStartError::Measure {
                    peer: "godwit",
                    source,
                })?;
            if round != 0 {
                #[allow(clippy::cast_precision_loss)] // at most a few TiB
                kernel.push(mib as f64 / 1024.0 / took.as_secs_f64());
                godwits.extend(started.map(|time| time.as_secs_f64()));
            }
        }
    }
    let [kernel_one, kernel_two] = kernel.map(Summary::of);
    let [godwit_one, godwit_two] = godwits.map(Summary::of);
    Ok(Prefault {
        mib,
        kernel_one,
        kernel_two,
        godwit_one,
        godwit_two,
    })
}

fn print_table(figures: &[Figures]) {
    let median = |summary: &Option<Summary>, digits: usize, unit: f64| {
        summary.map_or("-".into(), |s| format!("{:.digits$}", s.median / unit))
    };
    let spread = |summary: &Option<Summary>, unit: f64| {
        summary.map_or("-".into(), |s| {
            format!("{:.1}..{:.1}", s.least / unit, s.p90 / unit)
        })
    };
    println!(
        "\n{:<18}{:>14}{:>18}{:>14}{:>18}{:>9}{:>12}",
        "1 vCPU, 128 MiB",
        "first byte ms",
        "least..p90",
        "beyond MiB",
        "least..p90",
        "threads",
        "binary MiB"
    );
    for f in figures {
        println!(
            "{:<18}{:>14}{:>18}{:>14}{:>18}{:>9}{:>12}",
            f.name,
            median(&f.first_byte_ms, 2, 1.0),
            spread(&f.first_byte_ms, 1.0),
            median(&f.beyond_guest_kib, 2, 1024.0),
            spread(&f.beyond_guest_kib, 1024.0),
            median(&f.threads, 0, 1.0),
            format!("{:.1}", f.binary_kib as f64 / 1024.0),
        );
    }
}

fn print_prefault(p: &Prefault) {
    println!("\nprefault of {} MiB in pages of 2 MiB", p.mib);
    let line = |name: &str, unit: &str, summary: &Option<Summary>| {
        if let Some(s) = summary {
            println!(
                "{name:<44}{:>8.2} {unit}  ({:.2}..{:.2})",
                s.median, s.least, s.most
            );
        }
    };
    line("MADV_POPULATE_WRITE, 1 thread", "GiB/s", &p.kernel_one);
    line("MADV_POPULATE_WRITE, 2 threads", "GiB/s", &p.kernel_two);
    line("godwit to the first byte, on 1 CPU", "s", &p.godwit_one);
    line("godwit to the first byte, on 2 CPUs", "s", &p.godwit_two);
}

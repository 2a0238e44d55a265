//! `cargo lab bench api`: how soon the REST API answers, also while something goes on that takes
//! long.
//!
//! Each request has a connection of its own, as a shell script's has, and its time is from the
//! connection to the end of the answer. `vmm.ping` is answered beside the control loop, `vm.info`
//! by it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};

use super::migrate::interrupt;
use super::migrate::process::Process;
use super::migrate::rest::{self, RestError};
use super::pool::{HugePagePool, PoolError};
use super::save;
use super::start::{self, BenchStartError, Scratch};
use crate::payload::{self, PayloadError};

/// What an answer may take at the 99th percentile.
const TARGET_MS: f64 = 10.0;

/// How long a boot or a migration may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// Memory of the guest that moves: all of it is present, little of it is not zero.
const MOVED_MIB: u64 = 2048;

/// What to measure.
#[derive(Debug, Args)]
pub struct ApiOptions {
    /// Requests of each kind in each case, at least
    #[arg(long, default_value_t = 1000)]
    requests: usize,
    /// Memory that is prefaulted, in MiB, on huge pages
    #[arg(long, default_value_t = 8192)]
    prefault_mib: u64,
    /// godwit's binary; by default a release build is made
    #[arg(long)]
    godwit: Option<PathBuf>,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum BenchApiError {
    /// The payload could not be built.
    #[error("no payload to boot")]
    Payload(#[from] PayloadError),
    /// godwit is not there.
    #[error("no godwit to measure")]
    Program(#[from] BenchStartError),
    /// Huge pages could not be had.
    #[error("no huge pages to prefault; ask for less with --prefault-mib")]
    Pool(#[from] PoolError),
    /// A request was not granted, or not answered.
    #[error("a request failed; on standard error godwit said: {said:?}")]
    Rest {
        /// What the process said.
        said: String,
        /// The reason.
        source: RestError,
    },
    /// Something of this machine.
    #[error("cannot {attempt}")]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// The reason.
        source: io::Error,
    },
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

fn io_error(attempt: &'static str) -> impl FnOnce(io::Error) -> BenchApiError {
    move |source| BenchApiError::Io { attempt, source }
}

/// The answers of one route in one case.
#[derive(Debug, Serialize)]
struct Row {
    case: &'static str,
    route: &'static str,
    requests: usize,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    /// Load of the machine over the last minute, when the case was over.
    load: String,
    samples_ms: Vec<f64>,
}

#[derive(Debug, Serialize)]
struct Report {
    target_p99_ms: f64,
    met: bool,
    prefault_mib: u64,
    rows: Vec<Row>,
}

/// The least sample that `share` of all are not above.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let rank = (sorted.len() as f64 * share).ceil();
    let at = (1..=sorted.len())
        .take_while(|&at| at as f64 <= rank)
        .last();
    let at = at.unwrap_or(1) - 1;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

/// What was measured in one case.
#[derive(Debug, Default)]
struct Times {
    ping: Vec<f64>,
    info: Vec<f64>,
}

impl Times {
    fn rows(self, case: &'static str) -> [Row; 2] {
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load.split(' ').next().unwrap_or_default();
        let row = |route, samples: Vec<f64>| {
            let mut sorted = samples.clone();
            sorted.sort_by(f64::total_cmp);
            Row {
                case,
                route,
                requests: samples.len(),
                p50_ms: percentile(&sorted, 0.5),
                p99_ms: percentile(&sorted, 0.99),
                max_ms: percentile(&sorted, 1.0),
                load: load.to_owned(),
                samples_ms: samples,
            }
        };
        [row("vmm.ping", self.ping), row("vm.info", self.info)]
    }

    fn is_enough(&self, requests: usize) -> bool {
        self.ping.len() >= requests && self.info.len() >= requests
    }

    /// One of each.
    fn take(&mut self, side: &Side) -> Result<(), RestError> {
        let timed = |route| {
            let start = Instant::now();
            rest::request(&side.socket, "GET", route, None, PATIENCE)?;
            Ok(start.elapsed().as_secs_f64() * 1e3)
        };
        let (ping, info) = (timed("vmm.ping")?, timed("vm.info")?);
        self.ping.push(ping);
        self.info.push(info);
        Ok(())
    }
}

/// A godwit that is driven by its API.
struct Side {
    process: Process,
    socket: PathBuf,
}

impl Side {
    fn start(godwit: &Path, folder: &Path, name: &str) -> Result<Self, BenchApiError> {
        let socket = folder.join(format!("{name}.sock"));
        let mut command = Command::new(godwit);
        command.arg("--api-socket").arg(&socket);
        let null = File::options().write(true).open("/dev/null");
        let null = null.map_err(io_error("open /dev/null"))?;
        let errors = folder.join(format!("{name}.stderr"));
        let process = Process::start(command, null.into(), errors);
        let process = process.map_err(io_error("start godwit"))?;
        let side = Self { process, socket };
        let start = Instant::now();
        loop {
            match rest::request(&side.socket, "GET", "vmm.ping", None, PATIENCE) {
                Ok(_) => return Ok(side),
                Err(source) if start.elapsed() > PATIENCE => return Err(side.failed(source)),
                Err(_) => thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    fn failed(&self, source: RestError) -> BenchApiError {
        BenchApiError::Rest {
            said: self.process.said(),
            source,
        }
    }

    fn put(&self, route: &str, body: Option<&Value>) -> Result<(), BenchApiError> {
        let answer = rest::request(&self.socket, "PUT", route, body, PATIENCE);
        answer.map(|_| ()).map_err(|source| self.failed(source))
    }

    fn has_ended(&self) -> bool {
        !matches!(self.process.ended(), Ok(None))
    }
}

struct Lab<'a> {
    godwit: &'a Path,
    payload: &'a Path,
    folder: &'a Path,
    requests: usize,
}

impl Lab<'_> {
    fn config(&self, cmdline: &str, memory: &Value) -> Value {
        json!({
            "payload": {"kernel": self.payload, "cmdline": cmdline},
            "memory": memory,
            "serial": {"mode": "Null"},
        })
    }

    /// A guest that is halted.
    fn idle(&self) -> Result<Times, BenchApiError> {
        let side = Side::start(self.godwit, self.folder, "idle")?;
        side.put(
            "vm.create",
            Some(&self.config("halt", &json!({"size": 64 << 20}))),
        )?;
        side.put("vm.boot", None)?;
        let mut times = Times::default();
        while !times.is_enough(self.requests) {
            stop_if_asked()?;
            times.take(&side).map_err(|source| side.failed(source))?;
        }
        side.put("vmm.shutdown", None)?;
        Ok(times)
    }

    /// A guest whose memory is prefaulted: booted until there were requests enough meanwhile.
    fn prefault(&self, mib: u64) -> Result<Times, BenchApiError> {
        let _pool = HugePagePool::with_free(mib.div_ceil(2))?;
        let side = Side::start(self.godwit, self.folder, "prefault")?;
        let memory = json!({
            "size": mib << 20, "hugepages": true, "hugepage_size": 2 << 20, "prefault": true,
        });
        side.put("vm.create", Some(&self.config("halt", &memory)))?;
        let mut times = Times::default();
        while !times.is_enough(self.requests) {
            stop_if_asked()?;
            thread::scope(|scope| {
                let boot = scope.spawn(|| side.put("vm.boot", None));
                while !boot.is_finished() {
                    times.take(&side).map_err(|source| side.failed(source))?;
                }
                joined(boot)
            })?;
            side.put("vm.shutdown", None)?;
        }
        side.put("vmm.shutdown", None)?;
        Ok(times)
    }

    /// A guest that moves, and moves again: its source is asked.
    fn migration(&self) -> Result<Times, BenchApiError> {
        let mut source = Side::start(self.godwit, self.folder, "move0")?;
        let memory = json!({"size": MOVED_MIB << 20, "prefault": true});
        let cmdline = "fill=1M dirty=16 beat_every=1000";
        source.put("vm.create", Some(&self.config(cmdline, &memory)))?;
        source.put("vm.boot", None)?;
        let mut times = Times::default();
        for number in 1.. {
            let name = format!("move{number}");
            let destination = Side::start(self.godwit, self.folder, &name)?;
            let place = self.folder.join(format!("{name}.migration"));
            let url = format!("unix:{}", place.display());
            thread::scope(|scope| {
                let body = json!({"receiver_url": url});
                let receive = scope.spawn({
                    let destination = &destination;
                    move || destination.put("vm.receive-migration", Some(&body))
                });
                let start = Instant::now();
                while !place.exists() && !receive.is_finished() && start.elapsed() < PATIENCE {
                    thread::sleep(Duration::from_millis(2));
                }
                source.put("vm.send-migration", Some(&json!({"destination_url": url})))?;
                while !receive.is_finished() {
                    // At the end the source goes, and answers nothing any more.
                    if let Err(error) = times.take(&source) {
                        let gone = Instant::now();
                        while !source.has_ended() {
                            if gone.elapsed() > PATIENCE {
                                return Err(source.failed(error));
                            }
                            thread::sleep(Duration::from_millis(2));
                        }
                        break;
                    }
                }
                joined(receive)
            })?;
            source = destination;
            stop_if_asked()?;
            if times.is_enough(self.requests) {
                break;
            }
        }
        source.put("vmm.shutdown", None)?;
        Ok(times)
    }
}

fn joined(
    thread: thread::ScopedJoinHandle<'_, Result<(), BenchApiError>>,
) -> Result<(), BenchApiError> {
    let panicked = |_| Err(io_error("join a thread")(io::ErrorKind::Other.into()));
    thread.join().unwrap_or_else(panicked)
}

fn stop_if_asked() -> Result<(), BenchApiError> {
    if interrupt::asked() {
        return Err(BenchApiError::Interrupted);
    }
    Ok(())
}

/// Measures, prints a table, and saves every sample.
///
/// # Errors
/// When godwit is missing, or does not do what it is told.
pub fn run(options: &ApiOptions) -> Result<(), BenchApiError> {
    let payload = payload::build()?.elf_pvh;
    let godwit = start::godwit_binary(options.godwit.as_deref())?;
    interrupt::note_signals().map_err(io_error("catch signals"))?;
    let scratch = Scratch::new().map_err(io_error("make a folder for sockets"))?;
    let lab = Lab {
        godwit: &godwit,
        payload: &payload,
        folder: scratch.path(),
        requests: options.requests,
    };
    let mut rows = Vec::new();
    rows.extend(lab.idle()?.rows("idle"));
    rows.extend(lab.prefault(options.prefault_mib)?.rows("prefault"));
    rows.extend(lab.migration()?.rows("migration"));
    print_table(&rows);
    let met = rows.iter().all(|row| row.p99_ms <= TARGET_MS);
    let word = if met { "met" } else { "missed" };
    println!("\ntarget: {TARGET_MS} ms at the 99th percentile, {word}");
    let report = Report {
        target_p99_ms: TARGET_MS,
        met,
        prefault_mib: options.prefault_mib,
        rows,
    };
    let saved = save("api.json", &report).map_err(io_error("save the result"))?;
    println!("every sample: {}", saved.display());
    Ok(())
}

fn print_table(rows: &[Row]) {
    println!(
        "\n{:<12}{:<12}{:>10}{:>10}{:>10}{:>10}{:>8}",
        "while", "route", "requests", "p50 ms", "p99 ms", "max ms", "load"
    );
    for row in rows {
        println!(
            "{:<12}{:<12}{:>10}{:>10.3}{:>10.3}{:>10.3}{:>8}",
            row.case, row.route, row.requests, row.p50_ms, row.p99_ms, row.max_ms, row.load
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let sorted: Vec<f64> = (1..=200u8).map(f64::from).collect();
        assert_eq!(percentile(&sorted, 0.5), 100.0);
        assert_eq!(percentile(&sorted, 0.99), 198.0);
        assert_eq!(percentile(&sorted, 1.0), 200.0);
        assert_eq!(percentile(&[7.0], 0.5), 7.0);
        assert!(percentile(&[], 0.5).is_nan());
    }
}

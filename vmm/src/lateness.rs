//! `godwit latency`: arguments, the live line, output, exit code.

use std::error::Error;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use godwit::latency::report::{self, Course, Report};
use godwit::latency::stress::{self, Stress, StressError};
use godwit::latency::{
    self, Guest, Host, LatencyError, MAX_PERIOD, Plan, Progress, Series, Timer, Timing, Wait, What,
};
use godwit::spec::HostCpu;
use godwit::{signals, vcpu};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// How often the live line is written anew.
const LIVE: Duration = Duration::from_millis(200);

/// How often a guest that starts is looked at.
const START: Duration = Duration::from_millis(2);

/// Measure how late timer interrupts reach a guest on this host.
///
/// Boots a guest that is built in, with the CPUs, scheduling, exits and memory of the
/// config, and no devices; each of its vCPUs arms its timer at a period and notes how late
/// the interrupt came. With --host, threads on the same CPUs are measured instead: by
/// spinning, which finds what takes the CPU away, and by sleeping. What a guest shows beyond
/// that is KVM's part and godwit's. Ctrl-C ends it early, and still reports.
///
/// Exit codes: 0 measured; 1 it could not be done; 2 wrong arguments or a config that cannot
/// be read.
#[derive(Debug, Args)]
pub struct Lateness {
    /// The config of the guest whose settings are measured.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// The host CPU of one vCPU with all settings that keep it undisturbed; the last that
    /// this process may use when neither is given.
    #[arg(long, value_name = "N", conflicts_with = "config")]
    cpu: Option<u32>,

    /// How long, as 10, 10s, 2m or 500ms; with --host, each of the two ways.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    duration: Duration,

    /// From one time to the next, in microseconds.
    #[arg(long, value_name = "µs", default_value_t = 1000)]
    period: u64,

    /// What a vCPU does until its timer fires.
    #[arg(long, value_enum, default_value_t = Waiting::Halt)]
    wait: Waiting,

    /// Use the timer's one-shot mode also where KVM has the TSC-deadline mode.
    #[arg(long)]
    one_shot: bool,

    /// Measure threads of the host where the vCPUs would run.
    #[arg(long, conflicts_with_all = ["wait", "one_shot"])]
    host: bool,

    /// What runs beside it, on the other CPUs of this process: stress-ng must be installed. io writes
    /// files in the current folder.
    #[arg(long, value_enum, default_value_t = Load::None)]
    stress: Load,

    /// Write a JSON document (version 1); - is standard output, which then has nothing else.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Write a picture of the histograms.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,

    /// Print the JSON schema of --json.
    #[arg(long, hide = true, exclusive = true)]
    schema: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Waiting {
    /// It halts, as an idle guest does.
    Halt,
    /// It spins, as a packet processor does.
    Poll,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Load {
    /// Nothing.
    None,
    /// Arithmetic.
    Cpu,
    /// Writing and reading memory.
    Memory,
    /// Writing files.
    Io,
}

impl From<Load> for stress::Class {
    fn from(load: Load) -> Self {
        match load {
            Load::None => Self::None,
            Load::Cpu => Self::Cpu,
            Load::Memory => Self::Memory,
            Load::Io => Self::Io,
        }
    }
}

/// A time as 10, 10s, 2m or 500ms.
fn duration(text: &str) -> Result<Duration, String> {
    const MOST: Duration = Duration::from_secs(24 * 3600);
    let wrong = || {
        format!(
            "it is no time as 10s, 2m or 500ms, up to {} h",
            MOST.as_secs() / 3600
        )
    };
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let milliseconds = match unit {
        "ms" => Some(number),
        "" | "s" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        _ => None,
    };
    match milliseconds.map(Duration::from_millis) {
        Some(time) if time > Duration::ZERO && time <= MOST => Ok(time),
        _ => Err(wrong()),
    }
}

/// Why nothing was measured, or told.
#[derive(Debug, thiserror::Error)]
pub enum LatenessError {
    /// Words, or files that they name.
    #[error("{0}")]
    Usage(String, #[source] Option<Box<dyn Error>>),
    /// It could not be measured.
    #[error(transparent)]
    Latency(#[from] LatencyError),
    /// There is no load.
    #[error(transparent)]
    Stress(#[from] StressError),
    /// Signals.
    #[error("Could not wait for signals")]
    Signals(#[source] io::Error),
    /// A file that was to be written.
    #[error("Could not write {}", .0.display())]
    File(PathBuf, #[source] io::Error),
    /// Standard output.
    #[error("Could not write to standard output")]
    Output(#[source] io::Error),
}

/// Measures, and reports.
pub fn main(lateness: &Lateness) -> Result<(), LatenessError> {
    if lateness.schema {
        let text = serde_json::to_string_pretty(&report::schema());
        return print(&(text.map_err(|error| LatenessError::Output(error.into()))? + "\n"));
    }
    let timing = timing(lateness)?;
    // Before any thread starts: they all get this mask.
    let mut watch = Watch::new()?;
    vcpu::install_signal_handler().map_err(LatenessError::Signals)?;
    let plan = plan(lateness, timing)?;
    for warning in &plan.warnings {
        eprintln!("godwit: warning: {warning}");
    }
    let class = lateness.stress.into();
    let series = {
        let (cpus, measured) = (plan.other_cpus(), plan.measured_cpus());
        let mut stress = Stress::start(class, &cpus, &measured)?;
        let measured = if lateness.host {
            on_host(&plan, &mut watch, &mut stress)
        } else {
            in_guest(&plan, &mut watch, &mut stress)
        };
        watch.clear();
        measured?
    };
    let course = Course {
        interrupted: watch.interrupted,
        stress: class,
        of_guest: !lateness.host,
    };
    tell(lateness, &Report::new(&plan, course, &series))
}

fn timing(lateness: &Lateness) -> Result<Timing, LatenessError> {
    let period = Duration::from_micros(lateness.period);
    let wrong = |reason: String| {
        let words = format!("--period {}: {reason}", lateness.period);
        Err(LatenessError::Usage(words, None))
    };
    if period.is_zero() || period > MAX_PERIOD {
        return wrong(format!("1 to {} µs are possible", MAX_PERIOD.as_micros()));
    }
    if period > lateness.duration {
        return wrong(format!(
            "no time comes within a --duration of {:?}; make it longer, or the period shorter",
            lateness.duration
        ));
    }
    Ok(Timing {
        period,
        duration: lateness.duration,
        wait: match lateness.wait {
            Waiting::Halt => Wait::Halt,
            Waiting::Poll => Wait::Poll,
        },
        timer: if lateness.one_shot {
            Timer::OneShot
        } else {
            Timer::Deadline
        },
    })
}

fn plan(lateness: &Lateness, timing: Timing) -> Result<Plan, LatenessError> {
    if let Some(path) = &lateness.config {
        let config = godwit_api::config::read_file(path)
            .map_err(|error| LatenessError::Usage("--config".to_owned(), Some(error.into())))?;
        return Ok(Plan::of(config, timing)?);
    }
    let cpu = match lateness.cpu {
        Some(cpu) => HostCpu(cpu),
        None => latency::last_cpu().map_err(|source| LatencyError::System {
            attempt: "read this process's CPU affinity",
            source,
        })?,
    };
    Ok(Plan::on(cpu, timing)?)
}

fn in_guest(
    plan: &Plan,
    watch: &mut Watch,
    stress: &mut Option<Stress>,
) -> Result<Vec<Series>, LatenessError> {
    let mut guest = Guest::build(plan)?;
    if !guest.has_tsc_deadline() {
        eprintln!(
            "godwit: warning: this host's KVM has no TSC-deadline timer: measured with the \
             one-shot timer, which counts nanoseconds"
        );
    }
    guest.start();
    while !guest.begin()? {
        if watch.wait(START)? {
            return Ok(guest.finish()?);
        }
    }
    let interval = Guest::interval(plan);
    while guest.elapsed() < plan.timing().duration {
        let left = plan.timing().duration.saturating_sub(guest.elapsed());
        if watch.wait(interval.min(left))? {
            break;
        }
        let progress = guest.look()?;
        watch.show("guest", guest.elapsed(), progress);
        check(stress)?;
    }
    Ok(guest.finish()?)
}

fn on_host(
    plan: &Plan,
    watch: &mut Watch,
    stress: &mut Option<Stress>,
) -> Result<Vec<Series>, LatenessError> {
    let mut all = Vec::new();
    for (what, name) in [
        (What::Gap, "host, spinning"),
        (What::Nanosleep, "host, sleeping"),
    ] {
        let host = Host::start(plan, what)?;
        while host.elapsed() < plan.timing().duration && !watch.interrupted {
            let left = plan.timing().duration.saturating_sub(host.elapsed());
            watch.wait(LIVE.min(left))?;
            watch.show(name, host.elapsed(), host.look());
            check(stress)?;
        }
        all.extend(host.finish()?);
        if watch.interrupted {
            break;
        }
    }
    Ok(all)
}

fn check(stress: &mut Option<Stress>) -> Result<(), StressError> {
    stress.as_mut().map_or(Ok(()), Stress::check)
}

/// Who waits at the terminal.
struct Watch {
    signals: SignalFd,
    interrupted: bool,
    live: bool,
    shown: Option<Instant>,
}

impl Watch {
    fn new() -> Result<Self, LatenessError> {
        signals::block().map_err(|errno| LatenessError::Signals(errno.into()))?;
        let set: SigSet = signals::ending();
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self {
            signals: SignalFd::with_flags(&set, flags)
                .map_err(|errno| LatenessError::Signals(errno.into()))?,
            interrupted: false,
            live: io::stderr().is_terminal(),
            shown: None,
        })
    }

    /// Waits; whether a signal asked for the end.
    fn wait(&mut self, time: Duration) -> Result<bool, LatenessError> {
        // Rounded up: a wait of 0 ms would turn in circles.
        let time = time + Duration::from_micros(999);
        let mut fds = [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
        let failed = |errno: nix::errno::Errno| LatenessError::Signals(errno.into());
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => (),
            Err(errno) => return Err(failed(errno)),
        }
        self.interrupted |= self.signals.read_signal().map_err(failed)?.is_some();
        Ok(self.interrupted)
    }

    fn show(&mut self, what: &str, elapsed: Duration, now: Progress) {
        let due = self.shown.is_none_or(|shown| shown.elapsed() >= LIVE);
        if self.live && due {
            self.shown = Some(Instant::now());
            // Nobody to see it is no reason to end.
            let line = report::progress(what, elapsed, now);
            let _ = write!(io::stderr().lock(), "\r\x1b[K{line}");
        }
    }

    fn clear(&self) {
        if self.shown.is_some() {
            let _ = write!(io::stderr().lock(), "\r\x1b[K");
        }
    }
}

fn tell(lateness: &Lateness, report: &Report) -> Result<(), LatenessError> {
    if let Some(path) = &lateness.svg {
        write_file(path, &report::svg(report))?;
    }
    let json = || {
        report
            .json()
            .map_err(|error| LatenessError::Output(error.into()))
    };
    match &lateness.json {
        Some(path) if path == Path::new("-") => return print(&json()?),
        Some(path) => write_file(path, &json()?)?,
        None => (),
    }
    print(&report::text(report))
}

fn write_file(path: &Path, text: &str) -> Result<(), LatenessError> {
    fs::write(path, text).map_err(|error| LatenessError::File(path.to_owned(), error))
}

fn print(text: &str) -> Result<(), LatenessError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(LatenessError::Output)
}

impl LatenessError {
    /// The process's exit code.
    pub fn code(&self) -> u8 {
        match self {
            Self::Usage(..) => 2,
            // Whoever read it has seen enough.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            _ => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        for (text, milliseconds) in [
            ("10", 10_000),
            ("10s", 10_000),
            ("2m", 120_000),
            ("500ms", 500),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)));
        }
        for text in [
            "",
            "0",
            "0ms",
            "s",
            "1.5s",
            "-1",
            "25h",
            "1d",
            "99999999999999999999s",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}

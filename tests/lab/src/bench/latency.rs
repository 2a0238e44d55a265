//! `cargo lab bench latency`: the round trip of frames through a DPDK guest, by godwit and by QEMU
//! in turn.
//!
//! Each frame carries its number, and the sender keeps when it left: the time until it is back is
//! that of the whole path, of the sender's own wake-up too, which is the same for both VMMs.
//!
//! ```text
//! sender ─ veth ─ bridge ─ tap ─ vhost worker ─ ring ─ testpmd on a vCPU ─┐
//!        ◄────────────────────────────────────────────────── (macswap) ───┘
//! ```

mod report;
mod series;

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use clap::Args;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::prctl;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::start;
use super::turns::{self, ONE_TSC, TurnOptions, Turns, TurnsError};
use crate::demo::DemoError;
use crate::demo::forwarder::{self, Forwarder, READY, alone};
use crate::image::Image;
use crate::peer::{self, Machine, Vmm};
use crate::progress::Step;
use crate::traffic::{self, Pace, Port, Stream};
use crate::workspace;
use series::Series;

/// Where the guest is.
const TAP: &str = "gw0";

/// Frames that warm the path up, one in flight; they are not counted.
const WARM_UP: u64 = 300;

/// Longest time for the frames that go one in flight: an emulated machine takes about a
/// millisecond for each.
const IN_FLIGHT_LIMIT: Duration = Duration::from_secs(300);

/// Frames of a stream that are kept at most.
const STREAM_MAX: u64 = 3_600_000;

/// Frames a second on an emulated machine, and on a real one.
const RATES: [&[u32]; 2] = [&[50, 200, 500], &[1000, 10_000, 50_000]];

type Comparison = turns::Comparison<Sample>;

/// What to send through which guest, and how often.
#[derive(Debug, Args)]
pub struct LatencyOptions {
    #[command(flatten)]
    turns: TurnOptions,
    /// Frames with one in flight, in each run
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    frames: u64,
    /// Frames a second of further streams, one after the other; by default 50,200,500 in the lab
    /// and 1000,10000,50000 elsewhere
    #[arg(long, value_delimiter = ',', value_name = "RATE", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rates: Vec<u32>,
    /// Seconds for which each of these streams lasts
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// Bytes of a frame, without its check sequence
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u16).range(60..=1514))]
    length: u16,
    /// The guest: a config with one network device whose guest sends each frame back. QEMU gets the
    /// same memory, huge pages, CPUs for each thread, scheduling and exits
    #[arg(long, default_value = "resources/configs/dpdk-l2fwd.json")]
    config: PathBuf,
    /// The document with all samples on standard output, and no table
    #[arg(long)]
    json: bool,
}

/// What one run came to.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Sample {
    /// The guest, as asked for.
    config: PathBuf,
    series: Vec<Series>,
}

/// Measures, prints a table or the document, saves every sample.
///
/// # Errors
/// When something cannot be set up. A run that fails is told in the table, and the next one goes
/// on; in the end it is an error, too.
pub fn run(options: &LatencyOptions) -> Result<(), TurnsError> {
    let frames = |rate: &u32| u64::from(*rate) * u64::from(options.seconds);
    if let Some(rate) = options.rates.iter().find(|rate| frames(rate) > STREAM_MAX) {
        return Err(TurnsError::Options(format!(
            "--rates {rate} for --seconds {} are {} frames, and at most {STREAM_MAX} are kept: make one of them less",
            options.seconds,
            frames(rate)
        )));
    }
    let machine = Machine::read(&workspace::config(&options.config));
    let machine = machine.map_err(|error| Box::new(alone(error)))?;
    let godwit = start::godwit_binary(options.turns.godwit.as_deref())?;
    if options.turns.here().is_none() {
        Image::build()?;
    }
    let streams = u32::try_from(options.rates.len().max(RATES[0].len())).unwrap_or(u32::MAX);
    let stream = Duration::from_secs(u64::from(options.seconds) + 2);
    let turns = Turns {
        verb: "latency",
        rounds: options.turns.rounds,
        godwit: &godwit,
        here: options.turns.here(),
        arguments: words(options),
        limit: IN_FLIGHT_LIMIT + stream * streams,
        parameters: ONE_TSC,
    };
    let one = |vmm: &Vmm, emulated| {
        let series = forwarder::apart(|| measure(options, &machine, vmm, emulated))?;
        Ok(Sample {
            config: options.config.clone(),
            series,
        })
    };
    let Some(comparison) = turns.compare(one, report::line)? else {
        return Ok(());
    };
    turns.conclude(&comparison, options.json, report::text)
}

/// The same options for this program in the outer machine.
fn words(options: &LatencyOptions) -> Vec<String> {
    let mut words = vec![
        format!("--frames={}", options.frames),
        format!("--seconds={}", options.seconds),
        format!("--length={}", options.length),
        format!("--config={}", workspace::config(&options.config).display()),
    ];
    if !options.rates.is_empty() {
        let rates: Vec<String> = options.rates.iter().map(u32::to_string).collect();
        words.push(format!("--rates={}", rates.join(",")));
    }
    words
}

/// Boots the guest, sends what is to be sent, and turns it off.
fn measure(
    options: &LatencyOptions,
    machine: &Machine,
    vmm: &Vmm,
    emulated: bool,
) -> Result<Vec<Series>, DemoError> {
    let forwarder = Forwarder::boot(vmm, machine, &[TAP], READY)?;
    beside(machine);
    // Of what is slept between frames; by default it may be 50 us longer.
    let _ = prctl::set_timerslack(1);
    let to = machine.mac_bytes().map_err(alone)?;
    let lengths = vec![usize::from(options.length)];
    let mut all = vec![in_flight(&forwarder.port, options.frames, &lengths, to)?];
    let by_default = RATES[usize::from(!emulated)];
    let rates = match options.rates.as_slice() {
        [] => by_default,
        rates => rates,
    };
    for &rate in rates {
        peer::go_on().map_err(alone)?;
        let step = Step::start(format!("{rate} frames a second"));
        let pace = Pace {
            every: Duration::from_secs(1) / rate,
            lengths: lengths.clone(),
            limit: Duration::from_secs(u64::from(options.seconds)),
            to,
            ..Pace::default()
        };
        let record = traffic::paced(
            &forwarder.port,
            &pace,
            Instant::now(),
            &AtomicBool::new(false),
        )?;
        let series = Series::paced(rate, &record);
        step.done(&report::of(&series));
        all.push(series);
    }
    forwarder.turn_off()?;
    if let Some(series) = all.iter().find(|series| series.times.is_none()) {
        return Err(DemoError::Fault {
            fault: format!("{}: no frame came back", series.name),
            stall: String::new(),
        });
    }
    Ok(all)
}

fn in_flight(
    port: &Port,
    frames: u64,
    lengths: &[usize],
    to: [u8; 6],
) -> Result<Series, DemoError> {
    let step = Step::start(format!("{frames} frames, one in flight"));
    let stream = |frames| Stream {
        frames,
        lengths: lengths.to_vec(),
        limit: IN_FLIGHT_LIMIT,
        to,
        ..Stream::default()
    };
    traffic::one_in_flight(port, &stream(WARM_UP), |_| ())?;
    let mut times = Vec::new();
    let tally = traffic::each_in_turn(
        port,
        &stream(frames),
        |tally| step.say(tally.to_string()),
        |time| times.push(time.as_secs_f64() * 1e6),
    )?;
    let series = Series::in_flight(&tally, times);
    step.done(&report::of(&series));
    Ok(series)
}

/// The calling thread leaves the vCPUs' CPUs, if there are others.
fn beside(machine: &Machine) {
    let Ok(ours) = sched_getaffinity(Pid::from_raw(0)) else {
        return;
    };
    let taken = |cpu: &usize| {
        let mut all = machine.affinity().iter();
        all.any(|affinity| affinity.host_cpus.contains(cpu))
    };
    let free = (0..CpuSet::count()).filter(|cpu| ours.is_set(*cpu).unwrap_or(false));
    let mut set = CpuSet::new();
    let mut any = false;
    for cpu in free.filter(|cpu| !taken(cpu)) {
        any |= set.set(cpu).is_ok();
    }
    if any {
        let _ = sched_setaffinity(Pid::from_raw(0), &set);
    }
}

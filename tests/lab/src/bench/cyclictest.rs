//! `cargo lab bench cyclictest`: how late a thread of a PREEMPT_RT guest wakes up, by godwit and by
//! QEMU in turn.
//!
//! The guest is that of a config, with another task: cyclictest (rt-tests) sleeps on the guest's
//! isolated CPU, and what it found comes over the serial port as JSON.

mod found;
mod report;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::start;
use super::turns::{self, ONE_TSC, TurnOptions, Turns, TurnsError};
use crate::demo::DemoError;
use crate::demo::forwarder::{self, Forwarder, alone, explained};
use crate::image::{Image, Variant};
use crate::peer::{Machine, PeerError, Vmm};
use crate::progress::Step;
use crate::workspace;
use found::Found;

/// Where the guest's network device is, which it does not use.
const TAP: &str = "gw0";

/// What the guest says before it measures.
const READY: &str = "godwit: ready cyclictest";

/// What comes before and after what it found.
const BEGIN: &str = "godwit: begin cyclictest";
const END: &str = "godwit: end";

/// Longest time for what is not a sleep: starting the program, and writing to the serial port.
const BESIDE_LIMIT: Duration = Duration::from_secs(120);

type Comparison = turns::Comparison<Sample>;

/// Which guest sleeps how often.
#[derive(Debug, Args)]
pub struct CyclictestOptions {
    #[command(flatten)]
    turns: TurnOptions,
    /// How often the thread sleeps, in each run
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    loops: u32,
    /// For how long, in microseconds
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(50..=1_000_000))]
    interval: u32,
    /// The guest: a config with one network device and the kernel and initramfs of `cargo lab image
    /// --rt`. QEMU gets the same memory, huge pages, CPUs for each thread, scheduling and exits
    #[arg(long, default_value = "resources/configs/dpdk-rt.json")]
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
    /// Microseconds for which its thread slept.
    interval_us: u32,
    found: Found,
    /// Microseconds of each second that the host takes from threads under `SCHED_FIFO`, if any.
    throttled_us: Option<i64>,
}

/// Measures, prints a table with histograms or the document, saves every sample.
///
/// # Errors
/// When something cannot be set up. A run that fails is told in the table, and the next one goes
/// on; in the end it is an error, too.
pub fn run(options: &CyclictestOptions) -> Result<(), TurnsError> {
    let machine = Machine::read(&workspace::config(&options.config));
    let machine = machine.map_err(|error| Box::new(alone(error)))?;
    let machine = machine.with_task(&format!(
        "cyclictest godwit.loops={} godwit.interval={}",
        options.loops, options.interval
    ));
    let godwit = start::godwit_binary(options.turns.godwit.as_deref())?;
    if options.turns.here().is_none() {
        Image::build_variant(Variant::Rt)?;
    }
    let limit = BESIDE_LIMIT + Duration::from_micros(options.interval.into()) * options.loops * 2;
    let turns = Turns {
        verb: "cyclictest",
        rounds: options.turns.rounds,
        godwit: &godwit,
        here: options.turns.here(),
        arguments: vec![
            format!("--loops={}", options.loops),
            format!("--interval={}", options.interval),
            format!("--config={}", workspace::config(&options.config).display()),
        ],
        limit,
        parameters: ONE_TSC,
    };
    let one = |vmm: &Vmm, _emulated| {
        let found = forwarder::apart(|| measure(&machine, vmm, limit))?;
        Ok(Sample {
            config: options.config.clone(),
            interval_us: options.interval,
            found,
            throttled_us: throttled(),
        })
    };
    let Some(comparison) = turns.compare(one, report::line)? else {
        return Ok(());
    };
    turns.conclude(&comparison, options.json, report::text)
}

/// What `kernel.sched_rt_runtime_us` leaves of `kernel.sched_rt_period_us`
/// (`Documentation/scheduler/sched-rt-group.rst`).
fn throttled() -> Option<i64> {
    let read = |name: &str| {
        let text = fs::read_to_string(format!("/proc/sys/kernel/{name}")).ok()?;
        text.trim().parse::<i64>().ok()
    };
    let (runtime, period) = (read("sched_rt_runtime_us")?, read("sched_rt_period_us")?);
    taken(runtime, period)
}

/// In microseconds of each second.
fn taken(runtime: i64, period: i64) -> Option<i64> {
    let parts = period.checked_sub(runtime)?.checked_mul(1_000_000)?;
    (runtime >= 0 && period > 0)
        .then_some(parts / period.max(1))
        .filter(|taken| *taken > 0)
}

/// Boots the guest, waits for what it found, and turns it off.
fn measure(machine: &Machine, vmm: &Vmm, limit: Duration) -> Result<Found, DemoError> {
    let mut forwarder = Forwarder::boot(vmm, machine, &[TAP], READY)?;
    let step = Step::start("cyclictest");
    let guest = &mut forwarder.guest;
    let waited = guest
        .console()
        .wait_until("cyclictest's end", limit, |text| told(text).is_some());
    explained(&**guest, waited)?;
    let text = guest.console().text();
    let found = told(&text)
        .and_then(|(found, status)| (status == "0").then_some(found))
        .ok_or_else(|| "it failed".to_owned())
        .and_then(|found| Found::parse(found).map_err(|error| error.to_string()));
    let found = found.map_err(|why| PeerError::Stayed(format!("cyclictest: {why}")));
    let found = explained(&**guest, found)?;
    step.done(&report::of(&found));
    forwarder.turn_off()?;
    Ok(found)
}

/// What the guest wrote of what it found, and the status in which it ended; of its last boot, where
/// it was reset meanwhile.
fn told(text: &str) -> Option<(&str, &str)> {
    let (_, after) = text.rsplit_once(BEGIN)?;
    let (found, after) = after.split_once(END)?;
    let (status, _) = after.split_once('\n')?;
    Some((found.trim(), status.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_of_a_second() {
        assert_eq!(taken(950_000, 1_000_000), Some(50_000));
        assert_eq!(taken(50_000, 100_000), Some(500_000));
        assert_eq!(taken(-1, 1_000_000), None);
        assert_eq!(taken(1_000_000, 1_000_000), None);
        assert_eq!((taken(0, 0), taken(-1, i64::MAX)), (None, None));
    }

    #[test]
    fn what_it_found_is_between_the_marks() {
        let text = "godwit: begin kernel\r\n#1\r\ngodwit: end 0\r\ngodwit: begin cyclictest\r\n{}\r\ngodwit: end";
        assert_eq!(told(text), None);
        assert_eq!(told(&format!("{text} 0\r\n")), Some(("{}", "0")));
        assert_eq!(told(&format!("{text} 1\r\n")), Some(("{}", "1")));
        let reset = format!("godwit: begin cyclictest\r\n{text} 0\r\n");
        assert_eq!(told(&reset), Some(("{}", "0")));
    }
}

//! `godwit latency`: how late timers reach a guest, and a thread, on this machine. What it
//! measures is the machine's; what is tested is that it measures, and what it refuses.

mod cpuset;
mod host;
mod quiet;
mod refusals;
mod stress;
mod timer;

use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use crate::support::process::{self, Ended, Godwit};

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(process::binary());
    command.arg("latency").args(arguments);
    command
}

/// The CPU that is measured, ours alone until dropped: of two threads under `SCHED_FIFO` that do
/// not sleep, the second would not run.
fn core() -> MutexGuard<'static, ()> {
    static CORE: Mutex<()> = Mutex::new(());
    CORE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn latency(arguments: &[&str]) -> Ended {
    let _core = core();
    Godwit::spawn(command(arguments)).wait()
}

/// The document on standard output of a run that measured.
#[track_caller]
fn document(arguments: &[&str]) -> Value {
    let mut all = arguments.to_vec();
    all.extend(["--json", "-"]);
    let ended = latency(&all);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    serde_json::from_str(&ended.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", ended.stdout, ended.stderr))
}

#[track_caller]
fn number(value: &Value, field: &str) -> u64 {
    match value[field].as_u64() {
        Some(number) => number,
        None => panic!("no number {field} in {value}"),
    }
}

/// What holds of every series, on the slowest machine.
#[track_caller]
fn assert_sound(series: &Value) {
    let samples = number(series, "samples");
    assert!(samples > 0, "{series}");
    let late = &series["late"];
    let order = [
        "min_ns",
        "p50_ns",
        "p99_ns",
        "p99_9_ns",
        "p99_99_ns",
        "max_ns",
    ];
    let order = order.map(|field| number(late, field));
    assert!(order.is_sorted(), "{late}");
    let mean = late["mean_ns"].as_f64().expect("a mean");
    assert!(order[0] as f64 <= mean && mean <= order[5] as f64, "{late}");
    let bars = series["histogram"].as_array().expect("a histogram");
    let counted: u64 = bars.iter().map(|bar| number(bar, "count")).sum();
    assert_eq!(counted, samples);
    // The ring is emptied in time but for moments in which the reader does not run.
    assert!(number(series, "lost") * 10 <= samples, "{series}");
}

/// As many samples and missed times as there are periods in the time that it took, within a
/// factor of two: a thread that does not get its CPU at the end has no sample of that.
#[track_caller]
fn assert_about(series: &Value, period_us: u64) {
    let times = number(series, "samples") + number(series, "missed");
    let expected = number(series, "elapsed_ns") / 1000 / period_us;
    assert!(
        (expected / 2..=expected * 2).contains(&times),
        "{times} times, {expected} expected: {series}"
    );
}

//! The comparison as text, with the histograms side by side.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::found::Found;
use super::{Comparison, Sample};
use crate::bench::turns::{Figure, Row, remark, table};

type Column = fn(&Found) -> Option<f64>;

/// Marks of the longest bar.
const WIDTH: usize = 30;

/// Counts of sleeps are far below 2^52.
#[allow(clippy::cast_precision_loss)]
fn beyond(found: &Found) -> Option<f64> {
    Some(found.beyond as f64)
}

/// Heading, figure, digits after the point.
const COLUMNS: [(&str, Column, usize); 8] = [
    ("late by, us: min", |found| Some(found.times.min_us), 0),
    ("mean", |found| Some(found.mean_us), 1),
    ("p50", |found| Some(found.times.p50_us), 0),
    ("p90", |found| Some(found.times.p90_us), 0),
    ("p99", |found| Some(found.times.p99_us), 0),
    ("p99.9", |found| found.times.p99_9_us, 0),
    ("max", |found| Some(found.times.max_us), 0),
    ("beyond the histogram", beyond, 0),
];

/// What one run found.
pub(super) fn of(found: &Found) -> String {
    let times = &found.times;
    format!(
        "{} sleeps, late by {:.0} us at least, {:.0} at the median, {:.0} at most",
        found.cycles, times.min_us, times.p50_us, times.max_us
    )
}

/// One run.
pub(super) fn line(sample: &Sample) -> String {
    of(&sample.found)
}

/// The table and the histograms.
pub(super) fn text(comparison: &Comparison) -> String {
    let figures = COLUMNS.map(|(name, column, digits)| Figure {
        name: name.to_owned(),
        of: Box::new(move |sample: &Sample| column(&sample.found)),
        digits,
    });
    let mut text = table(comparison, &figures);
    let _ = writeln!(text, "\n{}", histograms(comparison));
    let guests = comparison.rows.iter().flat_map(|row| &row.samples);
    if let Some(sample) = guests.last() {
        let _ = writeln!(
            text,
            "a thread of the guest's highest priority slept for {} us at a time; Linux {} in the guest, {} below.",
            sample.interval_us, sample.found.kernel, comparison.kernel
        );
    }
    let mut guests = comparison.rows.iter().flat_map(|row| &row.samples);
    if let Some(taken) = guests.find_map(|sample| sample.throttled_us) {
        let _ = writeln!(
            text,
            "the host takes up to {taken} us of each second from vCPU threads under SCHED_FIFO that never sleep, and with cyclictest\n\
             none does: about one sleep of each second is late by that, by either VMM (kernel.sched_rt_runtime_us; see godwit check)."
        );
    }
    text.push_str(remark(comparison));
    text
}

/// Bars of all runs, each VMM's beside the other's.
fn histograms(comparison: &Comparison) -> String {
    let sums: Vec<BTreeMap<u64, u64>> = comparison.rows.iter().map(sum).collect();
    let all = || sums.iter().flatten();
    let most = all().map(|(_, count)| *count).max().unwrap_or(0).max(1);
    let mut steps: Vec<u64> = all().map(|(below, _)| *below).collect();
    steps.sort_unstable();
    steps.dedup();
    let mut text = format!("{:>20}", "late by, us");
    for row in &comparison.rows {
        let _ = write!(text, "  {:<40}", row.vmm);
    }
    for below in steps {
        let _ = write!(text, "\n{:>20}", format!("{} to {}", below / 2, below - 1));
        for sum in &sums {
            let count = sum.get(&below).copied().unwrap_or(0);
            let marks = usize::try_from(count * WIDTH as u64 / most).unwrap_or(WIDTH);
            let bar = "#".repeat(marks.max(usize::from(count > 0)));
            let _ = write!(text, "  {bar:<WIDTH$} {count:>9}");
        }
    }
    text.push('\n');
    text
}

fn sum(row: &Row<Sample>) -> BTreeMap<u64, u64> {
    let mut sum = BTreeMap::new();
    for (below, count) in row.samples.iter().flat_map(|sample| &sample.found.bars) {
        *sum.entry(*below).or_default() += count;
    }
    sum
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::bench::times::{Times, bars};

    fn row(vmm: &str, late: &[f64]) -> Row<Sample> {
        let found = Found {
            kernel: "6.1-rt".to_owned(),
            cycles: late.len() as u64,
            beyond: 0,
            mean_us: 1.0,
            times: Times::of(late).unwrap(),
            bars: bars(late),
        };
        Row {
            vmm: vmm.to_owned(),
            samples: vec![Sample {
                config: PathBuf::from("config"),
                interval_us: 1000,
                found,
                throttled_us: (vmm == "QEMU").then_some(50_000),
            }],
            failures: Vec::new(),
        }
    }

    #[test]
    fn histograms_stand_beside_each_other() {
        let comparison = Comparison {
            emulated: true,
            kernel: "6.1".to_owned(),
            rows: vec![
                row("godwit", &[5.0, 6.0, 7.0, 70.0]),
                row("QEMU", &[9.0, 9.0, 70.0, 70.0]),
            ],
        };
        let text = text(&comparison);
        let line = |name: &str| {
            let mut lines = text.lines();
            let found = lines.find(|line| line.trim_start().starts_with(name));
            found
                .map(|line| line.split_whitespace().collect::<Vec<_>>())
                .unwrap_or_default()
        };
        let full = "#".repeat(WIDTH);
        assert_eq!(line("4 to 7"), ["4", "to", "7", &full, "3", "0"]);
        let ten = "#".repeat(10);
        assert_eq!(line("64 to 127")[3..], [&ten, "1", &"#".repeat(20), "2"]);
        assert_eq!(line("p50").last(), Some(&"1.50"), "{text}");
        assert!(text.contains("takes up to 50000 us"), "{text}");
        assert!(text.contains("only the ratios"), "{text}");
    }
}

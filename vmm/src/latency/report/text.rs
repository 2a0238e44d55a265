//! The report for people.

use std::fmt::Write as _;

use super::{Bar, Measured, Report, joined};
use crate::latency::{Exits, Progress, Scheduled};

/// Columns of the longest bar.
const BAR: f64 = 40.0;
/// More rows than this are made of wider steps.
const ROWS: usize = 24;

/// The report as text, with a newline at its end.
#[must_use]
pub fn text(report: &Report) -> String {
    let mut out = String::new();
    for measured in &report.series {
        if !out.is_empty() {
            out.push('\n');
        }
        series(&mut out, report, measured);
    }
    if report.interrupted {
        out.push_str("\nended early by a signal\n");
    }
    out
}

/// One line for while it runs.
#[must_use]
pub fn progress(what: &str, elapsed: std::time::Duration, now: Progress) -> String {
    if now.samples == 0 {
        return format!("{what}: {:.1} s, no sample yet", elapsed.as_secs_f64());
    }
    format!(
        "{what}: {:.1} s, {} samples, min {}, mean {}, max {}",
        elapsed.as_secs_f64(),
        now.samples,
        time(now.min),
        time_of(now.mean),
        time(now.max)
    )
}

// Writing to a string cannot fail.
fn series(out: &mut String, report: &Report, measured: &Measured) {
    let wait = match report.wait {
        Some(crate::latency::Wait::Halt) => ", halting in between",
        Some(crate::latency::Wait::Poll) => ", polling in between",
        None => "",
    };
    let stress = match report.stress {
        crate::latency::stress::Class::None => String::new(),
        class => format!(", beside a load on {}", format!("{class:?}").to_lowercase()),
    };
    let _ = writeln!(
        out,
        "vCPU {} on CPU {}: {}, every {}{wait}{stress}",
        measured.vcpu,
        measured.cpus,
        measured.what.words(),
        time(report.period_ns),
    );
    let _ = writeln!(out, "  {}", report.settings);
    let counts = [
        (measured.missed, "missed"),
        (measured.lost, "lost"),
        (measured.early, "early"),
    ];
    let elapsed = time(measured.elapsed_ns);
    let _ = write!(out, "  samples {} in {elapsed}", measured.samples);
    for (count, name) in counts {
        if count > 0 || name == "missed" {
            let _ = write!(out, ", {name} {count}");
        }
    }
    out.push('\n');
    let Some(late) = &measured.late else { return };
    let values = [
        ("min", time(late.min_ns)),
        ("mean", time_of(late.mean_ns)),
        ("p50", time(late.p50_ns)),
        ("p99", time(late.p99_ns)),
        ("p99.9", time(late.p99_9_ns)),
        ("p99.99", time(late.p99_99_ns)),
        ("max", time(late.max_ns)),
    ];
    let values: Vec<_> = values
        .iter()
        .map(|(name, value)| format!("{name} {value}"))
        .collect();
    let _ = writeln!(out, "  late    {}", values.join("  "));
    bars(out, &measured.histogram);
    if let Some(scheduled) = &measured.scheduled {
        scheduler(out, scheduled);
    }
    if let Some(exits) = &measured.exits {
        kvm(out, exits);
    }
}

/// One row for each step, as long as the logarithm of its count.
fn bars(out: &mut String, histogram: &[Bar]) {
    let rows = [4, 2, 1].map(|steps| joined(histogram, steps));
    let full = |rows: &&Vec<Bar>| rows.iter().filter(|row| row.count > 0).count() <= ROWS;
    let Some(rows) = rows.iter().find(full).or(rows.last()) else {
        return;
    };
    let most = rows.iter().map(|row| row.count).max().unwrap_or(1);
    let scale = (most as f64 + 1.0).ln();
    let mut empty = 0;
    for row in rows {
        if row.count == 0 {
            empty += 1;
            continue;
        }
        // What is far from the others is not told by a page of nothing.
        if std::mem::take(&mut empty) > 0 {
            let _ = writeln!(out, "  {:>9}", "…");
        }
        let length = (row.count as f64 + 1.0).ln() / scale * BAR;
        let bar = "#".repeat((0..).take_while(|&n| f64::from(n) < length).count());
        let _ = writeln!(
            out,
            "  {:>9} – {:<9} {bar:<40}  {}",
            time(row.from_ns),
            time(row.to_ns.saturating_add(1)),
            row.count
        );
    }
}

fn scheduler(out: &mut String, scheduled: &Scheduled) {
    let _ = write!(
        out,
        "  thread {}: {} voluntary and {} involuntary switches",
        scheduled.thread, scheduled.voluntary_switches, scheduled.involuntary_switches
    );
    if let (Some(run), Some(wait)) = (scheduled.run_ns, scheduled.wait_ns) {
        let _ = write!(
            out,
            ", ran {}, waited {} for its CPU",
            time(run),
            time(wait)
        );
    }
    out.push('\n');
}

fn kvm(out: &mut String, exits: &Exits) {
    let _ = write!(out, "  exits to user space {}", exits.to_user_space);
    let of_kvm = exits.kvm.iter().filter(|(name, _)| name.ends_with("exits"));
    let list: Vec<_> = of_kvm
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    if list.is_empty() {
        out.push_str("; KVM counts none\n");
    } else {
        let _ = writeln!(out, "; KVM's counters: {}", list.join(", "));
    }
}

/// A time in the unit that suits it.
pub(super) fn time(nanoseconds: u64) -> String {
    time_of(nanoseconds as f64)
}

fn time_of(nanoseconds: f64) -> String {
    let (value, unit) = match nanoseconds {
        n if n < 1e3 => return format!("{n:.0} ns"),
        n if n < 1e6 => (n / 1e3, "µs"),
        n if n < 1e9 => (n / 1e6, "ms"),
        n => (n / 1e9, "s"),
    };
    // Three digits.
    match value {
        v if v < 10.0 => format!("{v:.2} {unit}"),
        v if v < 100.0 => format!("{v:.1} {unit}"),
        v => format!("{v:.0} {unit}"),
    }
}

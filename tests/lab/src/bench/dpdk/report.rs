//! The comparison as text: medians, spread and ratios.

use std::fmt::Write as _;

use super::{Comparison, Sample};
use crate::bench::Summary;
use crate::bench::turns::{Figure, remark, table};

/// One figure of a sample.
pub(super) type Column = fn(&Sample) -> f64;

/// Counts of frames are far below 2^52.
#[allow(clippy::cast_precision_loss)]
fn lost(sample: &Sample) -> f64 {
    sample.lost as f64
}

/// Heading, figure, digits after the point. The last one is the control.
pub(super) const FIGURES: [(&str, Column, usize); 5] = [
    ("total, s", |sample| sample.total_ms / 1e3, 2),
    ("downtime as it says, ms", |sample| sample.downtime_ms, 1),
    ("frames lost", lost, 0),
    ("longest silence, ms", |sample| sample.silence_ms, 0),
    ("silence elsewhere, ms", |sample| sample.control_ms, 0),
];

/// One run.
pub(super) fn line(sample: &Sample) -> String {
    let figures = FIGURES.map(|(name, figure, digits)| {
        let figure = figure(sample);
        format!("{name} {figure:.digits$}")
    });
    figures.join("; ")
}

/// The table, what was lost elsewhere, and where the downtime goes.
pub(super) fn text(comparison: &Comparison) -> String {
    let figures = FIGURES.map(|(name, figure, digits)| Figure {
        name: name.to_owned(),
        of: Box::new(move |sample: &Sample| Some(figure(sample))),
        digits,
    });
    let mut text = table(comparison, &figures);
    for row in &comparison.rows {
        for sample in row.samples.iter().filter(|sample| sample.lost_outside > 0) {
            let lost = sample.lost_outside;
            let _ = writeln!(text, "{}: {lost} frames lost outside of a switch", row.vmm);
        }
    }
    if let Some(parts) = parts(comparison) {
        let _ = writeln!(text, "\n{parts}");
    }
    text.push_str(
        "\ngodwit's total begins with an empty process and ends when the source's memory is given back; QEMU's has a\n\
         destination that is built before, and ends when the guest is there. Silence elsewhere is the same stream's control.\n",
    );
    text.push_str(remark(comparison));
    text
}

/// Where godwit's downtime goes, by medians.
fn parts(comparison: &Comparison) -> Option<String> {
    let row = comparison.rows.first()?;
    let names = row.samples.first()?.account.downtime_parts();
    let part = |(name, _): (&str, u64)| {
        let of = |sample: &Sample| {
            let parts = sample.account.downtime_parts();
            let part = parts.iter().find(|(other, _)| *other == name);
            #[allow(clippy::cast_precision_loss)] // far below 2^52
            part.map_or(0.0, |(_, us)| *us as f64 / 1e3)
        };
        let median = Summary::of(row.samples.iter().map(of))?.median;
        Some(format!("{name} {median:.1}"))
    };
    let parts: Option<Vec<String>> = names.into_iter().map(part).collect();
    Some(format!("{}'s downtime, ms: {}", row.vmm, parts?.join(", ")))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::bench::dpdk::faults;
    use crate::bench::turns::Row;
    use crate::peer::Account;

    fn row(vmm: &str, downtimes: &[u32]) -> Row<Sample> {
        let sample = |downtime: &u32| Sample {
            total_ms: 7000.0,
            downtime_ms: f64::from(*downtime),
            lost: u64::from(*downtime) / 5,
            lost_outside: 0,
            silence_ms: f64::from(*downtime) + 50.0,
            control_ms: 20.0,
            rate: 200.0,
            limit_ms: Some(1000),
            account: Account {
                downtime_us: 1000 * u64::from(*downtime),
                phases: vec![("stop".to_owned(), 4000), ("await".to_owned(), 90_000)],
                ..Account::default()
            },
        };
        Row {
            vmm: vmm.to_owned(),
            samples: downtimes.iter().map(sample).collect(),
            failures: Vec::new(),
        }
    }

    pub(in super::super) fn comparison() -> Comparison {
        Comparison {
            emulated: true,
            kernel: "6.1".to_owned(),
            rows: vec![
                row("godwit", &[100, 120, 160]),
                row("QEMU", &[240, 200, 400]),
            ],
        }
    }

    #[test]
    fn ratios_are_those_of_medians() {
        let text = text(&comparison());
        for part in [
            "120.0 (100.0 to 160.0)",
            "240.0 (200.0 to 400.0)",
            "2.00",
            "await 90.0",
            "first run 26.0",
        ] {
            assert!(text.contains(part), "no {part} in:\n{text}");
        }
    }

    #[test]
    fn failures_and_loss_elsewhere_are_told() {
        let mut comparison = comparison();
        comparison.rows[0].samples[1].lost_outside = 3;
        comparison.rows[1].samples.clear();
        comparison.rows[1].failures.push("why".to_owned());
        let text = text(&comparison);
        assert!(text.contains("3 frames lost outside"), "{text}");
        assert!(text.contains("QEMU failed: why"), "{text}");
        assert_eq!(comparison.rows.iter().map(faults).sum::<usize>(), 2);
    }
}

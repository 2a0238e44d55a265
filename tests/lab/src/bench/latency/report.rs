//! The comparison as text.

use std::fmt::Write as _;

use super::series::Series;
use super::{Comparison, Sample};
use crate::bench::times::Times;
use crate::bench::turns::{Figure, remark, table};

type Column = fn(&Series) -> Option<f64>;

fn time(series: &Series, of: impl Fn(&Times) -> f64) -> Option<f64> {
    series.times.as_ref().map(of)
}

/// Counts of frames are far below 2^52.
#[allow(clippy::cast_precision_loss)]
fn lost(series: &Series) -> Option<f64> {
    Some(series.lost as f64)
}

/// Heading, figure, digits after the point.
const COLUMNS: [(&str, Column, usize); 8] = [
    ("min, us", |series| time(series, |times| times.min_us), 1),
    ("p50, us", |series| time(series, |times| times.p50_us), 1),
    ("p90, us", |series| time(series, |times| times.p90_us), 1),
    ("p99, us", |series| time(series, |times| times.p99_us), 1),
    ("p99.9, us", |series| series.times?.p99_9_us, 1),
    ("max, us", |series| time(series, |times| times.max_us), 1),
    ("lost", lost, 0),
    ("sent a second", |series| Some(series.rate), 0),
];

/// One stream, in a line.
pub(super) fn of(series: &Series) -> String {
    let figures = COLUMNS.iter().filter_map(|(name, column, digits)| {
        let figure = column(series)?;
        Some(format!("{name} {figure:.digits$}"))
    });
    let figures: Vec<String> = figures.collect();
    format!("{} frames: {}", series.sent, figures.join(", "))
}

/// One run.
pub(super) fn line(sample: &Sample) -> String {
    let all = sample.series.iter();
    let medians = all.filter_map(|series| {
        let times = series.times?;
        Some(format!("{}: p50 {:.1} us", series.name, times.p50_us))
    });
    medians.collect::<Vec<_>>().join("; ")
}

/// The table, and what is wrong with single runs.
pub(super) fn text(comparison: &Comparison) -> String {
    let mut names: Vec<&str> = Vec::new();
    let samples = || comparison.rows.iter().flat_map(|row| &row.samples);
    for series in samples().flat_map(|sample| &sample.series) {
        if !names.contains(&series.name.as_str()) {
            names.push(&series.name);
        }
    }
    let figures: Vec<Figure<'_, Sample>> = names
        .iter()
        .flat_map(|name| {
            COLUMNS.map(|(heading, column, digits)| Figure {
                name: format!("{name}: {heading}"),
                of: Box::new(move |sample: &Sample| {
                    let mut all = sample.series.iter();
                    column(all.find(|series| series.name == *name)?)
                }),
                digits,
            })
        })
        .collect();
    let mut text = table(comparison, &figures);
    for row in &comparison.rows {
        for series in row.samples.iter().flat_map(|sample| &sample.series) {
            if series.damaged + series.duplicates > 0 {
                let _ = writeln!(
                    text,
                    "{}, {}: {} frames came back changed, {} more than once",
                    row.vmm, series.name, series.damaged, series.duplicates
                );
            }
        }
    }
    text.push_str(
        "\nround trips from the sender through bridge, tap, vhost-net and testpmd and back, of each run; the sender's own\n\
         wake-up is in them, for both alike. What was lost is in no percentile.\n",
    );
    text.push_str(remark(comparison));
    text
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::bench::turns::Row;
    use crate::traffic::Tally;

    fn row(vmm: &str, medians: &[f64]) -> Row<Sample> {
        let sample = |median: &f64| {
            let tally = Tally {
                sent: 4,
                received: 3,
                seconds: 1.0,
                ..Tally::default()
            };
            let times = vec![median / 2.0, *median, median * 3.0];
            Sample {
                config: PathBuf::from("config"),
                series: vec![Series::in_flight(&tally, times)],
            }
        };
        Row {
            vmm: vmm.to_owned(),
            samples: medians.iter().map(sample).collect(),
            failures: Vec::new(),
        }
    }

    fn comparison() -> Comparison {
        Comparison {
            emulated: true,
            kernel: "6.1".to_owned(),
            rows: vec![
                row("godwit", &[100.0, 120.0, 160.0]),
                row("QEMU", &[300.0, 240.0, 200.0]),
            ],
        }
    }

    #[test]
    fn each_figure_has_medians_spread_and_ratio() {
        let text = text(&comparison());
        let line = |name: &str| {
            let mut lines = text.lines();
            lines.find(|line| line.starts_with(name)).unwrap_or("")
        };
        let p50 = line("one in flight: p50");
        for part in ["120.0 (100.0 to 160.0)", "240.0 (200.0 to 300.0)", "2.00"] {
            assert!(p50.contains(part), "no {part} in {p50}");
        }
        assert!(line("one in flight: lost").contains("1 (1 to 1)"), "{text}");
        // Of three frames there is none.
        assert!(line("one in flight: p99.9").contains('-'), "{text}");
        assert!(text.contains("only the ratios"), "{text}");
    }

    #[test]
    fn damage_and_failures_are_told() {
        let mut comparison = comparison();
        comparison.rows[0].samples[1].series[0].damaged = 2;
        comparison.rows[1].failures.push("why".to_owned());
        let text = text(&comparison);
        assert!(
            text.contains("godwit, one in flight: 2 frames came back changed"),
            "{text}"
        );
        assert!(text.contains("QEMU failed: why"), "{text}");
    }
}

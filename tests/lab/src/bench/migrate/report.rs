//! Results: a table, and what is saved.

use std::fmt::Write as _;

use serde::Serialize;

use super::case::Case;
use super::run::Sample;
use crate::bench::Summary;

/// All samples of one VMM in one case.
#[derive(Debug, Serialize)]
pub struct Row {
    /// The case.
    pub case: Case,
    /// The case's name.
    pub name: String,
    /// The VMM.
    pub vmm: String,
    /// Why it was left out, if it was.
    pub left_out: Option<String>,
    /// Runs that failed, with the reason.
    pub failures: Vec<String>,
    /// Runs that did not.
    pub samples: Vec<Sample>,
}

/// One figure of a sample; `None` where it was not had.
type Figure = fn(&Sample) -> Option<f64>;

/// MiB, or any count far below 2^52.
#[allow(clippy::cast_precision_loss)]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Columns: heading, figure, digits after the point.
const COLUMNS: [(&str, Figure, usize); 9] = [
    ("total ms", |s| Some(s.total_ms), 1),
    ("completed", |s| s.completed_ms, 1),
    ("gap ms", |s| Some(s.gap_us / 1e3), 2),
    ("said ms", |s| s.reported.downtime_us.map(|us| us / 1e3), 2),
    ("silence", |s| Some(s.silence_us / 1e3), 1),
    ("sent MiB", |s| s.reported.sent_bytes.map(mib), 2),
    ("wire MiB", |s| s.wire_bytes.map(mib), 2),
    ("grown MiB", |s| Some(mib(s.growth_bytes)), 0),
    ("CPU s", |s| Some(s.source_cpu_s + s.destination_cpu_s), 2),
];

impl Row {
    /// The summary of a figure.
    pub fn summary(&self, figure: Figure) -> Option<Summary> {
        Summary::of(self.samples.iter().filter_map(figure))
    }

    /// Median total in milliseconds.
    pub fn total(&self) -> Option<Summary> {
        self.summary(|s| Some(s.total_ms))
    }

    /// Median gap in milliseconds.
    pub fn gap(&self) -> Option<Summary> {
        self.summary(|s| Some(s.gap_us / 1e3))
    }
}

/// Medians, and below them the least and the most.
pub fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    let mut case = None;
    for row in rows {
        if case != Some(row.case) {
            case = Some(row.case);
            let _ = write!(text, "\n{}\n{:<18}", row.name, "");
            for (heading, _, _) in COLUMNS {
                let _ = write!(text, "{heading:>17}");
            }
            text.push('\n');
        }
        let _ = write!(text, "{:<18}", row.vmm);
        if let Some(why) = &row.left_out {
            let _ = writeln!(text, "  left out: {why}");
            continue;
        }
        for (_, figure, digits) in COLUMNS {
            let cell = row
                .summary(figure)
                .map_or_else(|| "-".to_owned(), |s| format!("{:.digits$}", s.median));
            let _ = write!(text, "{cell:>17}");
        }
        let _ = write!(text, "\n{:<18}", format!("  {} runs", row.samples.len()));
        for (_, figure, digits) in COLUMNS {
            let cell = row.summary(figure).map_or_else(String::new, |s| {
                format!("{:.digits$}..{:.digits$}", s.least, s.most)
            });
            let _ = write!(text, "{cell:>17}");
        }
        text.push('\n');
        if let Some(rate) = row.summary(|s| s.dirty_rate) {
            let _ = writeln!(text, "  writing {:.0} pages a second", rate.median);
        }
        for failure in &row.failures {
            let _ = writeln!(text, "  failed: {failure}");
        }
    }
    text
}

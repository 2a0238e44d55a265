//! A comparison as text: medians, spread and ratios.

use std::fmt::Write as _;

use super::{Comparison, Row};
use crate::bench::Summary;

/// Takes a figure out of a sample; `None` where it has none.
type Measure<'a, S> = Box<dyn Fn(&S) -> Option<f64> + 'a>;

/// One figure of a sample.
pub(in crate::bench) struct Figure<'a, S> {
    /// Its heading.
    pub name: String,
    /// The figure.
    pub of: Measure<'a, S>,
    /// Digits after the point.
    pub digits: usize,
}

impl<S> Row<S> {
    /// Where the samples of a figure lie.
    pub(in crate::bench) fn summary(&self, figure: impl Fn(&S) -> Option<f64>) -> Option<Summary> {
        Summary::of(self.samples.iter().filter_map(figure))
    }
}

/// Medians and, in brackets, the least and the most; ratios of medians. What failed comes last.
pub(in crate::bench) fn table<S>(comparison: &Comparison<S>, figures: &[Figure<'_, S>]) -> String {
    let names = figures.iter().map(|figure| figure.name.chars().count());
    let left = names.max().unwrap_or(0).max(23) + 2;
    let mut text = format!("\n{:<left$}", "medians (least to most)");
    for row in &comparison.rows {
        let head = format!("{}, {} runs", row.vmm, row.samples.len());
        let _ = write!(text, "{head:>30}");
    }
    let (first, other) = comparison.names();
    let _ = writeln!(text, "{:>16}", format!("{other}/{first}"));
    for Figure { name, of, digits } in figures {
        let _ = write!(text, "{name:<left$}");
        let mut medians = Vec::new();
        for row in &comparison.rows {
            let cell = row.summary(of).map_or_else(
                || "-".to_owned(),
                |summary| {
                    medians.push(summary.median);
                    format!(
                        "{:.digits$} ({:.digits$} to {:.digits$})",
                        summary.median, summary.least, summary.most
                    )
                },
            );
            let _ = write!(text, "{cell:>30}");
        }
        let ratio = match medians[..] {
            [first, other] if first > 0.0 => format!("{:.2}", other / first),
            _ => "-".to_owned(),
        };
        let _ = writeln!(text, "{ratio:>16}");
    }
    for row in &comparison.rows {
        for failure in &row.failures {
            let _ = writeln!(text, "{} failed: {failure}", row.vmm);
        }
    }
    text
}

/// What holds of every figure of an emulated machine.
pub(in crate::bench) fn remark<S>(comparison: &Comparison<S>) -> &'static str {
    if comparison.emulated {
        "CPUs and KVM are emulated here: only the ratios mean anything, and those no more than the spread allows.\n"
    } else {
        ""
    }
}

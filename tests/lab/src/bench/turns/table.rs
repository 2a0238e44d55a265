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
    let (first, other) = comparison.names();
    let heads = comparison.rows.iter();
    let heads = heads.map(|row| format!("{}, {} runs", row.vmm, row.samples.len()));
    let mut lines = vec![
        std::iter::once("medians (least to most)".to_owned())
            .chain(heads)
            .chain([format!("{other}/{first}")])
            .collect::<Vec<_>>(),
    ];
    for figure in figures {
        lines.push(line(comparison, figure));
    }
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..comparison.rows.len() + 2).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        text.push('\n');
        for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
            let _ = match column {
                0 => write!(text, "{cell:<width$}"),
                _ => write!(text, "   {cell:>width$}"),
            };
        }
    }
    text.push('\n');
    for row in &comparison.rows {
        for failure in &row.failures {
            let _ = writeln!(text, "{} failed: {failure}", row.vmm);
        }
    }
    text
}

/// A figure's name, a cell to each VMM, the ratio of their medians.
fn line<S>(comparison: &Comparison<S>, figure: &Figure<'_, S>) -> Vec<String> {
    let Figure { name, of, digits } = figure;
    let digits = *digits;
    let mut cells = vec![name.clone()];
    let mut medians = Vec::new();
    for row in &comparison.rows {
        let cell = row.summary(of).map(|summary| {
            medians.push(summary.median);
            format!(
                "{:.digits$} ({:.digits$} to {:.digits$})",
                summary.median, summary.least, summary.most
            )
        });
        cells.push(cell.unwrap_or_else(|| "-".to_owned()));
    }
    cells.push(match medians[..] {
        [first, other] if first > 0.0 => format!("{:.2}", other / first),
        _ => "-".to_owned(),
    });
    cells
}

/// What holds of every figure of an emulated machine.
pub(in crate::bench) fn remark<S>(comparison: &Comparison<S>) -> &'static str {
    if comparison.emulated {
        "CPUs and KVM are emulated here: only the ratios mean anything, and those no more than the spread allows.\n"
    } else {
        ""
    }
}

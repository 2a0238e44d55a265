//! The results as a picture: total and gap of each case, on logarithmic scales.

use std::fmt::Write as _;

use super::report::Row;
use crate::bench::Summary;

const LABEL: f64 = 330.0;
const PANEL: f64 = 420.0;
const SPACE: f64 = 30.0;
const BAR: f64 = 14.0;
const TOP: f64 = 60.0;
const COLOURS: [&str; 5] = ["#2a6f97", "#e07a1f", "#4f9d4f", "#b23a6e", "#777777"];

/// A scale in milliseconds: the powers of ten from and to which it goes.
#[derive(Debug, Clone, Copy)]
struct Scale {
    from: f64,
    to: f64,
}

impl Scale {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let exponents: Vec<f64> = values.filter(|v| *v > 0.0).map(f64::log10).collect();
        let from = exponents.iter().copied().fold(f64::INFINITY, f64::min);
        let to = exponents.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if from > to {
            return Self { from: 0.0, to: 1.0 };
        }
        // A value on the edge would have a bar without length.
        let from = (from - 0.3).floor();
        Self {
            from,
            to: to.ceil().max(from + 1.0),
        }
    }

    fn at(self, value: f64) -> f64 {
        let part = (value.max(f64::MIN_POSITIVE).log10() - self.from) / (self.to - self.from);
        part.clamp(0.0, 1.0) * PANEL
    }

    fn ticks(self) -> impl Iterator<Item = f64> {
        let mut exponent = self.from;
        std::iter::from_fn(move || {
            (exponent <= self.to).then(|| {
                exponent += 1.0;
                10_f64.powf(exponent - 1.0)
            })
        })
    }
}

/// An SVG document.
pub fn svg(rows: &[Row]) -> String {
    let rows: Vec<&Row> = rows.iter().filter(|row| !row.samples.is_empty()).collect();
    let mut vmms: Vec<&str> = Vec::new();
    for row in &rows {
        if !vmms.contains(&row.vmm.as_str()) {
            vmms.push(&row.vmm);
        }
    }
    let colour = |vmm: &str| {
        let index = vmms.iter().position(|name| *name == vmm).unwrap_or(0);
        COLOURS[index % COLOURS.len()]
    };
    let mut cases = 0.0;
    let mut bars = 0.0;
    let mut body = String::new();
    let (totals, gaps) = (
        rows.iter().filter_map(|row| row.total()),
        rows.iter().filter_map(|row| row.gap()),
    );
    let total_scale = Scale::of(totals.flat_map(|s| [s.least, s.most]));
    let gap_scale = Scale::of(gaps.flat_map(|s| [s.least, s.most]));
    let mut case = None;
    for row in &rows {
        if case != Some(row.case) {
            case = Some(row.case);
            cases += 1.0;
            let y = TOP + bars * BAR + cases * BAR;
            let _ = writeln!(
                body,
                r#"<text x="8" y="{:.0}">{}</text>"#,
                y + BAR - 3.0,
                row.name
            );
        }
        let y = TOP + bars * BAR + cases * BAR;
        let panels = [(row.total(), total_scale, 0.0), (row.gap(), gap_scale, 1.0)];
        for (summary, scale, column) in panels {
            if let Some(summary) = summary {
                let x = LABEL + column * (PANEL + SPACE);
                bar(&mut body, x, y, scale, summary, colour(&row.vmm));
            }
        }
        bars += 1.0;
    }
    let height = TOP + (bars + cases + 2.0) * BAR;
    let width = LABEL + 2.0 * (PANEL + SPACE);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (index, vmm) in vmms.iter().enumerate() {
        #[allow(clippy::cast_precision_loss)] // a handful
        let x = 8.0 + 130.0 * index as f64;
        let _ = writeln!(
            out,
            r#"<rect x="{x:.0}" y="8" width="10" height="10" fill="{}"/><text x="{:.0}" y="17">{vmm}</text>"#,
            colour(vmm),
            x + 14.0
        );
    }
    for (title, scale, column) in [
        ("total, ms (medians, least to most)", total_scale, 0.0),
        ("gap in the beats, ms", gap_scale, 1.0),
    ] {
        let x = LABEL + column * (PANEL + SPACE);
        let _ = writeln!(out, r#"<text x="{x:.0}" y="34">{title}</text>"#);
        for tick in scale.ticks() {
            let at = x + scale.at(tick);
            let _ = writeln!(
                out,
                r##"<line x1="{at:.1}" y1="{TOP}" x2="{at:.1}" y2="{:.0}" stroke="#ddd"/><text x="{at:.1}" y="{:.0}" text-anchor="middle">{tick}</text>"##,
                height - BAR,
                TOP - 8.0
            );
        }
    }
    out + &body + "</svg>\n"
}

/// A bar to the median, with a line from the least to the most.
fn bar(body: &mut String, x: f64, y: f64, scale: Scale, summary: Summary, colour: &str) {
    let _ = writeln!(
        body,
        r##"<rect x="{x:.1}" y="{:.1}" width="{:.1}" height="{:.1}" fill="{colour}" fill-opacity="0.75"/><line x1="{:.1}" y1="{:.1}" x2="{:.1}" y2="{:.1}" stroke="#222"/>"##,
        y + 2.0,
        scale.at(summary.median),
        BAR - 4.0,
        x + scale.at(summary.least),
        y + BAR / 2.0,
        x + scale.at(summary.most),
        y + BAR / 2.0,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_hold_their_values() {
        let scale = Scale::of([3.0, 450.0].into_iter());
        assert_eq!((scale.from, scale.to), (0.0, 3.0));
        assert!(scale.at(3.0) > 0.0 && scale.at(450.0) < PANEL);
        assert_eq!(
            scale.ticks().collect::<Vec<_>>(),
            [1.0, 10.0, 100.0, 1000.0]
        );
        let empty = Scale::of(std::iter::empty());
        assert_eq!(empty.ticks().count(), 2);
    }
}

//! The report as a picture: a histogram for each series, on logarithmic scales.

use std::fmt::Write as _;

use super::text::time;
use super::{Bar, Measured, Report, joined};

const WIDTH: f64 = 860.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TITLE: f64 = 44.0;
const PLOT: f64 = 200.0;
const PANEL: f64 = TITLE + PLOT + 46.0;
/// Bars of each power of two.
const STEPS: u64 = 16;

/// Decades from and to which an axis goes.
#[derive(Clone, Copy, Debug)]
struct Axis {
    from: f64,
    to: f64,
    length: f64,
}

impl Axis {
    fn at(self, value: f64) -> f64 {
        let part = (value.max(1.0).log10() - self.from) / (self.to - self.from);
        part.clamp(0.0, 1.0) * self.length
    }

    fn decades(self) -> impl Iterator<Item = f64> {
        (0..20)
            .map(move |n| self.from + f64::from(n))
            .take_while(move |&exponent| exponent <= self.to)
            .map(|exponent| 10_f64.powf(exponent))
    }
}

/// An SVG document.
#[must_use]
pub fn svg(report: &Report) -> String {
    let shown: Vec<_> = report.series.iter().filter(|m| m.late.is_some()).collect();
    let bounds = |pick: fn(&Bar) -> u64| {
        let bars = shown.iter().flat_map(|measured| &measured.histogram);
        bars.map(pick)
    };
    let least = bounds(|bar| bar.from_ns).min().unwrap_or(1).max(1);
    let greatest = bounds(|bar| bar.to_ns).max().unwrap_or(10);
    let (from, to) = (
        (least as f64).log10().floor(),
        (greatest as f64).log10().ceil(),
    );
    // One axis for all, so that panels can be compared.
    let across = Axis {
        from,
        to: to.max(from + 1.0),
        length: WIDTH - LEFT - RIGHT,
    };
    let panels = f64::from(u32::try_from(shown.len()).unwrap_or(u32::MAX));
    let height = panels * PANEL + 10.0;
    let mut out = String::new();
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>"
    );
    let mut top = 0.0;
    for measured in shown {
        panel(&mut out, report, measured, across, top);
        top += PANEL;
    }
    out.push_str("</svg>\n");
    out
}

fn panel(out: &mut String, report: &Report, measured: &Measured, across: Axis, top: f64) {
    let bars = joined(&measured.histogram, STEPS);
    let most = bars.iter().map(|bar| bar.count).max().unwrap_or(1) as f64;
    let up = Axis {
        from: -0.3,
        to: most.log10().ceil().max(1.0),
        length: PLOT,
    };
    let base = top + TITLE + PLOT;
    let _ = writeln!(
        out,
        "<text x=\"{LEFT}\" y=\"{:.0}\" font-weight=\"bold\">vCPU {} on CPU {}: {}, every {}</text>",
        top + 18.0,
        measured.vcpu,
        escaped(&measured.cpus),
        measured.what.words(),
        time(report.period_ns)
    );
    let _ = writeln!(
        out,
        "<text x=\"{LEFT}\" y=\"{:.0}\" fill=\"#555555\">{} samples, {} missed; {}</text>",
        top + 34.0,
        measured.samples,
        measured.missed,
        escaped(&report.settings)
    );
    for value in across.decades() {
        let x = LEFT + across.at(value);
        let _ = writeln!(
            out,
            "<path d=\"M{x:.1} {:.1}V{base:.1}\" stroke=\"#dddddd\"/><text x=\"{x:.1}\" \
             y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            top + TITLE,
            base + 16.0,
            tick(value)
        );
    }
    for exponent in 0..20 {
        let value = 10_f64.powi(exponent);
        if value > most * 1.001 {
            break;
        }
        let y = base - up.at(value);
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{value:.0}</text>",
            LEFT - 6.0,
            y + 4.0
        );
    }
    for bar in bars.iter().filter(|bar| bar.count > 0) {
        let from = across.at(bar.from_ns as f64);
        let to = across.at(bar.to_ns.saturating_add(1) as f64);
        let tall = up.at(bar.count as f64);
        let _ = writeln!(
            out,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{tall:.1}\" fill=\"#2a6f97\"/>",
            LEFT + from,
            base - tall,
            (to - from).max(1.0)
        );
    }
    let Some(late) = measured.late else { return };
    let marks = [
        ("p50", late.p50_ns),
        ("p99", late.p99_ns),
        ("p99.9", late.p99_9_ns),
        ("p99.99", late.p99_99_ns),
        ("max", late.max_ns),
    ];
    for (row, (name, value)) in (0_u8..).zip(marks) {
        let x = LEFT + across.at(value as f64);
        // To the left where the right edge is near.
        let (anchor, gap) = if x > WIDTH * 0.8 {
            ("end", -3.0)
        } else {
            ("start", 3.0)
        };
        let _ = writeln!(
            out,
            "<path d=\"M{x:.1} {:.1}V{base:.1}\" stroke=\"#b23a6e\" stroke-dasharray=\"3 2\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\" fill=\"#b23a6e\">{name} {}</text>",
            top + TITLE,
            x + gap,
            top + TITLE + 12.0 + f64::from(row) * 14.0,
            time(value)
        );
    }
    let _ = writeln!(
        out,
        "<path d=\"M{LEFT} {base:.1}H{:.1}\" stroke=\"#333333\"/>",
        WIDTH - RIGHT
    );
}

/// A power of ten of nanoseconds.
fn tick(value: f64) -> String {
    match value {
        v if v < 1e3 => format!("{v:.0} ns"),
        v if v < 1e6 => format!("{:.0} µs", v / 1e3),
        v if v < 1e9 => format!("{:.0} ms", v / 1e6),
        v => format!("{:.0} s", v / 1e9),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

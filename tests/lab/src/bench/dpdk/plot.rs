//! The comparison as an SVG document: a bar to each median, a dot for each run.

use std::fmt::Write as _;

use super::Comparison;
use super::report::FIGURES;

const WIDTH: f64 = 860.0;
const LEFT: f64 = 110.0;
const RIGHT: f64 = 760.0;
const BAR: f64 = 18.0;
const COLOURS: [&str; 2] = ["#1f6f9f", "#e07a1f"];

/// An SVG document.
pub(super) fn svg(comparison: &Comparison) -> String {
    let mut body = String::new();
    let mut y = 76.0;
    for (name, figure, digits) in FIGURES {
        let _ = writeln!(
            body,
            r#"<text x="{LEFT}" y="{y:.0}" font-weight="bold">{name}</text>"#
        );
        y += 8.0;
        let all = comparison.rows.iter().flat_map(|row| &row.samples);
        let most = all.map(figure).fold(0.0, f64::max);
        let x = |value: f64| LEFT + value / most.max(f64::MIN_POSITIVE) * (RIGHT - LEFT);
        for (row, colour) in comparison.rows.iter().zip(COLOURS) {
            let middle = y + BAR / 2.0;
            let _ = writeln!(
                body,
                r#"<text x="{:.0}" y="{:.0}" text-anchor="end">{}</text>"#,
                LEFT - 8.0,
                middle + 4.0,
                row.vmm
            );
            if let Some(summary) = row.summary(|sample| Some(figure(sample))) {
                let _ = writeln!(
                    body,
                    r#"<rect x="{LEFT}" y="{y:.0}" width="{:.1}" height="{BAR}" fill="{colour}" fill-opacity="0.55"/><text x="{:.0}" y="{:.0}">{:.digits$}</text>"#,
                    x(summary.median) - LEFT,
                    RIGHT + 12.0,
                    middle + 4.0,
                    summary.median
                );
            }
            for value in row.samples.iter().map(figure) {
                let _ = writeln!(
                    body,
                    r##"<circle cx="{:.1}" cy="{middle:.1}" r="4" fill="{colour}" stroke="#ffffff"/>"##,
                    x(value)
                );
            }
            y += BAR + 5.0;
        }
        y += 26.0;
    }
    let emulated = if comparison.emulated {
        "; on an emulated machine, where only ratios count"
    } else {
        ""
    };
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{y:.0}\" \
         viewBox=\"0 0 {WIDTH} {y:.0}\" font-family=\"sans-serif\" font-size=\"13\" fill=\"#222\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"20\" y=\"28\" font-size=\"18\">A DPDK guest moves under traffic</text>\n\
         <text x=\"20\" y=\"48\" fill=\"#555\">bars: medians; dots: runs; shorter is better{emulated}</text>\n\
         {body}</svg>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::comparison;
    use super::*;

    #[test]
    fn every_run_has_a_dot_in_every_figure() {
        let svg = svg(&comparison());
        assert_eq!(svg.matches("<circle").count(), 6 * FIGURES.len());
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn nothing_measured_is_still_a_document() {
        let svg = svg(&Comparison {
            rows: Vec::new(),
            ..comparison()
        });
        assert!(svg.ends_with("</svg>\n") && !svg.contains("NaN"), "{svg}");
    }
}

//! The stream around the switch as an SVG document: all of it above, the switch below.

use std::fmt::Write as _;

use super::outcome::Outcome;
use super::table::{micros, seconds};
use crate::traffic::Flight;

const WIDTH: f64 = 1080.0;
const LEFT: f64 = 90.0;
const RIGHT: f64 = 1050.0;

const FRAME: &str = "#1f6f9f";
const LOST: &str = "#c8102e";
const COPY: &str = "#dceaf4";
const STOP: &str = "#f6c667";

/// A panel: a range of times, and of round-trip times on a logarithmic scale, in seconds.
#[derive(Debug, Clone, Copy)]
struct Panel {
    top: f64,
    height: f64,
    from: f64,
    to: f64,
    fastest: f64,
    slowest: f64,
}

/// Height of the strip above a panel where lost frames are.
const STRIP: f64 = 22.0;

impl Panel {
    fn x(&self, time: f64) -> f64 {
        let part = (time - self.from) / (self.to - self.from);
        LEFT + part.clamp(0.0, 1.0) * (RIGHT - LEFT)
    }

    fn y(&self, trip: f64) -> f64 {
        let range = (self.slowest / self.fastest).log10();
        let part = (trip.max(f64::MIN_POSITIVE) / self.fastest).log10() / range;
        self.bottom() - part.clamp(0.0, 1.0) * self.height
    }

    fn bottom(&self) -> f64 {
        self.top + self.height
    }

    /// Grid, scales and names of the axes.
    fn axes(&self, svg: &mut String) {
        let mut power = self.fastest;
        while power <= self.slowest * 1.01 {
            let y = self.y(power);
            // The highest one is beside the strip's name.
            if y > self.top + 6.0 {
                let _ = writeln!(
                    svg,
                    r##"<line x1="{LEFT}" y1="{y:.1}" x2="{RIGHT}" y2="{y:.1}" stroke="#e3e3e3"/><text x="{:.0}" y="{:.1}" text-anchor="end">{}</text>"##,
                    LEFT - 8.0,
                    y + 4.0,
                    unit(power)
                );
            }
            power *= 10.0;
        }
        let step = step((self.to - self.from) / 10.0);
        let mut time = (self.from / step).ceil() * step;
        while time <= self.to {
            let x = self.x(time);
            let digits = if step < 0.1 {
                2
            } else {
                usize::from(step < 1.0)
            };
            let _ = writeln!(
                svg,
                r##"<line x1="{x:.1}" y1="{:.0}" x2="{x:.1}" y2="{:.0}" stroke="#888"/><text x="{x:.1}" y="{:.0}" text-anchor="middle">{time:.digits$}</text>"##,
                self.bottom(),
                self.bottom() + 4.0,
                self.bottom() + 18.0
            );
            time += step;
        }
        let _ = writeln!(
            svg,
            r##"<rect x="{LEFT}" y="{:.0}" width="{:.0}" height="{:.0}" fill="none" stroke="#888"/>"##,
            self.top - STRIP,
            RIGHT - LEFT,
            self.height + STRIP
        );
        let _ = writeln!(
            svg,
            r##"<line x1="{LEFT}" y1="{0:.0}" x2="{RIGHT}" y2="{0:.0}" stroke="#888"/><text x="{1:.0}" y="{2:.0}" text-anchor="end" fill="{LOST}">lost</text>"##,
            self.top,
            LEFT - 8.0,
            self.top - STRIP / 2.0 + 4.0
        );
        let middle = self.top + self.height / 2.0;
        let _ = writeln!(
            svg,
            r#"<text x="22" y="{middle:.0}" text-anchor="middle" transform="rotate(-90 22 {middle:.0})">round trip</text>"#
        );
        let _ = writeln!(
            svg,
            r#"<text x="{:.0}" y="{:.0}" text-anchor="middle">seconds since the stream began, when a frame was sent</text>"#,
            f64::midpoint(LEFT, RIGHT),
            self.bottom() + 36.0
        );
    }

    fn band(&self, svg: &mut String, from: f64, to: f64, colour: &str) {
        let (x, end) = (self.x(from), self.x(to));
        // A stop of microseconds is still to be seen.
        let _ = writeln!(
            svg,
            r#"<rect x="{x:.1}" y="{:.0}" width="{:.1}" height="{:.0}" fill="{colour}"/>"#,
            self.top - STRIP,
            (end - x).max(1.5),
            self.height + STRIP
        );
    }

    /// Round trips as the range of each column, or as a dot for each frame where there is room.
    fn frames(&self, svg: &mut String, flights: &[Flight]) {
        let inside = |flight: &&Flight| (self.from..=self.to).contains(&flight.sent);
        let flights: Vec<&Flight> = flights.iter().filter(inside).collect();
        let dots = flights.len() < 1500;
        let mut column: Option<(f64, f64, f64)> = None;
        for flight in flights {
            let x = self.x(flight.sent);
            let Some(back) = flight.back else {
                let _ = writeln!(
                    svg,
                    r#"<line x1="{x:.1}" y1="{:.0}" x2="{x:.1}" y2="{:.0}" stroke="{LOST}" stroke-width="1.2"/>"#,
                    self.top - STRIP + 4.0,
                    self.top - 4.0
                );
                continue;
            };
            let y = self.y(back - flight.sent);
            if dots {
                let _ = writeln!(
                    svg,
                    r#"<circle cx="{x:.1}" cy="{y:.1}" r="2.2" fill="{FRAME}"/>"#
                );
                continue;
            }
            match &mut column {
                Some((at, high, low)) if x - *at < 1.0 => {
                    *high = high.min(y);
                    *low = low.max(y);
                }
                _ => {
                    bar(svg, column.replace((x, y, y)));
                }
            }
        }
        bar(svg, column);
    }
}

/// One column of a panel with too many frames for dots.
fn bar(svg: &mut String, column: Option<(f64, f64, f64)>) {
    if let Some((x, high, low)) = column {
        let _ = writeln!(
            svg,
            r#"<line x1="{x:.1}" y1="{:.1}" x2="{x:.1}" y2="{:.1}" stroke="{FRAME}" stroke-width="1.1"/>"#,
            high - 0.8,
            low + 0.8
        );
    }
}

/// A power of ten of seconds.
fn unit(time: f64) -> String {
    match time {
        ..9e-4 => format!("{:.0} µs", time * 1e6),
        ..0.9 => format!("{:.0} ms", time * 1e3),
        _ => format!("{time:.0} s"),
    }
}

/// The least of 1, 2 and 5 times a power of ten that is no less than `least`.
fn step(least: f64) -> f64 {
    let power = 10_f64.powf(least.max(1e-6).log10().floor());
    let steps = [1.0, 2.0, 5.0].map(|factor| factor * power);
    let fit = steps.into_iter().find(|step| *step >= least * 0.999);
    fit.unwrap_or(10.0 * power)
}

/// The document.
pub(super) fn svg(outcome: &Outcome) -> String {
    let trips = outcome.record.flights.iter();
    let trips = trips.filter_map(|flight| Some(flight.back? - flight.sent));
    let (least, most) = trips.fold((f64::INFINITY, 0.0_f64), |(least, most), trip| {
        (least.min(trip), most.max(trip))
    });
    let power = |time: f64, round: fn(f64) -> f64| 10_f64.powf(round(time.log10()));
    let (fastest, slowest) = if least < most {
        (power(least.max(1e-6), f64::floor), power(most, f64::ceil))
    } else {
        (1e-4, 1e-2)
    };
    let whole = Panel {
        top: 142.0,
        height: 150.0,
        from: 0.0,
        to: outcome.end().max(0.1),
        fastest,
        slowest,
    };
    let beside = (3.0 * (outcome.ran - outcome.stopped)).clamp(0.05, 2.0);
    let near = Panel {
        top: 412.0,
        height: 230.0,
        from: (outcome.stopped - beside).max(0.0),
        to: (outcome.ran + beside).min(whole.to),
        ..whole
    };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"720\" \
         viewBox=\"0 0 {WIDTH} 720\" font-family=\"sans-serif\" font-size=\"13\" fill=\"#222\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    heading(&mut svg, outcome);
    legend(&mut svg);
    for (panel, title, more) in [
        (&whole, "The whole stream", String::new()),
        (&near, "The switch", parts(outcome)),
    ] {
        let _ = writeln!(
            svg,
            r##"<text x="{LEFT}" y="{:.0}"><tspan font-weight="bold">{title}</tspan><tspan dx="14" fill="#555">{more}</tspan></text>"##,
            panel.top - STRIP - 8.0
        );
        panel.band(
            &mut svg,
            outcome.asked.max(panel.from),
            outcome.stopped,
            COPY,
        );
        panel.band(&mut svg, outcome.stopped, outcome.ran, STOP);
        panel.axes(&mut svg);
        panel.frames(&mut svg, &outcome.record.flights);
    }
    svg.push_str("</svg>\n");
    svg
}

fn heading(svg: &mut String, outcome: &Outcome) {
    let span = outcome.span();
    let _ = writeln!(
        svg,
        r#"<text x="20" y="32" font-size="20">{} moves a guest that runs DPDK while frames pass through it</text>"#,
        outcome.vmm
    );
    let _ = writeln!(
        svg,
        r##"<text x="20" y="56" fill="#555">{} frames, {:.0} a second: {} lost in the switch, {} elsewhere; longest silence {}; stopped {} of {} in all{}</text>"##,
        outcome.record.flights.len(),
        outcome.rate(),
        span.lost,
        outcome.lost_outside(),
        seconds(span.silence),
        micros(outcome.account.downtime_us),
        micros(outcome.account.total_us),
        if outcome.emulated {
            "; all on an emulated machine"
        } else {
            ""
        }
    );
}

/// Where the guest's standstill went.
fn parts(outcome: &Outcome) -> String {
    let parts = outcome.account.downtime_parts().into_iter();
    let parts: Vec<String> = parts
        .map(|(part, us)| format!("{part} {}", micros(us)))
        .collect();
    let stopped = micros(outcome.account.downtime_us);
    if parts.is_empty() {
        format!("{stopped} stopped")
    } else {
        format!("{stopped} stopped = {}", parts.join(" + "))
    }
}

fn legend(svg: &mut String) {
    let y = 80.0;
    let shapes = [
        (
            20.0,
            format!(r#"<circle cx="26" cy="76" r="3" fill="{FRAME}"/>"#),
            "a frame that came back",
        ),
        (
            200.0,
            format!(
                r#"<line x1="206" y1="69" x2="206" y2="83" stroke="{LOST}" stroke-width="1.6"/>"#
            ),
            "a frame that was lost",
        ),
        (
            370.0,
            format!(r#"<rect x="366" y="69" width="14" height="14" fill="{COPY}"/>"#),
            "memory travels, the guest runs",
        ),
        (
            610.0,
            format!(r#"<rect x="606" y="69" width="14" height="14" fill="{STOP}"/>"#),
            "the guest stands still: stop to first run",
        ),
    ];
    for (x, shape, text) in shapes {
        let _ = writeln!(
            svg,
            r#"{shape}<text x="{:.0}" y="{y}">{text}</text>"#,
            x + 16.0
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::outcome::tests::outcome;
    use super::*;

    #[test]
    fn every_lost_frame_of_the_switch_is_marked_in_both_panels() {
        let outcome = outcome();
        let svg = svg(&outcome);
        let lost = svg
            .lines()
            .filter(|line| line.contains(LOST) && line.starts_with("<line"));
        // 40 in each panel, a name in each, and the legend.
        assert_eq!(lost.count(), 2 * 40 + 3, "{svg}");
        assert!(svg.contains("40 lost in the switch, 0 elsewhere"));
        assert!(svg.ends_with("</svg>\n") && !svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn a_stream_without_frames_has_a_picture() {
        let mut outcome = outcome();
        outcome.record.flights.clear();
        let svg = svg(&outcome);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn scales_stay_inside_and_steps_are_round() {
        let panel = Panel {
            top: 0.0,
            height: 100.0,
            from: 1.0,
            to: 2.0,
            fastest: 1e-4,
            slowest: 1e-2,
        };
        assert!((panel.y(1e-3) - 50.0).abs() < 1e-6);
        assert!((panel.y(1.0) - 0.0).abs() < 1e-6);
        assert!((panel.x(1.5) - f64::midpoint(LEFT, RIGHT)).abs() < 1e-6);
        for (least, expected) in [(0.11, 0.2), (1.0, 1.0), (0.6, 1.0), (30.0, 50.0)] {
            assert!((step(least) - expected).abs() < 1e-9, "{least}");
        }
    }
}

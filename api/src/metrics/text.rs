//! The text format.

use std::fmt::{self, Write};

use super::{Family, Histogram, Kind, Number, Sample, Samples};

pub(super) fn write_family(text: &mut String, family: &Family, samples: &Samples) {
    let kind = match family.kind() {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    let name = family.name();
    let mut out = Infallible(text);
    out.put(format_args!(
        "# HELP {name} {}\n",
        Escaped(family.help(), false)
    ));
    out.put(format_args!("# TYPE {name} {kind}\n"));
    for (values, sample) in samples {
        let labels = Labels {
            names: family.labels(),
            values,
        };
        match sample {
            Sample::Number(number) => out.put(format_args!("{name}{labels} {number}\n")),
            Sample::Histogram(histogram) => write_histogram(&mut out, name, &labels, histogram),
        }
    }
}

fn write_histogram(
    out: &mut Infallible<'_>,
    name: &str,
    labels: &Labels<'_>,
    histogram: &Histogram,
) {
    let last = (f64::INFINITY, histogram.above);
    // Written once: a large machine has tens of thousands of buckets.
    let mut start = labels.to_string();
    let end = if start.is_empty() {
        start.push('{');
        ""
    } else {
        start.pop();
        ","
    };
    let mut count = 0_u64;
    for (bound, more) in histogram.buckets.iter().copied().chain([last]) {
        count = count.saturating_add(more);
        let bound = Number::Float(bound);
        out.put(format_args!(
            "{name}_bucket{start}{end}le=\"{bound}\"}} {count}\n"
        ));
    }
    let sum = Number::Float(histogram.sum);
    out.put(format_args!("{name}_sum{labels} {sum}\n"));
    out.put(format_args!("{name}_count{labels} {count}\n"));
}

/// A text; writing to it cannot fail.
struct Infallible<'a>(&'a mut String);

impl Infallible<'_> {
    fn put(&mut self, arguments: fmt::Arguments<'_>) {
        // A String takes all that memory holds.
        let _: fmt::Result = self.0.write_fmt(arguments);
    }
}

/// `{a="b",c="d"}`, or nothing.
struct Labels<'a> {
    names: &'a [&'a str],
    values: &'a [String],
}

impl fmt::Display for Labels<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = '{';
        for (name, value) in self.names.iter().zip(self.values) {
            write!(f, "{separator}{name}=\"{}\"", Escaped(value, true))?;
            separator = ',';
        }
        if separator == ',' {
            f.write_char('}')?;
        }
        Ok(())
    }
}

/// A help text, or a label's value, which has its quotes escaped too.
///
/// The format has no escape for a character that is not ASCII; answers are
/// ASCII all the same, so it is written as the six characters `\u00e9`.
struct Escaped<'a>(&'a str, bool);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_plain = |b: u8| b.is_ascii() && !matches!(b, b'\\' | b'\n' | b'"');
        if self.0.bytes().all(is_plain) {
            return f.write_str(self.0);
        }
        for c in self.0.chars() {
            match c {
                '\\' => f.write_str(r"\\")?,
                '\n' => f.write_str(r"\n")?,
                '"' if self.1 => f.write_str(r#"\""#)?,
                c if c.is_ascii() => f.write_char(c)?,
                c => write!(f, r"\\u{:04x}", u32::from(c))?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(value) => value.fmt(f),
            Self::Float(value) if value.is_nan() => f.write_str("NaN"),
            Self::Float(f64::INFINITY) => f.write_str("+Inf"),
            Self::Float(f64::NEG_INFINITY) => f.write_str("-Inf"),
            Self::Float(value) => value.fmt(f),
        }
    }
}

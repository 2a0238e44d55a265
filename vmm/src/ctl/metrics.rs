//! Samples of the Prometheus text format (version 0.0.4), as `/metrics` has them.

use std::collections::BTreeMap;

/// One line.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample {
    pub(super) name: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) value: f64,
}

impl Sample {
    pub(super) fn label(&self, name: &str) -> Option<&str> {
        self.labels.get(name).map(String::as_str)
    }
}

/// The samples of `text`. Lines that are none are left out: a newer godwit may
/// have more to say.
pub(super) fn samples(text: &str) -> impl Iterator<Item = Sample> {
    text.lines().filter_map(sample)
}

fn sample(line: &str) -> Option<Sample> {
    let line = line.trim();
    let end = line.find(|c: char| c == '{' || c.is_whitespace())?;
    let (name, rest) = line.split_at_checked(end)?;
    if name.is_empty() || name.starts_with('#') {
        return None;
    }
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (BTreeMap::new(), rest),
    };
    // A time stamp may follow. "+Inf" and "NaN" are numbers to Rust, too.
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample {
        name: name.to_owned(),
        labels,
        value,
    })
}

/// Labels up to the closing brace, and what comes after it.
fn labels(mut rest: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        rest = rest.trim_start_matches([' ', ',']);
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, after) = rest.split_once('=')?;
        let mut value = String::new();
        let mut letters = after.trim_start().strip_prefix('"')?.chars();
        loop {
            match letters.next()? {
                '"' => break,
                '\\' => value.push(match letters.next()? {
                    'n' => '\n',
                    other => other,
                }),
                other => value.push(other),
            }
        }
        labels.insert(name.trim().to_owned(), value);
        rest = letters.as_str();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_and_the_rest_is_left_out() {
        let text = "# HELP a_total Things.\n# TYPE a_total counter\n\
                    a_total{vcpu=\"0\", reason=\"h\\\"l}\\n\\\\t\",} 3 1700000000\n\
                    up 1\nb{} +Inf\nbroken{x=\"1 2\nnothing\nc{ 1\n\n{} 1\n";
        let samples: Vec<_> = samples(text).collect();
        let names: Vec<_> = samples.iter().map(|s| (s.name.as_str(), s.value)).collect();
        assert_eq!(names, [("a_total", 3.0), ("up", 1.0), ("b", f64::INFINITY)]);
        assert_eq!(samples[0].label("vcpu"), Some("0"));
        assert_eq!(samples[0].label("reason"), Some("h\"l}\n\\t"));
    }
}

//! Figures as text for Prometheus (text format 0.0.4).
//!
//! A family is described by a constant, so a name that the format does not
//! allow does not compile:
//!
//! ```
//! use godwit_api::metrics::{Family, Page};
//!
//! const EXITS: Family = Family::counter(
//!     "godwit_vcpu_exits_total",
//!     "Times a vCPU left the guest.",
//!     &["vcpu", "reason"],
//! );
//!
//! let mut page = Page::new();
//! page.set(&EXITS, &["0", "hlt"], 17_u64);
//! let text = page.to_text();
//! assert!(text.ends_with("godwit_vcpu_exits_total{vcpu=\"0\",reason=\"hlt\"} 17\n"));
//! ```
//!
//! What others name, as KVM does its statistics, becomes a family by
//! [`Family::learnt`].
//!
//! A page is filled anew for each request: what counts keeps its own counters,
//! and nothing is counted twice.

mod family;
mod text;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

pub use family::{Family, Kind};

/// Figures, to be filled and written once.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// In the order in which they came.
    families: Vec<(Family, Samples)>,
    /// Where each is, by its name: a large machine has tens of thousands of samples.
    places: HashMap<Cow<'static, str>, usize>,
}

/// Values by their labels' values.
type Samples = BTreeMap<Vec<String>, Sample>;

#[derive(Clone, Debug, PartialEq)]
enum Sample {
    Number(Number),
    Histogram(Histogram),
}

/// A value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// Written exactly.
    Integer(i128),
    /// Written so that it reads back the same.
    Float(f64),
}

impl From<u64> for Number {
    fn from(value: u64) -> Self {
        Self::Integer(value.into())
    }
}

impl From<i64> for Number {
    fn from(value: i64) -> Self {
        Self::Integer(value.into())
    }
}

impl From<u32> for Number {
    fn from(value: u32) -> Self {
        Self::Integer(value.into())
    }
}

impl From<f64> for Number {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

/// How often values fell between bounds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// Upper bounds and how often a value was at most that, but more than the
    /// bound before; bounds rise.
    pub buckets: Vec<(f64, u64)>,
    /// How often a value was more than the last bound.
    pub above: u64,
    /// All values added up.
    pub sum: f64,
}

impl Page {
    /// An empty page.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the value of a counter or a gauge for these labels' values, which
    /// are in the order of the family's labels.
    pub fn set(&mut self, family: &Family, labels: &[&str], value: impl Into<Number>) {
        debug_assert!(family.kind() != Kind::Histogram, "{}", family.name());
        self.insert(family, labels, Sample::Number(value.into()));
    }

    /// Sets a histogram for these labels' values.
    pub fn set_histogram(&mut self, family: &Family, labels: &[&str], histogram: Histogram) {
        debug_assert!(family.kind() == Kind::Histogram, "{}", family.name());
        self.insert(family, labels, Sample::Histogram(histogram));
    }

    fn insert(&mut self, family: &Family, labels: &[&str], sample: Sample) {
        debug_assert_eq!(labels.len(), family.labels().len(), "{}", family.name());
        let labels = labels.iter().map(|&value| value.to_owned()).collect();
        let at = match self.places.get(family.name()) {
            Some(&at) => at,
            None => {
                let at = self.families.len();
                self.places.insert(family.name_owned(), at);
                self.families.push((family.clone(), Samples::new()));
                at
            }
        };
        if let Some((_, samples)) = self.families.get_mut(at) {
            samples.insert(labels, sample);
        }
    }

    /// The page as text, in ASCII.
    #[must_use]
    pub fn to_text(&self) -> String {
        // The page of a large machine has most of a megabyte: it is not to be
        // moved as it grows.
        let lines: usize = self
            .families
            .iter()
            .map(|(_, samples)| lines(samples))
            .sum();
        let mut text = String::with_capacity(lines * LINE_BYTES);
        for (family, samples) in &self.families {
            text::write_family(&mut text, family, samples);
        }
        text
    }
}

/// A line with a few labels, in bytes; more or less.
const LINE_BYTES: usize = 96;

/// How many lines a family takes.
fn lines(samples: &Samples) -> usize {
    let of = |sample: &Sample| match sample {
        Sample::Number(_) => 1,
        Sample::Histogram(histogram) => histogram.buckets.len() + 3,
    };
    2 + samples.values().map(of).sum::<usize>()
}

#[cfg(test)]
mod tests;

//! What KVM counts, as families: whatever the kernel offers is shown, under a
//! name that follows from its own, its sort and its unit.
//!
//! ```text
//! halt_wait_ns    cumulative, 10^-9 s  -> ..._halt_wait_seconds_total
//! halt_wait_hist  logarithmic, 10^-9 s -> ..._halt_wait_seconds, whose sum is
//!                                         halt_wait_ns, not shown besides
//! ```

use std::collections::HashMap;

use godwit_api::metrics::{Family, Histogram, Kind, Number, Page};

use super::names::{Name, Scope};
use crate::kvm::stats::{Descriptor, KvmReadings, Reading, Sort, Unit};

pub(super) fn show(page: &mut Page, readings: &KvmReadings) {
    if let Some(vm) = &readings.vm {
        Shown::new(Scope::Vm).show(page, vm, None);
    }
    let mut vcpus = Shown::new(Scope::Vcpu);
    for (vcpu, reading) in &readings.vcpus {
        vcpus.show(page, reading, Some(&vcpu.to_string()));
    }
}

/// The families of one scope, made once for all vCPUs.
struct Shown {
    scope: Scope,
    /// By KVM's name.
    families: HashMap<String, Option<Series>>,
}

/// A family, and what tells this statistic from others in it.
struct Series {
    family: Family,
    kind: Option<String>,
    /// KVM's name of the sum of a histogram.
    sum: Option<String>,
}

impl Shown {
    fn new(scope: Scope) -> Self {
        Self {
            scope,
            families: HashMap::new(),
        }
    }

    fn show(&mut self, page: &mut Page, reading: &Reading, vcpu: Option<&str>) {
        for (found, values) in reading.iter() {
            let series = match self.families.get(found.name()) {
                Some(series) => series,
                None => self
                    .families
                    .entry(found.name().to_owned())
                    .or_insert(Series::of(self.scope, found, reading)),
            };
            let Some(series) = series else { continue };
            let labels: Vec<&str> = vcpu.into_iter().chain(series.kind.as_deref()).collect();
            match found.sort() {
                Sort::Histogram(_) => {
                    let histogram = histogram(found, values, series.sum(reading));
                    page.set_histogram(&series.family, &labels, histogram);
                }
                _ => {
                    for &value in values.iter().take(1) {
                        page.set(&series.family, &labels, number(found, value));
                    }
                }
            }
        }
    }
}

impl Series {
    /// `None`: it is shown as part of another.
    fn of(scope: Scope, found: &Descriptor, reading: &Reading) -> Option<Self> {
        let kind = match found.sort() {
            Sort::Cumulative => Kind::Counter,
            Sort::Instant | Sort::Peak => Kind::Gauge,
            Sort::Histogram(_) => Kind::Histogram,
        };
        let name = found.name();
        let partner = |suffix: &str, other: &str| {
            let stem = name.strip_suffix(suffix)?;
            let partner = format!("{stem}{other}");
            reading.iter().find(|(found, _)| found.name() == partner)
        };
        let sum = match found.sort() {
            Sort::Histogram(_) => partner("_hist", "_ns").map(|(sum, _)| sum.name().to_owned()),
            _ if partner("_ns", "_hist").is_some() => return None,
            _ => None,
        };
        let Name {
            stem,
            kind: of,
            help,
        } = Name::of(scope, name, kind);
        let unit = match found.unit() {
            Unit::None | Unit::Boolean => "",
            Unit::Bytes => "_bytes",
            Unit::Seconds => "_seconds",
            Unit::Cycles => "_cycles",
        };
        let end = if kind == Kind::Counter { "_total" } else { "" };
        let full = format!("{}{stem}{unit}{end}", scope.prefix());
        let labels = scope.labels(of.as_ref().map(|(label, _)| *label));
        Some(Self {
            family: Family::learnt(kind, full, help, labels)?,
            kind: of.map(|(_, value)| value),
            sum,
        })
    }

    /// Not known: not a number, which is what it is.
    fn sum(&self, reading: &Reading) -> f64 {
        let sum = self.sum.as_ref().and_then(|sum| reading.value(sum));
        sum.map_or(f64::NAN, |(found, value)| found.scaled(value))
    }
}

fn number(found: &Descriptor, value: u64) -> Number {
    if found.is_whole() {
        value.into()
    } else {
        found.scaled(value).into()
    }
}

fn histogram(found: &Descriptor, values: &[u64], sum: f64) -> Histogram {
    let Sort::Histogram(bounds) = found.sort() else {
        return Histogram::default();
    };
    let (above, buckets) = values.split_last().unwrap_or((&0, &[]));
    let buckets = (0_u32..).zip(buckets);
    Histogram {
        // A bound belongs to its bucket, and KVM's ends below the next.
        buckets: buckets
            .map(|(index, &count)| (found.scaled(bounds.highest(index)), count))
            .collect(),
        above: *above,
        sum,
    }
}

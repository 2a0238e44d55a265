//! Two looks as text: pure.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::Look;
use crate::ctl::metrics::Sample;
use crate::ctl::table::{Table, bytes, per_second, plain};

/// Names in `/metrics` of what is shown.
const VCPU: &str = "godwit_kvm_vcpu_";
const THREAD_TIME: &str = "godwit_thread_cpu_seconds_total";
const MEMORY: &str = "godwit_guest_memory_";

/// `exits_total` counts all exits of a vCPU, `io_exits_total` those for I/O.
const EXITS: &str = "exits_total";

/// What happened between two looks.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(super) struct Figures {
    /// Exits a second, by vCPU and then by kind; `all` of them, too.
    exits: BTreeMap<String, BTreeMap<String, u64>>,
    /// Thousandths of a CPU, by thread.
    thread_cpu_permille: BTreeMap<String, u64>,
    /// Counts and counts a second, by device and counter.
    devices: BTreeMap<String, BTreeMap<String, Count>>,
    /// Bytes by kind.
    memory: BTreeMap<String, u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
struct Count {
    total: u64,
    per_second: u64,
}

impl Figures {
    pub(super) fn between(before: &Look, now: &Look) -> Self {
        let time = now.at.saturating_duration_since(before.at);
        let mut figures = Self::default();
        let (old, new) = (samples(before), samples(now));
        for sample in new {
            let grown = || rate(old, sample, time);
            let name = sample.name.as_str();
            if let Some(kind) = exit_kind(name) {
                let vcpu = sample.label("vcpu").unwrap_or("?").to_owned();
                let kinds = figures.exits.entry(vcpu).or_default();
                kinds.insert(kind.to_owned(), whole(grown()));
            } else if name == THREAD_TIME {
                // In the guest, in user mode, in the kernel: one after the other.
                let thread = sample.label("thread").unwrap_or("?").to_owned();
                let share = figures.thread_cpu_permille.entry(thread).or_default();
                *share += whole(grown() * 1000.0);
            } else if let Some(kind) = name.strip_prefix(MEMORY) {
                let kind = kind.strip_suffix("_bytes").unwrap_or(kind).to_owned();
                *figures.memory.entry(kind).or_default() += whole(sample.value);
            }
        }
        if let Ok(counters) = &now.counters {
            for (device, values) in counters.devices() {
                for (name, &total) in values {
                    let old = before.counters.as_ref().ok();
                    let old = old.and_then(|old| old.0.get(device)?.get(name).copied());
                    let grown = total.saturating_sub(old.unwrap_or(total));
                    let count = Count {
                        total,
                        per_second: per_second(grown, time),
                    };
                    let device = figures.devices.entry(device.clone()).or_default();
                    device.insert(name.clone(), count);
                }
            }
        }
        figures
    }
}

/// What kind of exit a sample counts, if it does.
fn exit_kind(name: &str) -> Option<&str> {
    let kind = name.strip_prefix(VCPU)?.strip_suffix(EXITS)?;
    match kind.strip_suffix('_') {
        Some(kind) => Some(kind),
        None if kind.is_empty() => Some("all"),
        None => None,
    }
}

fn samples(look: &Look) -> &[Sample] {
    look.samples.as_deref().unwrap_or_default()
}

/// How much a sample has grown a second. One that is new has not.
fn rate(old: &[Sample], new: &Sample, time: Duration) -> f64 {
    let same = |old: &&Sample| old.name == new.name && old.labels == new.labels;
    let before = old.iter().find(same).map_or(new.value, |old| old.value);
    // A machine that was built anew starts from 0.
    (new.value - before).max(0.0) / time.as_secs_f64().max(1e-3)
}

/// Nearest, and no sign: what is shown are rates and sizes.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the conversion saturates, and NaN becomes 0"
)]
fn whole(value: f64) -> u64 {
    value.round() as u64
}

/// The picture.
pub(super) fn text(before: &Look, now: &Look) -> String {
    let figures = Figures::between(before, now);
    let mut text = format!("godwit top - {} - q ends\n", plain(&now.state));
    if let Err(reason) = &now.samples {
        text.push_str(&format!("no metrics: {}\n", plain(reason)));
    }
    if let Err(reason) = &now.counters {
        text.push_str(&format!("no counters: {}\n", plain(reason)));
    }
    let tables = [
        exits(&figures),
        threads(&figures),
        devices(&figures),
        memory(&figures),
    ];
    for table in tables.into_iter().flatten() {
        text.push('\n');
        text.push_str(&table.text());
    }
    text
}

/// Each vCPU with its busiest kinds of exit.
fn exits(figures: &Figures) -> Option<Table> {
    let mut table = Table::default();
    table.row(["VCPU", "EXITS/S", "MOST OF THEM"]);
    for (vcpu, kinds) in &figures.exits {
        let total = kinds.get("all").copied().unwrap_or_default();
        let mut kinds: Vec<_> = kinds
            .iter()
            .filter(|(kind, rate)| *kind != "all" && **rate > 0)
            .collect();
        kinds.sort_by(|a, b| b.1.cmp(a.1));
        let most: Vec<_> = kinds
            .iter()
            .take(4)
            .map(|(kind, rate)| format!("{kind} {rate}"))
            .collect();
        table.row([vcpu, &total.to_string(), &most.join(", ")]);
    }
    (!figures.exits.is_empty()).then_some(table)
}

fn threads(figures: &Figures) -> Option<Table> {
    let mut table = Table::default();
    table.row(["THREAD", "CPU %"]);
    for (thread, permille) in &figures.thread_cpu_permille {
        let share = format!("{}.{}", permille / 10, permille % 10);
        table.row([thread, &share]);
    }
    (!figures.thread_cpu_permille.is_empty()).then_some(table)
}

fn devices(figures: &Figures) -> Option<Table> {
    let mut table = Table::default();
    table.row(["DEVICE", "COUNTER", "PER SECOND", "TOTAL"]);
    for (device, counters) in &figures.devices {
        for (name, count) in counters {
            let (rate, total) = (count.per_second.to_string(), count.total.to_string());
            table.row([device, name, &rate, &total]);
        }
    }
    (!figures.devices.is_empty()).then_some(table)
}

fn memory(figures: &Figures) -> Option<Table> {
    let mut table = Table::default();
    table.row(["GUEST MEMORY", "BYTES"]);
    for (kind, size) in &figures.memory {
        table.row([kind, &bytes(*size)]);
    }
    (!figures.memory.is_empty()).then_some(table)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use godwit_api::response::Counters;

    use super::*;
    use crate::ctl::metrics;

    fn look(at: Instant, text: &str, rx: u64) -> Look {
        let counters = [("net0", rx), ("__vm", 1), ("__vcpu0", 1)].map(|(id, count)| {
            let values = BTreeMap::from([("rx_packets".to_owned(), count)]);
            (id.to_owned(), values)
        });
        Look {
            at,
            state: "Running".to_owned(),
            counters: Ok(Counters(BTreeMap::from(counters))),
            samples: Ok(metrics::samples(text).collect()),
        }
    }

    #[test]
    fn rates_are_what_grew_between_two_looks() {
        let start = Instant::now();
        let before = look(
            start,
            "godwit_kvm_vcpu_exits_total{vcpu=\"0\"} 109\n\
             godwit_kvm_vcpu_io_exits_total{vcpu=\"0\"} 100\n\
             godwit_kvm_vcpu_halt_exits_total{vcpu=\"0\"} 9\n\
             godwit_thread_cpu_seconds_total{thread=\"vcpu0\",mode=\"guest\"} 1\n\
             godwit_thread_cpu_seconds_total{thread=\"vcpu0\",mode=\"user\"} 1\n",
            7,
        );
        let now = look(
            start + Duration::from_secs(2),
            "godwit_kvm_vcpu_exits_total{vcpu=\"0\"} 319\n\
             godwit_kvm_vcpu_io_exits_total{vcpu=\"0\"} 300\n\
             godwit_kvm_vcpu_halt_exits_total{vcpu=\"0\"} 3\n\
             godwit_kvm_vcpu_exits_total{vcpu=\"1\"} 5\n\
             godwit_kvm_vcpu_page_faults_total{vcpu=\"1\"} 5\n\
             godwit_thread_cpu_seconds_total{thread=\"vcpu0\",mode=\"guest\"} 2.5\n\
             godwit_thread_cpu_seconds_total{thread=\"vcpu0\",mode=\"user\"} 1.1\n\
             godwit_guest_memory_size_bytes{zone=\"mem0\",page_size=\"4K\"} 67108864\n",
            2_000_007,
        );
        let text = text(&before, &now);
        let rows = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(rows("0"), ["0", "105", "io", "100"]);
        assert_eq!(rows("1"), ["1", "0"]);
        assert_eq!(rows("vcpu0"), ["vcpu0", "80.0"]);
        assert_eq!(rows("net0"), ["net0", "rx_packets", "1000000", "2000007"]);
        assert_eq!(rows("size"), ["size", "64", "MiB"]);
        // KVM's are above, by kind.
        assert!(!text.contains("__"), "{text}");
    }

    #[test]
    fn what_is_missing_has_a_reason() {
        let mut now = look(Instant::now(), "", 0);
        now.samples = Err("not supported by godwit".to_owned());
        now.counters = Err("the VM is not booted\x1b[2J".to_owned());
        let text = text(&now, &now);
        assert_eq!(
            text,
            "godwit top - Running - q ends\nno metrics: not supported by godwit\n\
             no counters: the VM is not booted\u{fffd}[2J\n"
        );
    }
}

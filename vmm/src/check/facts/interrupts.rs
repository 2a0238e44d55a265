//! Interrupts: where they may go, and how often they came.

use std::collections::BTreeMap;

use super::list::parse_list;
use super::tree::{Fact, Tree, Unread};
use crate::spec::{CpuSet, HostCpu};

/// How often an interrupt came, by CPU.
pub type Count = BTreeMap<HostCpu, u64>;

/// All of `/proc/interrupts`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interrupts {
    /// Those that devices raise.
    pub irqs: Vec<Irq>,
    /// The CPUs' own by name, `LOC`, before and after the interval.
    pub own: BTreeMap<String, (Count, Count)>,
}

/// An interrupt that a device raises.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Irq {
    /// Its number.
    pub number: u32,
    /// Who handles it.
    pub name: String,
    /// Where it may go.
    pub allowed: Fact<CpuSet>,
    /// Whether the kernel has placed it and lets nobody move it.
    pub managed: bool,
    /// Where it goes.
    pub effective: Fact<CpuSet>,
    /// How often it came before the interval.
    pub before: Count,
    /// How often it came after it.
    pub after: Count,
}

/// A row of `/proc/interrupts`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Row {
    counts: Count,
    name: String,
}

/// The table at this moment, by what stands before the colon.
pub(super) fn counts(tree: &Tree) -> Fact<BTreeMap<String, Row>> {
    Ok(parse(&tree.text("proc/interrupts")?))
}

/// The first line names CPUs; what follows the counts of a row is the chip, the
/// number there, and who handles it.
pub(super) fn parse(text: &str) -> BTreeMap<String, Row> {
    let mut lines = text.lines();
    let cpus: Vec<_> = lines
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("CPU")?.parse().ok().map(HostCpu))
        .collect();
    let mut rows = BTreeMap::new();
    for line in lines {
        let Some((key, rest)) = line.split_once(':') else {
            continue;
        };
        let mut words = rest.split_whitespace().peekable();
        let mut counts = Count::new();
        for cpu in &cpus {
            let Some(count) = words.peek().and_then(|word| word.parse().ok()) else {
                break;
            };
            counts.insert(*cpu, count);
            words.next();
        }
        let words: Vec<_> = words.collect();
        // Names of several handlers have commas between.
        let handlers = words.iter().rposition(|word| !word.ends_with(','));
        let mut first = handlers.unwrap_or(0);
        while first > 0 && words.get(first - 1).is_some_and(|word| word.ends_with(',')) {
            first -= 1;
        }
        let name = words.get(first..).unwrap_or_default().join(" ");
        rows.insert(key.trim().to_owned(), Row { counts, name });
    }
    rows
}

/// The table again, and where each interrupt may go.
pub(super) fn read(tree: &Tree, mut before: BTreeMap<String, Row>) -> Fact<Interrupts> {
    let mut interrupts = Interrupts::default();
    for (key, row) in counts(tree)? {
        let earlier = before.remove(&key).unwrap_or_default().counts;
        let Ok(number) = key.parse() else {
            interrupts.own.insert(key, (earlier, row.counts));
            continue;
        };
        let list = |file: &str| {
            let path = format!("proc/irq/{number}/{file}");
            let text = tree.text(&path)?;
            parse_list(&text, HostCpu(0)).ok_or_else(|| Unread::odd(&path, &text, "a CPU list"))
        };
        interrupts.irqs.push(Irq {
            number,
            name: row.name,
            allowed: list("smp_affinity_list"),
            managed: tree.is_read_only(&format!("proc/irq/{number}/smp_affinity_list")),
            effective: list("effective_affinity_list"),
            before: earlier,
            after: row.counts,
        });
    }
    interrupts.irqs.sort_by_key(|irq| irq.number);
    Ok(interrupts)
}

impl Irq {
    /// Where it goes; older kernels show only where it may.
    ///
    /// # Errors
    /// Neither is known.
    pub fn target(&self) -> Fact<&CpuSet> {
        let known = self.effective.as_ref().or(self.allowed.as_ref());
        known.map_err(Unread::clone)
    }
}

//! Each CPU: its siblings, its frequency, its idle states.

use super::list;
use super::tree::{Fact, Tree, Unread};
use crate::spec::{CpuSet, HostCpu};

/// One CPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuFacts {
    /// The hardware threads of its core that are online, itself among them.
    pub siblings: Fact<CpuSet>,
    /// Who chooses its frequency.
    pub governor: Fact<String>,
    /// Its idle states, the shallowest first; none without a driver.
    pub idle_states: Fact<Vec<IdleState>>,
    /// How much the fair server of the deadline scheduler may take of it each
    /// second, in nanoseconds.
    pub fair_server_ns: Fact<u64>,
}

/// A way to be idle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdleState {
    /// Its folder below `cpuidle`, `state2`.
    pub folder: String,
    /// Its name, `C1E`.
    pub name: String,
    /// How long it takes to wake up from, in microseconds.
    pub latency_us: u64,
    /// Whether it is not used.
    pub disabled: bool,
}

impl CpuFacts {
    pub(super) fn read(tree: &Tree, cpu: HostCpu) -> Self {
        let folder = format!("sys/devices/system/cpu/cpu{cpu}");
        let siblings = format!("{folder}/topology/thread_siblings_list");
        let fair = format!("sys/kernel/debug/sched/fair_server/cpu{cpu}/runtime");
        Self {
            siblings: tree
                .text(&siblings)
                .and_then(|text| list::understood(&siblings, &text)),
            governor: tree.text(&format!("{folder}/cpufreq/scaling_governor")),
            idle_states: idle_states(tree, &format!("{folder}/cpuidle")),
            fair_server_ns: number(tree, &fair),
        }
    }
}

fn idle_states(tree: &Tree, folder: &str) -> Fact<Vec<IdleState>> {
    let names = match tree.names(folder) {
        Err(Unread::Missing { .. }) => return Ok(Vec::new()),
        names => names?,
    };
    let mut states = Vec::new();
    for name in names.iter().filter(|name| name.starts_with("state")) {
        let file = |file: &str| format!("{folder}/{name}/{file}");
        states.push(IdleState {
            folder: name.clone(),
            name: tree.text(&file("name"))?,
            latency_us: number(tree, &file("latency"))?,
            disabled: number(tree, &file("disable"))? != 0,
        });
    }
    states.sort_by_key(|state| state.latency_us);
    Ok(states)
}

fn number(tree: &Tree, path: &str) -> Fact<u64> {
    let text = tree.text(path)?;
    text.parse()
        .map_err(|_| Unread::odd(path, &text, "a number"))
}

/// While the file is open, its reader asks for nothing in particular
/// (Documentation/power/pm_qos_interface.rst).
pub(super) fn wake_up_us(tree: &Tree) -> Fact<i32> {
    tree.short_number("dev/cpu_dma_latency")
}

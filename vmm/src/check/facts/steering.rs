//! Which CPUs process what a network device's queues receive, and which send by
//! each (Documentation/networking/scaling.rst).

use super::list::parse_mask;
use super::tree::{Fact, Tree, Unread};
use crate::spec::CpuSet;

/// A queue whose CPUs are chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    /// The interface.
    pub interface: String,
    /// `rx-0`, `tx-0`.
    pub name: String,
    /// The mask's file, below the root.
    pub path: String,
    /// RPS: who processes what the queue has received. XPS: who sends by it.
    pub cpus: CpuSet,
}

impl Queue {
    /// Whether it receives.
    #[must_use]
    pub fn receives(&self) -> bool {
        self.name.starts_with("rx-")
    }
}

/// All queues that have CPUs of their choice.
pub(super) fn read(tree: &Tree) -> Fact<Vec<Queue>> {
    let folder = "sys/class/net";
    let mut queues = Vec::new();
    for interface in tree.names(folder)? {
        let folder = format!("{folder}/{interface}/queues");
        for name in tree.names(&folder).unwrap_or_default() {
            let file = match name.split_once('-') {
                Some(("rx", _)) => "rps_cpus",
                Some(("tx", _)) => "xps_cpus",
                _ => continue,
            };
            let path = format!("{folder}/{name}/{file}");
            let text = match tree.text(&path) {
                Ok(text) => text,
                // A kernel without it, or a device with one queue, which has no XPS.
                Err(Unread::Missing { .. }) => continue,
                Err(unread) => return Err(unread),
            };
            let cpus = understood_mask(&path, &text)?;
            if !cpus.is_empty() {
                queues.push(Queue {
                    interface: interface.clone(),
                    name,
                    path,
                    cpus,
                });
            }
        }
    }
    Ok(queues)
}

fn understood_mask(path: &str, text: &str) -> Fact<CpuSet> {
    parse_mask(text).ok_or_else(|| Unread::odd(path, text, "a CPU mask"))
}

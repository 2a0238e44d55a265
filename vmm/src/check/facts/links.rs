//! Network interfaces: what they are part of, and where their hardware is.

use std::collections::{BTreeMap, BTreeSet};

use super::tree::{Fact, Tree};

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// The bridge, bond or switch that it is part of.
    pub master: Option<String>,
    /// What it is made of: a bridge's ports, a VLAN's or macvtap's interface.
    pub lower: Vec<String>,
    /// Whether it is a piece of hardware.
    pub hardware: bool,
    /// The NUMA node of the hardware; `None`: it is on none in particular.
    pub node: Option<u32>,
}

/// A piece of hardware that a tap leads to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Uplink {
    /// Its interface.
    pub name: String,
    /// Its NUMA node.
    pub node: Option<u32>,
}

pub(super) fn read(tree: &Tree) -> Fact<BTreeMap<String, Link>> {
    let folder = "sys/class/net";
    let names = tree.names(folder)?;
    Ok(names
        .into_iter()
        .map(|name| {
            let path = format!("{folder}/{name}");
            let node = tree.text(&format!("{path}/device/numa_node"));
            let link = Link {
                master: tree.link(&format!("{path}/master")).ok(),
                lower: tree
                    .names(&path)
                    .unwrap_or_default()
                    .iter()
                    .filter_map(|name| name.strip_prefix("lower_").map(str::to_owned))
                    .collect(),
                hardware: tree.names(&format!("{path}/device")).is_ok(),
                // -1 where there are no nodes.
                node: node.ok().and_then(|text| text.parse().ok()),
            };
            (name, link)
        })
        .collect())
}

/// The hardware that a tap leads to: through what it is part of, down to what
/// that is made of.
pub(in crate::check) fn uplinks(links: &BTreeMap<String, Link>, tap: &str) -> BTreeSet<Uplink> {
    let mut uplinks = BTreeSet::new();
    let mut seen = BTreeSet::from([tap.to_owned()]);
    let mut ahead = vec![tap.to_owned()];
    while let Some(name) = ahead.pop() {
        let Some(link) = links.get(&name) else {
            continue;
        };
        if link.hardware && name != tap {
            let node = link.node;
            uplinks.insert(Uplink { name, node });
            continue;
        }
        for next in link.master.iter().chain(&link.lower) {
            if seen.insert(next.clone()) {
                ahead.push(next.clone());
            }
        }
    }
    uplinks
}

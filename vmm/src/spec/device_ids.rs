//! Names of devices: one namespace for all of them.

use std::collections::BTreeSet;

use godwit_api::config::VmConfig;

use super::Origin;
use super::error::Problems;

/// Beginning of the names of devices that every machine has (`__rng`,
/// `__console`).
const RESERVED: &str = "__";

/// Longest name in bytes: names become thread names and file names.
const MAX_BYTES: usize = 64;

/// Names in the order of the config.
pub(super) struct DeviceIds {
    pub net: Vec<String>,
    pub disks: Vec<String>,
}

/// Checks the names given and makes up the others: `_net0`, `_disk1`, counted
/// over all devices as the peer does.
pub(super) fn assign(config: &VmConfig, origin: Origin, problems: &mut Problems) -> DeviceIds {
    let devices = || {
        let net = config.net.iter().enumerate();
        let disks = config.disks.iter().enumerate();
        net.map(|(i, net)| ("net", i, &net.id))
            .chain(disks.map(|(i, disk)| ("disk", i, &disk.id)))
    };
    let mut taken = BTreeSet::new();
    for (kind, i, id) in devices() {
        let field = format!("{}[{i}].id", section(kind));
        match id {
            Some(id) => check(&field, id, &mut taken, problems),
            None if origin == Origin::Incoming => problems.invalid(
                field,
                "missing; a machine that comes from elsewhere names its devices",
            ),
            None => {}
        }
    }
    let mut ids = DeviceIds {
        net: Vec::new(),
        disks: Vec::new(),
    };
    let mut counter = 0_usize;
    for (kind, _, id) in devices() {
        let id = match id {
            Some(id) => id.clone(),
            None => loop {
                let made = format!("_{kind}{counter}");
                counter += 1;
                if taken.insert(made.clone()) {
                    break made;
                }
            },
        };
        match kind {
            "net" => ids.net.push(id),
            _ => ids.disks.push(id),
        }
    }
    ids
}

fn section(kind: &str) -> &str {
    match kind {
        "disk" => "disks",
        other => other,
    }
}

fn check(field: &str, id: &str, taken: &mut BTreeSet<String>, problems: &mut Problems) {
    if id.is_empty() || id.len() > MAX_BYTES {
        problems.invalid(
            field,
            format!("{} bytes; a name has 1 to {MAX_BYTES}", id.len()),
        );
    } else if let Some(bad) = id.chars().find(|c| !matches!(c, '!'..='~') || *c == '/') {
        problems.invalid(
            field,
            format!("{id:?} holds {bad:?}; a name is printable ASCII without spaces and slashes"),
        );
    } else if id.starts_with(RESERVED) {
        problems.invalid(
            field,
            format!("{id:?} begins with {RESERVED:?}, which is kept for built-in devices"),
        );
    }
    if !taken.insert(id.to_owned()) {
        problems.duplicate(
            field,
            format!("another device is named {id:?}; names must differ"),
        );
    }
}

//! SRAT and SLIT: which processors and memory belong together (ACPI 6.5, 5.2.16 and
//! 5.2.17).

use acpi_tables::sdt::Sdt;

use super::madt::XAPIC_ID_MAX;
use super::{AcpiError, AcpiSpec, NODE_MAX, table};
use crate::arch::layout::RamRegion;
use crate::spec::NumaNodeSpec;

/// Bit 0 of an entry's flags.
const ENABLED: u32 = 1;
/// Distance of a node to itself.
const LOCAL: u8 = 10;
/// Distance to another node where none is configured.
const REMOTE: u8 = 20;

/// Processors by APIC id and RAM by address, with their nodes.
pub(super) fn srat(spec: &AcpiSpec<'_>) -> Sdt {
    let mut body = Vec::new();
    // A reserved word that must be 1, and eight reserved bytes.
    body.extend(1_u32.to_le_bytes());
    body.extend([0; 8]);
    for node in spec.numa {
        for vcpu in &node.vcpus {
            let id = spec.topology.apic_id(vcpu.0.into());
            processor(&mut body, node.id, id);
        }
        for region in spec.regions {
            if node.zones.contains(&region.zone) {
                memory(&mut body, node.id, region);
            }
        }
    }
    table(*b"SRAT", 3, &body)
}

fn processor(body: &mut Vec<u8>, node: u32, id: u32) {
    match u8::try_from(id) {
        Ok(short) if id <= XAPIC_ID_MAX => {
            let [low, high @ ..] = node.to_le_bytes();
            body.extend([0, 16, low, short]);
            body.extend(ENABLED.to_le_bytes());
            body.push(0);
            body.extend(high);
            body.extend([0; 4]);
        }
        _ => {
            body.extend([2, 24, 0, 0]);
            for word in [node, id, ENABLED, 0, 0] {
                body.extend(word.to_le_bytes());
            }
        }
    }
}

fn memory(body: &mut Vec<u8>, node: u32, region: &RamRegion) {
    body.extend([1, 40]);
    body.extend(node.to_le_bytes());
    body.extend([0; 2]);
    body.extend(region.start.0.to_le_bytes());
    body.extend(region.size.to_le_bytes());
    body.extend([0; 4]);
    body.extend(ENABLED.to_le_bytes());
    body.extend([0; 8]);
}

/// The distance of every node to every other, by node number.
pub(super) fn slit(nodes: &[NumaNodeSpec]) -> Result<Sdt, AcpiError> {
    if let Some(node) = nodes.iter().find(|node| node.id > NODE_MAX) {
        return Err(AcpiError::NodeNumber { id: node.id });
    }
    let count = nodes.iter().map(|node| node.id + 1).fold(0, Ord::max);
    let mut body = Vec::new();
    body.extend(u64::from(count).to_le_bytes());
    for from in 0..count {
        for to in 0..count {
            body.push(distance(nodes, from, to));
        }
    }
    Ok(table(*b"SLIT", 1, &body))
}

/// A distance may be configured at either end.
fn distance(nodes: &[NumaNodeSpec], from: u32, to: u32) -> u8 {
    if from == to {
        return LOCAL;
    }
    let configured = |from: u32, to: u32| {
        nodes
            .iter()
            .find(|node| node.id == from)
            .and_then(|node| node.distances.get(&to).copied())
    };
    configured(from, to)
        .or_else(|| configured(to, from))
        .unwrap_or(REMOTE)
}

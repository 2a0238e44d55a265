//! Topology in CPUID leaves.

use kvm_bindings::kvm_cpuid_entry2;

use super::leaves::{Leaves, Vendor};
use super::set;
use crate::arch::Topology;

/// Leaf 1 EDX: the package has more than one thread.
const HTT: u32 = 1 << 28;
/// Leaf 0x8000_0001 ECX: the threads that HTT tells of are cores.
const CMP_LEGACY: u32 = 1 << 1;
/// Leaf 0x8000_0001 ECX: leaves 0x8000_001d and 0x8000_001e are there.
const TOPOLOGY_EXTENSIONS: u32 = 1 << 22;

/// Domain types of leaves 0xb and 0x1f.
const DOMAIN_THREAD: u32 = 1;
const DOMAIN_CORE: u32 = 2;
const DOMAIN_DIE: u32 = 5;

pub(super) fn apply(leaves: &mut Leaves, vendor: Vendor, topology: &Topology, vcpu: u32) {
    let id = topology.apic_id(vcpu);
    let threads = topology.threads_per_package();
    leaves.change(1, |leaf| {
        // Intel counts the ids that the package takes up, AMD its threads.
        let count = match vendor {
            Vendor::Amd => threads,
            Vendor::Intel | Vendor::Other => 1 << topology.package_shift(),
        };
        leaf.ebx = leaf.ebx & 0xffff | count.min(0xff) << 16 | (id & 0xff) << 24;
        set(&mut leaf.edx, HTT, threads > 1);
    });

    let thread = [
        topology.core_shift(),
        u32::from(topology.threads_per_core),
        DOMAIN_THREAD,
    ];
    let core = [topology.package_shift(), threads, DOMAIN_CORE];
    leaves.reach(0, 0xb);
    leaves.put_indexed(0xb, &domains(&[thread, core], id));

    match vendor {
        Vendor::Intel => {
            caches(leaves, 4, topology);
            let core = [
                topology.die_shift(),
                topology.threads_per_die(),
                DOMAIN_CORE,
            ];
            let die = [topology.package_shift(), threads, DOMAIN_DIE];
            let dies = topology.dies_per_package > 1;
            if dies {
                leaves.reach(0, 0x1f);
            }
            leaves.remove(0x1f);
            if leaves.highest(0) >= 0x1f {
                let list: &[_] = if dies {
                    &[thread, core, die]
                } else {
                    &[thread, core]
                };
                leaves.put_indexed(0x1f, &domains(list, id));
            }
        }
        Vendor::Amd => amd(leaves, topology, id),
        Vendor::Other => leaves.remove(0x1f),
    }
}

/// Leaf 0xb or 0x1f from `[shift, threads, type]` of each domain, ended by an invalid one.
fn domains(list: &[[u32; 3]], id: u32) -> Vec<[u32; 4]> {
    let end = [0, 0, 0];
    (0..)
        .zip(list.iter().chain([&end]))
        .map(|(index, &[shift, threads, kind])| [shift, threads, index | kind << 8, id])
        .collect()
}

fn amd(leaves: &mut Leaves, topology: &Topology, id: u32) {
    let threads = topology.threads_per_package();
    let dies = u32::from(topology.dies_per_package);
    // Host topology; a guest that finds these empty reads the leaves below.
    leaves.remove(0x1f);
    leaves.remove(0x8000_0026);
    leaves.reach(0x8000_0000, 0x8000_001e);
    leaves.require(0x8000_0001, |leaf| {
        leaf.ecx |= TOPOLOGY_EXTENSIONS;
        set(&mut leaf.ecx, CMP_LEGACY, threads > 1);
    });
    leaves.require(0x8000_0008, |leaf| {
        leaf.ecx = threads.saturating_sub(1).min(0xff) | topology.package_shift() << 12;
    });
    caches(leaves, 0x8000_001d, topology);

    let in_package = id & ((1 << topology.package_shift()) - 1);
    let core = in_package >> topology.core_shift();
    let die = in_package >> topology.die_shift();
    let node = (id >> topology.package_shift()) * dies + die;
    leaves.put(
        0x8000_001e,
        None,
        [
            id,
            core & 0xff | u32::from(topology.threads_per_core.saturating_sub(1)) << 8,
            // Three bits for the nodes in a package: eight at most.
            node & 0xff | dies.saturating_sub(1).min(7) << 8,
            0,
        ],
    );
}

/// Who shares a cache, in leaf 4 or 0x8000_001d: the threads of a core share levels 1
/// and 2, those of a die share level 3.
fn caches(leaves: &mut Leaves, function: u32, topology: &Topology) {
    leaves.change(function, |leaf: &mut kvm_cpuid_entry2| {
        let kind = leaf.eax & 0x1f;
        if kind == 0 {
            return;
        }
        let level = leaf.eax >> 5 & 0x7;
        let shift = if level <= 2 {
            topology.core_shift()
        } else {
            topology.die_shift()
        };
        leaf.eax = leaf.eax & 0x3fff | ((1 << shift) - 1) << 14;
        if function == 4 {
            // Ids of cores in the package; six bits.
            let cores = 1_u32 << (topology.package_shift() - topology.core_shift());
            leaf.eax |= (cores - 1).min(0x3f) << 26;
        }
    });
}

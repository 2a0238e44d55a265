//! APIC ids.

use super::*;

const fn shape(threads: u8, cores: u8, dies: u8, packages: u8) -> Topology {
    Topology {
        threads_per_core: threads,
        cores_per_die: cores,
        dies_per_package: dies,
        packages,
    }
}

#[test]
fn powers_of_two_have_no_gaps() {
    for topology in [Topology::flat(64), shape(2, 8, 2, 2), shape(1, 1, 1, 64)] {
        let ids: Vec<u32> = (0..topology.vcpus()).map(|n| topology.apic_id(n)).collect();
        assert_eq!(ids, (0..64).collect::<Vec<_>>());
    }
}

#[test]
fn other_counts_round_up_to_bits() {
    let topology = shape(2, 3, 1, 2);
    let ids: Vec<u32> = (0..12).map(|n| topology.apic_id(n)).collect();
    assert_eq!(ids, [0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13]);
    assert_eq!((topology.core_shift(), topology.package_shift()), (1, 3));
}

#[test]
fn every_shape_of_64_vcpus_has_distinct_xapic_ids() {
    for threads in 1..=2 {
        for cores in 1..=64_u8 {
            for dies in 1..=64_u8 {
                for packages in 1..=64_u8 {
                    let topology = shape(threads, cores, dies, packages);
                    if topology.vcpus() > 64 {
                        break;
                    }
                    let mut last = None;
                    for vcpu in 0..topology.vcpus() {
                        let id = topology.apic_id(vcpu);
                        assert!(last < Some(id), "{topology:?}: {id}");
                        assert!(id < 255, "{topology:?}: {id}");
                        last = Some(id);
                    }
                }
            }
        }
    }
}

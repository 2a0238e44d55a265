//! vCPUs: all of them run, and each sees the topology of the config.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::config::Config;
use crate::support::output::Output;
use crate::support::vm::TestVm;

/// Starts `count` vCPUs and waits until each has beaten.
fn beat_on_all(cpus: Value, count: usize) -> Output {
    let cmdline = format!("facts smp={count} beat_every=3000");
    let mut vm = TestVm::start(Config::new(&cmdline).with(json!({"cpus": cpus})));
    let smp = vm.wait_line("smp", 1);
    assert_eq!(
        smp.number("running"),
        count as u64,
        "{}",
        vm.output().text()
    );
    vm.wait_until(|vm| (marks(&vm.output(), count).len() == count).then_some(()));
    let output = vm.terminate().assert_code(0).output;
    output.assert_sound();
    output
}

/// The CPUs that have beaten: alone, a CPU beats letters; of several, each its mark and a count.
fn marks(output: &Output, count: usize) -> BTreeSet<char> {
    let beats: Vec<char> = output.beats().chars().collect();
    if count == 1 {
        return beats.into_iter().filter(|&beat| beat == 'a').collect();
    }
    let (pairs, _) = beats.as_chunks::<2>();
    pairs
        .iter()
        .inspect(|[_, beat]| assert!(('p'..='~').contains(beat), "{beats:?}"))
        .map(|[mark, _]| *mark)
        .collect()
}

/// `@cpu` of each, in the order of the MADT.
fn apic_ids(output: &Output) -> Vec<u64> {
    let lines = output.all("cpu");
    for (index, line) in lines.iter().enumerate() {
        assert_eq!(line.number("cpu"), index as u64);
        assert_eq!(line.field("mode"), "x2apic");
    }
    lines.iter().map(|line| line.number("apic")).collect()
}

/// `[eax, ebx, domain type]` of leaf 0xb for each sub-leaf of each CPU; its EDX is the APIC id.
fn assert_topology(output: &Output, ids: &[u64], levels: &[[u64; 3]]) {
    assert_eq!(apic_ids(output), ids);
    for (cpu, id) in ids.iter().enumerate() {
        let leaves: Vec<_> = output
            .all("cpuid")
            .into_iter()
            .filter(|leaf| leaf.number("cpu") == cpu as u64 && leaf.number("leaf") == 0xb)
            .collect();
        let found: Vec<_> = leaves
            .iter()
            .map(|leaf| {
                let kind = leaf.number("ecx") >> 8;
                [leaf.number("eax"), leaf.number("ebx"), kind]
            })
            .collect();
        assert_eq!(found, levels, "of CPU {cpu}");
        assert!(leaves.iter().all(|leaf| leaf.number("edx") == *id));
        let first = output
            .all("cpuid")
            .into_iter()
            .find(|leaf| leaf.number("cpu") == cpu as u64 && leaf.number("leaf") == 1);
        let first = first.expect("leaf 1");
        assert_eq!(
            first.number("ebx") >> 24,
            *id,
            "initial APIC id of CPU {cpu}"
        );
    }
}

const THREAD: u64 = 1;
const CORE: u64 = 2;

#[test]
fn one_vcpu() {
    let output = beat_on_all(json!({"boot_vcpus": 1}), 1);
    assert_topology(&output, &[0], &[[0, 1, THREAD], [0, 1, CORE]]);
}

#[test]
fn two_vcpus() {
    let output = beat_on_all(json!({"boot_vcpus": 2}), 2);
    assert_topology(&output, &[0, 1], &[[0, 1, THREAD], [1, 2, CORE]]);
}

#[test]
fn two_threads_of_one_core() {
    let shape =
        json!({"threads_per_core": 2, "cores_per_die": 1, "dies_per_package": 1, "packages": 1});
    let output = beat_on_all(json!({"boot_vcpus": 2, "topology": shape}), 2);
    assert_topology(&output, &[0, 1], &[[1, 2, THREAD], [1, 2, CORE]]);
}

/// 2 packages of 3 cores of 2 threads: three is no power of two, so identifiers have a gap.
#[test]
fn twelve_vcpus_of_an_odd_shape() {
    let shape =
        json!({"threads_per_core": 2, "cores_per_die": 3, "dies_per_package": 1, "packages": 2});
    let output = beat_on_all(json!({"boot_vcpus": 12, "topology": shape}), 12);
    assert_topology(
        &output,
        &[0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13],
        &[[1, 2, THREAD], [3, 6, CORE]],
    );
}

#[test]
fn sixty_four_vcpus() {
    let output = beat_on_all(json!({"boot_vcpus": 64}), 64);
    let ids: Vec<_> = (0..64).collect();
    assert_topology(&output, &ids, &[[0, 1, THREAD], [6, 64, CORE]]);
}

#[test]
fn a_guest_may_start_fewer_than_it_has() {
    let config = Config::new("smp=2 beats=20 poweroff").with(json!({"cpus": {"boot_vcpus": 4}}));
    let output = TestVm::start(config).wait().assert_code(0).output;
    assert_eq!(output.one("smp").number("running"), 2);
}

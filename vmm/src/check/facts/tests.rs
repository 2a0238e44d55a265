//! What files hold, as kernels write it and as nobody should.

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;

use super::cgroup::folders;
use super::{CommandLine, Processor, Vendor, chosen, interrupts, parse_list, parse_mask, threads};
use crate::check::words::mask;
use crate::spec::{CpuSet, HostCpu, format_cpu_list};

fn set(cpus: impl IntoIterator<Item = u32>) -> CpuSet {
    cpus.into_iter().map(HostCpu).collect()
}

#[test]
fn lists_are_read_as_the_kernel_reads_them() {
    let last = HostCpu(7);
    for (text, cpus) in [
        ("", set([])),
        ("(null)", set([])),
        (" 0-3,8\n", set([0, 1, 2, 3, 8])),
        ("all", set(0..=7)),
        ("N", set([7])),
        ("5-N", set([5, 6, 7])),
        ("0-7:1/4", set([0, 4])),
        ("0-7:2/4", set([0, 1, 4, 5])),
    ] {
        assert_eq!(parse_list(text, last), Some(cpus), "{text:?}");
    }
    for text in [
        "x", "+1", "1-", "3-1", "0-9000", "0-7:1/0", "0-7:5/4", "0-7:1", ",", "1,,2",
    ] {
        assert_eq!(parse_list(text, last), None, "{text:?}");
    }
}

#[test]
fn masks_are_read_as_the_kernel_writes_them() {
    assert_eq!(parse_mask("3"), Some(set([0, 1])));
    assert_eq!(parse_mask("00000001,80000000\n"), Some(set([31, 32])));
    for text in ["", "g", "1,", ",1", "123456789", "-1", "+1"] {
        assert_eq!(parse_mask(text), None, "{text:?}");
    }
    assert_eq!(mask(&set([0, 1])), "3");
    assert_eq!(mask(&set([31, 32])), "1,80000000");
    assert_eq!(mask(&set([])), "0");
}

#[test]
fn a_command_line_is_taken_apart_as_the_kernel_does() {
    let line = CommandLine::parse(
        "quiet name=\"a b\" isolcpus=managed_irq,domain,2-3 nohz-full=all tsc=reliable rcu_nocbs \
         mce=a mce=b -- init isolcpus=9",
    );
    let last = HostCpu(4);
    assert!(line.has("quiet") && !line.has("init"));
    assert_eq!(line.value("name"), Some("a b"));
    assert_eq!(line.cpus("isolcpus", last), Some(set([2, 3])));
    assert_eq!(line.cpus("nohz_full", last), Some(set(0..=4)));
    assert!(line.sets("isolcpus", "managed_irq") && !line.sets("isolcpus", "nohz"));
    assert!(line.has("rcu-nocbs") && line.value("rcu_nocbs").is_none());
    assert_eq!(line.value("mce"), Some("b"));
    assert!(line.sets("mce", "a"));
    assert_eq!(
        CommandLine::parse("isolcpus=domain").cpus("isolcpus", last),
        Some(set([]))
    );
}

#[test]
fn a_processor_is_known_by_its_flags() {
    let text = "processor : 0\nvendor_id : GenuineIntel\nphysical id : 0\nflags : vmx tsc\n\n\
                processor : 1\nphysical id : 1\n";
    let processor = Processor::parse(text);
    assert_eq!((processor.vendor, processor.packages), (Vendor::Intel, 2));
    assert!(processor.has("vmx") && !processor.has("svm"));
    assert_eq!(processor.has_vmx("posted_intr"), None);
    let nothing = Processor::parse("");
    assert_eq!((nothing.vendor, nothing.packages), (Vendor::Other, 1));
}

#[test]
fn threads_are_known_by_any_name() {
    let zeros = "0 ".repeat(29);
    let stat = |name: &str, flags: u32| format!("7 ({name}) S 1 7 7 0 -1 {flags} {zeros}3 0 0");
    let status = "Name:\tx\nCpus_allowed_list:\t2-3\n";
    let mut lists = BTreeMap::new();
    let thread = threads::parse(7, 8, &stat("a) b (c", 0), status, &mut lists).unwrap();
    assert_eq!(thread.name, "a) b (c");
    assert_eq!((thread.last, &*thread.allowed), (HostCpu(3), &set([2, 3])));
    assert!(!thread.kernel && !thread.bound);
    let worker = threads::parse(7, 8, &stat("k", 0x0420_0000), status, &mut lists).unwrap();
    assert!(worker.kernel && worker.bound);
    assert_eq!(lists.len(), 1);
    for (stat, status) in [("", status), ("7 (x) S", status), (&stat("x", 0), "")] {
        assert_eq!(threads::parse(7, 8, stat, status, &mut lists), None);
    }
}

#[test]
fn groups_are_looked_at_from_the_inside_out() {
    let own = "12:cpu,cpuacct:/a/b\n3:memory:/m\n0::/u/v\n";
    assert_eq!(
        folders(own, true, &["cpu"]),
        ["sys/fs/cgroup/u/v", "sys/fs/cgroup/u", "sys/fs/cgroup"]
    );
    assert_eq!(
        folders(own, false, &["cpu"]),
        [
            "sys/fs/cgroup/cpu,cpuacct/a/b",
            "sys/fs/cgroup/cpu,cpuacct/a",
            "sys/fs/cgroup/cpu,cpuacct"
        ]
    );
    assert_eq!(folders("0::/../../etc", true, &[]), ["sys/fs/cgroup"]);
    assert!(folders("nonsense", true, &[]).is_empty());
    let deep = format!("0::{}", "/x".repeat(1000));
    assert!(folders(&deep, true, &[]).len() <= 65);
}

proptest! {
    /// No bytes in any file stop the check, or take it long.
    #[test]
    fn any_text_is_taken(text in ".{0,400}", lines in "([ -~]{0,80}\n){0,12}") {
        for text in [&text, &lines] {
            let _ = parse_list(text, HostCpu(8191));
            let _ = parse_mask(text);
            let _ = chosen(text);
            let line = CommandLine::parse(text);
            let _ = line.cpus("isolcpus", HostCpu(3));
            let _ = Processor::parse(text);
            let _ = interrupts::parse(text);
            let _ = threads::parse(1, 1, text, text, &mut BTreeMap::new());
            for folder in folders(text, true, &[]).iter().chain(&folders(text, false, &["cpu"])) {
                prop_assert!(folder.starts_with("sys/fs/cgroup"));
                prop_assert!(!Path::new(folder).components().any(|part| part.as_os_str() == ".."));
            }
        }
    }

    #[test]
    fn near_lists_are_taken(list in "[0-9N:/,all-]{0,30}") {
        if let Some(cpus) = parse_list(&list, HostCpu(63)) {
            prop_assert!(cpus.iter().all(|cpu| cpu.0 <= 8191));
        }
        let line = CommandLine::parse(&format!("isolcpus=domain,{list}"));
        let _ = line.cpus("isolcpus", HostCpu(63));
    }

    #[test]
    fn near_tables_of_interrupts_are_taken(
        head in "( {1,8}CPU[0-9]{1,4}){0,5}",
        rows in "([ 0-9A-Z]{1,4}:( {1,3}[0-9]{1,25}){0,6} [a-z, -]{0,20}\n){0,6}",
    ) {
        let _ = interrupts::parse(&format!("{head}\n{rows}"));
    }

    #[test]
    fn masks_and_lists_come_back(cpus in prop::collection::btree_set(0_u32..8192, 0..40)) {
        let cpus = set(cpus);
        prop_assert_eq!(parse_mask(&mask(&cpus)), Some(cpus.clone()));
        prop_assert_eq!(parse_list(&format_cpu_list(&cpus), HostCpu(0)), Some(cpus));
    }
}

use serde_json::json;
use vmm_sys_util::tempdir::TempDir;

use super::*;
use crate::spec::HostCpu;

const ALL: Wanted = Wanted {
    nodes: true,
    huge_pages: true,
};

fn host(files: &[(&str, &str)]) -> TempDir {
    let root = TempDir::new().unwrap();
    for (path, text) in files {
        let path = root.as_path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    root
}

#[test]
fn a_two_node_host_is_read() {
    let root = host(&[
        ("sys/devices/system/cpu/online", "0-2,4\n"),
        ("sys/devices/system/cpu/present", "0-4\n"),
        ("sys/devices/system/node/online", "0-1\n"),
        ("sys/devices/system/node/node0/cpulist", "0-2\n"),
        ("sys/devices/system/node/node1/cpulist", "4\n"),
        (
            "sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages",
            "64\n",
        ),
        (
            "sys/devices/system/node/node1/hugepages/hugepages-2048kB/free_hugepages",
            "60\n",
        ),
        (
            "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
            "100\n",
        ),
        (
            "sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages",
            "90\n",
        ),
        (
            "sys/kernel/mm/hugepages/hugepages-2048kB/resv_hugepages",
            "20\n",
        ),
        (
            "sys/kernel/mm/hugepages/hugepages-2048kB/nr_overcommit_hugepages",
            "8\n",
        ),
        (
            "sys/kernel/mm/hugepages/hugepages-2048kB/surplus_hugepages",
            "3\n",
        ),
        (
            "proc/meminfo",
            "MemTotal:  1 kB\nHugepagesize:    2048 kB\n",
        ),
    ]);
    let facts = HostFacts::read_from(root.as_path(), ALL).unwrap();
    assert_eq!(facts.online_cpus, [0, 1, 2, 4].map(HostCpu).into());
    assert_eq!(facts.present_cpus.len(), 5);
    assert_eq!(facts.nodes.len(), 2);
    assert_eq!(facts.nodes[&1].cpus, [HostCpu(4)].into());
    assert!(facts.nodes[&0].huge_pages.is_empty());
    assert_eq!(
        facts.nodes[&1].huge_pages[&PageSize::Huge2M],
        HugePagePool {
            total: 64,
            available: 60
        }
    );
    assert_eq!(
        facts.huge_pages[&PageSize::Huge2M],
        HugePagePool {
            total: 100,
            available: 75
        }
    );
    assert!(!facts.huge_pages.contains_key(&PageSize::Huge1G));
    assert_eq!(facts.default_huge_page, Some(PageSize::Huge2M));
}

#[test]
fn a_host_without_numa_and_huge_pages_has_none() {
    let root = host(&[("sys/devices/system/cpu/online", "0\n")]);
    let facts = HostFacts::read_from(root.as_path(), ALL).unwrap();
    assert_eq!(facts.present_cpus, facts.online_cpus);
    assert!(facts.nodes.is_empty());
    assert!(facts.huge_pages.is_empty());
    assert_eq!(facts.default_huge_page, None);
}

#[test]
fn what_is_missing_or_not_understood_is_named() {
    let root = host(&[]);
    let error = HostFacts::read_from(root.as_path(), ALL).unwrap_err();
    assert!(error.to_string().ends_with("sys/devices/system/cpu/online"));

    let root = host(&[("sys/devices/system/cpu/online", "all\n")]);
    let error = HostFacts::read_from(root.as_path(), ALL).unwrap_err();
    assert!(matches!(error, HostFactsError::List { .. }), "{error:?}");

    let root = host(&[
        ("sys/devices/system/cpu/online", "0\n"),
        (
            "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
            "many\n",
        ),
    ]);
    let error = HostFacts::read_from(root.as_path(), ALL).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with(r#"holds "many", expected a number"#),
        "{error}"
    );
}

#[test]
fn what_is_not_asked_about_is_not_read() {
    let root = host(&[
        ("sys/devices/system/cpu/online", "0\n"),
        ("sys/devices/system/node/online", "unread"),
        (
            "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
            "unread",
        ),
    ]);
    let wanted = Wanted::by(&VmConfig::default());
    let facts = HostFacts::read_from(root.as_path(), wanted).unwrap();
    assert_eq!(facts.online_cpus, [HostCpu(0)].into());
    for other in [
        Wanted {
            nodes: true,
            ..wanted
        },
        Wanted {
            huge_pages: true,
            ..wanted
        },
    ] {
        HostFacts::read_from(root.as_path(), other).unwrap_err();
    }
}

#[test]
fn a_config_is_judged_by_what_any_of_its_zones_asks() {
    let wanted = |memory| {
        Wanted::by(&VmConfig {
            memory: serde_json::from_value(memory).unwrap(),
            ..VmConfig::default()
        })
    };
    let one = |zone| json!({"zones": [{"id": "a", "size": 0}, zone]});
    let none = Wanted {
        nodes: false,
        huge_pages: false,
    };
    assert_eq!(wanted(one(json!({"id": "b", "size": 0}))), none);
    let of_node = json!({"id": "b", "size": 0, "host_numa_node": 0});
    assert!(wanted(one(of_node)).nodes);
    let huge = json!({"id": "b", "size": 0, "hugepages": true});
    assert!(wanted(one(huge)).huge_pages);
    assert!(wanted(json!({"hugepages": true})).huge_pages);
}

#[test]
fn this_host_is_read() {
    let facts = HostFacts::read(&VmConfig::default()).unwrap();
    assert!(!facts.online_cpus.is_empty());
    assert!(facts.online_cpus.is_subset(&facts.present_cpus));
}

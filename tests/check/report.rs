//! What is reported, and the exit code.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use godwit_lab::host_tree::Host;

use super::{Unpacked, User, check, check_as, document, guest};
use crate::support::scratch::Scratch;

#[track_caller]
fn item<'a>(report: &'a Value, id: &str) -> &'a Value {
    let items = report["items"].as_array().expect("a report has items");
    let item = items.iter().find(|item| item["id"] == id);
    item.unwrap_or_else(|| panic!("no {id} in {report:#}"))
}

#[test]
fn this_machine() {
    let ended = check(&["--json", "--interval", "50"]);
    let report = document(&ended);
    assert_eq!(report["version"], 1);
    let code = match report["outcome"].as_str() {
        Some("ready") => 0,
        Some("warnings") => 3,
        Some("not-ready") => 4,
        other => panic!("outcome {other:?}"),
    };
    assert_eq!(ended.code, Some(code));
    assert_eq!(ended.stderr, "");
    // Items are the same on every host.
    let host = Unpacked::new(Host::Vm);
    let other = document(&host.check(&guest(), &["--json"]));
    let names = |report: &Value| {
        let items = report["items"].as_array().expect("a report has items");
        let names = items.iter().map(|item| item["id"].to_string());
        names.collect::<BTreeSet<_>>()
    };
    assert_eq!(names(&report), names(&other));
    // The tests' own CPUs are online.
    let online = report["host"]["online_cpus"].as_str().expect("a list");
    assert!(!online.is_empty());
    assert_eq!(item(&report, "clock-source")["group"], "kernel");
}

#[test]
fn this_machine_for_people() {
    let ended = check(&["--interval", "0"]);
    let last = ended.stdout.lines().last().unwrap_or_default();
    for word in ["good", "warning", "bad", "unknown"] {
        assert!(last.contains(word), "{}", ended.stdout);
    }
    assert!(!ended.stdout.contains('\u{1b}'), "no terminal, no colour");
    let all = check(&["--interval", "0", "--all"]);
    assert!(all.stdout.lines().count() > ended.stdout.lines().count());
    let verbose = check(&["--interval", "0", "-v"]);
    assert_eq!(verbose.stdout.lines().count(), all.stdout.lines().count());
}

#[test]
fn without_permission() {
    crate::support::host::needs_root();
    // Nobody may look for more than he is told of.
    let ended = check_as(User::Nobody, &["--json", "--interval", "50"]);
    let report = document(&ended);
    let nobody = item(&report, "kvm-device");
    assert_eq!(nobody["state"], "bad", "{nobody:#}");
    let config = json!({
        "payload": { "kernel": "/nowhere" },
        "cpus": { "sched": { "policy": "fifo", "priority": 1 } },
        "memory": { "size": 1073741824, "lock": true }
    });
    let scratch = Scratch::new();
    let path = scratch.write("vm.json", config.to_string());
    let arguments = ["--json", "--interval", "0", "--config", super::text(&path)];
    let report = document(&check_as(User::Nobody, &arguments));
    assert_eq!(item(&report, "rt-priority")["state"], "bad");
    assert_eq!(item(&report, "memory-lock")["state"], "bad");
}

#[test]
fn a_file_that_may_not_be_read() {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    crate::support::host::needs_root();
    let host = Unpacked::new(Host::Rt);
    for (path, mode) in [
        ("dev/cpu/0/msr", 0o000),
        ("proc/sys/vm/stat_interval", 0o000),
        ("dev/kvm", 0o666),
        ("dev/vhost-net", 0o666),
    ] {
        let path = host.root().join(path);
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("setting who may read");
    }
    let root = host.root();
    let arguments = ["--json", "--interval", "1", "--root", super::text(&root)];
    let ended = check_as(User::Nobody, &arguments);
    let report = document(&ended);
    for (id, path) in [
        ("smi", "/dev/cpu/0/msr"),
        ("vm-statistics", "/proc/sys/vm/stat_interval"),
    ] {
        let item = item(&report, id);
        assert_eq!(item["state"], "no-permission", "{item:#}");
        assert_eq!(item["found"], format!("no permission for {path}"));
    }
    assert_eq!(report["counts"]["unknown"], 2);
    // Not known is not ready.
    assert_eq!(ended.code, Some(3));
}

#[test]
fn ready() {
    let host = Unpacked::new(Host::Rt);
    let ended = host.check(&guest(), &[]);
    assert_eq!(ended.code, Some(0), "{}", ended.stdout);
    let last = ended.stdout.lines().last().unwrap_or_default();
    assert!(
        last.ends_with("good, 0 warnings, 0 bad, 0 unknown"),
        "{last}"
    );
}

#[test]
fn ready_but_for_warnings() {
    let host = Unpacked::new(Host::Rt);
    host.lay("sys/kernel/mm/ksm/run\t1");
    let ended = host.check(&guest(), &[]);
    assert_eq!(ended.code, Some(3), "{}", ended.stdout);
    for words in ["ksm", "runs", "echo 0 > /sys/kernel/mm/ksm/run", "--fix"] {
        assert!(
            ended.stdout.contains(words),
            "no {words} in {}",
            ended.stdout
        );
    }
}

#[test]
fn not_ready() {
    let host = Unpacked::new(Host::Distro);
    let ended = host.check(&guest(), &["--json"]);
    assert_eq!(ended.code, Some(4));
    let report = document(&ended);
    assert_eq!(report["outcome"], "not-ready");
    let isolation = item(&report, "isolcpus");
    assert_eq!(isolation["state"], "bad");
    assert_eq!(
        isolation["mend"],
        json!([{ "how": "kernel-parameter", "text": "isolcpus=managed_irq,domain,2" }])
    );
}

#[test]
fn a_config_that_contradicts_itself() {
    let host = Unpacked::new(Host::Rt);
    let mut config = guest();
    config["platform"]["emulator_cpus"] = json!([0, 2]);
    let ended = host.check(&config, &[]);
    assert_eq!(ended.code, Some(4));
    let line = "platform.emulator_cpus has CPU 2 of vCPUs";
    assert!(ended.stdout.contains(line), "{}", ended.stdout);
}

#[test]
fn cpus_without_a_config() {
    let host = Unpacked::new(Host::Rt);
    let root = host.root();
    let arguments = ["--json", "--interval", "1", "--root", super::text(&root)];
    let mut named = arguments.to_vec();
    named.extend(["--cpus", "0,10-11"]);
    let report = document(&check(&named));
    assert_eq!(report["host"]["vcpu_cpus"], "0,10-11");
    assert_eq!(item(&report, "isolcpus")["found"], "CPU 0 not isolated");
    let report = document(&check(&arguments));
    assert_eq!(report["host"]["vcpu_cpus"], "2-7,10-15");
}

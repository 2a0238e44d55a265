//! `--fix` and `--undo`, in a host made of files: nothing of this machine is changed.

use std::fs;

use godwit_lab::host_tree::Host;
use serde_json::json;

use super::{Unpacked, check, document, guest, text};

#[test]
fn what_is_changed_is_written_down_and_put_back() {
    let host = Unpacked::new(Host::Distro);
    let before = host.check(&guest(), &["--json"]);
    let fixed = host.check(&guest(), &["--json", "--fix"]);
    // What only a boot mends is still there.
    assert_eq!(fixed.code, Some(4), "{}", fixed.stderr);
    let report = document(&fixed);
    let record = host.root().join("run/godwit/check-fix.json");
    assert_eq!(report["fix"]["record"], text(&record));
    let changes = report["fix"]["changes"].as_array().expect("changes");
    let interrupt = json!({
        "item": "device-interrupts",
        "path": "proc/irq/1/smp_affinity_list",
        "old": "0-7",
        "new": "0-1,3-7",
        "outcome": { "written": "0-1,3-7" }
    });
    assert!(changes.contains(&interrupt), "{changes:#?}");
    let read = |path: &str| fs::read_to_string(host.root().join(path)).expect("reading a setting");
    assert_eq!(read("sys/kernel/mm/ksm/run"), "0");
    assert_eq!(read("sys/devices/virtual/workqueue/cpumask"), "fb");
    let kept = document(&fixed)["fix"]["changes"].clone();
    let written: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&record).expect("reading the record"))
            .expect("the record is JSON");
    assert_eq!(written, json!({ "version": 1, "changes": kept }));

    // A second fix finds the record, and changes nothing.
    host.lay("sys/kernel/mm/ksm/run\t1");
    let again = host.check(&guest(), &["--fix"]);
    assert_eq!(again.code, Some(1), "{}", again.stdout);
    for word in ["nothing was changed", "is there already", "--undo"] {
        assert!(again.stderr.contains(word), "{}", again.stderr);
    }
    assert_eq!(read("sys/kernel/mm/ksm/run"), "1\n");

    let root = host.root();
    let undone = check(&["--root", text(&root), "--undo", text(&record)]);
    assert_eq!(undone.code, Some(0), "{}{}", undone.stdout, undone.stderr);
    assert!(
        undone
            .stdout
            .contains("/sys/kernel/mm/ksm/run: 1, as before")
    );
    assert!(undone.stdout.ends_with("is removed\n"), "{}", undone.stdout);
    assert!(!record.exists());
    host.lay("sys/kernel/mm/transparent_hugepage/enabled\t[always] madvise never");
    let after = host.check(&guest(), &["--json"]);
    assert_eq!(document(&after), document(&before));
}

#[test]
fn what_somebody_else_changed_is_left_and_told() {
    let host = Unpacked::new(Host::Distro);
    let record = host.scratch.file("mine.json");
    let fixed = host.check(&guest(), &["--fix", "--record", text(&record)]);
    assert!(fixed.stdout.contains(text(&record)), "{}", fixed.stdout);
    host.lay("proc/sys/vm/stat_interval\t33");
    let root = host.root();
    let undone = check(&["--json", "--root", text(&root), "--undo", text(&record)]);
    assert_eq!(undone.code, Some(1));
    let changes = document(&undone)["changes"].clone();
    let foreign = json!({
        "path": "proc/sys/vm/stat_interval", "old": "1", "outcome": { "foreign": "33" }
    });
    let changes = changes.as_array().expect("changes");
    assert!(changes.contains(&foreign), "{changes:#?}");
    let rest = changes.iter().filter(|change| **change != foreign);
    assert!(
        rest.into_iter()
            .all(|change| change["outcome"] == "restored")
    );
    assert!(record.exists());
}

#[test]
fn nothing_to_change() {
    let host = Unpacked::new(Host::Rt);
    let fixed = host.check(&guest(), &["--fix"]);
    assert_eq!(fixed.code, Some(0), "{}", fixed.stdout);
    assert!(fixed.stdout.starts_with("nothing was changed\n"));
    assert!(!host.root().join("run").exists());
}

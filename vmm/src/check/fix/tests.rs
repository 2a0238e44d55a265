//! Changes on hosts made of files, and the way back.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use godwit_lab::host_tree::Host;

use super::{Back, Change, Made, Plan, Record, RecordError, undo};
use crate::check::facts::chosen;
use crate::check::guest::Guest;
use crate::check::tests::Unpacked;
use crate::check::{Case, State, judge};
use crate::spec::HostCpu;

fn plan(host: &Unpacked) -> Plan {
    let facts = host.facts();
    let guest = Guest::on(&[HostCpu(2), HostCpu(3)].into(), &facts);
    let case = Case {
        facts: &facts,
        guest: &guest,
    };
    Plan::of(&case, host.path())
}

/// Every setting of a host.
fn settings(host: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(root: &Path, folder: &Path, into: &mut BTreeMap<String, Vec<u8>>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_symlink() {
                continue;
            }
            if path.is_dir() {
                walk(root, &path, into);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap_or_default();
            let text = chosen(&text).map_or(text.trim(), |chosen| chosen);
            let name = path.strip_prefix(root).unwrap().display().to_string();
            into.insert(name, text.as_bytes().to_vec());
        }
    }
    let mut settings = BTreeMap::new();
    for top in ["proc", "sys"] {
        walk(host, &host.join(top), &mut settings);
    }
    settings
}

#[test]
fn what_is_fixed_is_good_and_undoing_puts_all_of_it_back() {
    for host in Host::ALL {
        let host = Unpacked::new(host);
        let before = settings(host.path());
        let plan = plan(&host);
        let record = host.path().join("run/record.json");
        let fixed = plan.clone().apply(host.path(), &record).unwrap();
        if plan.changes.is_empty() {
            assert_eq!(fixed.record, None);
            assert!(!record.exists());
            continue;
        }
        let written = fixed.changes.iter();
        for change in written {
            assert_eq!(change.outcome, Some(Made::Written(change.new.clone())));
        }
        // What a file tells at once is good now.
        let facts = host.facts();
        let guest = Guest::on(&[HostCpu(2), HostCpu(3)].into(), &facts);
        let report = judge(&Case {
            facts: &facts,
            guest: &guest,
        });
        for change in &fixed.changes {
            // The choice is a word in brackets, which only the kernel writes; where
            // an interrupt goes follows from where it may.
            let by_kernel = ["transparent-huge-pages", "khugepaged", "device-interrupts"];
            if !by_kernel.contains(&change.item.as_str()) {
                let state = report.item(&change.item).unwrap().state;
                assert_eq!(state, State::Good, "{}", change.item);
            }
        }
        let undone = undo(host.path(), &record).unwrap();
        assert!(undone.is_complete(), "{undone:#?}");
        assert_eq!(settings(host.path()), before);
        assert!(!record.exists());
    }
}

#[test]
fn the_record_is_there_before_the_first_write_and_is_never_overwritten() {
    let host = Unpacked::new(Host::Distro);
    let before = settings(host.path());
    let record = host.path().join("record.json");
    fs::write(&record, "precious").unwrap();
    let error = plan(&host).apply(host.path(), &record).unwrap_err();
    let reason = std::error::Error::source(&error).unwrap().to_string();
    assert!(
        reason.contains("--undo") && reason.contains("--record"),
        "{reason}"
    );
    assert_eq!(settings(host.path()), before);
    assert_eq!(fs::read_to_string(&record).unwrap(), "precious");
}

#[test]
fn a_record_whose_writes_never_came_is_undone_without_a_write() {
    let host = Unpacked::new(Host::Distro);
    let before = settings(host.path());
    let record = host.path().join("record.json");
    // As after a crash between the record and the first write.
    Record::new(plan(&host).changes).create(&record).unwrap();
    let undone = undo(host.path(), &record).unwrap();
    assert!(
        undone
            .changes
            .iter()
            .all(|change| change.outcome == Back::Unchanged)
    );
    assert_eq!(settings(host.path()), before);
}

#[test]
fn what_somebody_else_changed_since_stays() {
    let host = Unpacked::new(Host::Distro);
    let record = host.path().join("record.json");
    plan(&host).apply(host.path(), &record).unwrap();
    let stat = host.path().join("proc/sys/vm/stat_interval");
    assert_eq!(fs::read_to_string(&stat).unwrap(), "120");
    fs::write(&stat, "30\n").unwrap();
    let gone = host.path().join("sys/kernel/mm/ksm/run");
    fs::remove_file(&gone).unwrap();
    let undone = undo(host.path(), &record).unwrap();
    assert!(!undone.is_complete());
    let outcome = |path: &str| {
        let mut changes = undone.changes.iter();
        &changes.find(|change| change.path == path).unwrap().outcome
    };
    assert_eq!(
        outcome("proc/sys/vm/stat_interval"),
        &Back::Foreign("30".to_owned())
    );
    assert!(matches!(outcome("sys/kernel/mm/ksm/run"), Back::Failed(_)));
    assert_eq!(fs::read_to_string(&stat).unwrap(), "30\n");
    // It is kept, for another try.
    assert!(record.exists());
}

#[test]
fn the_last_change_is_undone_first() {
    let host = Unpacked::new(Host::Rt);
    let path = "proc/sys/vm/stat_interval";
    let change = |old: &str, new: &str| Change {
        item: "vm-statistics".to_owned(),
        path: path.to_owned(),
        old: old.to_owned(),
        new: new.to_owned(),
        outcome: Some(Made::Written(new.to_owned())),
    };
    fs::write(host.path().join(path), "3").unwrap();
    let record = host.path().join("record.json");
    let changes = vec![change("1", "2"), change("2", "3")];
    Record::new(changes).create(&record).unwrap();
    let undone = undo(host.path(), &record).unwrap();
    assert!(undone.is_complete(), "{undone:#?}");
    assert_eq!(fs::read_to_string(host.path().join(path)).unwrap(), "1");
}

#[test]
fn a_parameter_that_cannot_be_written_is_passed_over() {
    use std::os::unix::fs::PermissionsExt;
    let host = Unpacked::new(Host::Distro);
    let path = host
        .path()
        .join("sys/module/kvm/parameters/eager_page_split");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
    let plan = plan(&host);
    let skipped = plan
        .skipped
        .iter()
        .find(|skipped| skipped.item == "eager-page-split");
    let reason = &skipped.unwrap().reason;
    assert!(reason.contains("at run time"), "{reason}");
    assert!(
        !plan
            .changes
            .iter()
            .any(|change| change.item == "eager-page-split")
    );
}

#[test]
fn nothing_of_security_is_touched() {
    for host in Host::ALL {
        for change in plan(&Unpacked::new(host)).changes {
            let file = change.path.rsplit('/').next().unwrap();
            assert!(
                !["nx_huge_pages", "online", "control"].contains(&file),
                "{}",
                change.path
            );
        }
    }
}

#[test]
fn records_that_lead_elsewhere_or_are_none_are_refused() {
    let host = Unpacked::new(Host::Rt);
    let record = host.path().join("record.json");
    let with_path = |path: &str| {
        format!(r#"{{"version":1,"changes":[{{"item":"x","path":"{path}","old":"a","new":"b"}}]}}"#)
    };
    for path in [
        "etc/passwd",
        "/proc/x",
        "proc/../etc/passwd",
        "",
        "sys/..",
        "dev/kvm",
    ] {
        fs::write(&record, with_path(path)).unwrap();
        let error = undo(host.path(), &record).unwrap_err();
        assert!(
            matches!(error, RecordError::Outside { .. }),
            "{path}: {error}"
        );
    }
    for text in ["", "{}", "[]", r#"{"version":1,"changes":[],"more":1}"#] {
        fs::write(&record, text).unwrap();
        let error = undo(host.path(), &record).unwrap_err();
        assert!(
            matches!(error, RecordError::Document { .. }),
            "{text}: {error}"
        );
    }
    fs::write(&record, r#"{"version":2,"changes":[]}"#).unwrap();
    let error = undo(host.path(), &record).unwrap_err();
    assert!(error.to_string().contains("version 2"), "{error}");
    assert!(matches!(
        undo(host.path(), &host.path().join("none")).unwrap_err(),
        RecordError::Io { .. }
    ));
}

#[test]
fn values_are_alike_as_their_files_mean_them() {
    let alike =
        |path: &str, one, other| super::Setting::new(Path::new("/"), path).alike(one, other);
    assert!(alike("proc/irq/1/smp_affinity_list", "0,1,2", "0-2"));
    assert!(alike(
        "sys/devices/virtual/workqueue/cpumask",
        "f",
        "00000000,0000000f"
    ));
    assert!(!alike(
        "sys/devices/virtual/workqueue/cpumask",
        "1,2",
        "2,1"
    ));
    assert!(alike("sys/module/kvm/parameters/x", "Y", "1"));
    assert!(!alike("proc/sys/vm/x", "0,1", "0-1"));
}

//! The systemd units in `resources/systemd`.

use std::fs;
use std::process::Command;

use godwit_lab::workspace;

use crate::support::scratch::Scratch;

/// The exposure that systemd reckons is "OK" or better, and stays so.
#[test]
fn the_unit_is_hardened() {
    let unit = workspace::root().join("resources/systemd/godwit@.service");
    let output = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--threshold=35", "--no-pager"])
        .arg(unit)
        .output()
        .unwrap_or_else(|error| panic!("needs the program systemd-analyze: {error}"));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
}

/// `systemd-analyze verify` has nothing to say about the unit, alone and with
/// its drop-in.
#[test]
fn the_units_are_sound() {
    let folder = workspace::root().join("resources/systemd");
    let unit = fs::read_to_string(folder.join("godwit@.service")).expect("the unit");
    let dropin = folder.join("godwit@.service.d/housekeeping.conf");
    let dropin = fs::read_to_string(dropin).expect("the drop-in");
    for with_dropin in [false, true] {
        let scratch = Scratch::new();
        // The binary need not be installed here for the unit to be checked.
        let here = unit.replace("/usr/bin/godwit", "/bin/true");
        let path = scratch.write("godwit@vm1.service", here);
        if with_dropin {
            let folder = scratch.file("godwit@vm1.service.d");
            fs::create_dir(&folder).expect("making a folder");
            fs::write(folder.join("housekeeping.conf"), &dropin).expect("writing the drop-in");
        }
        let output = Command::new("systemd-analyze")
            .args(["verify", "--man=no"])
            .arg(&path)
            .output()
            .unwrap_or_else(|error| panic!("needs the program systemd-analyze: {error}"));
        let said = String::from_utf8_lossy(&output.stderr);
        let ours: Vec<_> = said
            .lines()
            .filter(|line| line.contains("godwit"))
            .collect();
        assert!(output.status.success() && ours.is_empty(), "{said}");
    }
}

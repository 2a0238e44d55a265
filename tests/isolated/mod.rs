//! On a kernel that was booted with CPU 1 isolated, as "Tune a host" has it: `cargo lab test` runs
//! these in an outer machine of that kind, wherever it runs.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use godwit_lab::seam::{self, Need};

use crate::support::namespace::apart;
use crate::support::process;
use crate::support::scratch::Scratch;
use crate::support::watch::Polling;

/// How long the guest is watched.
const WATCH: Duration = Duration::from_secs(60);

/// The isolated CPU.
const CPU: u32 = 1;

/// What `godwit check --fix` changed; changed back when dropped.
struct Fixed<'a>(&'a Path);

impl<'a> Fixed<'a> {
    fn new(record: &'a Path) -> Self {
        let fixed = Self(record);
        let mut check = Command::new(process::binary());
        check.args(["check", "--cpus", &CPU.to_string(), "--fix", "--record"]);
        let output = check.arg(record).output().expect("running godwit check");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(record.exists(), "nothing was changed: {text}");
        fixed
    }
}

impl Drop for Fixed<'_> {
    fn drop(&mut self) {
        let mut check = Command::new(process::binary());
        let undone = check.args(["check", "--undo"]).arg(self.0).output();
        if !undone.as_ref().is_ok_and(|output| output.status.success()) {
            eprintln!("not undone: {undone:?}");
        }
    }
}

#[test]
fn a_polling_guest_has_its_cpu_for_itself() {
    seam::require(&[Need::HardwareVirtualization]);
    let isolated = fs::read_to_string("/sys/devices/system/cpu/isolated").unwrap_or_default();
    assert_eq!(
        isolated.trim(),
        CPU.to_string(),
        "this test needs a kernel with CPU {CPU} isolated; run `cargo lab test --only tuning`"
    );
    let scratch = Scratch::new();
    let record = scratch.file("fix.json");
    let _fixed = Fixed::new(&record);
    apart(|| Polling::start(CPU, 0).watch(WATCH, true));
}

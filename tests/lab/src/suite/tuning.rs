//! `godwit check` on a real kernel, booted as it comes and with CPU 1 isolated; what `--fix` writes
//! there, and takes back; and the tests of module `isolated`, on the isolated kernel.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::integration::Lab;
use super::{Count, SuiteError};
use crate::build;
use crate::outer::protocol::Ending;
use crate::outer::{Outer, Shape, exec};
use crate::progress::Step;

/// What the README says for a host whose vCPU has CPU 1.
const TUNED: &str = "isolcpus=managed_irq,domain,1 nohz_full=1 rcu_nocbs=1 irqaffinity=0 \
                     tsc=reliable nosoftlockup skew_tick=1 transparent_hugepage=never \
                     numa_balancing=disable mce=ignore_ce";

/// What is mended by a boot with [`TUNED`].
const BY_BOOT: &[&str] = &[
    "isolcpus",
    "nohz-full",
    "rcu-nocbs",
    "workqueues",
    "soft-watchdog",
    "skew-tick",
    "mce-polling",
    "device-interrupts",
    "new-interrupts",
    "threads",
    "transparent-huge-pages",
];

/// What `--fix` mends without a boot.
const BY_FIX: &[&str] = &[
    "rt-throttling",
    "timer-migration",
    "workqueues",
    "soft-watchdog",
    "mce-polling",
    "device-interrupts",
    "new-interrupts",
    "transparent-huge-pages",
    "khugepaged",
    "vm-statistics",
];

/// Longer than any check takes there.
const LIMIT: Duration = Duration::from_secs(120);

/// Memory for a kernel and small guests.
const SMALL: Shape = Shape {
    cpus: 2,
    memory_mib: 2048,
    pages_2m: 0,
    pages_1g: 0,
    parameters: "",
};

/// A machine that is booted with CPU 1 isolated.
pub(super) fn isolated() -> Lab {
    Lab::new(Shape {
        parameters: TUNED,
        ..SMALL
    })
}

/// Boots both, and compares; `isolated` is to be one with CPU 1 isolated.
pub(super) fn run(isolated: &mut Lab) -> Result<Count, SuiteError> {
    let mut tests = Checks {
        step: Step::start("godwit check, with and without isolation"),
        godwit: build::godwit()?.to_string_lossy().into_owned(),
        count: Count::default(),
    };
    tests.step.say("as the kernel comes");
    let plain = Outer::start(SMALL)?;
    let before = tests.report(&plain, &[]);
    tests.states("as it comes", &before, BY_BOOT, &["warning", "bad"]);
    let fixed = tests.report(&plain, &["--fix", "--record", "/run/lab/fix.json"]);
    tests.states("fixed", &fixed, BY_FIX, &["good"]);
    let undo = ["check", "--undo", "/run/lab/fix.json"];
    let (undone, code) = tests.godwit(&plain, &undo);
    tests.holds("undone", code == Some(0), &undone);
    let after = tests.report(&plain, &[]);
    tests.states("undone", &after, BY_BOOT, &["warning", "bad"]);
    drop(plain);

    tests.step.say("isolated");
    let report = tests.report(isolated.outer()?, &[]);
    tests.states("isolated", &report, BY_BOOT, &["good"]);
    let Checks { step, count, .. } = tests;
    step.done(&format!("{} passed, {} failed", count.passed, count.failed));
    Ok(count)
}

struct Checks {
    step: Step,
    godwit: String,
    count: Count,
}

impl Checks {
    /// What it says on standard output, and its exit code.
    fn godwit(&self, outer: &Outer, arguments: &[&str]) -> (String, Option<i32>) {
        let started = Instant::now();
        let mut all = vec![self.godwit.clone()];
        all.extend(arguments.iter().map(|word| (*word).to_owned()));
        match outer.run(exec(all, LIMIT)) {
            Ok(output) => {
                let code = match output.ending {
                    Ending::Exited(code) => Some(code),
                    _ => None,
                };
                (output.stdout + &output.stderr, code)
            }
            Err(error) => (format!("{error} after {:?}", started.elapsed()), None),
        }
    }

    /// What is found for a vCPU on CPU 1; null when there is no report.
    fn report(&self, outer: &Outer, more: &[&str]) -> Value {
        let mut arguments = vec!["check", "--json", "--cpus", "1", "--interval", "200"];
        arguments.extend(more);
        let (text, _) = self.godwit(outer, &arguments);
        serde_json::from_str(&text).unwrap_or_else(|_| {
            eprintln!("no report: {text}");
            Value::Null
        })
    }

    fn states(&mut self, when: &str, report: &Value, ids: &[&str], expected: &[&str]) {
        for id in ids {
            let mut items = report["items"].as_array().into_iter().flatten();
            let item = items.find(|item| item["id"] == *id);
            let state = item.and_then(|item| item["state"].as_str());
            let good = state.is_some_and(|state| expected.contains(&state));
            let found = item.map(|item| item["found"].to_string());
            let found = format!("{id}: {state:?} {}", found.unwrap_or_default());
            self.holds(when, good, &found);
        }
    }

    fn holds(&mut self, when: &str, good: bool, found: &str) {
        if good {
            self.count.passed += 1;
        } else {
            self.count.failed += 1;
            eprintln!("godwit check, {when}: {found}");
        }
    }
}

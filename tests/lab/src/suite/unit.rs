//! Unit and doc tests of the workspace, by cargo.

use std::process::Command;
use std::time::Duration;

use super::{Count, SuiteError};
use crate::command::{self, Finished};
use crate::packages;
use crate::progress::Step;
use crate::workspace;

/// Longest time for all of them, the build included.
const LIMIT: Duration = Duration::from_secs(20 * 60);

/// Builds and runs them; a failing test's output is printed.
pub(super) fn run(filter: Option<&str>) -> Result<Count, SuiteError> {
    let step = Step::start("unit tests");
    let mut count = Count::default();
    let cargo = |arguments: &[&str]| {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command
            .args(arguments)
            .args(filter)
            .current_dir(workspace::root());
        // Names of tests and results are read below.
        command
            .env("CARGO_TERM_COLOR", "never")
            .env_remove("RUST_LOG");
        command::run(command, LIMIT)
    };
    let whole = ["--workspace", "--lib", "--bins", "--no-fail-fast"];
    let nextest = packages::find("cargo-nextest").is_some();
    let finished = if nextest {
        let quiet = [
            "--status-level",
            "fail",
            "--final-status-level",
            "fail",
            "--no-tests",
            "pass",
        ];
        cargo(&[&["nextest", "run"], whole.as_slice(), &quiet].concat())?
    } else {
        cargo(&[&["test"], whole.as_slice()].concat())?
    };
    add(&mut count, &finished, nextest, &step);
    step.say("doc tests");
    let finished = cargo(&["test", "--workspace", "--doc", "--no-fail-fast"])?;
    add(&mut count, &finished, false, &step);
    step.done(&format!("{} passed, {} failed", count.passed, count.failed));
    Ok(count)
}

fn add(count: &mut Count, finished: &Finished, nextest: bool, step: &Step) {
    let (passed, failed) = if nextest {
        nextest_summary(&finished.stderr)
    } else {
        libtest_summary(&finished.stdout)
    };
    count.passed += passed;
    count.failed += failed;
    if !finished.status.success() {
        step.line(&command::tail(&finished.stdout, 80));
        step.line(&command::tail(&finished.stderr, 120));
        // What does not build has run no test, and is no success.
        count.failed += usize::from(failed == 0);
    }
}

/// Sums over `test result: ok. 3 passed; 1 failed; …`.
fn libtest_summary(text: &str) -> (usize, usize) {
    let results = text.lines().filter(|line| line.starts_with("test result:"));
    results.fold((0, 0), |(passed, failed), line| {
        (
            passed + number_before(line, " passed"),
            failed + number_before(line, " failed"),
        )
    })
}

/// `Summary [   0.003s] 3 tests run: 2 passed, 1 failed, 0 skipped`; a test that hung is
/// `timed out`.
fn nextest_summary(text: &str) -> (usize, usize) {
    let line = text
        .lines()
        .rev()
        .find(|line| line.trim_start().starts_with("Summary"));
    let line = line.unwrap_or_default();
    (
        number_before(line, " passed"),
        number_before(line, " failed") + number_before(line, " timed out"),
    )
}

fn number_before(line: &str, word: &str) -> usize {
    let before = line
        .split(word)
        .next()
        .filter(|before| before.len() < line.len());
    let digits = before.and_then(|before| before.rsplit(|c: char| !c.is_ascii_digit()).next());
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_are_read() {
        let libtest = "x\ntest result: ok. 3 passed; 0 failed; 0 ignored\n\ntest result: FAILED. 1 passed; 2 failed; 0 ignored\n";
        assert_eq!(libtest_summary(libtest), (4, 2));
        let nextest = "   PASS\n     Summary [   0.003s] 30 tests run: 28 passed (1 slow), 2 failed, 1 skipped\n   FAIL x\n";
        assert_eq!(nextest_summary(nextest), (28, 2));
        assert_eq!(nextest_summary("error: could not compile"), (0, 0));
    }
}

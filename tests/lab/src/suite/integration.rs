//! The integration binary of package `godwit`: built once, each test a process of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::{Count, SuiteError};
use crate::build;
use crate::command::{self, CommandError};
use crate::doctor::Runner;
use crate::image::Image;
use crate::outer::{Outer, STALL, Shape, exec};
use crate::payload;
use crate::progress::Step;
use crate::workspace;

/// Lines of a failing test's output that are printed; the rest is in its log.
const SHOWN: usize = 60;

/// Runs of a test in the lab until it has failed: emulated nested paging makes a guest, or the
/// outer kernel itself, fault for no reason of its own now and then. Each run is told.
const RUNS: usize = 5;

/// What a caller may ask of the tests: how often a guest goes to and fro.
const TRIPS: [&str; 2] = ["GODWIT_TRIPS", "GODWIT_DPDK_TRIPS"];

/// The built tests.
#[derive(Debug)]
pub(super) struct Tests {
    binary: PathBuf,
    godwit: PathBuf,
    image: Image,
    payload: PathBuf,
    out: PathBuf,
    names: Vec<String>,
}

/// An outer machine for tests, started when there is none; one that failed them is dropped.
#[derive(Debug)]
pub(super) struct Lab {
    shape: Shape,
    outer: Option<Outer>,
}

impl Lab {
    /// One to be started.
    pub(super) fn new(shape: Shape) -> Self {
        Self { shape, outer: None }
    }

    /// The machine.
    pub(super) fn outer(&mut self) -> Result<&Outer, SuiteError> {
        Ok(match &mut self.outer {
            Some(outer) => outer,
            none => none.insert(Outer::start(self.shape)?),
        })
    }

    fn give_up(&mut self) {
        self.outer = None;
    }
}

/// How one run of a test went.
struct Outcome {
    passed: bool,
    ending: String,
    output: String,
    elapsed: Duration,
}

impl Tests {
    /// Builds them, `godwit` and the payload guest.
    pub(super) fn build(image: Image) -> Result<Self, SuiteError> {
        let step = Step::start("building the integration tests");
        let payload = payload::build()?;
        let (binary, godwit) = build::integration()?;
        let mut list = Command::new(&binary);
        list.args(["--list", "--format", "terse"]);
        let listed = command::succeed(list, Duration::from_secs(60))?.stdout;
        let names: Vec<String> = listed
            .lines()
            .filter_map(|line| line.strip_suffix(": test"))
            .map(str::to_owned)
            .collect();
        let out = workspace::lab().join("out");
        fs::create_dir_all(&out).map_err(SuiteError::Folder)?;
        let payload = payload
            .elf_pvh
            .parent()
            .map(Path::to_owned)
            .unwrap_or_default();
        step.done(&format!("{} tests", names.len()));
        Ok(Self {
            binary,
            godwit,
            image,
            payload,
            out,
            names,
        })
    }

    /// Names of all tests.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    fn arguments(&self, test: &str) -> Vec<String> {
        let binary = self.binary.to_string_lossy().into_owned();
        [&binary, "--exact", test, "--nocapture", "--include-ignored"]
            .map(str::to_owned)
            .to_vec()
    }

    fn environment(&self, runner: Runner, out: &Path) -> Vec<(String, String)> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let runner = match runner {
            Runner::Direct => "direct",
            Runner::Lab => "lab",
        };
        [
            ("GODWIT_BIN", text(&self.godwit)),
            ("GODWIT_IMAGE", text(self.image.folder())),
            ("GODWIT_PAYLOAD", text(&self.payload)),
            ("GODWIT_OUT", text(out)),
            ("GODWIT_RUNNER", runner.to_owned()),
            ("RUST_BACKTRACE", "0".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into_iter()
        .chain(TRIPS.iter().filter_map(|name| {
            let value = std::env::var(name).ok()?;
            Some(((*name).to_owned(), value))
        }))
        .collect()
    }

    /// Runs `chosen` on this machine, one after the other.
    pub(super) fn run_directly(
        &self,
        chosen: &[&String],
        limit: Duration,
    ) -> Result<Count, SuiteError> {
        let step = Step::start(format!("{} tests directly", chosen.len()));
        let mut count = Count::default();
        for test in chosen {
            step.say(test.as_str());
            let mut command = Command::new(&self.binary);
            command
                .args(self.arguments(test).iter().skip(1))
                .current_dir(workspace::root());
            command.envs(self.environment(Runner::Direct, &self.out));
            let started = Instant::now();
            let outcome = match command::run(command, limit) {
                Ok(finished) => Outcome {
                    passed: finished.status.success(),
                    ending: finished.status.to_string(),
                    output: finished.stdout + &finished.stderr,
                    elapsed: started.elapsed(),
                },
                Err(error @ CommandError::TimedOut { .. }) => Outcome {
                    passed: false,
                    ending: error.to_string(),
                    output: String::new(),
                    elapsed: started.elapsed(),
                },
                Err(error) => return Err(error.into()),
            };
            self.tell(&step, test, &outcome, "");
            if outcome.passed {
                count.passed += 1
            } else {
                count.failed += 1
            }
        }
        step.done(&format!("{} passed, {} failed", count.passed, count.failed));
        Ok(count)
    }

    /// Runs `chosen` in the outer machine `lab`.
    pub(super) fn run_in_lab(
        &self,
        chosen: &[&String],
        limit: Duration,
        lab: &mut Lab,
    ) -> Result<Count, SuiteError> {
        let mut count = Count::default();
        if chosen.is_empty() {
            return Ok(count);
        }
        lab.outer()?;
        let step = Step::start(format!("{} tests in the lab", chosen.len()));
        let mut failed: Vec<&String> = Vec::new();
        for (done, test) in chosen.iter().enumerate() {
            step.say(format!("{done} done, {} failed, now {test}", failed.len()));
            if self.run_once(test, limit, lab, &step)? {
                count.passed += 1;
            } else {
                failed.push(test);
            }
        }
        if !failed.is_empty() {
            step.line(&format!(
                "{} failed; again, in a fresh outer machine",
                failed.len()
            ));
            // Before the next starts: both at once would take twice the memory.
            lab.give_up();
        }
        for test in failed {
            let mut runs = 1;
            let mut passed = false;
            while !passed && runs < RUNS {
                runs += 1;
                step.say(format!("run {runs}: {test}"));
                passed = self.run_once(test, limit, lab, &step)?;
                if !passed {
                    lab.give_up();
                }
            }
            let result = if passed { "passed" } else { "failed" };
            step.line(&format!("{test}: failed at first, run {runs} {result}"));
            count.passed += usize::from(passed);
            count.later_run += usize::from(passed);
            count.failed += usize::from(!passed);
        }
        step.done(&format!("{} passed, {} failed", count.passed, count.failed));
        Ok(count)
    }

    /// One run, in `lab` or in a new machine; true when the test passed. A machine that stood
    /// still or was lost serves no other test.
    fn run_once(
        &self,
        test: &str,
        limit: Duration,
        lab: &mut Lab,
        step: &Step,
    ) -> Result<bool, SuiteError> {
        let outer = lab.outer()?;
        let mut exec = exec(self.arguments(test), limit);
        exec.environment
            .extend(self.environment(Runner::Lab, &outer.share()));
        outer.longest_gap();
        let started = Instant::now();
        let result = outer.run(exec);
        let gap = outer.longest_gap();
        let stalled = gap > STALL;
        let (outcome, sound) = match result {
            Ok(output) => {
                let outcome = Outcome {
                    passed: output.ending.success(),
                    ending: output.ending.to_string(),
                    output: output.stdout + &output.stderr,
                    elapsed: output.elapsed,
                };
                (outcome, !stalled)
            }
            Err(error) => {
                let output = outer.console_tail(20);
                let outcome = Outcome {
                    passed: false,
                    ending: error.to_string(),
                    output,
                    elapsed: started.elapsed(),
                };
                (outcome, false)
            }
        };
        let remark = if stalled {
            format!(
                "; the outer machine itself stood still for {:.0} s",
                gap.as_secs_f64()
            )
        } else {
            String::new()
        };
        self.tell(step, test, &outcome, &remark);
        self.keep(&outer.share());
        if !sound {
            lab.give_up();
        }
        Ok(outcome.passed)
    }

    /// Writes a test's output to its log, and prints it when the test failed.
    fn tell(&self, step: &Step, test: &str, outcome: &Outcome, remark: &str) {
        let log = self.out.join(format!("{}.log", test.replace("::", ".")));
        let _ = fs::write(&log, &outcome.output);
        if !outcome.passed {
            step.line(&format!(
                "---- {test}: {}{remark}, after {:.1} s",
                outcome.ending,
                outcome.elapsed.as_secs_f64()
            ));
            step.line(&command::tail(&outcome.output, SHOWN));
            step.line(&format!("---- all of it: {}", log.display()));
        }
    }

    /// Keeps what the test left in the shared folder: that folder goes with its machine.
    fn keep(&self, share: &Path) {
        for entry in fs::read_dir(share).into_iter().flatten().flatten() {
            let to = self.out.join(entry.file_name());
            if entry.path().is_dir() {
                let _ = fs::remove_dir_all(&to);
            }
            let _ = fs::rename(entry.path(), to);
        }
    }
}

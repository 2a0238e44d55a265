//! A machine under test.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Instant;

use nix::sys::signal::Signal;
use serde_json::json;

use super::config::Config;
use super::output::{Line, Output};
use super::process::{self, Ended, GLANCE, Godwit, PATIENCE};
use super::scratch::Scratch;

/// `godwit run` with a config, in a folder of its own. Unless the config says where the serial
/// port goes, it goes to a file.
#[derive(Debug)]
pub struct TestVm {
    pub process: Godwit,
    serial: PathBuf,
    // Last: the process has ended when its folder is removed.
    pub scratch: Scratch,
}

/// A machine that has ended.
#[derive(Debug)]
pub struct EndedVm {
    pub process: Ended,
    pub output: Output,
    pub scratch: Scratch,
}

impl TestVm {
    pub fn start(config: Config) -> Self {
        Self::start_in(Scratch::new(), config, &[])
    }

    /// Ends instead of starting the guest again.
    pub fn start_once(config: Config) -> Self {
        Self::start_in(Scratch::new(), config, &["--no-reboot"])
    }

    pub fn start_in(scratch: Scratch, config: Config, arguments: &[&str]) -> Self {
        assert!(
            fs::exists("/dev/kvm").is_ok_and(|there| there),
            "needs /dev/kvm"
        );
        let serial = scratch.file("serial.log");
        let config = if config.has("serial") {
            config
        } else {
            config.with(json!({"serial": {"mode": "File", "file": serial}}))
        };
        let path = scratch.write("vm.json", config.to_json());
        let mut command = Command::new(process::binary());
        command.args(process::FILTERED);
        command.arg("run").arg(path).args(arguments);
        Self {
            process: Godwit::spawn(command),
            serial,
            scratch,
        }
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// What the guest has written to the file.
    pub fn output(&self) -> Output {
        Output::new(&fs::read(&self.serial).unwrap_or_default())
    }

    /// Looks until `find` finds what it looks for.
    #[track_caller]
    pub fn wait_until<T>(&mut self, mut find: impl FnMut(&mut Self) -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            // In this order: what it wrote before its end is seen.
            let ended = self.process.has_ended();
            if let Some(found) = find(self) {
                return found;
            }
            assert!(
                !ended && start.elapsed() < PATIENCE,
                "{}: it said: {}\nthe guest wrote:\n{}",
                if ended { "ended early" } else { "in vain" },
                self.process.stderr(),
                self.output().text()
            );
            thread::sleep(GLANCE);
        }
    }

    /// Waits for the `count`th line of `topic`.
    #[track_caller]
    pub fn wait_line(&mut self, topic: &str, count: usize) -> Line {
        self.wait_until(|vm| vm.output().all(topic).into_iter().nth(count - 1))
    }

    /// Waits until the process ends by itself.
    pub fn wait(self) -> EndedVm {
        let Self {
            process,
            serial,
            scratch,
        } = self;
        let process = process.wait();
        EndedVm {
            output: Output::new(&fs::read(serial).unwrap_or_default()),
            process,
            scratch,
        }
    }

    /// Asks the process to end, and waits.
    pub fn terminate(self) -> EndedVm {
        self.process.signal(Signal::SIGTERM);
        self.wait()
    }
}

impl EndedVm {
    /// Ended with `code`, without a word on standard error.
    #[track_caller]
    pub fn assert_code(self, code: i32) -> Self {
        assert_eq!(
            self.process.code,
            Some(code),
            "it said: {}\nthe guest wrote:\n{}",
            self.process.stderr,
            self.output.text()
        );
        self
    }
}

/// Runs the guest of `config` to its power-off.
#[track_caller]
pub fn run_to_power_off(config: Config) -> Output {
    let ended = TestVm::start(config).wait().assert_code(0);
    ended.output.assert_sound();
    ended.output
}

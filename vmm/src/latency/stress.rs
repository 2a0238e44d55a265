//! Load beside the measurement, in the classes that KVM4NFV measured under: by
//! `stress-ng`, on the CPUs that are not measured.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sched::sched_setaffinity;
use nix::sys::prctl;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::affinity;
use crate::spec::{CpuSet, format_cpu_list};

const PROGRAM: &str = "stress-ng";
/// How long it may take to end when it is asked to.
const FAREWELL: Duration = Duration::from_secs(5);

/// A class of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// None.
    None,
    /// Arithmetic on each CPU.
    Cpu,
    /// Memory that is written and read, on each CPU.
    Memory,
    /// Files that are written and synchronized, in the current folder.
    Io,
}

impl Class {
    /// The words for `workers` of the class (stress-ng(1)). Without a time limit
    /// it would end after a day.
    fn arguments(self, workers: usize) -> Vec<String> {
        let workers = workers.to_string();
        // It does not start where it may not write, whatever it does.
        let scratch = std::env::temp_dir();
        let scratch = scratch.to_string_lossy();
        let place = match self {
            Self::Io => ".",
            _ => &scratch,
        };
        let words: &[&str] = match self {
            Self::None => return Vec::new(),
            Self::Cpu => &["--cpu", &workers, "--cpu-method", "all"],
            Self::Memory => &["--vm", &workers, "--vm-bytes", "25%", "--vm-keep"],
            Self::Io => &["--hdd", &workers, "--hdd-bytes", "64M", "--io", &workers],
        };
        let always = ["--timeout", "0", "--temp-path", place];
        words
            .iter()
            .chain(&always)
            .map(|&word| word.to_owned())
            .collect()
    }
}

/// No load could be had.
#[derive(Debug, thiserror::Error)]
pub enum StressError {
    /// The program is not there.
    #[error(
        "--stress needs {PROGRAM}, which is not installed (Debian: `apt-get install stress-ng`)"
    )]
    Absent,
    /// It did not start.
    #[error("Could not start {PROGRAM}")]
    Start(#[source] io::Error),
    /// All CPUs are measured.
    #[error(
        "--stress has no CPU left: this process may use no other than those that are measured ({0})"
    )]
    NoCpu(String),
    /// It ended by itself.
    #[error("{PROGRAM} ended while it was needed ({0}): run `{PROGRAM} {1}` to see why")]
    Ended(std::process::ExitStatus, String),
}

/// A load that runs until this is dropped.
#[derive(Debug)]
pub struct Stress {
    child: Child,
    arguments: Vec<String>,
}

impl Stress {
    /// Starts a load of `class` on `cpus`; `measured` are for the error only.
    ///
    /// # Errors
    /// See [`StressError`].
    pub fn start(
        class: Class,
        cpus: &CpuSet,
        measured: &CpuSet,
    ) -> Result<Option<Self>, StressError> {
        if class == Class::None {
            return Ok(None);
        }
        if cpus.is_empty() {
            return Err(StressError::NoCpu(format_cpu_list(measured)));
        }
        let set = affinity::kernel_set(cpus).map_err(StressError::Start)?;
        let arguments = class.arguments(cpus.len());
        let mut command = Command::new(PROGRAM);
        command
            .args(&arguments)
            .arg("--quiet")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        // SAFETY: between fork and exec only system calls are made.
        unsafe {
            command.pre_exec(move || {
                // Its workers begin where it is, and should we be killed, so is it.
                sched_setaffinity(Pid::from_raw(0), &set)?;
                prctl::set_pdeathsig(Signal::SIGTERM)?;
                // What we wait for by other means it is to get as a signal.
                nix::sys::signal::SigSet::empty().thread_set_mask()?;
                Ok(())
            });
        }
        let child = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => StressError::Absent,
            _ => StressError::Start(error),
        })?;
        Ok(Some(Self { child, arguments }))
    }

    /// It still runs.
    ///
    /// # Errors
    /// It does not.
    pub fn check(&mut self) -> Result<(), StressError> {
        match self.child.try_wait() {
            Ok(Some(status)) => Err(StressError::Ended(status, self.arguments.join(" "))),
            Ok(None) | Err(_) => Ok(()),
        }
    }
}

impl Drop for Stress {
    fn drop(&mut self) {
        let group = Pid::from_raw(self.child.id().cast_signed());
        // Its own way to end: it takes its workers and files with it.
        let asked = Instant::now();
        let _ = nix::sys::signal::kill(group, Signal::SIGTERM);
        while matches!(self.child.try_wait(), Ok(None)) && asked.elapsed() < FAREWELL {
            std::thread::sleep(Duration::from_millis(5));
        }
        // Whoever is left of the group it was made the leader of.
        let _ = killpg(group, Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_has_its_words() {
        assert!(Class::None.arguments(3).is_empty());
        assert_eq!(Class::Cpu.arguments(3)[..2], ["--cpu", "3"]);
        assert_eq!(Class::Memory.arguments(2)[..2], ["--vm", "2"]);
        assert!(Class::Io.arguments(1).contains(&"--hdd".to_owned()));
        for class in [Class::Cpu, Class::Memory, Class::Io] {
            let words = class.arguments(1).join(" ");
            assert!(words.contains("--timeout 0"), "{words}");
        }
    }

    #[test]
    fn no_cpu_left_is_an_error() {
        let measured = [crate::spec::HostCpu(3)].into();
        let error = Stress::start(Class::Cpu, &CpuSet::new(), &measured).unwrap_err();
        assert!(error.to_string().contains("(3)"), "{error}");
    }
}

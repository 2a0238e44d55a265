//! One start of one VMM, seen from outside.

use std::fs;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;

/// How long a start may take: QEMU's q35 needs 5 s where kernel code is interpreted.
const PATIENCE: Duration = Duration::from_secs(60);

/// After the payload's last line: what a VMM still does then is not part of its steady state.
const SETTLE: Duration = Duration::from_millis(100);

/// What one start showed.
#[derive(Debug, Clone, Serialize)]
pub struct Start {
    /// From before the fork to the first byte read, in milliseconds.
    pub first_byte_ms: f64,
    /// Proportional set size without the guest's memory, in KiB.
    pub beyond_guest_kib: u64,
    /// Threads of the process.
    pub threads: usize,
}

/// Why a start could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// The program could not be started.
    #[error("cannot start {program}")]
    Spawn {
        /// The program.
        program: String,
        /// The reason.
        source: io::Error,
    },
    /// Its output ended or stalled before the payload was done.
    #[error(
        "{program}: {wanted:?} did not appear on the serial port within {PATIENCE:?}; it printed {output:?} and, on standard error, {errors:?}"
    )]
    Silent {
        /// The program.
        program: String,
        /// What was waited for.
        wanted: &'static str,
        /// Its standard output.
        output: String,
        /// Its standard error.
        errors: String,
    },
    /// Its state in /proc could not be read.
    #[error("cannot read {path}")]
    Proc {
        /// The file.
        path: String,
        /// The reason.
        source: io::Error,
    },
    /// No mapping has the guest's size.
    #[error(
        "{program} has no mapping of {guest_mib} MiB, so the guest's memory cannot be told from its own"
    )]
    NoGuestMemory {
        /// The program.
        program: String,
        /// The size looked for.
        guest_mib: u64,
    },
}

/// A running VMM; killed and collected when dropped.
struct Running {
    child: Child,
    stdout: ChildStdout,
    errors: std::path::PathBuf,
    program: String,
    output: Vec<u8>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    fn start(mut command: Command, folder: &Path) -> Result<(Self, Instant), MeasureError> {
        let program = command.get_program().to_string_lossy().into_owned();
        let failed = |source| MeasureError::Spawn {
            program: program.clone(),
            source,
        };
        let errors = folder.join("stderr");
        let stderr = fs::File::create(&errors).map_err(failed)?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr);
        let started = Instant::now();
        let mut child = command.spawn().map_err(failed)?;
        let Some(stdout) = child.stdout.take() else {
            let _ = child.kill();
            let _ = child.wait();
            return Err(failed(io::ErrorKind::BrokenPipe.into()));
        };
        Ok((
            Self {
                child,
                stdout,
                errors,
                program,
                output: Vec::new(),
            },
            started,
        ))
    }

    /// Reads until the output holds `wanted`.
    fn wait_for(&mut self, wanted: &'static str) -> Result<(), MeasureError> {
        let deadline = Instant::now() + PATIENCE;
        while !contains(&self.output, wanted) {
            let mut bytes = [0; 512];
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            let ready = poll(
                &mut [PollFd::new(self.stdout.as_fd(), PollFlags::POLLIN)],
                timeout,
            );
            let count = if ready.is_ok_and(|n| n > 0) {
                self.stdout.read(&mut bytes).unwrap_or(0)
            } else {
                0
            };
            if count == 0 {
                return Err(MeasureError::Silent {
                    program: self.program.clone(),
                    wanted,
                    output: String::from_utf8_lossy(&self.output).into_owned(),
                    errors: fs::read_to_string(&self.errors).unwrap_or_default(),
                });
            }
            self.output.extend_from_slice(&bytes[..count]);
        }
        Ok(())
    }
}

fn contains(bytes: &[u8], wanted: &str) -> bool {
    bytes
        .windows(wanted.len())
        .any(|window| window == wanted.as_bytes())
}

/// Starts `command`, and returns the time to the payload's first byte.
///
/// # Errors
/// When it does not start, or the byte does not come.
pub fn first_byte(command: Command, folder: &Path) -> Result<Duration, MeasureError> {
    let (mut running, started) = Running::start(command, folder)?;
    running.wait_for("H")?;
    let took = started.elapsed();
    running.wait_for("Hello")?;
    Ok(took)
}

/// Starts `command`, waits for the payload's end, and looks at the process then.
///
/// # Errors
/// See [`MeasureError`].
pub fn start(command: Command, folder: &Path, guest_mib: u64) -> Result<Start, MeasureError> {
    let (mut running, started) = Running::start(command, folder)?;
    running.wait_for("H")?;
    let first_byte_ms = started.elapsed().as_secs_f64() * 1e3;
    // That the byte was the payload's, and not some program's that greets on its own account.
    running.wait_for("Hello\n@boot")?;
    running.wait_for("@end")?;
    thread::sleep(SETTLE);
    let process = format!("/proc/{}", running.child.id());
    let smaps = read(format!("{process}/smaps"))?;
    let guest =
        pss_of_size(&smaps, guest_mib << 10).ok_or_else(|| MeasureError::NoGuestMemory {
            program: running.program.clone(),
            guest_mib,
        })?;
    let all = field(&read(format!("{process}/smaps_rollup"))?, "Pss:").unwrap_or(0);
    let tasks = format!("{process}/task");
    let threads = fs::read_dir(&tasks)
        .map_err(|source| MeasureError::Proc {
            path: tasks,
            source,
        })?
        .count();
    Ok(Start {
        first_byte_ms,
        beyond_guest_kib: all.saturating_sub(guest),
        threads,
    })
}

fn read(path: String) -> Result<String, MeasureError> {
    fs::read_to_string(&path).map_err(|source| MeasureError::Proc { path, source })
}

/// A `Name:   123 kB` line's number.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The proportional set size of the mappings that are `kib` long; `None` when there is none.
fn pss_of_size(smaps: &str, kib: u64) -> Option<u64> {
    let (mut total, mut inside) = (None, false);
    for line in smaps.lines() {
        if line.starts_with("Size:") {
            inside = field(line, "Size:") == Some(kib);
        } else if inside && line.starts_with("Pss:") {
            *total.get_or_insert(0) += field(line, "Pss:").unwrap_or(0);
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "7f0-7f1 rw-p 0 00:00 0\nSize:  131072 kB\nRss:  300 kB\nPss:  200 kB\n\
                         7f2-7f3 rw-p 0 00:00 0\nSize:  64 kB\nPss:  7 kB\n";

    #[test]
    fn guest_memory_is_told_by_its_size() {
        assert_eq!(pss_of_size(SMAPS, 131_072), Some(200));
        assert_eq!(pss_of_size(SMAPS, 4096), None);
    }

    #[test]
    fn a_process_that_says_nothing_is_an_error_with_its_words() {
        let folder = std::env::temp_dir();
        let mut command = Command::new("sh");
        command.args(["-c", "echo nothing; echo reason >&2"]);
        let error = start(command, &folder, 128).unwrap_err();
        assert!(error.to_string().contains("reason"), "{error}");
    }
}

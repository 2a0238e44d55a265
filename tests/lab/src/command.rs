//! Commands on this machine, each with a time limit.

use std::io::{self, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// Most of a command's output that is kept, in bytes for each stream: a runaway test must not
/// take the machine's memory.
pub const OUTPUT_LIMIT: u64 = 16 << 20;

/// What a command that ended left behind.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output, at most [`OUTPUT_LIMIT`] bytes.
    pub stdout: String,
    /// Its standard error, at most [`OUTPUT_LIMIT`] bytes.
    pub stderr: String,
}

/// Why a command gave no [`Finished`], or why one that must succeed did not.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The program could not be started.
    #[error("cannot start `{program}`: is it installed?")]
    Start {
        /// The program.
        program: String,
        /// The reason.
        source: io::Error,
    },
    /// It ran longer than its limit and was killed.
    #[error("`{program}` did not end within {limit:?} and was killed")]
    TimedOut {
        /// The program.
        program: String,
        /// The limit.
        limit: Duration,
    },
    /// It ended with a status other than success.
    #[error("`{program}` failed with {status}:\n{output}")]
    Failed {
        /// The program with its arguments.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of its output.
        output: String,
    },
    /// Its state could not be read.
    #[error("cannot wait for `{program}`")]
    Wait {
        /// The program.
        program: String,
        /// The reason.
        source: io::Error,
    },
}

/// Runs `command` to its end in a process group of its own, which is killed after `limit`. The
/// program itself does not outlive the thread that calls this, Ctrl-C included.
///
/// # Errors
/// When it cannot be started, or did not end in time. A failing status is not an error here.
pub fn run(mut command: Command, limit: Duration) -> Result<Finished, CommandError> {
    let program = command.get_program().to_string_lossy().into_owned();
    // SAFETY: prctl is async-signal-safe, and the closure touches no memory of the parent.
    unsafe {
        command.pre_exec(|| set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from));
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|source| CommandError::Start {
            program: program.clone(),
            source,
        })?;
    let stdout = child.stdout.take().map(collect);
    let stderr = child.stderr.take().map(collect);
    let status = wait(&mut child, limit).map_err(|source| CommandError::Wait {
        program: program.clone(),
        source,
    })?;
    let finished = |status| Finished {
        status,
        stdout: join(stdout),
        stderr: join(stderr),
    };
    status
        .map(finished)
        .ok_or(CommandError::TimedOut { program, limit })
}

/// Like [`run`], and a status other than success is an error that shows the end of the output.
///
/// # Errors
/// See [`CommandError`].
pub fn succeed(command: Command, limit: Duration) -> Result<Finished, CommandError> {
    let program = format!("{command:?}");
    let finished = run(command, limit)?;
    if finished.status.success() {
        return Ok(finished);
    }
    let output = format!(
        "{}{}",
        tail(&finished.stdout, 20),
        tail(&finished.stderr, 20)
    );
    Err(CommandError::Failed {
        program,
        status: finished.status,
        output,
    })
}

/// The last `lines` lines of `text`, each ended.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    let from = all.len().saturating_sub(lines);
    all.iter()
        .skip(from)
        .flat_map(|line| [*line, "\n"])
        .collect()
}

/// Kills the process group that `child` leads and collects it.
pub fn kill_group(child: &mut Child) {
    if let Ok(pid) = i32::try_from(child.id()) {
        let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
    }
    let _ = child.wait();
}

fn wait(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let started = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if started.elapsed() >= limit {
            kill_group(child);
            return Ok(None);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

fn collect(mut stream: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut kept = Vec::new();
        let _ = stream.by_ref().take(OUTPUT_LIMIT).read_to_end(&mut kept);
        // The rest is read and dropped: a full pipe would stop the command.
        let _ = io::copy(&mut stream, &mut io::sink());
        kept
    })
}

fn join(reader: Option<JoinHandle<Vec<u8>>>) -> String {
    let bytes = reader
        .and_then(|reader| reader.join().ok())
        .unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The exit code a shell would report for `status`: 128 + n for signal n.
pub fn shell_code(status: ExitStatus) -> i32 {
    status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(255)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn output_and_status_are_kept_apart() {
        let finished = run(
            shell("echo out; echo err >&2; exit 3"),
            Duration::from_secs(10),
        )
        .unwrap();
        assert_eq!(finished.stdout, "out\n");
        assert_eq!(finished.stderr, "err\n");
        assert_eq!(shell_code(finished.status), 3);
    }

    #[test]
    fn the_limit_ends_the_whole_process_group() {
        let started = Instant::now();
        let error = run(shell("sleep 60 & sleep 60"), Duration::from_millis(200)).unwrap_err();
        assert!(matches!(error, CommandError::TimedOut { .. }), "{error}");
        assert!(started.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_failure_shows_the_output() {
        let error = succeed(shell("echo why; false"), Duration::from_secs(10)).unwrap_err();
        assert!(error.to_string().contains("why"), "{error}");
    }

    #[test]
    fn tail_keeps_the_last_lines() {
        assert_eq!(tail("a\nb\nc", 2), "b\nc\n");
        assert_eq!(tail("", 2), "");
    }
}

//! A running `godwit`: its streams, its end, and that nothing of it stays.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::pty::openpty;
use nix::sys::prctl;
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

/// Long enough for a machine that interprets the guest while it builds something else.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// How often what cannot be waited for is looked at.
pub const GLANCE: Duration = Duration::from_millis(5);

/// The binary under test.
pub fn binary() -> OsString {
    std::env::var_os("GODWIT_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_godwit").into())
}

/// Every guest of the tests runs under the filter of system calls: what it lacks ends the process.
pub const FILTERED: [&str; 2] = ["--seccomp", "true"];

/// A process that is killed when the test ends.
#[derive(Debug)]
pub struct Godwit {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Capture,
    stderr: Capture,
}

/// How a process ended.
#[derive(Debug)]
pub struct Ended {
    /// `None`: a signal killed it.
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// It did nothing: exit code `code`, nothing on standard output, and each of `words` on
    /// standard error.
    #[track_caller]
    pub fn assert_refused(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{}", self.stderr);
        assert_eq!(self.stdout, "");
        for word in words {
            assert!(
                self.stderr.contains(word),
                "no {word:?} in:\n{}",
                self.stderr
            );
        }
    }
}

impl Godwit {
    /// Starts `command` in a process group of its own.
    pub fn spawn(mut command: Command) -> Self {
        command.stdout(Stdio::piped());
        Self::start(command, None)
    }

    /// The same, with a terminal for its standard output.
    pub fn spawn_on_terminal(mut command: Command) -> Self {
        let terminal = openpty(None, None).expect("needs a pseudo-terminal");
        command.stdout(terminal.slave);
        Self::start(command, Some(terminal.master.into()))
    }

    fn start(mut command: Command, terminal: Option<File>) -> Self {
        command
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        // SAFETY: between fork and exec, only a system call is made.
        unsafe {
            command.pre_exec(|| {
                // Should the tests be killed, nothing stays behind.
                prctl::set_pdeathsig(Signal::SIGKILL)?;
                Ok(())
            });
        }
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("starting {command:?}: {error}"));
        let stdout = match terminal {
            Some(terminal) => Capture::of(Some(terminal)),
            None => Capture::of(child.stdout.take()),
        };
        Self {
            stdin: child.stdin.take(),
            stdout,
            stderr: Capture::of(child.stderr.take()),
            child,
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn unix_pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    pub fn type_in(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().expect("standard input is open");
        stdin.write_all(text.as_bytes()).expect("typing");
    }

    pub fn stdout(&self) -> Vec<u8> {
        self.stdout.so_far()
    }

    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr.so_far()).into_owned()
    }

    pub fn signal(&self, signal: Signal) {
        signal::kill(self.unix_pid(), signal).expect("sending a signal");
    }

    pub fn has_ended(&mut self) -> bool {
        let status = self.child.try_wait();
        status.expect("looking after the process").is_some()
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// When it does not come, or processes stay behind.
    pub fn wait(mut self) -> Ended {
        let start = Instant::now();
        while !self.has_ended() {
            assert!(
                start.elapsed() < PATIENCE,
                "still runs; it said: {}\non standard output: {}",
                self.stderr(),
                String::from_utf8_lossy(&self.stdout())
            );
            thread::sleep(GLANCE);
        }
        let status = self.child.wait().expect("waiting for the process");
        assert_eq!(
            signal::killpg(self.unix_pid(), None),
            Err(Errno::ESRCH),
            "processes of its group stay behind"
        );
        self.stdin = None;
        Ended {
            code: status.code(),
            signal: status.signal(),
            stdout: self.stdout.all(),
            stderr: self.stderr.all(),
        }
    }
}

impl Drop for Godwit {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // It may end by itself in between.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// What comes from a pipe, read by a thread so that nobody waits for us.
#[derive(Debug)]
struct Capture {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Capture {
    fn of(pipe: Option<impl Read + Send + 'static>) -> Self {
        let mut pipe = pipe.expect("the stream is a pipe");
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&bytes);
        let reader = thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = pipe.read(&mut buffer) {
                let mut bytes = shared.lock().unwrap_or_else(PoisonError::into_inner);
                bytes.extend(buffer.iter().take(count));
            }
        });
        Self {
            bytes,
            reader: Some(reader),
        }
    }

    fn so_far(&self) -> Vec<u8> {
        let bytes = self.bytes.lock();
        bytes.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn all(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("reading a pipe");
        }
        String::from_utf8_lossy(&self.so_far()).into_owned()
    }
}

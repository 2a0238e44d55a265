//! A VMM whose guest has its serial port on the process's standard streams.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

use super::PeerError;
use crate::command;
use crate::workspace;

/// How much of a stream is kept, in bytes.
const KEPT: usize = 1 << 20;

/// How often a wait looks.
const GLANCE: Duration = Duration::from_millis(20);

/// A process; killed and collected when dropped, or when the thread that started it ends.
#[derive(Debug)]
pub struct Console {
    name: String,
    child: Child,
    guest: Arc<Mutex<Vec<u8>>>,
    errors: Arc<Mutex<Vec<u8>>>,
}

impl Console {
    /// Starts `command` in the checkout's root, where the paths of configs start.
    pub(super) fn start(name: &str, mut command: Command) -> Result<Self, PeerError> {
        let attempt = format!("start {}", command.get_program().to_string_lossy());
        command
            .current_dir(workspace::root())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // SAFETY: prctl is async-signal-safe, and the closure touches no memory of the parent.
        unsafe {
            command.pre_exec(|| set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from));
        }
        let mut child = command.spawn().map_err(super::io(attempt))?;
        let (guest, errors) = (Arc::default(), Arc::default());
        if let Some(stream) = child.stdout.take() {
            follow(stream, &guest);
        }
        if let Some(stream) = child.stderr.take() {
            follow(stream, &errors);
        }
        Ok(Self {
            name: name.to_owned(),
            child,
            guest,
            errors,
        })
    }

    /// The process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What the guest wrote to its serial port.
    pub fn text(&self) -> String {
        text(&self.guest)
    }

    /// The end of what the guest wrote, and of what the VMM said.
    pub(super) fn said(&self) -> String {
        let mut said = String::new();
        for (what, bytes) in [
            ("the guest's serial port", &self.guest),
            ("standard error", &self.errors),
        ] {
            let all = text(bytes);
            let _ = match command::tail(&all, 40).trim() {
                "" => writeln!(said, "{}, {what}: nothing", self.name),
                tail => writeln!(said, "{}, {what}:\n{tail}", self.name),
            };
        }
        said
    }

    /// Gives the guest input.
    ///
    /// # Errors
    /// When nobody reads it any more.
    pub fn type_in(&mut self, text: &str) -> Result<(), PeerError> {
        let mut input = self.child.stdin.as_ref();
        match &mut input {
            Some(input) => input
                .write_all(text.as_bytes())
                .map_err(super::io("type into the guest's serial port")),
            None => Ok(()),
        }
    }

    /// Waits until `holds` of the guest's output.
    ///
    /// # Errors
    /// When the process ends before, or `limit` passes.
    pub fn wait_until(
        &mut self,
        what: &str,
        limit: Duration,
        holds: impl Fn(&str) -> bool,
    ) -> Result<(), PeerError> {
        let started = Instant::now();
        loop {
            // Before the look: what it wrote last is seen.
            let ended = self.ended()?;
            if holds(&self.text()) {
                return Ok(());
            }
            super::go_on()?;
            if ended.is_some() || started.elapsed() > limit {
                return Err(self.wait_error(what, ended));
            }
            thread::sleep(GLANCE);
        }
    }

    /// How it ended, if it did.
    pub(super) fn ended(&mut self) -> Result<Option<ExitStatus>, PeerError> {
        self.child
            .try_wait()
            .map_err(super::io(format!("look after {}", self.name)))
    }

    /// Waits for its end, which must be a success.
    ///
    /// # Errors
    /// When it is none, or does not come within `limit`.
    pub fn wait_for_end(&mut self, what: &str, limit: Duration) -> Result<(), PeerError> {
        let started = Instant::now();
        loop {
            match self.ended()? {
                Some(status) if status.success() => return Ok(()),
                None if started.elapsed() < limit => thread::sleep(GLANCE),
                ended => return Err(self.wait_error(what, ended)),
            }
        }
    }

    pub(super) fn wait_error(&self, what: &str, ended: Option<ExitStatus>) -> PeerError {
        PeerError::Wait {
            what: format!("{}, {what}", self.name),
            ended: ended.map(|status| format!("the process ended with {status}")),
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(bytes: &Mutex<Vec<u8>>) -> String {
    let bytes = bytes.lock().unwrap_or_else(PoisonError::into_inner);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn follow(mut stream: impl Read + Send + 'static, kept: &Arc<Mutex<Vec<u8>>>) {
    let kept = Arc::clone(kept);
    thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(length @ 1..) = stream.read(&mut piece) {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.extend_from_slice(piece.get(..length).unwrap_or_default());
            if kept.len() > KEPT {
                let surplus = kept.len() - KEPT / 2;
                kept.drain(..surplus);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Console {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Console::start("a shell", command).unwrap()
    }

    #[test]
    fn what_is_typed_comes_back() {
        let mut shell = shell("read line; echo got $line; echo so >&2; read line");
        shell.type_in("this\n").unwrap();
        let limit = Duration::from_secs(30);
        shell
            .wait_until("an echo", limit, |text| text.contains("got this"))
            .unwrap();
        shell.type_in("\n").unwrap();
        let end = shell.wait_for_end("an end", limit);
        // `read` at the end of a script has its status.
        end.unwrap();
        let both = |said: &str| said.contains("got this") && said.contains("error:\nso");
        while !both(&shell.said()) {
            thread::sleep(GLANCE);
        }
    }

    #[test]
    fn an_end_cuts_a_wait_short() {
        let mut shell = shell("exit 3");
        let error = shell
            .wait_until("words", Duration::from_secs(60), |_| false)
            .unwrap_err();
        assert!(error.to_string().contains("exit status: 3"), "{error}");
    }

    #[test]
    fn a_flood_is_cut() {
        let mut shell = shell("head -c 3000000 /dev/zero; echo end");
        let limit = Duration::from_secs(60);
        shell
            .wait_until("the end", limit, |text| text.ends_with("end\n"))
            .unwrap();
        assert!(shell.text().len() <= KEPT);
    }
}

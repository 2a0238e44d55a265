//! QEMU's monitor: commands and events, a line of JSON each.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// How long an answer may take; QEMU stands still for seconds while it makes huge pages.
const PATIENCE: Duration = Duration::from_secs(120);

/// A connection to a monitor.
#[derive(Debug)]
pub struct Qmp {
    stream: BufReader<UnixStream>,
    /// What has been read of a line so far: a read may time out within it.
    line: Vec<u8>,
    events: VecDeque<Value>,
}

impl Qmp {
    /// Connects as soon as the monitor is there.
    ///
    /// # Errors
    /// When it is not there in time, or not QEMU's.
    pub fn connect(path: &Path, patience: Duration) -> io::Result<Self> {
        let start = Instant::now();
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(error) if start.elapsed() > patience => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        };
        let mut qmp = Self {
            stream: BufReader::new(stream),
            line: Vec::new(),
            events: VecDeque::new(),
        };
        let greeting = qmp.message(Instant::now() + PATIENCE)?;
        if greeting.is_none_or(|greeting| greeting.get("QMP").is_none()) {
            return Err(io::Error::other(
                "the monitor does not greet as QEMU's does",
            ));
        }
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Runs a command and gives what it returns.
    ///
    /// # Errors
    /// The monitor's words, or those of the socket.
    pub fn execute(&mut self, command: &str, arguments: Value) -> io::Result<Value> {
        self.send(command, arguments)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let Some(mut message) = self.message(deadline)? else {
                return Err(io::Error::other(format!("{command}: no answer")));
            };
            if let Some(result) = message.get_mut("return") {
                return Ok(result.take());
            }
            if let Some(error) = message.get("error") {
                return Err(io::Error::other(format!("{command}: {}", error["desc"])));
            }
            if message.get("event").is_some() {
                self.events.push_back(message);
            }
        }
    }

    /// What `query-migrate` says of a move whose end an event has told. Its times come a moment
    /// after that event.
    ///
    /// # Errors
    /// They do not come, or as for [`execute`](Self::execute).
    pub fn account(&mut self) -> io::Result<Value> {
        const GLANCE: Duration = Duration::from_millis(1);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let account = self.execute("query-migrate", json!({}))?;
            if account["total-time"].as_u64() > Some(0) {
                return Ok(account);
            }
            if Instant::now() > deadline {
                let said = format!("query-migrate: no times of the move in {account}");
                return Err(io::Error::other(said));
            }
            std::thread::sleep(GLANCE);
        }
    }

    /// Sends a command whose answer nobody waits for.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn send(&mut self, command: &str, arguments: Value) -> io::Result<()> {
        let text = json!({"execute": command, "arguments": arguments}).to_string();
        self.stream.get_mut().write_all(text.as_bytes())
    }

    /// The next event, if one comes within `patience`.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn event(&mut self, patience: Duration) -> io::Result<Option<Value>> {
        if let Some(event) = self.events.pop_front() {
            return Ok(Some(event));
        }
        let message = self.message(Instant::now() + patience)?;
        Ok(message.filter(|message| message.get("event").is_some()))
    }

    fn message(&mut self, deadline: Instant) -> io::Result<Option<Value>> {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = left.max(Duration::from_millis(1));
        self.stream.get_ref().set_read_timeout(Some(left))?;
        match self.stream.read_until(b'\n', &mut self.line) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        }
        let message = serde_json::from_slice(&self.line).map_err(io::Error::other);
        self.line.clear();
        message.map(Some)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A monitor that answers each command with the next of `answers`.
    fn monitor(path: &Path, answers: Vec<Value>) -> std::thread::JoinHandle<()> {
        let door = UnixListener::bind(path).unwrap();
        std::thread::spawn(move || {
            let (stream, _) = door.accept().unwrap();
            let say = |value: Value| writeln!(&stream, "{value}").unwrap();
            say(json!({"QMP": {}}));
            let commands = serde_json::Deserializer::from_reader(&stream).into_iter::<Value>();
            let capabilities = json!({});
            for (command, answer) in commands.zip([capabilities].into_iter().chain(answers)) {
                assert!(command.unwrap()["execute"].is_string());
                say(json!({"return": answer}));
            }
        })
    }

    #[test]
    fn the_account_is_asked_for_until_it_has_times() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("qmp");
        let early = json!({"status": "completed", "total-time": 0, "downtime": 0});
        let whole = json!({"status": "completed", "total-time": 812, "downtime": 7});
        let there = monitor(&path, vec![early.clone(), early, whole.clone()]);
        let mut qmp = Qmp::connect(&path, PATIENCE).unwrap();
        assert_eq!(qmp.account().unwrap(), whole);
        drop(qmp);
        there.join().unwrap();
    }
}

//! godwit, driven by its REST API as an operator would.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{
    Account, Console, Instance, MOVE_LIMIT, Machine, Moved, PATIENCE, PeerError, Sockets, go_on,
    wait_for_socket,
};
use crate::bench::rest::{self, RestError};

/// How often the source is asked how far it is.
const INTERVAL: Duration = Duration::from_millis(100);

/// How often once the guest has left: the source stays for half a second to tell how that went.
const SOON: Duration = Duration::from_millis(10);

/// Longest time from the guest's arrival to the source's end.
const FAREWELL: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Side {
    console: Console,
    socket: PathBuf,
}

#[derive(Debug)]
struct Destination {
    side: Side,
    /// The answer to `vm.receive-migration`, and when it came.
    received: Receiver<(Result<Value, RestError>, Instant)>,
}

/// One or two instances.
#[derive(Debug)]
pub(super) struct Godwit {
    program: PathBuf,
    net: String,
    source: Side,
    destination: Option<Destination>,
    moved: bool,
    // Last: the processes are gone when it is removed.
    sockets: Sockets,
}

impl Godwit {
    pub(super) fn boot(program: &Path, machine: &Machine, tap: &str) -> Result<Self, PeerError> {
        let sockets = Sockets::new()?;
        let mut source = Side::start(program, "the source", sockets.path("source.sock"))?;
        source.put("vm.create", Some(&machine.on_tap(tap)))?;
        source.put("vm.boot", None)?;
        Ok(Self {
            program: program.to_owned(),
            net: machine.net().to_owned(),
            source,
            destination: None,
            moved: false,
            sockets,
        })
    }

    fn migration_socket(&self) -> PathBuf {
        self.sockets.path("migration.sock")
    }

    fn url(&self) -> String {
        format!("unix:{}", self.migration_socket().display())
    }
}

impl Side {
    fn start(program: &Path, name: &str, socket: PathBuf) -> Result<Self, PeerError> {
        let mut command = Command::new(program);
        command
            .arg("--api-socket")
            .arg(format!("path={}", socket.display()));
        let mut console = Console::start(name, command)?;
        wait_for_socket(&mut console, &socket)?;
        let side = Self { console, socket };
        rest::request(&side.socket, "GET", "vmm.ping", None, PATIENCE)?;
        Ok(side)
    }

    fn put(&mut self, route: &str, body: Option<&Value>) -> Result<Value, RestError> {
        rest::request(&self.socket, "PUT", route, body, PATIENCE)
    }

    fn progress(&self) -> Option<Value> {
        let route = "vm.migration-progress";
        rest::request(&self.socket, "GET", route, None, PATIENCE).ok()
    }
}

impl Instance for Godwit {
    fn console(&mut self) -> &mut Console {
        match &mut self.destination {
            Some(destination) if self.moved => &mut destination.side.console,
            _ => &mut self.source.console,
        }
    }

    fn prepare(&mut self, tap: &str) -> Result<(), PeerError> {
        let socket = self.sockets.path("destination.sock");
        let mut side = Side::start(&self.program, "the destination", socket)?;
        let body = json!({"receiver_url": self.url(), "net": [{"id": self.net, "tap": tap}]});
        let (tell, received) = mpsc::channel();
        let api = side.socket.clone();
        thread::spawn(move || {
            // It answers when the guest runs there, or with the reason why it does not.
            let limit = MOVE_LIMIT + PATIENCE;
            let answer = rest::request(&api, "PUT", "vm.receive-migration", Some(&body), limit);
            let _ = tell.send((answer, Instant::now()));
        });
        let listens = wait_for_socket(&mut side.console, &self.migration_socket());
        let refused = received.try_recv();
        self.destination = Some(Destination { side, received });
        match refused {
            Ok((Err(error), _)) => Err(error.into()),
            _ => listens,
        }
    }

    fn migrate(
        &mut self,
        downtime_ms: Option<u64>,
        seen: &mut dyn FnMut(String),
    ) -> Result<Moved, PeerError> {
        let mut body = json!({"destination_url": self.url(), "timeout_s": MOVE_LIMIT.as_secs()});
        if let Some(limit) = downtime_ms {
            body["downtime_ms"] = limit.into();
        }
        let Some(destination) = &mut self.destination else {
            return Err(PeerError::Stayed("there is no destination".to_owned()));
        };
        let asked = Instant::now();
        self.source.put("vm.send-migration", Some(&body))?;
        // Its clock starts somewhere between the question and the answer.
        let started = asked + asked.elapsed() / 2;
        let mut last = Value::Null;
        let mut arrived = None;
        loop {
            if arrived.is_none()
                && let Ok((answer, moment)) = destination.received.try_recv()
            {
                answer?;
                arrived = Some(moment);
            }
            last = self.source.progress().unwrap_or(last);
            match last["status"].as_str() {
                Some("failed" | "cancelled") => return Err(PeerError::Stayed(last.to_string())),
                Some("finished") if arrived.is_some() => break,
                _ => seen(told(&last)),
            }
            go_on()?;
            let ended = self.source.console.ended()?;
            if (ended.is_some() && arrived.is_some()) || asked.elapsed() > MOVE_LIMIT + PATIENCE {
                return Err(self
                    .source
                    .console
                    .wait_error("the account of the move", ended));
            }
            thread::sleep(if arrived.is_some() { SOON } else { INTERVAL });
        }
        self.moved = true;
        let account = account(&last);
        let end = "its end after the guest left";
        self.source.console.wait_for_end(end, FAREWELL)?;
        let stopped = started + Duration::from_micros(account.before_stop_us());
        Ok(Moved {
            asked,
            stopped,
            ran: stopped + Duration::from_micros(account.downtime_us),
            account,
        })
    }

    fn said(&self) -> String {
        let destination = self.destination.as_ref();
        let there = destination.map_or_else(String::new, |there| there.side.console.said());
        self.source.console.said() + &there
    }
}

/// How far a move is, for people.
fn told(progress: &Value) -> String {
    let mib = |key: &str| progress[key].as_u64().unwrap_or(0) >> 20;
    format!(
        "{}: {} MiB present, {} MiB sent, {} MiB zero",
        progress["phase"].as_str().unwrap_or("starting"),
        mib("present_bytes"),
        mib("sent_bytes"),
        mib("zero_bytes")
    )
}

fn account(progress: &Value) -> Account {
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let phases = progress["phases"].as_array();
    let phase = |phase: &Value| {
        let name = phase["phase"].as_str().unwrap_or("?");
        (name.to_owned(), number(&phase["us"]))
    };
    Account {
        total_us: number(&progress["total_us"]),
        downtime_us: number(&progress["downtime_us"]),
        phases: phases.into_iter().flatten().map(phase).collect(),
        rounds: number(&progress["rounds"]),
        present_bytes: progress["present_bytes"].as_u64(),
        zero_bytes: number(&progress["zero_bytes"]),
        sent_bytes: number(&progress["sent_bytes"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_read_from_progress() {
        let progress = json!({
            "role": "source", "status": "finished", "phase": "release",
            "phases": [{"phase": "copy", "us": 90}, {"phase": "stop", "us": 7}],
            "rounds": 2, "present_bytes": 4096, "scanned_bytes": 4096, "zero_bytes": 1024,
            "sent_bytes": 3072, "total_us": 120, "downtime_us": 11,
        });
        let account = account(&progress);
        assert_eq!((account.total_us, account.downtime_us), (120, 11));
        assert_eq!(account.before_stop_us(), 90);
        assert_eq!(account.present_bytes, Some(4096));
    }
}

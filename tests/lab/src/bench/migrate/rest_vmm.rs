//! godwit, and any VMM that has the same REST routes.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::case::{Memory, Way};
use super::network;
use super::process::Process;
use super::rest::{self, RestError};
use super::vmm::{DOWNTIME_MS, DriveError, PORT, Pair, Reported, SERIAL, Setup};

/// How long a request may take; `vm.create` and `vm.boot` make huge pages.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long a migration may take, as the VMM is told.
const TIMEOUT: Duration = Duration::from_secs(300);

/// How often the source is asked how far it is.
const INTERVAL: Duration = Duration::from_millis(20);

/// After the guest has come, how long a source may take to end by itself.
const FAREWELL: Duration = Duration::from_secs(3);

#[derive(Debug)]
struct Side {
    process: Process,
    socket: PathBuf,
}

/// Two of them.
#[derive(Debug)]
pub struct RestPair {
    setup: Setup,
    /// Fields more of the request to send.
    fields: Vec<(String, Value)>,
    source: Side,
    destination: Option<Side>,
    /// What `vm.receive-migration` answers, in the end.
    received: Option<Receiver<Result<Value, RestError>>>,
    /// When it did, until the source was told to end.
    arrived: Option<Instant>,
    asked: Instant,
    /// The source's last word.
    progress: Value,
}

impl RestPair {
    /// Starts the source and its guest.
    ///
    /// # Errors
    /// See [`DriveError`].
    pub fn start(
        setup: Setup,
        fields: &[(String, Value)],
        serial: OwnedFd,
    ) -> Result<Self, DriveError> {
        let source = side(&setup, "source", serial)?;
        source.put("vm.create", Some(&config(&setup)))?;
        source.put("vm.boot", None)?;
        Ok(Self {
            setup,
            fields: fields.to_vec(),
            source,
            destination: None,
            received: None,
            arrived: None,
            asked: Instant::now(),
            progress: Value::Null,
        })
    }

    /// Asks the source how far it is, now and then.
    fn ask(&mut self) {
        if self.asked.elapsed() < INTERVAL {
            return;
        }
        self.asked = Instant::now();
        if let Some(progress) = self.source.progress() {
            self.progress = progress;
        }
    }

    fn handover_socket(&self) -> PathBuf {
        self.setup.folder.join("handover.sock")
    }
}

impl Side {
    fn put(&self, route: &str, body: Option<&Value>) -> Result<Value, DriveError> {
        rest::request(&self.socket, "PUT", route, body, PATIENCE).map_err(|source| {
            DriveError::Rest {
                said: self.process.said(),
                source,
            }
        })
    }

    /// `None`: it does not answer, or does not have the route.
    fn progress(&self) -> Option<Value> {
        let patience = Duration::from_secs(5);
        rest::request(&self.socket, "GET", "vm.migration-progress", None, patience).ok()
    }
}

fn side(setup: &Setup, name: &str, serial: OwnedFd) -> Result<Side, DriveError> {
    let socket = setup.folder.join(format!("{name}.sock"));
    let mut command = Command::new(&setup.program);
    command
        .arg("--api-socket")
        .arg(format!("path={}", socket.display()));
    let errors = setup.folder.join(format!("{name}.stderr"));
    let process = Process::start(command, serial, errors).map_err(|source| DriveError::Start {
        program: setup.program.clone(),
        source,
    })?;
    let side = Side { process, socket };
    let start = Instant::now();
    let short = Duration::from_secs(5);
    while rest::request(&side.socket, "GET", "vmm.ping", None, short).is_err() {
        let ended = side.process.ended().ok().flatten();
        if ended.is_some() || start.elapsed() > PATIENCE {
            return Err(DriveError::Control {
                attempt: "waiting for its API",
                said: side.process.said(),
                source: io::Error::other(match ended {
                    Some(status) => format!("it ended: {status:?}"),
                    None => format!("no answer in {PATIENCE:?}"),
                }),
            });
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(side)
}

fn config(setup: &Setup) -> Value {
    let case = &setup.case;
    let mut memory = json!({
        "size": case.size_mib << 20,
        "shared": true,
        "prefault": case.memory == Memory::Prefaulted,
    });
    if case.memory.is_huge() {
        memory["hugepages"] = true.into();
        memory["hugepage_size"] = (2_u64 << 20).into();
    }
    json!({
        "payload": {"kernel": setup.payload, "cmdline": case.command_line()},
        "cpus": {"boot_vcpus": case.vcpus, "max_vcpus": case.vcpus},
        "memory": memory,
        "serial": {"mode": "File", "file": SERIAL},
        "console": {"mode": "Off"},
    })
}

impl Pair for RestPair {
    fn source(&self) -> &Process {
        &self.source.process
    }

    fn destination(&self) -> Option<&Process> {
        self.destination.as_ref().map(|side| &side.process)
    }

    fn receive(&mut self, serial: OwnedFd) -> Result<(), DriveError> {
        let side = side(&self.setup, "destination", serial)?;
        let (url, unix) = match self.setup.case.way {
            Way::Streams(_) => (format!("tcp:127.0.0.1:{PORT}"), None),
            Way::Handover => {
                let path = self.handover_socket();
                (format!("unix:{}", path.display()), Some(path))
            }
        };
        let (tell, told) = mpsc::channel();
        let socket = side.socket.clone();
        let without = self.fields.iter().find(|(key, _)| key == "without");
        let without = without.map(|(_, value)| value.clone());
        thread::spawn(move || {
            let mut body = json!({"receiver_url": url});
            // Only what is not everybody's: another VMM need not know the field.
            if let Some(without) = without {
                body["without"] = without;
            }
            // It answers when the guest runs there, and ends with the process otherwise.
            let limit = TIMEOUT + PATIENCE;
            let result = rest::request(&socket, "PUT", "vm.receive-migration", Some(&body), limit);
            let _ = tell.send(result);
        });
        let listens = match unix {
            None => network::wait_for_listener(PORT, PATIENCE),
            Some(path) => wait_for_file(&path),
        };
        let listens = listens.map_err(|source| {
            let refused = told.try_recv().ok().and_then(Result::err);
            match refused {
                Some(source) => DriveError::Rest {
                    said: side.process.said(),
                    source,
                },
                None => DriveError::Control {
                    attempt: "waiting for the destination to listen",
                    said: side.process.said(),
                    source,
                },
            }
        });
        listens?;
        self.received = Some(told);
        self.destination = Some(side);
        Ok(())
    }

    fn send(&mut self) -> Result<(), DriveError> {
        let (url, connections, local) = match self.setup.case.way {
            Way::Streams(streams) => (format!("tcp:127.0.0.1:{PORT}"), streams, false),
            Way::Handover => (
                format!("unix:{}", self.handover_socket().display()),
                1,
                true,
            ),
        };
        let mut body = json!({
            "destination_url": url,
            "connections": connections,
            "downtime_ms": DOWNTIME_MS,
            "timeout_s": TIMEOUT.as_secs(),
            "timeout_strategy": "Cancel",
            "local": local,
        });
        for (key, value) in &self.fields {
            body[key] = value.clone();
        }
        self.source.put("vm.send-migration", Some(&body))?;
        self.asked = Instant::now();
        Ok(())
    }

    fn completed(&mut self, patience: Duration) -> Result<bool, DriveError> {
        thread::sleep(patience);
        if let Some(received) = &self.received {
            match received.try_recv() {
                Ok(Ok(_)) => {
                    self.received = None;
                    self.arrived = Some(Instant::now());
                    // At once: the source may be gone in a moment.
                    self.asked = self.asked.checked_sub(INTERVAL).unwrap_or(self.asked);
                    self.ask();
                    return Ok(true);
                }
                Ok(Err(error)) => {
                    return Err(DriveError::Failed {
                        reason: format!("the destination says: {error}"),
                    });
                }
                Err(_) => {}
            }
        }
        self.ask();
        match self.progress["status"].as_str() {
            Some("failed" | "cancelled") => Err(DriveError::Failed {
                reason: self.progress.to_string(),
            }),
            _ => Ok(false),
        }
    }

    /// A VMM that does not end by itself is told to, as an operator would.
    fn wait_for_end(&mut self, patience: Duration) {
        thread::sleep(patience);
        self.ask();
        if self
            .arrived
            .is_some_and(|arrived| arrived.elapsed() > FAREWELL)
        {
            self.arrived = None;
            let _ = self.source.put("vmm.shutdown", None);
        }
    }

    /// The source is gone: its last word is what it said while it went on. The destination knows
    /// how long the guest stood still.
    fn reported(&mut self) -> Reported {
        let there = self.destination.as_ref().and_then(Side::progress);
        let there = there.unwrap_or(Value::Null);
        let here = &self.progress;
        let number = |key: &str| there[key].as_f64().or_else(|| here[key].as_f64());
        Reported {
            total_ms: number("total_us").map(|us| us / 1e3),
            downtime_us: number("downtime_us"),
            sent_bytes: here["sent_bytes"]
                .as_u64()
                .max(there["sent_bytes"].as_u64()),
            raw: json!({"source": here, "destination": there}),
        }
    }
}

fn wait_for_file(path: &std::path::Path) -> io::Result<()> {
    let start = Instant::now();
    while !fs::exists(path)? {
        if start.elapsed() > PATIENCE {
            return Err(io::ErrorKind::TimedOut.into());
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

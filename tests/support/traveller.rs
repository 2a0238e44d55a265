//! A guest that moves from one `godwit` to another, and says how it is.

use std::path::PathBuf;
use std::thread::{self, JoinHandle};

use godwit_api::client::{Answer, Client, ClientError};
use godwit_api::router::Method;
use serde_json::{Value, json};

use super::config::Config;
use super::daemon::Daemon;
use super::host::wait_until;
use super::output::Output;
use super::process::PATIENCE;
use super::scratch::Scratch;

/// Where a guest is now; what it writes, wherever it is, is in one file.
#[derive(Debug)]
pub struct Traveller {
    pub here: Daemon,
    log: Scratch,
}

/// A `godwit` that waits for a guest.
#[derive(Debug)]
pub struct Waiting {
    pub daemon: Daemon,
    answer: JoinHandle<Result<Answer, ClientError>>,
}

impl Waiting {
    /// Waits at `url`.
    #[track_caller]
    pub fn at(url: &str) -> Self {
        Self::with(Daemon::start(), url)
    }

    #[track_caller]
    pub fn with(mut daemon: Daemon, url: &str) -> Self {
        let mut client = Client::new(daemon.socket());
        client.set_time_limit(Some(PATIENCE));
        let body = json!({"receiver_url": url}).to_string();
        let answer = thread::spawn(move || {
            let path = "/api/v1/vm.receive-migration";
            client.call(Method::Put, path, body.as_bytes(), &[])
        });
        daemon.wait_until("listens", |daemon| {
            daemon
                .get("vm.migration-progress")
                .is_ok_and(|progress| progress["status"] == "ongoing")
        });
        Self { daemon, answer }
    }

    /// The guest has come.
    #[track_caller]
    pub fn arrived(self) -> Daemon {
        let answer = self.answer.join().expect("asking to receive");
        if let Err(error) = answer {
            panic!("{error:?}; it said: {}", self.daemon.process.stderr());
        }
        self.daemon
    }

    /// It has not, and the instance is empty again.
    #[track_caller]
    pub fn failed(self) -> Daemon {
        self.failed_because().0
    }

    /// The same, and what it says of the reasons.
    #[track_caller]
    pub fn failed_because(self) -> (Daemon, String) {
        let answer = self.answer.join().expect("asking to receive");
        let mut daemon = self.daemon;
        let reasons = match answer {
            Err(ClientError::Refused { chain, .. }) => chain.0.join(": "),
            other => panic!("{other:?}; it said: {}", daemon.process.stderr()),
        };
        assert_eq!(daemon.refused("vm.pause", "").0, 404, "it holds a VM");
        (daemon, reasons)
    }
}

impl Traveller {
    #[track_caller]
    pub fn start(config: Config, arguments: &[&str]) -> Self {
        Self::start_with(config, Daemon::start_in(Scratch::new(), arguments))
    }

    /// The guest boots in `here`.
    #[track_caller]
    pub fn start_with(config: Config, mut here: Daemon) -> Self {
        let log = Scratch::new();
        let serial = json!({"mode": "File", "file": log.file("serial.log")});
        let config = config.with(json!({"serial": serial}));
        here.put_json("vm.create", &config.to_json());
        here.put("vm.boot");
        let mut guest = Self { here, log };
        guest.wait_reports(1);
        guest
    }

    pub fn socket(&self, name: &str) -> PathBuf {
        self.log.file(name)
    }

    pub fn output(&self) -> Output {
        Output::new(&std::fs::read(self.log.file("serial.log")).unwrap_or_default())
    }

    #[track_caller]
    pub fn wait_reports(&mut self, count: usize) {
        wait_until("the guest reports", || {
            self.output().all("report").len() >= count
        });
    }

    /// Waits until the guest has booted `count` times.
    #[track_caller]
    pub fn wait_boots(&mut self, count: usize) {
        wait_until("the guest boots", || {
            self.output().all("boot").len() >= count
        });
    }

    /// Waits until the guest has switched itself off, and its process is done.
    #[track_caller]
    pub fn wait_end(self) {
        assert_eq!(self.here.ended(0).code, Some(0));
        let output = Output::new(&std::fs::read(self.log.file("serial.log")).unwrap_or_default());
        assert_eq!(output.all("end").len(), 1, "{}", output.text());
    }

    /// Waits until the guest has compared all its memory once more from now on,
    /// and found it as it left it; no beat was lost or came twice.
    #[track_caller]
    pub fn assert_sound(&mut self) {
        let passes = |output: &Output| {
            let last = output.all("report").pop();
            last.map_or(0, |line| line.number("passes"))
        };
        let before = passes(&self.output());
        // The pass under way began before, the next may be half reported.
        wait_until("the guest verifies its memory", || {
            passes(&self.output()) >= before + 2
        });
        let output = self.output();
        output.assert_sound();
        for report in output.all("report") {
            assert_eq!(report.number("mismatches"), 0, "{}", report.text);
        }
        let beats = output.beats().into_bytes();
        for pair in beats.windows(2) {
            let next = if pair[0] == b'z' { b'a' } else { pair[0] + 1 };
            assert_eq!(pair[1], next, "a beat is missing or came twice");
        }
    }

    /// Begins to send.
    #[track_caller]
    pub fn send(&mut self, url: &str, how: Value) {
        let body = Config::from_json(json!({"destination_url": url, "downtime_ms": 20}));
        self.here
            .put_json("vm.send-migration", &body.with(how).to_json());
    }

    /// Waits until sending has ended without the guest having left.
    #[track_caller]
    pub fn wait_stays(&mut self) -> Value {
        self.here.wait_until("the migration ends", |daemon| {
            daemon
                .get("vm.migration-progress")
                .is_ok_and(|progress| progress["status"] != "ongoing")
        });
        self.here.get("vm.migration-progress").expect("progress")
    }

    /// Moves, and answers the last progress that the source told.
    #[track_caller]
    pub fn travel(&mut self, there: Waiting, url: &str, how: Value) -> Value {
        self.send(url, how);
        let mut last = Value::Null;
        self.here.wait_or_end(|daemon| {
            if let Ok(progress) = daemon.get("vm.migration-progress") {
                last = progress;
            }
            last["status"]
                .as_str()
                .is_some_and(|status| status != "ongoing")
        });
        // On a busy machine the process may end before it is asked once more; then its exit code
        // and the guest's arrival tell.
        assert!(
            last["status"] == "finished" || last["status"] == "ongoing",
            "{last}"
        );
        let gone = std::mem::replace(&mut self.here, there.arrived());
        gone.ended(0);
        last
    }
}

//! A source with a guest, and a destination that waits for it.

use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use godwit_api::client::{Client, ClientError};
use serde_json::{Value, json};

use crate::support::daemon::Daemon;
use crate::support::output::Output;
use crate::support::process::{GLANCE, PATIENCE};
use crate::support::scratch::Scratch;

/// A guest that writes, verifies what it wrote, and beats.
pub const BUSY: &str = "control fill=256K lines=4 verify dirty=2 beat_every=16";

/// Two processes. The guest's serial port is one file for both.
#[derive(Debug)]
pub struct Pair {
    pub source: Daemon,
    pub destination: Daemon,
}

/// The answer to `vm.receive-migration`, which comes when the guest has.
pub type Received = JoinHandle<Result<(), ClientError>>;

impl Pair {
    pub fn new() -> Self {
        Self {
            source: Daemon::start(),
            destination: Daemon::start(),
        }
    }

    /// Where the destination listens on TCP: a port that is free.
    pub fn tcp(host: &str) -> String {
        let free = std::net::TcpListener::bind((host.trim_matches(['[', ']']), 0));
        let port = free
            .and_then(|free| free.local_addr())
            .expect("a port")
            .port();
        format!("tcp:{host}:{port}")
    }

    pub fn unix(&self) -> String {
        format!(
            "unix:{}",
            self.destination.scratch.file("move.sock").display()
        )
    }

    /// Lets the destination wait for a guest at `url`.
    pub fn receive(&mut self, url: &str) -> Received {
        self.receive_with(url, json!({}))
    }

    /// The same; `more` is laid over the request.
    pub fn receive_with(&mut self, url: &str, more: Value) -> Received {
        let mut body = json!({"receiver_url": url});
        if let (Value::Object(body), Value::Object(more)) = (&mut body, more) {
            body.extend(more);
        }
        let mut client = Client::new(self.destination.socket());
        client.set_time_limit(Some(PATIENCE));
        let received = thread::spawn(move || {
            client.put_json("vm.receive-migration", &body, &[])?;
            Ok(())
        });
        self.destination.wait_until("waits for a guest", |daemon| {
            daemon
                .get("vm.migration-progress")
                .is_ok_and(|progress| progress["status"] == "ongoing")
        });
        received
    }

    /// Asks the source to send; `more` is laid over the request.
    #[track_caller]
    pub fn send(&mut self, url: &str, more: Value) {
        let mut body = json!({"destination_url": url, "downtime_ms": 50});
        if let (Value::Object(body), Value::Object(more)) = (&mut body, more) {
            body.extend(more);
        }
        self.source.put_json("vm.send-migration", &body.to_string());
    }

    /// Moves the guest, and makes the destination the source of another pair, with a new
    /// destination.
    #[track_caller]
    pub fn move_on(mut self, more: Value) -> Self {
        let url = self.unix();
        self.receive_and_send(&url, more);
        let Self {
            source,
            destination,
        } = self;
        source.ended(0);
        Self {
            source: destination,
            destination: Daemon::start(),
        }
    }

    #[track_caller]
    pub fn receive_and_send(&mut self, url: &str, more: Value) {
        let received = self.receive(url);
        self.send(url, more);
        let answer = received.join().expect("the client's thread");
        if let Err(error) = answer {
            panic!(
                "the guest did not come: {error}; the source said: {}; the destination: {}",
                self.source.process.stderr(),
                self.destination.process.stderr()
            );
        }
    }
}

/// Waits until the migration of `daemon` has ended, and answers its last progress.
#[track_caller]
pub fn end_of_migration(daemon: &mut Daemon) -> Value {
    let mut last = Value::Null;
    daemon.wait_until("the migration has ended", |daemon| {
        last = daemon.get("vm.migration-progress").expect("progress");
        last["status"] != "ongoing"
    });
    last
}

/// The guest goes on: it verifies all of its memory once more, and finds it as it should be.
/// `log` is in the folder of the daemon that booted it.
#[track_caller]
pub fn assert_alive(log: &Scratch) {
    let read = || Output::new(&std::fs::read(log.file("serial.log")).unwrap_or_default());
    let passes = || read().all("pass").len();
    let (before, start) = (passes(), Instant::now());
    // Two: the first may have begun before.
    while passes() < before + 2 {
        assert!(
            start.elapsed() < PATIENCE,
            "the guest stands still; it wrote:\n{}",
            read().text()
        );
        thread::sleep(GLANCE);
    }
    read().assert_sound();
    for pass in read().all("pass") {
        assert_eq!(pass.number("mismatches"), 0, "{pass:?}");
    }
}

/// The guest writes nothing for a while.
#[track_caller]
pub fn assert_still(log: &Scratch) {
    let size = || std::fs::metadata(log.file("serial.log")).map_or(0, |about| about.len());
    let before = size();
    thread::sleep(Duration::from_millis(300));
    assert_eq!(before, size(), "the guest runs");
}

//! A `godwit` that waits for its API, and a client of it.

use std::path::PathBuf;
use std::process::Command;
use std::thread;

use godwit_api::client::{Answer, Client, ClientError};
use godwit_api::router::Method;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::config::Config;
use super::network::Network;
use super::output::Output;
use super::process::{self, Ended, GLANCE, Godwit, PATIENCE};
use super::scratch::Scratch;

/// `godwit --api-socket path=…` in a folder of its own.
#[derive(Debug)]
pub struct Daemon {
    pub process: Godwit,
    pub client: Client,
    // Last: the process has ended when its folder is removed.
    pub scratch: Scratch,
}

impl Daemon {
    pub fn start() -> Self {
        Self::start_in(Scratch::new(), &[])
    }

    #[track_caller]
    pub fn start_in(scratch: Scratch, arguments: &[&str]) -> Self {
        let mut command = Self::command(&scratch);
        command.args(arguments);
        Self::spawn(scratch, command)
    }

    /// Its API is at a path as ever, and its network is `network`.
    #[track_caller]
    pub fn start_on(network: &Network) -> Self {
        let scratch = Scratch::new();
        let mut command = Self::command(&scratch);
        network.put(&mut command);
        Self::spawn(scratch, command)
    }

    fn command(scratch: &Scratch) -> Command {
        let mut command = Command::new(process::binary());
        command.arg("--api-socket").arg(scratch.file("api.sock"));
        command.args(process::FILTERED);
        command
    }

    /// Starts `command`, which serves `api.sock` in `scratch`.
    #[track_caller]
    pub fn spawn(scratch: Scratch, command: Command) -> Self {
        let mut client = Client::new(scratch.file("api.sock"));
        client.set_time_limit(Some(PATIENCE));
        let mut daemon = Self {
            process: Godwit::spawn(command),
            client,
            scratch,
        };
        daemon.wait_until("answers a ping", |daemon| daemon.get("vmm.ping").is_ok());
        daemon
    }

    pub fn socket(&self) -> PathBuf {
        self.scratch.file("api.sock")
    }

    #[track_caller]
    pub fn wait_until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        let start = std::time::Instant::now();
        loop {
            let ended = self.process.has_ended();
            if holds(self) {
                return;
            }
            assert!(
                !ended && start.elapsed() < PATIENCE,
                "in vain: {what}; it said: {}",
                self.process.stderr()
            );
            thread::sleep(GLANCE);
        }
    }

    /// Looks until `holds`, or until the process has ended.
    #[track_caller]
    pub fn wait_or_end(&mut self, mut holds: impl FnMut(&mut Self) -> bool) {
        let start = std::time::Instant::now();
        while !holds(self) && !self.process.has_ended() {
            assert!(
                start.elapsed() < PATIENCE,
                "in vain; it said: {}",
                self.process.stderr()
            );
            thread::sleep(GLANCE);
        }
    }

    pub fn get(&mut self, name: &str) -> Result<Value, ClientError> {
        self.client.get(name)
    }

    pub fn try_put(&mut self, name: &str, body: &str) -> Result<Answer, ClientError> {
        let path = format!("/api/v1/{name}");
        self.client.call(Method::Put, &path, body.as_bytes(), &[])
    }

    /// Asks, and it is granted with 204.
    #[track_caller]
    pub fn put(&mut self, name: &str) {
        self.put_json(name, "");
    }

    #[track_caller]
    pub fn put_json(&mut self, name: &str, body: &str) {
        match self.try_put(name, body) {
            Ok(answer) => assert_eq!((answer.status, answer.body), (204, Vec::new()), "{name}"),
            Err(error) => panic!("{name}: {error}; it said: {}", self.process.stderr()),
        }
    }

    /// Asks, and it is refused: the status and the reasons.
    #[track_caller]
    pub fn refused(&mut self, name: &str, body: &str) -> (u16, Vec<String>) {
        match self.try_put(name, body) {
            Err(ClientError::Refused { status, chain }) => (status, chain.0),
            other => panic!("{name} {body:.100}: {other:?}"),
        }
    }

    #[track_caller]
    pub fn state(&mut self) -> String {
        let info = self.get("vm.info").expect("vm.info");
        info["state"].as_str().expect("a state").to_owned()
    }

    /// `config` with its serial port in a file.
    pub fn config(&self, config: Config) -> String {
        let serial = self.scratch.file("serial.log");
        config
            .with(json!({"serial": {"mode": "File", "file": serial}}))
            .to_json()
    }

    #[track_caller]
    pub fn create(&mut self, config: Config) {
        let config = self.config(config);
        self.put_json("vm.create", &config);
    }

    /// What the guest has written.
    pub fn output(&self) -> Output {
        Output::new(&std::fs::read(self.scratch.file("serial.log")).unwrap_or_default())
    }

    /// Waits for the `count`th line of `topic`.
    #[track_caller]
    pub fn wait_line(&mut self, topic: &str, count: usize) {
        let what = format!("line {count} of @{topic}");
        self.wait_until(&what, |daemon| daemon.output().all(topic).len() >= count);
    }

    /// Ends it by request, with code 0 and nothing left behind.
    #[track_caller]
    pub fn shut_down(mut self) -> Ended {
        let answer = self.try_put("vmm.shutdown", "").expect("vmm.shutdown");
        assert_eq!((answer.status, answer.body), (200, Vec::new()));
        self.ended(0)
    }

    #[track_caller]
    pub fn terminate(self) -> Ended {
        self.process.signal(Signal::SIGTERM);
        self.ended(0)
    }

    #[track_caller]
    pub fn ended(self, code: i32) -> Ended {
        let ended = self.process.wait();
        assert_eq!(ended.code, Some(code), "it said: {}", ended.stderr);
        let names = self.scratch.names();
        assert!(
            !names.iter().any(|name| name.starts_with("api.sock")),
            "{names:?}"
        );
        ended
    }
}

//! A Linux guest of the lab's image, on the test's standard streams.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use godwit_api::client::Client;
use godwit_api::router::Method;
use godwit_lab::peer::listens;
use godwit_lab::seam::{self, Need};
use godwit_lab::workspace;
use serde_json::{Value, json};

use super::config::{Config, MIB};
use super::daemon::Daemon;
use super::host;
use super::process::{Ended, GLANCE, Godwit};
use super::scratch::Scratch;

/// An emulated machine on busy cores takes its time to boot.
const LIMIT: Duration = Duration::from_secs(200);

/// The MAC address that the guest gets, and frames are sent to.
pub const MAC: &str = "52:54:00:00:00:01";

/// A guest that runs a task of the image.
#[derive(Debug)]
pub struct LinuxVm {
    process: Godwit,
    scratch: Scratch,
}

/// One that has ended.
#[derive(Debug)]
pub struct EndedLinux {
    pub ended: Ended,
    pub scratch: Scratch,
}

/// The config of a guest that runs `words` (`godwit.task=…`) from `initramfs`.
pub fn config(kernel: &Path, initramfs: &Path, words: &str) -> Config {
    Config::empty().with(json!({
        "payload": {
            "kernel": kernel,
            "initramfs": initramfs,
            "cmdline": format!("console=ttyS0 quiet panic=-1 {words}"),
        },
        "memory": {"size": 512 * MIB},
        "serial": {"mode": "Tty"},
    }))
}

/// [`config`] with the image's kernel, which nobody has to decompress, and its small initramfs.
pub fn task(words: &str) -> Config {
    seam::require(&[Need::HardwareVirtualization]);
    let image = seam::image();
    config(&image.vmlinux(), &image.linux(), words)
}

/// Where the examples are: `name` in `resources/configs`.
pub fn example_path(name: &str) -> PathBuf {
    workspace::root().join("resources/configs").join(name)
}

/// An example as it is. Its paths start from the checkout's root, where guests of tests run.
#[track_caller]
pub fn example(name: &str) -> Config {
    seam::require(&[Need::HardwareVirtualization, Need::Image]);
    let text = fs::read(example_path(name)).expect("reading the example");
    Config::from_json(serde_json::from_slice(&text).expect("the example is JSON"))
}

/// The number before "kB" on the first line that begins with `key`, in bytes.
#[track_caller]
pub fn bytes_after(text: &str, key: &str) -> u64 {
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.trim_start().strip_prefix(key));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    number.unwrap_or_else(|| panic!("no {key} in kB in:\n{text}")) << 10
}

/// A network device on the tap `name`.
pub fn net(tap: &str, pairs: u16) -> Value {
    json!({"net": [{"id": "net0", "tap": tap, "mac": MAC, "num_queues": 2 * pairs}]})
}

/// A guest whose serial port is the streams of its process.
pub trait Guest {
    fn process(&mut self) -> &mut Godwit;

    fn console(&mut self) -> String {
        String::from_utf8_lossy(&self.process().stdout()).into_owned()
    }

    /// Waits until the console says `text`.
    #[track_caller]
    fn wait_for(&mut self, text: &str) {
        let start = Instant::now();
        loop {
            let ended = self.process().has_ended();
            let console = self.console();
            if console.contains(text) {
                return;
            }
            assert!(
                !ended && start.elapsed() < LIMIT,
                "no {text:?}; godwit said: {}\nthe guest wrote:\n{console}",
                self.process().stderr()
            );
            thread::sleep(GLANCE * 10);
        }
    }

    /// Runs a command in a task that serves the console, and answers its output.
    #[track_caller]
    fn run(&mut self, command: &str) -> String {
        let from = self.console().len();
        self.type_in(&format!("{command}\n"));
        let begin = format!("godwit: begin {command}");
        let start = Instant::now();
        loop {
            let console = self.console();
            let new = console.get(from..).unwrap_or_default();
            let output = new.split_once(&begin).map_or("", |(_, after)| after);
            if let Some((output, _)) = output.split_once("godwit: end") {
                return output.trim().to_owned();
            }
            assert!(
                !self.process().has_ended() && start.elapsed() < LIMIT,
                "no end of {command:?}; godwit said: {}\nthe guest wrote:\n{console}",
                self.process().stderr()
            );
            thread::sleep(GLANCE * 10);
        }
    }

    fn type_in(&mut self, text: &str) {
        self.process().type_in(text);
    }
}

impl Guest for LinuxVm {
    fn process(&mut self) -> &mut Godwit {
        &mut self.process
    }
}

impl Guest for Daemon {
    fn process(&mut self) -> &mut Godwit {
        &mut self.process
    }
}

/// A guest that has moved to another process.
#[derive(Debug)]
pub struct Moved {
    pub at: Daemon,
    /// When the move was asked for, and when the destination said that the guest runs there.
    pub asked: Instant,
    pub arrived: Instant,
    /// The source's account of it, as of the last time it was asked.
    pub left: Value,
    /// The destination's account of it.
    pub progress: Value,
}

/// Boots `config` in a process that has the API, with the guest's serial port on its streams.
pub fn boot(config: &Config, arguments: &[&str]) -> Daemon {
    let mut daemon = Daemon::start_in(Scratch::new(), arguments);
    daemon.client.set_time_limit(Some(LIMIT));
    daemon.put_json("vm.create", &config.to_json());
    daemon.put("vm.boot");
    daemon
}

/// How long a guest may stand still. The lab emulates: the fixed cost alone is above the default
/// there, and a move would wait for it to fall until its time is over.
const DOWNTIME_MS: u64 = 30_000;

/// Moves a guest to a process of its own. `receive` and `send` are what the two requests say
/// besides the addresses.
#[track_caller]
pub fn migrate(mut source: Daemon, receive: &Value, send: &Value) -> Moved {
    let destination = Daemon::start_in(Scratch::new(), &["-vv"]);
    let socket = destination.scratch.file("migration.sock");
    let url = format!("unix:{}", socket.display());
    let with_url = |body: &Value, key: &str| {
        let url = json!({ key: url });
        Config::from_json(body.clone()).with(url).to_json()
    };
    let mut client = Client::new(destination.socket());
    client.set_time_limit(Some(LIMIT));
    let body = with_url(receive, "receiver_url");
    let received = thread::spawn(move || {
        let path = "/api/v1/vm.receive-migration";
        let answer = client.call(Method::Put, path, body.as_bytes(), &[]);
        (answer, Instant::now())
    });
    host::wait_until("the destination listens", || {
        listens(&socket) || received.is_finished()
    });
    let asked = Instant::now();
    let send = Config::from_json(json!({"downtime_ms": DOWNTIME_MS})).with(send.clone());
    let send = with_url(send.json(), "destination_url");
    source.put_json("vm.send-migration", &send);
    let mut last = None;
    // It stays for a moment after the guest has left, to tell how that went.
    while !source.process.has_ended() {
        last = source.get("vm.migration-progress").ok().or(last);
        assert!(asked.elapsed() < LIMIT, "it does not go: {last:?}");
        thread::sleep(GLANCE * 4);
        if received.is_finished()
            && last
                .as_ref()
                .is_some_and(|last| last["status"] != "ongoing")
        {
            break;
        }
    }
    let (answer, arrived) = received.join().expect("the request that receives");
    let mut destination = destination;
    if let Err(error) = answer {
        panic!(
            "it did not come: {error}; the source said: {}, {last:?}; the destination: {}",
            source.process.stderr(),
            destination.process.stderr()
        );
    }
    let progress = destination.get("vm.migration-progress").expect("progress");
    // All of the source goes by itself.
    source.ended(0);
    Moved {
        at: destination,
        asked,
        arrived,
        left: last.unwrap_or_default(),
        progress,
    }
}

impl LinuxVm {
    pub fn start(scratch: Scratch, config: Config, arguments: &[&str]) -> Self {
        let path = scratch.write("vm.json", config.to_json());
        let mut command = Command::new(super::process::binary());
        command.args(super::process::FILTERED);
        command.arg("run").arg(path).args(arguments);
        command.current_dir(workspace::root());
        Self {
            process: Godwit::spawn(command),
            scratch,
        }
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Waits until the guest has ended the process with `code`.
    #[track_caller]
    pub fn wait_code(mut self, code: i32) -> EndedLinux {
        let start = Instant::now();
        while !self.process.has_ended() {
            assert!(
                start.elapsed() < LIMIT,
                "still runs; the guest wrote:\n{}",
                self.console()
            );
            thread::sleep(GLANCE * 10);
        }
        let ended = self.process.wait();
        assert_eq!(
            ended.code,
            Some(code),
            "godwit said: {}\nthe guest wrote:\n{}",
            ended.stderr,
            ended.stdout
        );
        EndedLinux {
            ended,
            scratch: self.scratch,
        }
    }
}

impl EndedLinux {
    /// What the guest wrote between the marks of `section`.
    #[track_caller]
    pub fn section(&self, name: &str) -> &str {
        let console = &self.ended.stdout;
        let begin = format!("godwit: begin {name}\r\n");
        console
            .split_once(&begin)
            .and_then(|(_, rest)| rest.split_once("godwit: end"))
            .map_or_else(
                || panic!("no section {name} in:\n{console}"),
                |(section, _)| section,
            )
    }
}

/// A tap of the test's own, removed when dropped.
#[derive(Debug)]
pub struct Tap(String);

impl Tap {
    pub fn new(name: &str, multi_queue: bool) -> Self {
        seam::require(&[Need::Tap, Need::VhostNet]);
        let mut add = vec!["tuntap", "add", "dev", name, "mode", "tap", "vnet_hdr"];
        if multi_queue {
            add.push("multi_queue");
        }
        ip(&add);
        ip(&["link", "set", name, "up"]);
        Self(name.to_owned())
    }

    pub fn name(&self) -> &str {
        &self.0
    }

    pub fn address(&self, address: &str) {
        ip(&["addr", "add", address, "dev", &self.0]);
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "del", &self.0]).status();
    }
}

#[track_caller]
fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status();
    assert!(
        status.as_ref().is_ok_and(std::process::ExitStatus::success),
        "ip {arguments:?}: {status:?}"
    );
}

//! Two networks and a cable between them that a test cuts and slows down.
//!
//! ```text
//!  west 192.0.2.1/30 ---- veth pair ---- east 192.0.2.2/30
//! ```
//!
//! Nothing of it has a name outside. A network is a namespace that lives as long as a descriptor
//! of it is open or a process is in it, and the cable goes with it: also when the test fails, and
//! when it is killed.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

use super::host::{needs_root, wait_until};
use super::namespace::succeed;

/// A network namespace.
#[derive(Debug)]
pub struct Network(File);

impl Network {
    #[track_caller]
    fn new() -> Self {
        needs_root();
        // The thread is gone when this returns, and the namespace stays with the descriptor.
        let file = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("needs network namespaces: unshare");
            File::open("/proc/thread-self/ns/net").expect("opening the namespace")
        });
        let network = Self(file.join().expect("making a network"));
        network.run("ip", &["link", "set", "lo", "up"]);
        network
    }

    /// `command` will run in it.
    pub fn put(&self, command: &mut Command) {
        let namespace = self.0.try_clone().expect("a descriptor of the namespace");
        // SAFETY: between fork and exec, only a system call is made, on a descriptor that the
        // closure owns.
        unsafe {
            command.pre_exec(move || Ok(setns(&namespace, CloneFlags::CLONE_NEWNET)?));
        }
    }

    /// Runs a command in it.
    #[track_caller]
    fn run(&self, program: &str, arguments: &[&str]) {
        let mut command = Command::new(program);
        command.args(arguments);
        self.put(&mut command);
        succeed(command);
    }
}

/// An end of the cable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    West,
    East,
}

/// Two networks, joined.
#[derive(Debug)]
pub struct Cable {
    pub west: Network,
    pub east: Network,
}

impl Cable {
    #[track_caller]
    pub fn new() -> Self {
        let cable = Self {
            west: Network::new(),
            east: Network::new(),
        };
        let east = format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            cable.east.0.as_raw_fd()
        );
        let pair = [
            "link", "add", "west", "type", "veth", "peer", "name", "east",
        ];
        let arguments = [&pair[..], &["netns", &east]].concat();
        cable.west.run("ip", &arguments);
        for (end, address) in [(End::West, "192.0.2.1/30"), (End::East, "192.0.2.2/30")] {
            let (network, device) = cable.end(end);
            network.run("ip", &["addr", "add", address, "dev", device]);
        }
        cable.mend(End::West);
        cable.mend(End::East);
        cable
    }

    fn end(&self, end: End) -> (&Network, &'static str) {
        match end {
            End::West => (&self.west, "west"),
            End::East => (&self.east, "east"),
        }
    }

    /// Where a destination at `end` listens.
    pub fn url(&self, end: End) -> String {
        let host = match end {
            End::West => 1,
            End::East => 2,
        };
        format!("tcp:192.0.2.{host}:4444")
    }

    /// Takes one end down: the other sees that its carrier is gone, and neither hears of the other.
    #[track_caller]
    pub fn cut(&self, end: End) {
        let (network, device) = self.end(end);
        network.run("ip", &["link", "set", device, "down"]);
    }

    /// Also forgets that the other end could not be found: a search that began before would fail
    /// after this, and with it who connects meanwhile.
    #[track_caller]
    pub fn mend(&self, end: End) {
        let (network, device) = self.end(end);
        network.run("ip", &["link", "set", device, "up"]);
        for end in [End::West, End::East] {
            let (network, device) = self.end(end);
            network.run("ip", &["neigh", "flush", "dev", device]);
        }
    }

    /// Does to what `end` sends what tc-netem(8) is told.
    #[track_caller]
    pub fn disturb(&self, end: End, how: &[&str]) {
        let (network, device) = self.end(end);
        let arguments = ["qdisc", "replace", "dev", device, "root", "netem"];
        network.run("tc", &[&arguments[..], how].concat());
    }

    /// As fast as it can be again.
    #[track_caller]
    pub fn speed_up(&self) {
        self.west
            .run("tc", &["qdisc", "del", "dev", "west", "root"]);
    }

    /// Lets no more than `rate` through towards the east (tc-tbf(8)).
    #[track_caller]
    pub fn slow_down(&self, rate: &str) {
        let bucket = ["tbf", "rate", rate, "burst", "16kb", "latency", "200ms"];
        let arguments = ["qdisc", "replace", "dev", "west", "root"];
        self.west.run("tc", &[&arguments[..], &bucket].concat());
    }
}

/// What a process holds of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    descriptors: usize,
    threads: usize,
    /// Sockets of its network that a process has: those that wait for their peer's last word
    /// are the kernel's, and not among them.
    sockets: usize,
}

impl Held {
    pub fn by(pid: u32) -> Self {
        let entries = |what: &str| {
            let folder = fs::read_dir(format!("/proc/{pid}/{what}"));
            folder.expect("listing what it holds").count()
        };
        let sockets = fs::read_to_string(format!("/proc/{pid}/net/tcp"));
        let sockets = sockets.expect("listing its network's sockets");
        Self {
            descriptors: entries("fd"),
            threads: entries("task"),
            sockets: sockets
                .lines()
                .skip(1)
                .filter(|line| has_owner(line))
                .count(),
        }
    }

    /// Waits until `pid` holds as much again.
    #[track_caller]
    pub fn wait_again(self, pid: u32) {
        let what = format!(
            "the process holds {self:?} again, and not {:?}",
            Self::by(pid)
        );
        wait_until(&what, || Self::by(pid) == self);
    }
}

/// Whether a line of `/proc/net/tcp` has an inode (proc_net_tcp(5), field 10).
fn has_owner(line: &str) -> bool {
    let inode = line.split_whitespace().nth(9);
    inode.is_some_and(|inode| inode != "0")
}

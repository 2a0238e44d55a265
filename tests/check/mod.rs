//! `godwit check`: on this machine, and on hosts made of files.

mod fix;
mod report;
mod usage;

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use godwit_lab::host_tree::{self, Host};
use serde_json::{Value, json};

use crate::support::process::{self, Ended, Godwit};
use crate::support::scratch::Scratch;

/// Who runs godwit.
#[derive(Clone, Copy)]
enum User {
    Us,
    /// Somebody without any permission.
    Nobody,
}

fn check(arguments: &[&str]) -> Ended {
    check_as(User::Us, arguments)
}

fn check_as(user: User, arguments: &[&str]) -> Ended {
    let mut command = Command::new(process::binary());
    command.arg("check").args(arguments);
    if let User::Nobody = user {
        command.uid(65534).gid(65534);
    }
    Godwit::spawn(command).wait()
}

/// A host made of files.
struct Unpacked {
    scratch: Scratch,
}

impl Unpacked {
    fn new(host: Host) -> Self {
        let scratch = Scratch::new();
        host.unpack(&scratch.file("host"))
            .expect("unpacking a host");
        Self { scratch }
    }

    fn lay(&self, line: &str) {
        host_tree::unpack(&self.root(), line).expect("laying a line over a host");
    }

    fn root(&self) -> std::path::PathBuf {
        self.scratch.file("host")
    }

    /// Checks it with `config` in a file.
    fn check(&self, config: &Value, arguments: &[&str]) -> Ended {
        let config = self.scratch.write("vm.json", config.to_string());
        let root = self.root();
        let mut all = vec!["--root", text(&root), "--config", text(&config)];
        all.extend(["--interval", "1"]);
        all.extend(arguments);
        check(&all)
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are text")
}

#[track_caller]
fn document(ended: &Ended) -> Value {
    serde_json::from_str(&ended.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", ended.stdout, ended.stderr))
}

/// A guest that is right for the tuned host.
fn guest() -> Value {
    json!({
        "payload": { "kernel": "/nowhere/vmlinuz", "cmdline": "tsc=reliable nowatchdog" },
        "cpus": {
            "affinity": [{ "vcpu": 0, "host_cpus": [2] }],
            "sched": { "policy": "fifo", "priority": 1 },
            "disable_exits": ["hlt", "pause", "mwait"],
            "realtime_hint": true
        },
        "memory": {
            "zones": [{
                "id": "m0", "size": 1073741824, "hugepages": true,
                "hugepage_size": 1073741824, "host_numa_node": 0
            }],
            "lock": true
        },
        "net": [{ "tap": "gw0", "worker_cpus": [1] }],
        "platform": { "emulator_cpus": [0] }
    })
}

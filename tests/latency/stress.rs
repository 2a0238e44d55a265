//! A load beside the measurement: by the `stress-ng` of this machine, and by one of our own that
//! tells where it runs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::sys::signal::Signal;

use super::{command, latency};
use crate::support::host;
use crate::support::process::{Ended, Godwit};
use crate::support::scratch::Scratch;

/// A folder to be put on the path, with a `stress-ng` that does `script`.
fn stress_ng(script: &str) -> Scratch {
    let scratch = Scratch::new();
    let path = scratch.write("stress-ng", format!("#!/bin/sh\n{script}\n"));
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("making it a program");
    scratch
}

fn run(path: &Path, class: &str) -> Ended {
    let _core = super::core();
    let mut command = command(&["--host", "--duration", "1s", "--stress", class]);
    let rest = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{rest}", path.display()));
    Godwit::spawn(command).wait()
}

/// It runs off the measured CPU, and is gone with its workers at the end.
#[test]
fn the_load_runs_elsewhere_and_ends() {
    let scratch = stress_ng(
        "cd \"$(dirname \"$0\")\"\necho \"$@\" > words\n\
         grep Cpus_allowed_list /proc/self/status > cpus\nsleep 600 &\necho $! > worker\nwait",
    );
    let folder = scratch.file("");
    let ended = run(&folder, "memory");
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stdout.contains("load on memory"), "{}", ended.stdout);
    let read = |name: &str| fs::read_to_string(scratch.file(name)).expect("what it told");
    assert!(read("words").contains("--vm"), "{}", read("words"));
    let cpus = host::cpus();
    let measured = cpus[cpus.len() - 1].to_string();
    let list = read("cpus");
    let list = list.split_whitespace().last().expect("a list");
    let on = |cpu: &str| list.split([',', '-']).any(|bound| bound == cpu);
    assert!(!on(&measured), "{list}");
    let worker = read("worker");
    host::wait_until("its worker is gone", || {
        !Path::new(&format!("/proc/{}", worker.trim())).exists()
    });
}

#[test]
fn a_load_that_ends_early_is_an_error() {
    let scratch = stress_ng("exit 7");
    let ended = run(&scratch.file(""), "cpu");
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("ended while it was needed"),
        "{}",
        ended.stderr
    );
}

#[test]
fn a_load_without_its_program_is_an_error() {
    let scratch = Scratch::new();
    let mut command = command(&["--host", "--duration", "1s", "--stress", "io"]);
    command.env("PATH", scratch.file(""));
    let ended = Godwit::spawn(command).wait();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    for words in ["stress-ng", "not installed", "apt-get install"] {
        assert!(ended.stderr.contains(words), "{}", ended.stderr);
    }
    // Without a load nothing of it is needed.
    assert_eq!(latency(&["--host", "--duration", "50ms"]).code, Some(0));
}

/// Threads of a process's children and theirs that load something, with their CPUs.
fn workers(pid: u32) -> Vec<host::Task> {
    let children = |pid: u32| {
        let path = format!("/proc/{pid}/task/{pid}/children");
        let text = fs::read_to_string(path).unwrap_or_default();
        let ids: Vec<u32> = text
            .split_whitespace()
            .filter_map(|id| id.parse().ok())
            .collect();
        ids
    };
    let mut ahead = children(pid);
    let mut found = Vec::new();
    while let Some(pid) = ahead.pop() {
        ahead.extend(children(pid));
        if Path::new(&format!("/proc/{pid}/task")).exists() {
            found.extend(host::tasks(pid));
        }
    }
    // Each worker has the name of what it does: `stress-ng-cpu`.
    found.retain(|task| task.name.starts_with("stress-ng-"));
    found
}

/// Every class is one that the installed program knows: its workers run, on the other CPUs, until
/// the measurement ends, and leave nothing behind.
#[test]
fn the_installed_program_takes_the_words() {
    let cpus = host::cpus();
    let measured = cpus[cpus.len() - 1].to_string();
    for (class, kinds) in [
        ("cpu", &["stress-ng-cpu"][..]),
        ("memory", &["stress-ng-vm"]),
        ("io", &["stress-ng-hdd", "stress-ng-io"]),
    ] {
        let _core = super::core();
        let scratch = Scratch::new();
        let mut command = command(&["--host", "--duration", "600s", "--stress", class]);
        command.current_dir(scratch.path());
        let mut process = Godwit::spawn(command);
        let pid = process.pid();
        for kind in kinds {
            host::wait_until(&format!("{kind} runs (is stress-ng installed?)"), || {
                workers(pid).iter().any(|task| task.name == *kind)
            });
        }
        let seen = workers(pid);
        for task in &seen {
            let mut bounds = task.cpus.split([',', '-']);
            assert!(bounds.all(|bound| bound != measured), "{task:?}");
        }
        assert!(!process.has_ended(), "{}", process.stderr());
        process.signal(Signal::SIGINT);
        let ended = process.wait();
        assert_eq!(ended.code, Some(0), "{class}: {}", ended.stderr);
        assert_eq!(scratch.names(), [""; 0], "{class} left files behind");
    }
}

/// Only what writes files needs a folder to write to, and says so.
#[test]
fn a_folder_that_may_not_be_written() {
    crate::support::namespace::apart(|| {
        let scratch = Scratch::new();
        let folder = scratch.file("read-only");
        fs::create_dir(&folder).expect("a folder");
        let text = folder.to_str().expect("a path of text");
        crate::support::namespace::run("mount", &["-t", "tmpfs", "-o", "ro", "none", text]);
        let run = |class: &str| {
            let _core = super::core();
            let mut command = command(&["--host", "--duration", "2s", "--stress", class]);
            command.current_dir(&folder);
            Godwit::spawn(command).wait()
        };
        let ended = run("cpu");
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        let ended = run("io");
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        assert!(
            ended.stderr.contains("run `stress-ng --hdd"),
            "{}",
            ended.stderr
        );
        crate::support::namespace::run("umount", &[text]);
    });
}

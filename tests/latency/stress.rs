//! A load beside the measurement, by a `stress-ng` of our own that tells where it runs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

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

//! What cannot be measured.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::resource::{Resource, setrlimit};
use serde_json::json;

use super::{document, latency};
use crate::support::config::{Config, MIB};
use crate::support::host::{self, needs_root};
use crate::support::namespace::{apart, bare_dev, node};
use crate::support::process::{self, Godwit};
use crate::support::scratch::Scratch;

#[test]
fn periods_that_never_come() {
    for (arguments, words) in [
        (&["--period", "0"][..], "--period 0: 1 to 1000000"),
        (&["--period", "1000001"], "1 to 1000000"),
        (
            &["--period", "600000", "--duration", "500ms"],
            "--duration of 500ms",
        ),
        (&["--period", "fast"], "--period"),
        (&["--duration", "0"], "10s, 2m or 500ms"),
        (&["--stress", "all"], "memory"),
    ] {
        latency(arguments).assert_refused(2, &[words]);
    }
}

#[test]
fn no_such_cpu() {
    latency(&["--cpu", "8000"]).assert_refused(1, &["--cpu 8000", "no CPU 8000", "online are"]);
}

#[test]
fn a_config_that_is_not_there() {
    latency(&["--config", "/nonexistent/vm.json"])
        .assert_refused(2, &["--config", "/nonexistent/vm.json", "No such file"]);
}

#[track_caller]
fn refused_config(config: serde_json::Value, words: &[&str]) {
    let scratch = Scratch::new();
    let path = scratch.write("vm.json", Config::from_json(config).to_json());
    latency(&["--config", path.to_str().expect("text")]).assert_refused(1, words);
}

#[test]
fn a_config_that_contradicts_itself() {
    let cpu = host::cpus()[0];
    refused_config(
        json!({
            "cpus": {"affinity": [{"vcpu": 0, "host_cpus": [cpu]}]},
            "platform": {"emulator_cpus": [cpu]},
        }),
        &["platform.emulator_cpus", "is where vCPU 0 is pinned"],
    );
    // Of devices too, which are left out when it fits.
    refused_config(
        json!({
            "cpus": {"affinity": [{"vcpu": 0, "host_cpus": [cpu]}]},
            "net": [{"tap": "nonexistent0", "worker_cpus": [cpu]}],
        }),
        &["net[0].worker_cpus", "is where vCPU 0 is pinned"],
    );
}

#[test]
fn a_guest_with_too_little_memory() {
    refused_config(
        json!({"cpus": {"boot_vcpus": 4}, "memory": {"size": 3 * MIB}}),
        &["4 vCPUs", "raise memory.size"],
    );
}

#[test]
fn no_kvm() {
    apart(|| {
        bare_dev();
        latency(&["--duration", "1s"]).assert_refused(1, &["no /dev/kvm", "modprobe"]);
        // The host alone needs none.
        let document = document(&["--host", "--duration", "100ms"]);
        assert_eq!(document["series"].as_array().map(Vec::len), Some(2));
    });
}

/// It measures all the same, and says what is missing.
#[test]
fn no_permission_for_fifo_is_a_warning() {
    needs_root();
    let scratch = Scratch::new();
    let binary = scratch.file("godwit");
    fs::copy(process::binary(), &binary).expect("copying the binary");
    apart(|| {
        bare_dev();
        node("/dev/kvm", 10, 232);
        let mut command = Command::new(&binary);
        command.args(["latency", "--duration", "300ms", "--json", "-"]);
        command.uid(65534).gid(65534);
        // SAFETY: between fork and exec, only a system call is made.
        unsafe {
            command.pre_exec(|| {
                setrlimit(Resource::RLIMIT_MEMLOCK, MIB, MIB)?;
                Ok(())
            });
        }
        let _core = super::core();
        let ended = Godwit::spawn(command).wait();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        for words in [
            "without SCHED_FIFO",
            "CAP_SYS_NICE",
            "not locked",
            "RLIMIT_MEMLOCK",
        ] {
            assert!(
                ended.stderr.contains(words),
                "no {words:?} in:\n{}",
                ended.stderr
            );
        }
        let document: serde_json::Value = serde_json::from_str(&ended.stdout).expect("JSON");
        assert_eq!(document["warnings"].as_array().map(Vec::len), Some(2));
        let settings = document["settings"].to_string();
        assert!(settings.contains("SCHED_OTHER"), "{settings}");
    });
}

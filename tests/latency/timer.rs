//! In a guest.

use nix::sys::signal::Signal;
use serde_json::json;

use super::{assert_about, assert_sound, command, document, latency, number};
use crate::support::config::{Config, MIB};
use crate::support::host;
use crate::support::process::Godwit;
use crate::support::scratch::Scratch;

/// The timer of the guest of `document`, which has one vCPU.
#[track_caller]
fn assert_one(document: &serde_json::Value, what: &str) {
    assert_eq!(document["version"], 1);
    let series = document["series"].as_array().expect("series");
    assert_eq!(series.len(), 1, "{document}");
    assert_eq!(series[0]["what"], what);
    assert_sound(&series[0]);
    assert_about(&series[0], number(document, "period_ns") / 1000);
    assert!(
        number(&series[0], "elapsed_ns") >= 1_000_000_000,
        "{document}"
    );
    // It told by memory, and asked for nothing.
    let exits = &series[0]["exits"];
    assert!(number(exits, "to_user_space") < 10, "{exits}");
    assert_eq!(series[0]["scheduled"]["thread"], "vcpu0");
}

#[test]
fn a_halting_guest() {
    let document = document(&["--duration", "1s", "--period", "2000"]);
    assert_eq!(document["wait"], "halt");
    assert_one(&document, "tsc-deadline");
}

#[test]
fn a_polling_guest() {
    let document = document(&["--duration", "1s", "--period", "5000", "--wait", "poll"]);
    assert_eq!(document["wait"], "poll");
    assert_one(&document, "tsc-deadline");
}

/// What is used where KVM has no TSC-deadline timer.
#[test]
fn a_guest_with_the_one_shot_timer() {
    let document = document(&["--duration", "1s", "--period", "2000", "--one-shot"]);
    assert_one(&document, "one-shot");
}

/// The ring is emptied while it runs: a fifth of a second at this period would fill it.
#[test]
fn more_samples_than_the_ring_holds() {
    let document = document(&["--duration", "3s", "--period", "50"]);
    assert_sound(&document["series"][0]);
}

#[test]
fn the_settings_of_a_config_are_measured() {
    let scratch = Scratch::new();
    let cpus = host::cpus();
    let (first, last) = (cpus[0], cpus[cpus.len() - 1]);
    // Neither kernel nor disk nor tap need be there.
    let config = Config::from_json(json!({
        "payload": {"kernel": "/nonexistent/kernel"},
        "cpus": {"boot_vcpus": 2, "affinity": [
            {"vcpu": 0, "host_cpus": [last]},
            {"vcpu": 1, "host_cpus": [first]},
        ]},
        "net": [{"tap": "nonexistent0"}],
        "disks": [{"path": "/nonexistent/disk"}],
        "memory": {"size": 32 * MIB, "prefault": true},
    }));
    let path = scratch.write("vm.json", config.to_json());
    let path = path.to_str().expect("a path of text");
    let document = document(&["--config", path, "--duration", "1s", "--period", "4000"]);
    let series = document["series"].as_array().expect("series");
    let places: Vec<_> = series
        .iter()
        .map(|one| {
            (
                number(one, "vcpu"),
                one["cpus"].as_str().unwrap_or_default(),
            )
        })
        .collect();
    let (first, last) = (first.to_string(), last.to_string());
    assert_eq!(places, [(0, last.as_str()), (1, first.as_str())]);
    for one in series {
        assert_sound(one);
        assert_about(one, 4000);
    }
    let warnings = document["warnings"].to_string();
    assert!(warnings.contains("platform.emulator_cpus"), "{warnings}");
}

#[test]
fn text_json_and_picture() {
    let scratch = Scratch::new();
    let (json, svg) = (scratch.file("latency.json"), scratch.file("latency.svg"));
    let text = |path: &std::path::Path| path.to_str().expect("a path of text").to_owned();
    let ended = latency(&[
        "--duration",
        "300ms",
        "--json",
        &text(&json),
        "--svg",
        &text(&svg),
    ]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    for words in [
        "vCPU 0 on CPU",
        "samples",
        "p99.99",
        "###",
        "exits to user space",
        "thread vcpu0",
    ] {
        assert!(
            ended.stdout.contains(words),
            "no {words:?} in:\n{}",
            ended.stdout
        );
    }
    let json = std::fs::read(json).expect("the document");
    let document: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
    assert_sound(&document["series"][0]);
    let svg = std::fs::read_to_string(svg).expect("the picture");
    assert!(
        svg.starts_with("<svg ") && svg.ends_with("</svg>\n"),
        "{svg}"
    );
}

/// Ctrl-C ends it, and what was measured is told.
#[test]
fn a_signal_ends_it_early() {
    for arguments in [&["--duration", "1h"][..], &["--duration", "1h", "--host"]] {
        let _core = super::core();
        let mut process = Godwit::spawn(command(&[arguments, &["--json", "-"]].concat()));
        host::wait_until("its thread runs", || {
            let tasks = host::tasks(process.pid());
            let measures = |name: &str| name == "vcpu0" || name == "host0";
            tasks.iter().any(|task| measures(&task.name))
        });
        std::thread::sleep(std::time::Duration::from_millis(500));
        assert!(!process.has_ended(), "{}", process.stderr());
        process.signal(Signal::SIGINT);
        let ended = process.wait();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        let document: serde_json::Value = serde_json::from_str(&ended.stdout).expect("JSON");
        assert_eq!(document["interrupted"], true);
        assert_sound(&document["series"][0]);
    }
}

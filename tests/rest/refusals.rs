//! Every request that is not legal now: refused at once with reasons, and the
//! machine goes on.

use crate::support::config::Config;
use crate::support::daemon::Daemon;

/// All that needs no body, or gets a good one.
const REQUESTS: [(&str, &str); 12] = [
    ("vm.create", "{}"),
    ("vm.boot", ""),
    ("vm.shutdown", ""),
    ("vm.reboot", ""),
    ("vm.pause", ""),
    ("vm.resume", ""),
    ("vm.power-button", ""),
    ("vm.remove-device", r#"{"id": "nobody"}"#),
    (
        "vm.snapshot",
        r#"{"destination_url": "file:///nonexistent/x"}"#,
    ),
    ("vm.restore", r#"{"source_url": "file:///nonexistent/x"}"#),
    (
        "vm.send-migration",
        r#"{"destination_url": "unix:/nonexistent/x"}"#,
    ),
    ("vm.cancel-migration", ""),
];

const NONE: &str = "there is no VM: create it first";
const OFF: &str = "the VM is not booted";
const RUNS: &str = "the VM is running";
const PAUSED: &str = "the VM is paused";

/// Each of `refused` is answered with its status and its root cause.
#[track_caller]
fn refuses(daemon: &mut Daemon, refused: &[(&str, u16, &str)]) {
    for &(name, status, reason) in refused {
        let body = REQUESTS.iter().find(|request| request.0 == name);
        let body = body.map_or("", |request| request.1);
        let (got, chain) = daemon.refused(name, body);
        assert_eq!(got, status, "{name}: {chain:?}");
        assert!(chain.len() >= 2, "{name}: {chain:?}");
        assert!(
            chain.last().is_some_and(|last| last.starts_with(reason)),
            "{name}: {chain:?}"
        );
    }
}

#[test]
fn without_a_machine() {
    let mut daemon = Daemon::start();
    refuses(
        &mut daemon,
        &[
            ("vm.boot", 404, NONE),
            ("vm.shutdown", 404, NONE),
            ("vm.reboot", 404, NONE),
            ("vm.pause", 404, NONE),
            ("vm.resume", 404, NONE),
            ("vm.power-button", 404, NONE),
            ("vm.remove-device", 404, NONE),
            ("vm.snapshot", 404, NONE),
            ("vm.send-migration", 404, NONE),
            ("vm.cancel-migration", 404, "no migration is under way"),
        ],
    );
    daemon.create(Config::new("halt"));
    daemon.shut_down();
}

#[test]
fn with_a_machine_that_is_not_booted() {
    let mut daemon = Daemon::start();
    daemon.create(Config::new("halt"));
    refuses(
        &mut daemon,
        &[
            ("vm.create", 500, OFF),
            ("vm.shutdown", 500, OFF),
            ("vm.reboot", 500, OFF),
            ("vm.pause", 500, OFF),
            ("vm.resume", 500, OFF),
            ("vm.power-button", 500, OFF),
            ("vm.snapshot", 500, OFF),
            ("vm.restore", 500, OFF),
            ("vm.send-migration", 500, OFF),
            ("vm.cancel-migration", 500, "no migration is under way"),
        ],
    );
    assert_eq!(daemon.state(), "Created");
    daemon.put("vm.boot");
    daemon.shut_down();
}

#[test]
fn with_a_machine_that_runs() {
    let mut daemon = Daemon::start();
    daemon.create(Config::new("beat_every=10000"));
    daemon.put("vm.boot");
    refuses(
        &mut daemon,
        &[
            ("vm.create", 500, RUNS),
            ("vm.boot", 500, RUNS),
            ("vm.resume", 500, RUNS),
            ("vm.snapshot", 500, RUNS),
            ("vm.restore", 500, RUNS),
            ("vm.remove-device", 404, "the VM has no device"),
            ("vm.cancel-migration", 500, "no migration is under way"),
        ],
    );
    let before = daemon.output().beats().len();
    daemon.wait_until("goes on", |daemon| daemon.output().beats().len() > before);
    daemon.shut_down();
}

#[test]
fn with_a_machine_that_is_paused() {
    let mut daemon = Daemon::start();
    daemon.create(Config::new("beat_every=10000"));
    daemon.put("vm.boot");
    daemon.put("vm.pause");
    refuses(
        &mut daemon,
        &[
            ("vm.create", 500, PAUSED),
            ("vm.boot", 500, PAUSED),
            ("vm.pause", 500, PAUSED),
            ("vm.power-button", 500, PAUSED),
            ("vm.restore", 500, PAUSED),
            ("vm.cancel-migration", 500, "no migration is under way"),
        ],
    );
    daemon.put("vm.resume");
    let before = daemon.output().beats().len();
    daemon.wait_until("goes on", |daemon| daemon.output().beats().len() > before);
    daemon.shut_down();
}

//! Requests that are wrong in themselves.

use std::fs::File;
use std::os::fd::AsFd;

use godwit_api::client::ClientError;
use serde_json::json;

use crate::support::config::Config;
use crate::support::daemon::Daemon;

/// Refused with `status`; the reasons hold each of `words`; the process goes on.
#[track_caller]
fn refused(daemon: &mut Daemon, name: &str, body: &str, status: u16, words: &[&str]) {
    let (got, chain) = daemon.refused(name, body);
    let text = chain.join(": ");
    assert_eq!(got, status, "{name} {body:.100}: {text}");
    for word in words {
        assert!(text.contains(word), "no {word:?} in {text}");
    }
    daemon.get("vmm.ping").expect("it goes on");
}

#[test]
fn bodies_that_are_no_machine() {
    let mut daemon = Daemon::start();
    let create = "vm.create";
    refused(&mut daemon, create, "", 400, &[]);
    refused(&mut daemon, create, "{", 400, &["line 1"]);
    refused(&mut daemon, create, "[]", 400, &[]);
    refused(&mut daemon, create, "\u{0}\u{ff}", 400, &[]);
    for (body, words) in [
        (
            r#"{"cpus": {"boot_vcpus": "two"}}"#,
            ["cpus.boot_vcpus", "two"],
        ),
        (r#"{"memory": {"size": -1}}"#, ["memory.size", "-1"]),
        (
            r#"{"net": [{}, {"num_queues": true}]}"#,
            ["net[1].num_queues", "true"],
        ),
        (r#"{"serial": {"mode": "Modem"}}"#, ["serial.mode", "Modem"]),
    ] {
        refused(&mut daemon, create, body, 400, &words);
    }
    let deep = "[".repeat(100_000);
    refused(&mut daemon, create, &deep, 400, &[]);
    let missing = json!({"payload": {"kernel": "/nonexistent/vmlinux"}});
    let config = Config::new("halt").with(missing);
    refused(
        &mut daemon,
        create,
        &config.to_json(),
        400,
        &["/nonexistent/vmlinux"],
    );
    // None of it became a machine.
    refused(&mut daemon, "vm.boot", "", 404, &["there is no VM"]);
    daemon.create(Config::new("halt"));
    daemon.shut_down();
}

#[test]
fn a_body_that_is_too_large() {
    let mut daemon = Daemon::start();
    let body = format!("{{\"x\": \"{}\"}}", "y".repeat(4 << 20));
    let (status, _) = daemon.refused("vm.create", &body);
    assert_eq!(status, 400);
    daemon.get("vmm.ping").expect("it goes on");
    daemon.shut_down();
}

#[test]
fn what_is_not_there() {
    let mut daemon = Daemon::start();
    daemon.create(Config::new("halt"));
    refused(
        &mut daemon,
        "vm.remove-device",
        r#"{"id": "net7"}"#,
        404,
        &["net7"],
    );
    refused(&mut daemon, "vm.remove-device", r#"{}"#, 400, &["id"]);
    refused(
        &mut daemon,
        "vm.resize",
        "{}",
        500,
        &["not supported by godwit"],
    );
    refused(&mut daemon, "vm.fly", "", 404, &[]);
    refused(&mut daemon, "vm.boot", r#"{"now": true}"#, 400, &[]);
    assert!(daemon.get("vm.boot").is_err());
    daemon.shut_down();
}

/// How many descriptors of `/dev/null` the process has.
fn nulls(daemon: &Daemon) -> usize {
    let fds = std::fs::read_dir(format!("/proc/{}/fd", daemon.process.pid()));
    fds.expect("its descriptors")
        .filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok())
        .filter(|to| to.as_os_str() == "/dev/null")
        .count()
}

/// One descriptor for each queue pair, no fewer and no more.
#[test]
fn descriptors_that_do_not_fit() {
    let mut daemon = Daemon::start();
    daemon.create(Config::new("halt"));
    let null = File::open("/dev/null").expect("opening /dev/null");
    let before = nulls(&daemon);
    let add = |daemon: &mut Daemon, pairs: u32, count: usize| {
        let fds = vec![null.as_fd(); count];
        let body = json!({"id": "n", "num_queues": 2 * pairs});
        let answer = daemon.client.put_json("vm.add-net", &body, &fds);
        match answer {
            Err(ClientError::Refused { status, chain }) => (status, chain.to_string()),
            other => panic!("{pairs} pairs, {count} descriptors: {other:?}"),
        }
    };
    for (pairs, count) in [(2, 1), (1, 2), (2, 64)] {
        let (status, reason) = add(&mut daemon, pairs, count);
        assert_eq!(status, 400, "{reason}");
        assert!(reason.contains(&count.to_string()), "{reason}");
    }
    // The count fits, and it is no tap.
    let (status, reason) = add(&mut daemon, 1, 1);
    assert_eq!(status, 400, "{reason}");
    assert!(reason.contains("not a queue of a TAP"), "{reason}");
    // A request that takes none.
    let with_fds = daemon
        .client
        .put_json("vm.remove-device", &json!({"id": "n"}), &[null.as_fd()]);
    assert!(
        matches!(
            with_fds,
            Err(ClientError::Refused {
                status: 400 | 404,
                ..
            })
        ),
        "{with_fds:?}"
    );
    assert_eq!(
        daemon.get("vm.info").expect("info")["config"].get("net"),
        None
    );
    assert_eq!(nulls(&daemon), before, "descriptors stay open");
    daemon.put("vm.boot");
    let (status, reason) = add(&mut daemon, 1, 1);
    assert_eq!(status, 400, "{reason}");
    assert!(reason.contains("not a queue of a TAP"), "{reason}");
    assert_eq!(nulls(&daemon), before, "descriptors stay open");
    daemon.shut_down();
}

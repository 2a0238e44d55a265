//! While something goes on that takes long: what is asked meanwhile is answered or
//! refused at once, and metrics tell what goes on.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use godwit_lab::peer::listens;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use serde_json::json;

use crate::support::config::{Config, GIB, Image};
use crate::support::daemon::Daemon;
use crate::support::gate::{Gate, Rule};
use crate::support::namespace::apart;
use crate::support::process::PATIENCE;
use crate::support::proxy::{Act, HANDOVER, Proxy};
use crate::support::scrape::{has, scrape, state, value};
use crate::support::scratch::Scratch;

/// Each request that needs the machine, with a body that is one.
fn requests() -> Vec<(&'static str, String)> {
    let machine = json!({"payload": {"kernel": Image::Pvh.path()}}).to_string();
    let folder = |key: &str| json!({key: "file:///nonexistent/x"}).to_string();
    let place = |key: &str| json!({key: "unix:/nonexistent/x"}).to_string();
    vec![
        ("vm.create", machine),
        ("vm.boot", String::new()),
        ("vm.shutdown", String::new()),
        ("vm.reboot", String::new()),
        ("vm.delete", String::new()),
        ("vm.pause", String::new()),
        ("vm.resume", String::new()),
        ("vm.power-button", String::new()),
        ("vm.add-net", r#"{"tap": "gwnone"}"#.to_owned()),
        ("vm.remove-device", r#"{"id": "nobody"}"#.to_owned()),
        ("vm.snapshot", folder("destination_url")),
        ("vm.restore", folder("source_url")),
        ("vm.send-migration", place("destination_url")),
        ("vm.receive-migration", place("receiver_url")),
        ("vm.cancel-migration", String::new()),
    ]
}

/// All of them but `legal` are refused for `reason`, and what needs no machine is answered.
#[track_caller]
pub(super) fn refuses_all_but(daemon: &mut Daemon, legal: &[&str], phase: &str, reason: &str) {
    daemon.get("vmm.ping").expect("a ping");
    for (name, body) in requests() {
        if legal.contains(&name) {
            continue;
        }
        let (status, chain) = daemon.refused(name, &body);
        assert_eq!(status, 500, "{name}: {chain:?}");
        let reason = match name {
            "vm.cancel-migration" => "no migration is under way",
            _ => reason,
        };
        let last = chain.last().expect("a reason");
        assert!(
            chain.len() == 2 && last.starts_with(reason),
            "{name}: {chain:?}"
        );
    }
    assert_eq!(state(&scrape(&daemon.socket())), phase);
}

/// Asks on a connection of its own; the answer is taken later.
pub(super) fn ask(daemon: &Daemon, name: &str, body: &str) -> UnixStream {
    let mut stream = UnixStream::connect(daemon.socket()).expect("connecting");
    stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
    let length = body.len();
    let request = format!(
        "PUT /api/v1/{name} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).expect("asking");
    stream
}

#[track_caller]
pub(super) fn is_pending(stream: &UnixStream) {
    stream.set_nonblocking(true).expect("not to wait");
    let answer = (&*stream).read(&mut [0; 1]).map_err(|error| error.kind());
    assert_eq!(answer, Err(io::ErrorKind::WouldBlock), "it was faster");
    stream.set_nonblocking(false).expect("to wait");
}

#[track_caller]
pub(super) fn answer(mut stream: UnixStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("the answer");
    text
}

#[track_caller]
fn fifo(path: &Path) {
    nix::unistd::mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR).expect("making a FIFO");
}

/// The boot takes a while, since all memory is touched first.
#[test]
fn while_a_guest_boots() {
    let mut daemon = Daemon::start();
    daemon.create(Config::new("beat_every=10000").with(json!({
        "memory": {"size": 2 * GIB, "prefault": true},
    })));
    let boot = ask(&daemon, "vm.boot", "");
    daemon.wait_until("boots", |daemon| {
        state(&scrape(&daemon.socket())) == "booting"
    });
    refuses_all_but(&mut daemon, &[], "booting", "the VM is booting");
    assert_eq!(daemon.state(), "Created");
    is_pending(&boot);
    assert!(answer(boot).starts_with("HTTP/1.1 204 "));
    daemon.wait_line("boot", 1);
    daemon.shut_down();
}

/// A snapshot that is written into a FIFO waits for its reader.
#[test]
fn while_a_snapshot_is_written() {
    let mut daemon = Daemon::start();
    daemon.create(Config::new("beat_every=1000"));
    daemon.put("vm.boot");
    daemon.wait_line("boot", 1);
    daemon.put("vm.pause");
    let folder = daemon.scratch.file("snapshot");
    std::fs::create_dir(&folder).expect("a folder");
    let part = folder.join("config.part");
    fifo(&part);
    let body = json!({"destination_url": format!("file://{}", folder.display())});
    let snapshot = ask(&daemon, "vm.snapshot", &body.to_string());
    daemon.wait_until("is written", |daemon| {
        state(&scrape(&daemon.socket())) == "snapshotting"
    });
    let reason = "a snapshot of the VM is being written";
    refuses_all_but(&mut daemon, &[], "snapshotting", reason);
    assert_eq!(daemon.state(), "Paused");
    is_pending(&snapshot);
    let mut reader = File::open(&part).expect("opening the FIFO");
    io::copy(&mut reader, &mut io::sink()).expect("reading the FIFO");
    // A FIFO cannot be synced, so the snapshot failed, and left nothing.
    let answer = answer(snapshot);
    assert!(
        answer.starts_with("HTTP/1.1 500 ") && answer.contains("config.json"),
        "{answer}"
    );
    assert_eq!(daemon.state(), "Paused");
    let before = daemon.output().beats().len();
    daemon.put("vm.resume");
    daemon.wait_until("goes on", |daemon| daemon.output().beats().len() > before);
    daemon.shut_down();
}

/// A snapshot that is read from a FIFO waits for its writer.
#[test]
fn while_a_snapshot_is_read() {
    let mut daemon = Daemon::start();
    let folder = daemon.scratch.file("snapshot");
    std::fs::create_dir(&folder).expect("a folder");
    fifo(&folder.join("state.bin"));
    let body = json!({"source_url": format!("file://{}", folder.display())});
    let restore = ask(&daemon, "vm.restore", &body.to_string());
    daemon.wait_until("is read", |daemon| {
        state(&scrape(&daemon.socket())) == "restoring"
    });
    refuses_all_but(&mut daemon, &[], "restoring", "a VM is being restored");
    is_pending(&restore);
    drop(File::options().write(true).open(folder.join("state.bin")));
    let answer = answer(restore);
    assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
    daemon.create(Config::new("halt"));
    daemon.shut_down();
}

/// At 64 KiB a second the guest would take minutes to leave.
#[test]
fn while_a_guest_leaves_and_another_comes() {
    let mut source = Daemon::start();
    let mut destination = Daemon::start();
    source.create(Config::new("fill=16M beat_every=10000"));
    source.put("vm.boot");
    source.wait_line("filled", 1);
    let place = destination.scratch.file("m.sock");
    let url = format!("unix:{}", place.display());
    let receive = ask(
        &destination,
        "vm.receive-migration",
        &json!({"receiver_url": url}).to_string(),
    );
    destination.wait_until("listens", |_| listens(&place));
    let reason = "a VM is migrating to this instance";
    refuses_all_but(
        &mut destination,
        &["vm.cancel-migration"],
        "receiving",
        reason,
    );
    let send = json!({"destination_url": url, "bandwidth_bps": 65536});
    source.put_json("vm.send-migration", &send.to_string());
    let reason = "the VM is migrating to another instance";
    refuses_all_but(&mut source, &["vm.cancel-migration"], "sending", reason);
    assert_eq!(source.state(), "Running");
    source.wait_until("memory travels", |source| {
        let progress = source.get("vm.migration-progress").expect("progress");
        progress["phase"] == "copy" && progress["sent_bytes"].as_u64() > Some(0)
    });
    let progress = source.get("vm.migration-progress").expect("progress");
    let [left, present] = ["remaining_bytes", "present_bytes"].map(|key| progress[key].as_u64());
    assert!(left > Some(0) && left <= present, "{progress}");
    let progress = destination.get("vm.migration-progress");
    let progress = progress.expect("progress");
    assert_eq!(progress["phase"], "copy", "{progress}");
    // Its figures are in the metrics of both sides, and the guest's go on.
    let scraped = scrape(&source.socket());
    let sent = value(&scraped, "godwit_migration_sent_bytes", &[]);
    let present = value(&scraped, "godwit_migration_present_bytes", &[]);
    assert!(
        sent > 0.0 && present >= (16 << 20) as f64,
        "{sent} {present}"
    );
    let role = [("role", "source"), ("status", "ongoing")];
    assert_eq!(value(&scraped, "godwit_migration_status", &role), 1.0);
    assert!(has(&scraped, "godwit_kvm_vcpu_exits_total"));
    let role = [("role", "destination"), ("status", "ongoing")];
    let scraped = scrape(&destination.socket());
    assert_eq!(value(&scraped, "godwit_migration_status", &role), 1.0);
    refuses_all_but(
        &mut destination,
        &["vm.cancel-migration"],
        "receiving",
        "a VM is migrating to this instance",
    );
    source.put("vm.cancel-migration");
    source.wait_until("it is cancelled", |source| {
        source.get("vm.migration-progress").expect("progress")["status"] == "cancelled"
    });
    assert_eq!(state(&scrape(&source.socket())), "running");
    assert!(answer(receive).starts_with("HTTP/1.1 500 "));
    assert_eq!(state(&scrape(&destination.socket())), "empty");
    let before = source.output().beats().len();
    source.wait_until("goes on", |source| source.output().beats().len() > before);
    source.shut_down();
    destination.shut_down();
}

/// The kernel is behind a gate, and a reboot reads it again.
#[test]
fn while_a_guest_reboots() {
    apart(|| {
        let scratch = Scratch::new();
        let [behind, place] = ["behind", "place"].map(|name| {
            let folder = scratch.file(name);
            std::fs::create_dir(&folder).expect("a folder");
            folder
        });
        std::fs::copy(Image::Pvh.path(), behind.join("kernel")).expect("copying the kernel");
        let gate = Gate::open(&behind, &place);
        let mut daemon = Daemon::start();
        daemon.create(Config::new("beat_every=1000").with(json!({
            "payload": {"kernel": place.join("kernel")},
        })));
        daemon.put("vm.boot");
        daemon.wait_line("boot", 1);
        gate.rule("kernel", Rule::Hold);
        let reboot = ask(&daemon, "vm.reboot", "");
        daemon.wait_until("reads its kernel", |_| gate.held() > 0);
        refuses_all_but(&mut daemon, &[], "rebooting", "the VM is rebooting");
        assert_eq!(daemon.state(), "Running");
        is_pending(&reboot);
        // What cannot wait is done afterwards.
        let shutdown = ask(&daemon, "vmm.shutdown", "");
        daemon.get("vmm.ping").expect("a ping");
        is_pending(&shutdown);
        gate.rule("kernel", Rule::Pass);
        assert!(answer(reboot).starts_with("HTTP/1.1 204 "));
        assert!(answer(shutdown).starts_with("HTTP/1.1 200 "));
        daemon.ended(0);
    });
}

/// Unmapping what it has touched takes a while, whoever asks for it, and whoever asks twice.
#[test]
fn while_a_guest_is_taken_apart() {
    let large = |cmdline: &str| {
        Config::new(cmdline).with(json!({"memory": {"size": 2 * GIB, "prefault": true}}))
    };
    let taken_apart = |daemon: &mut Daemon| {
        daemon.wait_until("is taken apart", |daemon| {
            state(&scrape(&daemon.socket())) == "stopping"
        });
        daemon.get("vmm.ping").expect("a ping");
        assert_eq!(daemon.state(), "Running");
        let (status, chain) = daemon.refused("vm.pause", "");
        assert_eq!(status, 500, "{chain:?}");
        assert!(chain[1].contains("being shut down"), "{chain:?}");
    };
    let mut daemon = Daemon::start_in(Scratch::new(), &["--no-shutdown"]);
    daemon.create(large("control beat_every=10000"));
    daemon.put("vm.boot");
    daemon.wait_line("boot", 1);
    let shutdown = ask(&daemon, "vm.shutdown", "");
    taken_apart(&mut daemon);
    assert!(answer(shutdown).starts_with("HTTP/1.1 204 "));
    daemon.put("vm.delete");

    // The guest itself.
    daemon.create(large("beats=1 poweroff"));
    daemon.put("vm.boot");
    taken_apart(&mut daemon);
    daemon.wait_until("is off", |daemon| daemon.state() == "Shutdown");
    daemon.put("vm.delete");

    daemon.create(large("beat_every=10000"));
    daemon.put("vm.boot");
    let shutdown = ask(&daemon, "vmm.shutdown", "");
    taken_apart(&mut daemon);
    let again = ask(&daemon, "vmm.shutdown", "");
    is_pending(&shutdown);
    for asked in [shutdown, again] {
        assert!(answer(asked).starts_with("HTTP/1.1 200 "));
    }
    daemon.ended(0);
}

/// Only what needs no guest is legal with one that switched itself off.
#[test]
fn with_a_guest_that_switched_itself_off() {
    let mut daemon = Daemon::start_in(Scratch::new(), &["--no-shutdown"]);
    daemon.create(Config::new("beats=1 poweroff"));
    daemon.put("vm.boot");
    daemon.wait_until("is off", |daemon| daemon.state() == "Shutdown");
    let legal = ["vm.boot", "vm.delete", "vm.add-net", "vm.remove-device"];
    refuses_all_but(&mut daemon, &legal, "shutdown", "the VM is shut down");
    // Those are understood, and what they name is looked for.
    let (status, chain) = daemon.refused("vm.remove-device", r#"{"id": "nobody"}"#);
    assert_eq!(status, 404, "{chain:?}");
    daemon.put_json("vm.add-net", r#"{"id": "n0", "tap": "gwnone"}"#);
    daemon.put_json("vm.remove-device", r#"{"id": "n0"}"#);
    daemon.put("vm.boot");
    daemon.wait_until("is off again", |daemon| daemon.state() == "Shutdown");
    daemon.put("vm.delete");
    daemon.create(Config::new("halt"));
    daemon.shut_down();
}

/// Nobody says whether the guest ran at the destination before that died.
#[test]
fn with_a_guest_that_may_run_elsewhere() {
    let mut source = Daemon::start();
    source.create(Config::new("fill=64K verify pages=1 beat_every=10000"));
    source.put("vm.boot");
    source.wait_line("filled", 1);
    for claim in ["vm.resume", "vm.delete"] {
        let mut destination = Daemon::start();
        let far = destination.scratch.file("far.sock");
        let near = destination.scratch.file("near.sock");
        let url = |path: &Path| format!("unix:{}", path.display());
        let receive = json!({"receiver_url": url(&far)}).to_string();
        let receive = ask(&destination, "vm.receive-migration", &receive);
        destination.wait_until("listens", |_| listens(&far));
        let proxy = Proxy::start(&near, &far, HANDOVER, Act::Hold);
        let send = json!({"destination_url": url(&near)}).to_string();
        source.put_json("vm.send-migration", &send);
        proxy.wait();
        destination.process.signal(Signal::SIGKILL);
        assert_eq!(destination.process.wait().signal, Some(9));
        drop(receive);
        proxy.release();
        source.wait_until("it is unsettled", |source| {
            state(&scrape(&source.socket())) == "unsettled"
        });
        let reason = "the VM may run at the destination of its last migration";
        let legal = ["vm.resume", "vm.delete"];
        refuses_all_but(&mut source, &legal, "unsettled", reason);
        assert_eq!(source.state(), "Paused");
        let passes = source.output().all("pass").len();
        source.put(claim);
        if claim == "vm.resume" {
            source.wait_line("pass", passes + 2);
            source.output().assert_sound();
        }
    }
    source.create(Config::new("halt"));
    source.shut_down();
}

/// Metrics answer in each phase that lasts, and show the machine while there is one.
#[test]
fn metrics_in_each_phase_that_lasts() {
    let mut daemon = Daemon::start_in(Scratch::new(), &["--no-shutdown"]);
    let socket = daemon.socket();
    let shows = |phase: &str, is_built: bool| {
        let scraped = scrape(&socket);
        assert_eq!(state(&scraped), phase);
        for name in [
            "godwit_build_info",
            "godwit_uptime_seconds",
            "process_open_fds",
        ] {
            assert!(has(&scraped, name), "{name} while {phase}");
        }
        for name in [
            "godwit_vm_vcpus",
            "godwit_guest_memory_size_bytes",
            "godwit_kvm_vcpu_exits_total",
            "godwit_device_bytes_total",
        ] {
            assert_eq!(has(&scraped, name), is_built, "{name} while {phase}");
        }
    };
    shows("empty", false);
    daemon.create(Config::new("beat_every=10000"));
    shows("created", false);
    daemon.put("vm.boot");
    shows("running", true);
    daemon.put("vm.pause");
    shows("paused", true);
    daemon.put("vm.reboot");
    shows("running", true);
    daemon.put("vm.shutdown");
    shows("created", false);
    daemon.put("vm.delete");
    shows("empty", false);
    daemon.create(Config::new("poweroff"));
    daemon.put("vm.boot");
    daemon.wait_until("is shut down", |daemon| daemon.state() == "Shutdown");
    shows("shutdown", false);
    daemon.shut_down();
}

//! `godwit ctl` against the real process: words, exit codes, output.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use godwit_lab::peer::listens;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::config::{Config, Image};
use crate::support::daemon::Daemon;
use crate::support::process::{self, Ended, Godwit};
use crate::support::scratch::Scratch;

fn godwit(arguments: &[impl AsRef<OsStr>]) -> Ended {
    let mut command = Command::new(process::binary());
    command.args(arguments);
    Godwit::spawn(command).wait()
}

fn command(daemon: &Daemon, words: &[&str]) -> Command {
    let mut command = Command::new(process::binary());
    command
        .arg("ctl")
        .arg("--api-socket")
        .arg(daemon.socket())
        .args(words);
    command
}

fn ctl(daemon: &Daemon, words: &[&str]) -> Ended {
    Godwit::spawn(command(daemon, words)).wait()
}

/// It is done, without a word on standard error.
#[track_caller]
fn done(daemon: &Daemon, words: &[&str]) -> String {
    let ended = ctl(daemon, words);
    assert_eq!(
        (ended.code, ended.stderr.as_str()),
        (Some(0), ""),
        "{words:?}"
    );
    ended.stdout
}

/// It ends with `code`, and standard error holds each of `said`.
#[track_caller]
fn fails(daemon: &Daemon, words: &[&str], code: i32, said: &[&str]) {
    let ended = ctl(daemon, words);
    assert_eq!(ended.code, Some(code), "{words:?}: {}", ended.stderr);
    assert_eq!(ended.stdout, "", "{words:?}");
    for part in said {
        assert!(
            ended.stderr.contains(part),
            "no {part:?} in {}",
            ended.stderr
        );
    }
}

#[test]
fn a_whole_life_in_words() {
    let mut daemon = Daemon::start();
    let kernel = format!("payload.kernel={}", Image::Pvh.path().display());
    let serial = format!(
        "serial.file={}",
        daemon.scratch.file("serial.log").display()
    );
    let words = [
        "create",
        &kernel,
        "payload.cmdline=beat_every=10000",
        "memory.size=64M",
        "serial.mode=File",
        &serial,
    ];
    assert_eq!(done(&daemon, &words), "");
    assert_eq!(done(&daemon, &["boot"]), "");
    daemon.wait_line("boot", 1);
    let info = done(&daemon, &["info"]);
    for line in ["state         Running", "memory        64 MiB"] {
        assert!(info.contains(line), "{info}");
    }
    done(&daemon, &["pause"]);
    let info: Value = serde_json::from_str(&done(&daemon, &["--json", "info"])).expect("JSON");
    assert_eq!(info["state"], "Paused");
    for verb in ["resume", "reboot", "counters", "shutdown", "delete"] {
        done(&daemon, &[verb]);
    }
    assert!(done(&daemon, &["ping"]).starts_with("godwit v"));
    done(&daemon, &["shutdown-vmm"]);
    daemon.ended(0);
}

#[test]
fn exit_codes_tell_failures_apart() {
    let mut daemon = Daemon::start();
    let config = daemon.config(Config::new("halt"));
    let file = daemon.scratch.write("vm.json", &config);
    let file = file.to_str().expect("a path");
    done(&daemon, &["create", file]);
    let refused = "godwit: The VM could not be paused\n  because: the VM is not booted\n";
    fails(&daemon, &["pause"], 1, &[refused]);
    fails(&daemon, &["create", file], 1, &["one VM at a time"]);
    fails(&daemon, &["remove-device", "n7"], 4, &["n7"]);
    fails(&daemon, &["remove-device"], 2, &["vm.remove-device", "id"]);
    fails(&daemon, &["add-net", "tpa=x"], 2, &["tpa", "tap"]);
    fails(&daemon, &["add-net", r#"{"tap": 7}"#], 2, &["tap", "7"]);
    fails(
        &daemon,
        &["create", "/nonexistent/vm.json"],
        2,
        &["/nonexistent/vm.json"],
    );
    fails(&daemon, &["fly"], 2, &["fly"]);
    fails(&daemon, &["--timeout", "0", "ping"], 2, &["--timeout"]);
    fails(&daemon, &["progress"], 4, &["no VM yet"]);
    let json = ctl(&daemon, &["--json", "pause"]);
    let error: Value = serde_json::from_str(&json.stderr).expect("JSON");
    assert_eq!(
        error,
        json!({"status": 500, "error": ["The VM could not be paused", "the VM is not booted"]})
    );
    daemon.put("vm.delete");
    fails(&daemon, &["info"], 4, &["there is no VM"]);
    // One that listens and never answers.
    daemon.process.signal(Signal::SIGSTOP);
    fails(
        &daemon,
        &["--timeout", "0.2", "ping"],
        6,
        &["cannot receive the answer"],
    );
    daemon.process.signal(Signal::SIGCONT);
    let socket = daemon.socket();
    daemon.shut_down();
    let gone = godwit(&[
        OsStr::new("ctl"),
        OsStr::new("--api-socket"),
        socket.as_os_str(),
        OsStr::new("ping"),
    ]);
    assert_eq!(gone.code, Some(3), "{}", gone.stderr);
    let nowhere = godwit(&["ctl", "ping"]);
    assert_eq!(nowhere.code, Some(2), "{}", nowhere.stderr);
}

/// A descriptor of ours goes to ctl, and from there to the machine.
#[test]
fn descriptors_are_passed_on() {
    let mut daemon = Daemon::start();
    daemon.create(Config::new("halt"));
    for (fd, said) in [("1", "standard streams"), ("99", "not open")] {
        fails(&daemon, &["add-net", "--fd", fd, "id=n"], 2, &[said]);
    }
    fails(
        &daemon,
        &["add-net", "--fd", "9", "--fd", "9", "id=n"],
        2,
        &["twice"],
    );
    let null = File::open("/dev/null").expect("opening /dev/null");
    let raw = null.as_raw_fd();
    let mut add = command(&daemon, &["add-net", "--fd", "9", "id=n"]);
    // SAFETY: between fork and exec, only a system call is made; the descriptor is
    // open until the command was started.
    unsafe {
        add.pre_exec(move || match nix::libc::dup2(raw, 9) {
            9 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    let added = Godwit::spawn(add).wait();
    // It came: what is missing is that it is a tap.
    assert_eq!(added.code, Some(2), "{}", added.stderr);
    assert!(
        added.stderr.contains("not a queue of a TAP"),
        "{}",
        added.stderr
    );
    done(&daemon, &["boot"]);
    let metrics = done(&daemon, &["--json", "metrics"]);
    let metrics: Vec<Value> = serde_json::from_str(&metrics).expect("JSON");
    let up = json!({"name": "godwit_vm_state", "labels": {"state": "running"}, "value": 1.0});
    assert!(metrics.contains(&up), "{metrics:?}");
    daemon.shut_down();
}

#[test]
fn a_config_comes_from_standard_input() {
    let mut daemon = Daemon::start();
    let config = daemon.config(Config::new("halt"));
    let mut child = command(&daemon, &["create"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("starting ctl");
    let mut stdin = child.stdin.take().expect("its input");
    stdin
        .write_all(config.as_bytes())
        .expect("writing the config");
    drop(stdin);
    assert!(child.wait().expect("its end").success());
    assert_eq!(daemon.state(), "Created");
    daemon.shut_down();
}

#[test]
fn events_are_shown_for_people_and_scripts() {
    let scratch = Scratch::new();
    let path = scratch.file("events.json");
    let path = path.to_str().expect("a path").to_owned();
    let mut daemon = Daemon::start_in(scratch, &["--event-monitor", &path]);
    daemon.create(Config::new("halt"));
    let mut follower = Godwit::spawn(command(&daemon, &["events", &path]));
    daemon.put("vm.boot");
    daemon.put("vm.shutdown");
    daemon.wait_until("events are followed", |_| {
        let text = String::from_utf8_lossy(&follower.stdout()).into_owned();
        assert!(!follower.has_ended());
        text.contains("  booted\n") && text.contains("  shutdown\n")
    });
    follower.signal(Signal::SIGTERM);
    follower.wait();
    let json = done(&daemon, &["--json", "events", "--no-follow", &path]);
    let names: Vec<_> = json
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["event"].clone())
        .collect();
    assert!(names.contains(&json!("booted")), "{names:?}");
    daemon.shut_down();
}

/// The guest moves; the source goes, and its client says so.
#[test]
fn a_guest_is_moved() {
    let mut source = Daemon::start();
    let destination = Daemon::start();
    source.create(Config::new("beat_every=10000"));
    source.put("vm.boot");
    source.wait_line("boot", 1);
    let place = destination.scratch.file("m.sock");
    let url = format!("unix:{}", place.display());
    let mut receiver = Godwit::spawn(command(&destination, &["receive", &url]));
    source.wait_until("the destination listens", |_| listens(&place));
    let moved = ctl(&source, &["migrate", &url]);
    assert_eq!(moved.code, Some(0), "{}", moved.stderr);
    assert!(
        moved.stdout.starts_with("the guest has moved: "),
        "{}",
        moved.stdout
    );
    source.ended(0);
    let mut destination = destination;
    destination.wait_until("it has come", |_| receiver.has_ended());
    assert_eq!(receiver.wait().code, Some(0));
    assert_eq!(destination.state(), "Running");
    let progress = done(&destination, &["progress"]);
    assert!(progress.contains("finished"), "{progress}");
    destination.shut_down();
}

/// Ctrl-C keeps the guest, and the exit code says so. At 64 KiB a second it would
/// take minutes to move.
#[test]
fn ctrl_c_cancels_a_migration() {
    let mut source = Daemon::start();
    let mut destination = Daemon::start();
    source.create(Config::new("fill=16M beat_every=10000"));
    source.put("vm.boot");
    source.wait_line("filled", 1);
    let place = destination.scratch.file("m.sock");
    let url = format!("unix:{}", place.display());
    let mut receiver = Godwit::spawn(command(&destination, &["receive", &url]));
    source.wait_until("the destination listens", |_| listens(&place));
    let watcher = Godwit::spawn(command(
        &source,
        &["--json", "migrate", &url, "bandwidth_bps=64K"],
    ));
    source.wait_until("memory travels", |_| {
        String::from_utf8_lossy(&watcher.stdout()).contains(r#""phase":"copy""#)
    });
    watcher.signal(Signal::SIGINT);
    let ended = watcher.wait();
    assert_eq!(ended.code, Some(7), "{}", ended.stderr);
    assert!(ended.stderr.contains("cancelled"), "{}", ended.stderr);
    let last = ended.stdout.lines().last().expect("progress");
    let last: Value = serde_json::from_str(last).expect("each line is JSON");
    assert_eq!(last["status"], "cancelled");
    assert_eq!(source.state(), "Running");
    let before = source.output().beats().len();
    source.wait_until("goes on", |source| source.output().beats().len() > before);
    destination.wait_until("gives up", |_| receiver.has_ended());
    assert_eq!(receiver.wait().code, Some(1));
    assert!(destination.get("vm.info").is_err());
    source.shut_down();
    destination.shut_down();
}

#[test]
fn a_migration_that_nobody_takes_fails_and_the_guest_stays() {
    let mut source = Daemon::start();
    source.create(Config::new("beat_every=10000"));
    source.put("vm.boot");
    let url = format!("unix:{}", source.scratch.file("no.sock").display());
    fails(
        &source,
        &["migrate", &url],
        1,
        &["the migration failed in phase connect", "because: "],
    );
    assert_eq!(source.state(), "Running");
    source.shut_down();
}

#[test]
fn completions_and_manual_pages_are_made() {
    for (shell, mark) in [
        ("bash", "complete -F"),
        ("zsh", "#compdef godwit"),
        ("fish", "complete -c godwit"),
    ] {
        let script = godwit(&["completion", shell]);
        assert_eq!(script.code, Some(0), "{}", script.stderr);
        assert!(script.stdout.contains(mark) && script.stdout.contains("power-button"));
    }
    let scratch = Scratch::new();
    let folder = scratch.file("man1");
    let made = godwit(&[OsStr::new("man"), folder.as_os_str()]);
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    let page = fs::read_to_string(folder.join("godwit-ctl.1")).expect("the page of ctl");
    assert!(
        page.contains(".TH") && page.contains("Exit codes"),
        "{page}"
    );
    assert!(godwit(&["man"]).stdout.contains(".TH"));
}

//! Life cycles that are legal.

use std::os::unix::net::UnixStream;
use std::{io, thread};

use serde_json::json;

use crate::support::config::{Config, GIB};
use crate::support::daemon::Daemon;

#[test]
fn a_machine_lives_a_whole_life_and_then_another() {
    let mut daemon = Daemon::start();
    let ping = daemon.get("vmm.ping").expect("a ping");
    assert_eq!(ping["pid"], daemon.process.pid());
    for _ in 0..2 {
        let _ = std::fs::remove_file(daemon.scratch.file("serial.log"));
        daemon.create(Config::new("beat_every=10000"));
        assert_eq!(daemon.state(), "Created");
        daemon.put("vm.boot");
        assert_eq!(daemon.state(), "Running");
        daemon.wait_line("boot", 1);
        daemon.put("vm.pause");
        assert_eq!(daemon.state(), "Paused");
        let before = daemon.output().beats().len();
        daemon.put("vm.resume");
        daemon.wait_until("beats again", |daemon| {
            daemon.output().beats().len() > before
        });
        daemon.put("vm.reboot");
        assert_eq!(daemon.state(), "Running");
        daemon.wait_line("boot", 1);
        daemon.put("vm.shutdown");
        assert_eq!(daemon.state(), "Created");
        daemon.put("vm.boot");
        assert_eq!(daemon.state(), "Running");
        daemon.put("vm.delete");
        assert!(daemon.get("vm.info").is_err());
        // There is none any more, which is what was asked for.
        daemon.put("vm.delete");
    }
    daemon.shut_down();
}

#[test]
fn info_shows_the_machine_with_its_defaults() {
    let mut daemon = Daemon::start();
    daemon.create(Config::new("halt"));
    let info = daemon.get("vm.info").expect("info");
    assert_eq!(info["memory_actual_size"], 64 << 20);
    assert_eq!(info["config"]["cpus"]["boot_vcpus"], 1);
    assert_eq!(info["config"]["serial"]["mode"], "File");
    daemon.shut_down();
}

#[test]
fn a_guest_that_ends_ends_the_process_or_is_kept() {
    let mut daemon = Daemon::start();
    daemon.create(Config::new("poweroff"));
    daemon.put("vm.boot");
    daemon.ended(0);

    let mut daemon = Daemon::start_in(crate::support::scratch::Scratch::new(), &["--no-shutdown"]);
    daemon.create(Config::new("poweroff"));
    daemon.put("vm.boot");
    daemon.wait_until("is shut down", |daemon| daemon.state() == "Shutdown");
    daemon.put("vm.boot");
    daemon.wait_until("is shut down", |daemon| daemon.state() == "Shutdown");
    daemon.terminate();
}

/// The boot takes a while, since all memory is touched first; a ping and an
/// info on other connections are answered before.
#[test]
fn ping_and_info_answer_while_a_guest_boots() {
    let mut daemon = Daemon::start();
    daemon.create(Config::new("halt").with(json!({
        "memory": {"size": GIB, "prefault": true},
    })));
    let mut boot = UnixStream::connect(daemon.socket()).expect("connecting");
    let request = b"PUT /api/v1/vm.boot HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";
    io::Write::write_all(&mut boot, request).expect("asking");
    daemon.get("vmm.ping").expect("a ping");
    assert_eq!(daemon.state(), "Created");
    boot.set_nonblocking(true).expect("not to wait");
    let answer = io::Read::read(&mut boot, &mut [0; 1]);
    let answered = answer.map_err(|error| error.kind());
    assert_eq!(
        answered,
        Err(io::ErrorKind::WouldBlock),
        "the boot was faster"
    );
    daemon.wait_until("is booted", |daemon| daemon.state() == "Running");
    daemon.shut_down();
}

/// A signal while a guest boots ends the process in order.
#[test]
fn sigterm_ends_a_guest_that_boots() {
    let mut daemon = Daemon::start();
    daemon.create(Config::new("halt").with(json!({
        "memory": {"size": GIB, "prefault": true},
    })));
    let mut client = godwit_api::client::Client::new(daemon.socket());
    // The answer may be lost with the process.
    let boot = thread::spawn(move || client.put("vm.boot").is_ok());
    daemon.terminate();
    boot.join().expect("the thread that boots");
}

//! Clients and processes that die in the middle of something.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::config::{Config, MIB};
use crate::support::daemon::Daemon;
use crate::support::process::{self, Godwit};
use crate::support::scratch::Scratch;

/// A client that goes after any byte of a request changes nothing.
#[test]
fn a_client_that_goes_in_the_middle_of_a_request() {
    let mut daemon = Daemon::start();
    let body = daemon.config(Config::new("halt"));
    let length = body.len();
    let request = format!(
        "PUT /api/v1/vm.create HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    for cut in 0..request.len() {
        let mut stream = UnixStream::connect(daemon.socket()).expect("connecting");
        stream
            .write_all(&request.as_bytes()[..cut])
            .expect("sending a part");
    }
    assert_eq!(daemon.refused("vm.boot", "").0, 404);
    daemon.create(Config::new("halt"));
    daemon.shut_down();
}

/// A client that does not wait for its answer is obeyed all the same.
#[test]
fn a_client_that_goes_before_the_answer() {
    let mut daemon = Daemon::start();
    daemon.create(Config::new("halt").with(json!({
        "memory": {"size": 256 * MIB, "prefault": true},
    })));
    let mut stream = UnixStream::connect(daemon.socket()).expect("connecting");
    let request = b"PUT /api/v1/vm.boot HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";
    stream.write_all(request).expect("sending");
    drop(stream);
    daemon.wait_until("runs", |daemon| daemon.state() == "Running");
    daemon.wait_line("end", 1);
    daemon.shut_down();
}

/// The kernel lets go of the lock; the socket is replaced.
#[test]
fn a_killed_godwit_does_not_stop_the_next() {
    let scratch = Scratch::new();
    let socket = scratch.file("api.sock");
    let mut killed = Daemon::start_in(scratch, &[]);
    killed.create(Config::new("beat_every=10000"));
    killed.put("vm.boot");
    killed.wait_line("boot", 1);
    killed.process.signal(Signal::SIGKILL);
    let Daemon {
        process, scratch, ..
    } = killed;
    assert_eq!(process.wait().signal, Some(Signal::SIGKILL as i32));
    assert!(socket.exists(), "a killed process removes nothing");

    std::fs::remove_file(scratch.file("serial.log")).expect("removing its serial log");
    let mut next = Daemon::start_in(scratch, &[]);
    next.create(Config::new("halt"));
    next.put("vm.boot");
    next.wait_line("end", 1);
    next.shut_down();
}

#[test]
fn a_socket_that_is_served_is_not_taken_over() {
    let mut daemon = Daemon::start();
    let mut command = Command::new(process::binary());
    command.arg("--api-socket").arg(daemon.socket());
    let second = Godwit::spawn(command).wait();
    assert_eq!(second.code, Some(1));
    assert!(second.stderr.contains("in use"), "{}", second.stderr);
    daemon.get("vmm.ping").expect("the first goes on");
    daemon.shut_down();
}

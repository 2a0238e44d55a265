//! Many clients, long waits, and the end.

use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::raw::{PING, Raw, put};
use super::{Fake, Limits, PATIENCE, serve, serve_with};
use crate::response::Response;
use crate::server::{ApiSocket, ServerHandle, ServerSetup};

/// Waits until something is so.
fn eventually(mut so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < PATIENCE, "it never became so");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_request_that_waits_keeps_nobody_else_waiting() {
    let fixture = serve();
    let mut waiting = fixture.connect();
    waiting.send(&put("vm.boot", ""));
    eventually(|| fixture.machine.held.lock().unwrap().len() == 1);
    for _ in 0..100 {
        assert_eq!(fixture.connect().ask(PING).line, "HTTP/1.1 200 ");
    }
    let reply = fixture.machine.held.lock().unwrap().pop().unwrap();
    reply.send(Ok(Response::Done));
    assert_eq!(waiting.answer().line, "HTTP/1.1 204 ");
    assert_eq!(waiting.ask(PING).line, "HTTP/1.1 200 ");
}

#[test]
fn an_answer_for_a_client_that_is_gone_harms_nobody() {
    let fixture = serve();
    fixture.connect().send(&put("vm.boot", ""));
    eventually(|| fixture.machine.held.lock().unwrap().len() == 1);
    let reply = fixture.machine.held.lock().unwrap().pop().unwrap();
    reply.send(Ok(Response::Done));
    assert_eq!(fixture.connect().ask(PING).line, "HTTP/1.1 200 ");
}

#[test]
fn as_many_connections_as_allowed_are_served_and_one_more_is_told() {
    let fixture = serve();
    let mut clients: Vec<Raw> = (0..64).map(|_| fixture.connect()).collect();
    for client in &mut clients {
        client.send(PING);
    }
    for client in &mut clients {
        assert_eq!(client.answer().line, "HTTP/1.1 200 ");
    }
    let mut another = fixture.connect();
    another.send(PING);
    let got = another.answer();
    assert_eq!(got.line, "HTTP/1.1 503 ");
    assert!(
        got.chain()[0].starts_with("64 connections are open"),
        "{got:?}"
    );
    assert!(another.is_closed());
    assert_eq!(clients[63].ask(PING).line, "HTTP/1.1 200 ");
    drop(clients.pop());
    eventually(|| {
        let mut client = fixture.connect();
        client.send(PING);
        client.answer().line == "HTTP/1.1 200 "
    });
}

#[test]
fn stopping_answers_what_is_under_way_and_removes_the_socket() {
    let fixture = serve_with(Limits {
        farewell: PATIENCE,
        ..Limits::default()
    });
    let mut waiting = fixture.connect();
    let mut idle = fixture.connect();
    assert_eq!(idle.ask(PING).line, "HTTP/1.1 200 ");
    waiting.send(&put("vm.boot", ""));
    eventually(|| fixture.machine.held.lock().unwrap().len() == 1);
    let reply = fixture.machine.held.lock().unwrap().pop().unwrap();
    let path = fixture.path.clone();
    let server = fixture.server;
    let stopping = thread::spawn(move || server.stop());
    eventually(|| !path.exists());
    assert!(idle.is_closed());
    reply.send(Ok(Response::Done));
    assert_eq!(waiting.answer().line, "HTTP/1.1 204 ");
    assert!(waiting.is_closed());
    stopping.join().unwrap();
}

#[test]
fn stopping_does_not_wait_for_what_is_never_answered() {
    let fixture = serve_with(Limits {
        farewell: Duration::from_millis(50),
        ..Limits::default()
    });
    let mut waiting = fixture.connect();
    waiting.send(&put("vm.boot", ""));
    eventually(|| fixture.machine.held.lock().unwrap().len() == 1);
    fixture.server.stop();
    assert!(waiting.is_closed());
}

fn served(fd: OwnedFd) -> ServerHandle {
    let socket = ApiSocket::from_fd(fd).unwrap();
    ServerHandle::start(ServerSetup::new(socket, Arc::new(Fake::default()))).unwrap()
}

#[test]
fn a_listening_descriptor_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let _server = served(UnixListener::bind(&path).unwrap().into());
    for _ in 0..2 {
        assert_eq!(Raw::connect(&path).ask(PING).line, "HTTP/1.1 200 ");
    }
}

#[test]
fn a_connected_descriptor_is_served() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let _server = served(theirs.into());
    let mut client = Raw::new(ours);
    for _ in 0..2 {
        assert_eq!(client.ask(PING).line, "HTTP/1.1 200 ");
    }
}

#[test]
fn the_thread_has_its_name_when_the_hook_runs() {
    let folder = tempfile::tempdir().unwrap();
    let socket = ApiSocket::bind(&folder.path().join("s")).unwrap();
    let mut setup = ServerSetup::new(socket, Arc::new(Fake::default()));
    let (sender, receiver) = mpsc::channel();
    setup.on_start = Box::new(move || {
        let name = thread::current().name().map(str::to_owned);
        sender.send(name).unwrap();
    });
    let _server = ServerHandle::start(setup).unwrap();
    assert_eq!(
        receiver.recv_timeout(PATIENCE).unwrap().as_deref(),
        Some("api")
    );
}

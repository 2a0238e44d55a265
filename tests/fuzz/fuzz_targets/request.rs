//! What a client may send: calls to the router, and bytes to the whole server.

#![no_main]

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arbitrary::Arbitrary;
use godwit_api::handler::{Handler, Reply};
use godwit_api::request::Request;
use godwit_api::response::Response;
use godwit_api::router::{Call, ROUTES, route};
use godwit_api::server::{ApiSocket, ServerHandle, ServerSetup};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    /// A route of the table, by number.
    Known {
        at: u8,
        body: &'a [u8],
        fds: u8,
    },
    Any {
        method: &'a str,
        path: &'a str,
        body: &'a [u8],
    },
    /// A request for a route of the table, to the server.
    Framed {
        at: u8,
        head: &'a [u8],
        body: &'a [u8],
    },
    Bytes(&'a [u8]),
}

#[derive(Debug)]
struct Willing;

impl Handler for Willing {
    fn handle(&self, _: Request, reply: Reply) {
        reply.send(Ok(Response::Done));
    }
}

fn socket() -> &'static PathBuf {
    static SERVER: OnceLock<(PathBuf, ServerHandle)> = OnceLock::new();
    let (path, _) = SERVER.get_or_init(|| {
        let name = format!("godwit-fuzz-{}.sock", std::process::id());
        let path = std::env::temp_dir().join(name);
        let socket = ApiSocket::bind(&path).unwrap();
        let server = ServerHandle::start(ServerSetup::new(socket, Arc::new(Willing))).unwrap();
        // It stays until the process ends, and needs no name for that.
        (path, server)
    });
    path
}

fn routed(method: &str, path: &str, body: &[u8], fds: u8) {
    let fds = (0..fds % 4)
        .map(|_| File::open("/dev/null").unwrap().into())
        .collect();
    let call = Call {
        method,
        path,
        body,
        fds,
    };
    if let Err(error) = route(call) {
        assert!(!error.chain().0.is_empty());
        assert!((400..=500).contains(&error.kind().status()));
    }
}

fn served(bytes: &[u8]) {
    let mut stream = UnixStream::connect(socket()).unwrap();
    let patience = Some(Duration::from_secs(60));
    stream.set_read_timeout(patience).unwrap();
    // The server may close it amid this.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    assert!(answer.is_ascii());
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 "));
}

fuzz_target!(|input: Input<'_>| {
    match input {
        Input::Known { at, body, fds } => {
            let known = &ROUTES[usize::from(at) % ROUTES.len()];
            routed(known.method.as_str(), known.path, body, fds);
        }
        Input::Any { method, path, body } => routed(method, path, body, 0),
        Input::Framed { at, head, body } => {
            let known = &ROUTES[usize::from(at) % ROUTES.len()];
            let line = format!("{} {} HTTP/1.1\r\n", known.method.as_str(), known.path);
            let length = format!("Content-Length: {}\r\n\r\n", body.len());
            served(&[line.as_bytes(), head, length.as_bytes(), body].concat());
        }
        Input::Bytes(bytes) => served(bytes),
    }
});

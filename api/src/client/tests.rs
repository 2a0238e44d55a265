use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::json;

use super::*;
use crate::error::{ApiError, ErrorKind};
use crate::handler::{Handler, Reply};
use crate::request::Request;
use crate::response::{DeviceAdded, Ping, Response};
use crate::server::{ApiSocket, ServerHandle, ServerSetup};

/// Answers with what it was asked, and may keep silent.
#[derive(Default)]
struct Echo(Mutex<Vec<Reply>>);

impl Handler for Echo {
    fn handle(&self, request: Request, reply: Reply) {
        let outcome = match request {
            Request::Ping => Ok(Response::Ping(Ping {
                version: "é".repeat(100_000),
                ..Ping::default()
            })),
            Request::Boot => return self.0.lock().unwrap().push(reply),
            Request::AddNet(net, fds) => {
                let mut letters = String::new();
                for fd in fds {
                    let mut file = File::from(fd);
                    file.rewind().unwrap();
                    file.read_to_string(&mut letters).unwrap();
                }
                Ok(Response::DeviceAdded(DeviceAdded {
                    id: net.id.unwrap_or_default(),
                    bdf: letters,
                }))
            }
            Request::Pause => {
                Err(ApiError::new(ErrorKind::Refused, "it is off").during("cannot pause"))
            }
            _ => Ok(Response::Done),
        };
        reply.send(outcome);
    }
}

fn serve(path: &Path) -> ServerHandle {
    let socket = ApiSocket::bind(path).unwrap();
    ServerHandle::start(ServerSetup::new(socket, Arc::new(Echo::default()))).unwrap()
}

#[test]
fn it_asks_again_and_again_on_one_connection() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let _server = serve(&path);
    let mut client = Client::new(&path);
    for _ in 0..100 {
        assert_eq!(client.put("vm.resume").unwrap().status, 204);
    }
    let ping: Ping = client.get("vmm.ping").unwrap();
    assert_eq!(ping.version.chars().count(), 100_000);
    let error = client.put("vm.pause").unwrap_err();
    assert_eq!(
        error.to_string(),
        "refused with status 500: cannot pause: it is off"
    );
    let large = json!({ "id": "x".repeat(1 << 20) });
    let answer = client.put_json("vm.remove-device", &large, &[]).unwrap();
    assert_eq!(answer.status, 204);
}

#[test]
fn descriptors_go_along() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let _server = serve(&path);
    let files: Vec<File> = ["a", "b"]
        .iter()
        .map(|letter| {
            let mut file = tempfile::tempfile().unwrap();
            write!(file, "{letter}").unwrap();
            file
        })
        .collect();
    let fds: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    let added: DeviceAdded = Client::new(&path)
        .put_json("vm.add-net", &json!({"id": "n", "num_queues": 4}), &fds)
        .unwrap()
        .json()
        .unwrap();
    assert_eq!(added.bdf, "ab");
    let many = vec![files[0].as_fd(); 65];
    let error = Client::new(&path).put_json("vm.add-net", &json!({}), &many);
    assert!(matches!(error, Err(ClientError::TooManyFds(65))));
}

#[test]
fn it_connects_again_to_a_server_that_was_restarted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let server = serve(&path);
    let mut client = Client::new(&path);
    client.put("vm.resume").unwrap();
    server.stop();
    assert!(matches!(
        client.put("vm.resume"),
        Err(ClientError::Connect { .. })
    ));
    let _server = serve(&path);
    client.put("vm.resume").unwrap();
}

#[test]
fn it_waits_no_longer_than_it_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let _server = serve(&path);
    let mut client = Client::new(&path);
    client.set_time_limit(Some(Duration::from_millis(100)));
    assert!(matches!(
        client.put("vm.boot"),
        Err(ClientError::Receive(error)) if error.kind() == std::io::ErrorKind::TimedOut
    ));
    client.set_time_limit(Some(Duration::from_secs(60)));
    client.put("vm.resume").unwrap();
}

#[test]
fn a_body_that_is_refused_unread_is_no_broken_pipe() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let _server = serve(&path);
    let body = vec![b' '; 70 << 20];
    let error = Client::new(&path)
        .call(Method::Put, "/api/v1/vm.create", &body, &[])
        .unwrap_err();
    assert!(
        matches!(error, ClientError::Refused { status: 400, .. }),
        "{error:?}"
    );
}

#[test]
fn answers_of_other_servers_are_read_or_refused() {
    for (answer, expected) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi", Ok("hi")),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
            Ok(""),
        ),
        (
            "HTTP/1.1 500 \r\nContent-Length: 4\r\n\r\nugly",
            Err("refused with status 500: ugly"),
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            Err("the answer is not understood: it is sent in chunks"),
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhi",
            Err("the connection was closed before the answer came"),
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
            Err("the answer is not understood: its body is larger than 64 MiB"),
        ),
        (
            "SSH-2.0\r\n\r\n",
            Err("the answer is not understood: it has no status line"),
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.extend(byte);
            }
            stream.write_all(answer.as_bytes()).unwrap();
        });
        let got = Client::new(&path).call(Method::Get, "/", &[], &[]);
        let got = match &got {
            Ok(answer) => Ok(std::str::from_utf8(&answer.body).unwrap().to_owned()),
            Err(error) => Err(error.to_string()),
        };
        assert_eq!(got, expected.map(str::to_owned).map_err(str::to_owned));
        server.join().unwrap();
    }
}

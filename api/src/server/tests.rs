//! Each rule of the wire, in raw bytes over a real socket.

mod descriptors;
mod framing;
mod hostile;
mod life;
mod raw;

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{ApiSocket, Limits, ServerHandle, ServerSetup};
use crate::error::{ApiError, ErrorKind};
use crate::handler::{Handler, Reply};
use crate::request::Request;
use crate::response::{DeviceAdded, Ping, Response};
use raw::Raw;

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A machine that answers, refuses, forgets or keeps silent, by route.
#[derive(Debug, Default)]
struct Fake {
    held: Mutex<Vec<Reply>>,
    snapshots: Mutex<Vec<String>>,
}

impl Handler for Fake {
    fn handle(&self, request: Request, reply: Reply) {
        let outcome = match request {
            Request::Ping => Ok(Response::Ping(Ping {
                build_version: "v0.1.0-é𝕏".to_owned(),
                version: "0.1.0".to_owned(),
                pid: 1,
                features: Vec::new(),
            })),
            // Long to answer.
            Request::Boot => return self.held.lock().unwrap().push(reply),
            // Forgotten.
            Request::Pause => return drop(reply),
            Request::Resume => Err(
                ApiError::new(ErrorKind::Refused, "the machine is not paused")
                    .during("cannot resume"),
            ),
            Request::Info => Err(ApiError::new(ErrorKind::NotFound, "no machine")),
            Request::RemoveDevice(device) => Err(ApiError::new(
                ErrorKind::NotFound,
                format!("no device {}", device.id),
            )),
            Request::AddNet(net, fds) => Ok(Response::DeviceAdded(DeviceAdded {
                id: net.id.unwrap_or_default(),
                bdf: fds.into_iter().map(letter).collect(),
            })),
            Request::Snapshot(snapshot) => {
                let url = String::from(snapshot.destination_url);
                self.snapshots.lock().unwrap().push(url);
                Ok(Response::Done)
            }
            Request::Metrics => Ok(Response::Text("up 1\n".repeat(100_000))),
            _ => Ok(Response::Done),
        };
        reply.send(outcome);
    }
}

/// What the file behind a descriptor holds.
fn letter(fd: OwnedFd) -> String {
    let mut file = File::from(fd);
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    text
}

struct Fixture {
    _folder: tempfile::TempDir,
    path: PathBuf,
    machine: Arc<Fake>,
    server: ServerHandle,
}

fn serve_with(limits: Limits) -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    let machine = Arc::new(Fake::default());
    let mut setup = ServerSetup::new(ApiSocket::bind(&path).unwrap(), machine.clone());
    setup.limits = limits;
    Fixture {
        _folder: folder,
        path,
        machine,
        server: ServerHandle::start(setup).unwrap(),
    }
}

fn serve() -> Fixture {
    serve_with(Limits::default())
}

impl Fixture {
    fn connect(&self) -> Raw {
        Raw::connect(&self.path)
    }
}

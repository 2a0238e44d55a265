//! A small client: one connection, one request at a time, no threads.
//!
//! `godwit ctl` and the tests use it. It speaks to godwit and to whatever
//! speaks HTTP/1.1 with `Content-Length` on a Unix socket.
//!
//! ```no_run
//! use godwit_api::client::Client;
//! use godwit_api::response::Info;
//!
//! let mut client = Client::new("/run/godwit.sock");
//! client.put("vm.boot")?;
//! let info: Info = client.get("vm.info")?;
//! # Ok::<(), godwit_api::client::ClientError>(())
//! ```

mod connection;
mod error;

use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::ErrorChain;
use crate::router::{Method, PREFIX};
use connection::Connection;
pub use error::ClientError;

/// The most descriptors that go with one request.
pub const MAX_FDS: usize = 64;

/// A client of one socket. It connects when it has something to ask, and again
/// after the connection was lost.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    limit: Option<Duration>,
    connection: Option<Connection>,
}

/// An answer that grants the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// 200 or 204.
    pub status: u16,
    /// The body; empty when there is none.
    pub body: Vec<u8>,
}

impl Client {
    /// A client of the socket at `path`; it is not connected yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            limit: Some(Duration::from_secs(30)),
            connection: None,
        }
    }

    /// Sets how long a request may take, all in all; 30 s. `None` waits for as
    /// long as it takes, which is right for `vm.receive-migration`.
    pub fn set_time_limit(&mut self, limit: Option<Duration>) {
        self.limit = limit;
    }

    /// Asks with GET: `vm.info` for example.
    ///
    /// # Errors
    ///
    /// [`ClientError`]: it was refused, or there was no answer of this type.
    pub fn get<T: DeserializeOwned>(&mut self, name: &str) -> Result<T, ClientError> {
        self.call(Method::Get, &full(name), &[], &[])?.json()
    }

    /// Asks for an action without a body.
    ///
    /// # Errors
    ///
    /// [`ClientError`]: it was refused, or there was no answer.
    pub fn put(&mut self, name: &str) -> Result<Answer, ClientError> {
        self.call(Method::Put, &full(name), &[], &[])
    }

    /// Asks for an action with a body, and descriptors beside it.
    ///
    /// # Errors
    ///
    /// [`ClientError`]: it was refused, or there was no answer.
    pub fn put_json<T: Serialize + ?Sized>(
        &mut self,
        name: &str,
        body: &T,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Answer, ClientError> {
        let body = serde_json::to_vec(body).map_err(ClientError::Body)?;
        self.call(Method::Put, &full(name), &body, fds)
    }

    /// Asks for any path with any body.
    ///
    /// # Errors
    ///
    /// [`ClientError`]: it was refused, or there was no answer. After anything
    /// but a refusal the connection is given up: whether the request was
    /// carried out is not known then.
    pub fn call(
        &mut self,
        method: Method,
        path: &str,
        body: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<Answer, ClientError> {
        if fds.len() > MAX_FDS {
            return Err(ClientError::TooManyFds(fds.len()));
        }
        let deadline = self.limit.map(|limit| Instant::now() + limit);
        let mut connection = match self.connection.take() {
            Some(connection) if !connection.is_over() => connection,
            _ => Connection::open(&self.path)?,
        };
        connection.send(&head(method, path, body), body, fds, deadline)?;
        let answer = connection.receive(deadline)?;
        if !answer.closes {
            self.connection = Some(connection);
        }
        match answer.status {
            200..=299 => Ok(Answer {
                status: answer.status,
                body: answer.body,
            }),
            status => Err(ClientError::Refused {
                status,
                chain: chain(&answer.body),
            }),
        }
    }
}

impl Answer {
    /// The body as a type.
    ///
    /// # Errors
    ///
    /// [`ClientError::Body`]: it is another.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        serde_json::from_slice(&self.body).map_err(ClientError::Body)
    }
}

/// `vm.info` is short for `/api/v1/vm.info`.
fn full(name: &str) -> String {
    if name.starts_with('/') {
        name.to_owned()
    } else {
        format!("{PREFIX}{name}")
    }
}

fn head(method: Method, path: &str, body: &[u8]) -> Vec<u8> {
    let method = method.as_str();
    let length = match body.len() {
        0 if method == "GET" => String::new(),
        length => format!("Content-Type: application/json\r\nContent-Length: {length}\r\n"),
    };
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n{length}\r\n")
        .into_bytes()
}

/// The reasons; a server of another kind may send a text.
fn chain(body: &[u8]) -> ErrorChain {
    serde_json::from_slice(body).unwrap_or_else(|_| {
        let text = String::from_utf8_lossy(body);
        ErrorChain(match text.trim() {
            "" => Vec::new(),
            text => vec![text.to_owned()],
        })
    })
}

#[cfg(test)]
mod tests;

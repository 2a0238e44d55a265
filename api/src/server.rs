//! HTTP on a Unix socket, on a thread of its own.
//!
//! ```text
//! thread "api", one tokio runtime
//!   accept ──> connection ── hyper ── Stream (recvmsg: bytes and descriptors)
//!     │            └── service: body -> router -> Handler, await the Reply
//!     └──> overload: 503, when there are enough connections
//! ```
//!
//! Everything waits side by side: a request that is answered after minutes
//! holds its own connection and nothing else. What clients rely on in the
//! framing of an answer (no reason phrase, `Content-Length` in this
//! capitalisation, no chunks, ASCII) is in [`answer`](self), one place.

mod accept;
mod answer;
mod connection;
mod deadline;
mod exchange;
mod overload;
mod socket;
mod stream;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use thiserror::Error;
use tokio::runtime;
use tokio::sync::watch;
use tokio::task::LocalSet;

use crate::handler::Handler;
pub use socket::{ApiSocket, SocketError};

/// What a client may use up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once; one more is answered 503.
    pub connections: usize,
    /// From the first byte of a request to the end of its headers.
    pub head: Duration,
    /// Between two pieces of a body.
    pub body_pause: Duration,
    /// From the end of the headers to the end of the body.
    pub body: Duration,
    /// For a client to take up a piece of an answer.
    pub write: Duration,
    /// For answers that are under way when the server is stopped.
    pub farewell: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            head: Duration::from_secs(10),
            body_pause: Duration::from_secs(10),
            body: Duration::from_secs(60),
            write: Duration::from_secs(30),
            farewell: Duration::from_secs(1),
        }
    }
}

/// A server that is not started.
pub struct ServerSetup {
    /// Where clients come from.
    pub socket: ApiSocket,
    /// What answers them.
    pub handler: Arc<dyn Handler>,
    /// Called first on the new thread, to pin it for example.
    pub on_start: Box<dyn FnOnce() + Send>,
    /// What they may use up.
    pub limits: Limits,
}

impl ServerSetup {
    /// A server with the usual limits.
    pub fn new(socket: ApiSocket, handler: Arc<dyn Handler>) -> Self {
        Self {
            socket,
            handler,
            on_start: Box::new(|| ()),
            limits: Limits::default(),
        }
    }
}

impl fmt::Debug for ServerSetup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerSetup")
            .field("socket", &self.socket)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// Why the server did not start.
#[derive(Debug, Error)]
pub enum ServerError {
    /// The runtime has no event loop, or the socket cannot be put in it.
    #[error("cannot set up the event loop of the API")]
    Runtime(#[source] io::Error),
    /// The thread was not made.
    #[error("cannot start the thread of the API")]
    Thread(#[source] io::Error),
}

/// A server that runs; it stops when this is dropped.
#[derive(Debug)]
pub struct ServerHandle {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl ServerHandle {
    /// Starts the thread `api` and serves.
    ///
    /// # Errors
    ///
    /// [`ServerError`]: the kernel refused an event loop or a thread.
    pub fn start(setup: ServerSetup) -> Result<Self, ServerError> {
        let (stop, stopped) = watch::channel(false);
        let runtime = runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(ServerError::Runtime)?;
        let acceptor = {
            let _context = runtime.enter();
            accept::Acceptor::new(setup.socket, setup.handler, setup.limits)
                .map_err(ServerError::Runtime)?
        };
        let on_start = setup.on_start;
        let thread = thread::Builder::new()
            .name("api".to_owned())
            .spawn(move || {
                on_start();
                LocalSet::new().block_on(&runtime, acceptor.run(stopped));
            })
            .map_err(ServerError::Thread)?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }

    /// Takes no more requests, lets those under way be answered for as long
    /// as [`Limits::farewell`], and removes the socket. Not from the api
    /// thread, which this waits for.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // The thread may have ended by itself; then nobody hears this.
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the API panicked");
        }
    }
}

impl Drop for ServerHandle {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests;

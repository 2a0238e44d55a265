//! Why there is no answer that grants the request.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::error::ErrorChain;

/// What went wrong with a request.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody listens at the socket.
    #[error("cannot connect to the API socket {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// More descriptors than one request can have.
    #[error("{0} file descriptors are too many for one request: 64 is the most")]
    TooManyFds(usize),
    /// The request was not sent.
    #[error("cannot send the request")]
    Send(#[source] io::Error),
    /// The answer did not come.
    #[error("cannot receive the answer")]
    Receive(#[source] io::Error),
    /// The other side ended the connection instead.
    #[error("the connection was closed before the answer came")]
    Closed,
    /// The answer is no HTTP/1.1 that this client understands.
    #[error("the answer is not understood: {0}")]
    Protocol(&'static str),
    /// A body is not what it should be.
    #[error("the body is not the expected JSON")]
    Body(#[source] serde_json::Error),
    /// The request was refused.
    #[error("refused with status {status}: {chain}")]
    Refused {
        /// The status.
        status: u16,
        /// The reasons, root cause last.
        chain: ErrorChain,
    },
}

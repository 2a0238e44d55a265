//! One connection too many.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::answer;
use crate::error::{ApiError, ErrorKind};

/// Time for a client to read why it is turned away.
const PATIENCE: Duration = Duration::from_secs(1);

/// Answers 503 without a look at the request.
///
/// Its bytes are read and dropped: a socket that is closed with unread bytes
/// fails the client's next call, and it would not see the answer.
pub(super) async fn turn_away(mut stream: UnixStream, limit: usize) {
    let error = ApiError::new(
        ErrorKind::Overloaded,
        format!("{limit} connections are open, and no more are served at once; close one"),
    );
    let attempt = async {
        stream.write_all(&answer::refused_in_bytes(&error)).await?;
        stream.shutdown().await?;
        let mut dropped = [0; 4096];
        while stream.read(&mut dropped).await? > 0 {}
        std::io::Result::Ok(())
    };
    // Whatever goes wrong, the connection ends here.
    drop(timeout(PATIENCE, attempt).await);
}

//! The seam between the interface and the machine.
//!
//! ```text
//! api thread                          the machine's own threads
//!    request ──> Handler::handle ──>  …now or much later…
//!    answer  <───────────── Reply::send
//! ```

use std::fmt;

use tokio::sync::oneshot;

use crate::error::{ApiError, ErrorKind};
use crate::request::Request;
use crate::response::Response;

/// What answers requests: the machine.
pub trait Handler: Send + Sync {
    /// Takes a request and sees to it that `reply` is sent, at once or later,
    /// from whichever thread.
    ///
    /// This is called on the api thread. It must not wait: while it runs,
    /// nobody else is answered.
    fn handle(&self, request: Request, reply: Reply);
}

/// What comes back for a request.
pub type Outcome = Result<Response, ApiError>;

/// The one answer to one request.
///
/// Dropped unsent, it answers with an error, so that no client waits for ever.
#[must_use = "a reply that is dropped answers with an error"]
pub struct Reply {
    sender: Option<oneshot::Sender<Outcome>>,
}

impl Reply {
    /// A reply, and the end at which its answer arrives.
    pub fn pair() -> (Self, Answer) {
        let (sender, receiver) = oneshot::channel();
        let reply = Self {
            sender: Some(sender),
        };
        (reply, Answer { receiver })
    }

    /// Sends the answer. That the client is gone meanwhile is no error.
    pub fn send(mut self, outcome: Outcome) {
        if let Some(sender) = self.sender.take() {
            // An answer that nobody waits for any more is of no use.
            drop(sender.send(outcome));
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(sender) = self.sender.take() {
            drop(sender.send(Err(unanswered())));
        }
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").finish_non_exhaustive()
    }
}

/// Where the answer to a [`Reply`] arrives.
#[derive(Debug)]
pub struct Answer {
    receiver: oneshot::Receiver<Outcome>,
}

impl Answer {
    /// Waits for the answer. Not for the api thread.
    ///
    /// # Errors
    ///
    /// What the handler answered.
    pub fn wait(self) -> Outcome {
        self.receiver
            .blocking_recv()
            .unwrap_or_else(|_| Err(unanswered()))
    }

    pub(crate) async fn arrive(self) -> Outcome {
        self.receiver.await.unwrap_or_else(|_| Err(unanswered()))
    }
}

fn unanswered() -> ApiError {
    ApiError::new(
        ErrorKind::Internal,
        "the request was dropped without an answer; the log may tell why",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_arrives_from_another_thread() {
        let (reply, answer) = Reply::pair();
        std::thread::spawn(move || reply.send(Ok(Response::Done)));
        assert_eq!(answer.wait(), Ok(Response::Done));
    }

    #[test]
    fn a_dropped_reply_is_an_error() {
        let (reply, answer) = Reply::pair();
        drop(reply);
        assert_eq!(answer.wait().unwrap_err().kind().status(), 500);
    }
}

//! How asking can fail, and the exit code of each way.

use std::error::Error;
use std::io::{self, Write};
use std::path::PathBuf;

use godwit_api::client::ClientError;
use godwit_api::json::ReadError;
use godwit_api::response::Progress;
use serde_json::json;

use super::Form;

/// Why there is no good answer.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The words make no request.
    #[error("{0}")]
    Usage(String),
    /// The body is not one of this request.
    #[error("the body of {route} is wrong")]
    Body {
        /// Which.
        route: &'static str,
        /// What is wrong.
        #[source]
        source: ReadError,
    },
    /// A file that was named cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What is followed is not what godwit writes.
    #[error("{} holds no events at byte {at}: {reason}", path.display())]
    Events {
        /// Where they were looked for.
        path: PathBuf,
        /// Behind the last good one.
        at: u64,
        /// What is wrong.
        reason: String,
    },
    /// The client got no good answer.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The answer is not what this route answers.
    #[error("the answer to {route} is not understood")]
    Answer {
        /// Which.
        route: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The guest is still at the source.
    #[error("the migration failed in phase {}: {}", .0.phase, .0.error)]
    Migration(Box<Progress>),
    /// The guest is still at the source, as asked.
    #[error("the migration was cancelled in phase {}; the guest is where it was", .0.phase)]
    Cancelled(Box<Progress>),
    /// The source is gone, and it did not say how the migration ended.
    #[error(
        "the source went away in phase {phase} without a result: look at the destination before \
         starting the guest anywhere"
    )]
    Lost {
        /// The last that was seen.
        phase: String,
        /// How it went away.
        #[source]
        source: ClientError,
    },
    /// Nobody watches the migration any more.
    #[error("not watched any more; the migration goes on: `godwit ctl progress` shows it")]
    Unwatched,
    /// The terminal does not do what it is told.
    #[error("cannot {attempt} the terminal")]
    Terminal {
        /// What.
        attempt: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Signals could not be waited for.
    #[error("cannot wait for signals")]
    Signals(#[source] io::Error),
    /// What was answered could not be printed.
    #[error("cannot write the output")]
    Output(#[source] io::Error),
}

impl Failure {
    pub(super) fn usage(reason: impl Into<String>) -> Self {
        Self::Usage(reason.into())
    }

    /// The exit code: `Ctl`'s help lists them.
    pub fn code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Body { .. } | Self::Read { .. } => 2,
            Self::Client(error) => client_code(error),
            Self::Answer { .. } | Self::Lost { .. } | Self::Unwatched => 6,
            Self::Cancelled(_) => 7,
            Self::Events { .. }
            | Self::Migration(_)
            | Self::Terminal { .. }
            | Self::Signals(_)
            | Self::Output(_) => 1,
        }
    }

    /// The reasons, outermost first.
    fn chain(&self) -> Vec<String> {
        match self {
            Self::Client(ClientError::Refused { status, chain }) if chain.0.is_empty() => {
                vec![format!("refused with status {status}, without a reason")]
            }
            Self::Client(ClientError::Refused { chain, .. }) => chain.0.clone(),
            Self::Migration(progress) => {
                let first = format!("the migration failed in phase {}", progress.phase);
                [first]
                    .into_iter()
                    .chain(progress.error.0.clone())
                    .collect()
            }
            error => std::iter::successors(Some(error as &dyn Error), |&error| error.source())
                .map(ToString::to_string)
                .collect(),
        }
    }

    /// Says what went wrong, as `godwit` itself does.
    pub(super) fn report(&self, form: Form, to: &mut impl Write) -> io::Result<()> {
        let chain = self.chain();
        if form == Form::Json {
            let status = match self {
                Self::Client(ClientError::Refused { status, .. }) => Some(status),
                _ => None,
            };
            return writeln!(to, "{}", json!({"status": status, "error": chain}));
        }
        for (at, reason) in chain.iter().enumerate() {
            let lead = if at == 0 { "godwit: " } else { "  because: " };
            writeln!(to, "{lead}{}", super::table::plain(reason))?;
        }
        Ok(())
    }
}

fn client_code(error: &ClientError) -> u8 {
    match error {
        ClientError::Connect { .. } => 3,
        ClientError::TooManyFds(_) | ClientError::Refused { status: 400, .. } => 2,
        ClientError::Refused { status: 404, .. } => 4,
        ClientError::Refused { status: 409, .. } => 5,
        ClientError::Refused { .. } => 1,
        ClientError::Send(_)
        | ClientError::Receive(_)
        | ClientError::Closed
        | ClientError::Protocol(_)
        | ClientError::Body(_) => 6,
    }
}

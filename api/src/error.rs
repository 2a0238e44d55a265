//! A refusal: what kind it is, and the chain of reasons.
//!
//! On the wire a refusal is a status and a JSON array of strings, the attempt
//! first and the root cause last. Which kind has which status is said once, in
//! [`ErrorKind::status`].

use std::error::Error;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The first line of every answer to something that is known and not there.
pub const NOT_SUPPORTED: &str = "not supported by godwit";

/// What kind a refusal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request itself is wrong: no HTTP, no JSON, a config that no machine
    /// can have, a count of file descriptors that does not fit.
    BadRequest,
    /// The route, the machine or the device is not there.
    NotFound,
    /// A device of this name exists already.
    Conflict,
    /// The request is right and not allowed now.
    Refused,
    /// The request is right and known, and godwit does not do it.
    NotSupported,
    /// The attempt failed.
    Internal,
    /// Too many connections at once.
    Overloaded,
}

impl ErrorKind {
    /// The status on the wire.
    ///
    /// The peer answers 500 to whatever is not 400, 404 or 409, and its
    /// clients read nothing into it; so does godwit.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::Refused | Self::NotSupported | Self::Internal => 500,
            Self::Overloaded => 503,
        }
    }
}

/// A refusal with its chain of reasons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    kind: ErrorKind,
    chain: ErrorChain,
}

/// Reasons, the attempt first and the root cause last: the body of every
/// answer that is an error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(transparent)]
pub struct ErrorChain(pub Vec<String>);

impl ApiError {
    /// A refusal for one reason.
    pub fn new(kind: ErrorKind, reason: impl Into<String>) -> Self {
        Self {
            kind,
            chain: ErrorChain(vec![reason.into()]),
        }
    }

    /// A refusal for an error and all its sources.
    pub fn of(kind: ErrorKind, error: &(dyn Error + 'static)) -> Self {
        let sources = std::iter::successors(Some(error), |&error| error.source());
        Self {
            kind,
            chain: ErrorChain(sources.map(ToString::to_string).collect()),
        }
    }

    /// A refusal of something that is known and not there.
    pub fn not_supported(reason: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotSupported, reason).during(NOT_SUPPORTED)
    }

    /// Puts what was attempted in front of the reasons.
    #[must_use]
    pub fn during(mut self, attempt: impl Into<String>) -> Self {
        self.chain.0.insert(0, attempt.into());
        self
    }

    /// What kind of refusal it is.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The reasons, root cause last.
    #[must_use]
    pub const fn chain(&self) -> &ErrorChain {
        &self.chain
    }
}

impl fmt::Display for ErrorChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, reason) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(": ")?;
            }
            f.write_str(reason)?;
        }
        Ok(())
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.chain.fmt(f)
    }
}

impl Error for ApiError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot boot")]
    struct Boot(#[source] std::io::Error);

    #[test]
    fn a_chain_goes_from_the_attempt_to_the_root_cause() {
        let cause = std::io::Error::other("no such kernel");
        let error = ApiError::of(ErrorKind::Internal, &Boot(cause)).during("vm.boot");
        assert_eq!(
            error.chain().0,
            ["vm.boot", "cannot boot", "no such kernel"]
        );
        assert_eq!(error.to_string(), "vm.boot: cannot boot: no such kernel");
    }

    #[test]
    fn what_is_not_there_says_so_first() {
        let error = ApiError::not_supported("disks cannot be resized");
        assert_eq!(error.chain().0, [NOT_SUPPORTED, "disks cannot be resized"]);
        assert_eq!(error.kind().status(), 500);
    }
}

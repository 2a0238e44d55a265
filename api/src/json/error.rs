//! What can be wrong with a document.

use std::fmt;

use thiserror::Error;

use super::MAX_DOCUMENT_BYTES;

/// One field and what is wrong with it.
///
/// Prints as `net[0].queue_size: expected an integer, got the string "256"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldProblem {
    /// Where the field is, as `net[0].queue_size`; empty for the document
    /// itself.
    pub path: String,
    /// What is wrong, and the way out where there is one.
    pub reason: String,
}

impl fmt::Display for FieldProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.reason)
        } else {
            write!(f, "{}: {}", self.path, self.reason)
        }
    }
}

/// Why a document was not read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The document is larger than [`MAX_DOCUMENT_BYTES`].
    #[error("the document is larger than {} MiB", MAX_DOCUMENT_BYTES >> 20)]
    TooLarge,
    /// The document is not JSON; the source tells line and column.
    #[error("not valid JSON")]
    Syntax(#[source] serde_json::Error),
    /// The document is JSON, but fields of it are unknown, missing or of the
    /// wrong type.
    #[error("{}", Lines(.0))]
    Fields(Vec<FieldProblem>),
}

/// Problems, one on a line.
struct Lines<'a>(&'a [FieldProblem]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

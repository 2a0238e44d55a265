//! Reading a JSON document from outside: a file of the user or the body of a
//! request.
//!
//! ```text
//! bytes -> Value (bounded size and depth, no key twice)
//!       -> walk against the type's own fields, place known at every step
//!       -> T, and the list of fields that T does not have
//! ```
//!
//! There is one walk and two readings of its result. [`read_strict`] takes an
//! unknown field for a mistake and refuses; it is for what a person writes.
//! [`read_lenient`] returns the unknown fields beside the value; it is for the
//! REST interface, where clients of other versions send keys that this one
//! does not know. In both, a field that is `null` is absent.
//!
//! The walk asks serde for the names of a type's fields, so nothing is listed
//! twice. What it cannot see through is `#[serde(flatten)]` and enums whose
//! variants carry data: wire types use neither.

mod ascii;
mod document;
mod error;
mod walk;
mod words;

use serde::de::DeserializeOwned;

pub use ascii::to_ascii;
pub use error::{FieldProblem, ReadError};

/// The largest document that is read, in bytes: 4 MiB.
pub const MAX_DOCUMENT_BYTES: usize = 4 << 20;

/// What [`read_lenient`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lenient<T> {
    /// The value.
    pub value: T,
    /// One entry for each field that was there and is not known, for the log.
    pub ignored: Vec<FieldProblem>,
}

/// Reads a document and refuses fields that `T` does not have.
///
/// # Errors
///
/// [`ReadError`]: the document is larger than [`MAX_DOCUMENT_BYTES`], is not
/// JSON, or does not fit `T`. All unknown fields up to the first wrong type
/// are reported together.
pub fn read_strict<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ReadError> {
    let walked = walk::walk(document::parse(bytes)?);
    let mut problems = walked.unknown;
    match walked.value {
        Ok(value) if problems.is_empty() => Ok(value),
        Ok(_) => Err(ReadError::Fields(problems)),
        Err(problem) => {
            problems.push(problem);
            Err(ReadError::Fields(problems))
        }
    }
}

/// Reads a document and reports fields that `T` does not have beside the
/// value.
///
/// # Errors
///
/// [`ReadError`]: the document is larger than [`MAX_DOCUMENT_BYTES`], is not
/// JSON, or a field that `T` has is of another type or missing.
pub fn read_lenient<T: DeserializeOwned>(bytes: &[u8]) -> Result<Lenient<T>, ReadError> {
    let walked = walk::walk(document::parse(bytes)?);
    match walked.value {
        Ok(value) => Ok(Lenient {
            value,
            ignored: walked.unknown,
        }),
        Err(problem) => Err(ReadError::Fields(vec![problem])),
    }
}

#[cfg(test)]
mod tests;

//! What is wrong with a config on this host: all of it, not the first of it.

use std::fmt;

use thiserror::Error;

/// Why a config is not a machine: every problem found, never none.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub struct SpecError {
    problems: Vec<Problem>,
}

impl SpecError {
    /// The problems, in the order of the config.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.as_slice() {
            [one] => one.fmt(f),
            many => {
                write!(f, "the config has {} problems:", many.len())?;
                for problem in many {
                    write!(f, "\n  {problem}")?;
                }
                Ok(())
            }
        }
    }
}

/// One field and what is wrong with it.
///
/// Prints as `cpus.boot_vcpus: 65 is too many; a machine has 1 to 64 vCPUs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The field, as `net[0].queue_size`.
    pub field: String,
    /// What kind of problem it is; what a REST client gets as its status.
    pub kind: ProblemKind,
    /// Value, reason and way out.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.reason)
    }
}

/// The kind of a [`Problem`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    /// The value cannot be meant so on any host.
    Invalid,
    /// The value makes sense, but godwit does not do it.
    Unsupported,
    /// Two things that must differ have one name.
    Duplicate,
    /// This host lacks what is asked for.
    Host,
}

/// Collects problems.
#[derive(Debug, Default)]
pub(super) struct Problems {
    list: Vec<Problem>,
}

impl Problems {
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub fn invalid(&mut self, field: impl Into<String>, reason: impl Into<String>) {
        self.push(field, ProblemKind::Invalid, reason);
    }

    pub fn unsupported(&mut self, field: impl Into<String>, reason: impl Into<String>) {
        self.push(field, ProblemKind::Unsupported, reason);
    }

    pub fn duplicate(&mut self, field: impl Into<String>, reason: impl Into<String>) {
        self.push(field, ProblemKind::Duplicate, reason);
    }

    pub fn host(&mut self, field: impl Into<String>, reason: impl Into<String>) {
        self.push(field, ProblemKind::Host, reason);
    }

    fn push(&mut self, field: impl Into<String>, kind: ProblemKind, reason: impl Into<String>) {
        self.list.push(Problem {
            field: field.into(),
            kind,
            reason: reason.into(),
        });
    }
}

impl From<Problems> for SpecError {
    fn from(problems: Problems) -> Self {
        Self {
            problems: problems.list,
        }
    }
}

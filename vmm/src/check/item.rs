//! One row of the table, and what comes of judging it.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Case;
use super::facts::{Fact, Unread};

/// One setting of the host or of the config.
#[derive(Debug)]
pub struct Item {
    /// Its name, in reports and in the README.
    pub id: &'static str,
    /// Where it is reported.
    pub group: Group,
    /// What is read, below the root; those with a `*` stand for many files.
    pub reads: &'static [&'static str],
    /// Facts in, verdict out.
    pub judge: fn(&Case<'_>) -> Fact<Verdict>,
    /// Why it matters.
    pub why: &'static str,
    /// How it is mended.
    pub mend: &'static [Mend],
    /// What `--fix` writes when the verdict is not good.
    pub fix: Option<fn(&Case<'_>) -> Vec<Write>>,
}

impl Item {
    /// Judges it; what cannot be read becomes a verdict that says so.
    #[must_use]
    pub fn judge(&self, case: &Case<'_>) -> Verdict {
        (self.judge)(case).unwrap_or_else(Verdict::unread)
    }
}

/// Where an item is reported.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    /// What the config asks for, and whether it contradicts itself.
    Config,
    /// CPU and firmware.
    Cpu,
    /// The kernel and its command line.
    Kernel,
    /// What is running.
    Runtime,
    /// KVM and vhost.
    Kvm,
    /// Whether all of a guest is on one NUMA node.
    Numa,
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Config => "Config",
            Self::Cpu => "CPU and firmware",
            Self::Kernel => "Kernel",
            Self::Runtime => "Run time",
            Self::Kvm => "KVM",
            Self::Numa => "NUMA",
        })
    }
}

/// How an item stands.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// As it should be.
    Good,
    /// The worst case is worse than it need be.
    Warning,
    /// A guest will be disturbed, or will not start.
    Bad,
    /// This user may not read it.
    NoPermission,
    /// The kernel does not show it, or in words that are not understood.
    Unknown,
    /// It does not concern this host or this config.
    NotApplicable,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Good => "good",
            Self::Warning => "warning",
            Self::Bad => "bad",
            Self::NoPermission | Self::Unknown => "unknown",
            Self::NotApplicable => "n/a",
        })
    }
}

/// Where something is mended.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// In the firmware's setup.
    Firmware,
    /// On the kernel's command line.
    KernelParameter,
    /// By writing to a file, at once and until the next boot.
    Write,
    /// By a command.
    Command,
    /// By other means, in words.
    Advice,
    /// By an option of a module, when it is loaded.
    ModuleOption,
    /// In the config of the guest.
    Config,
    /// On the guest's kernel command line.
    GuestParameter,
}

/// A way to mend something.
///
/// What is in brackets at the end of `text` is a note, not to be typed.
/// `{cpus}` stands for the CPUs of vCPUs, `{others}` for all other CPUs,
/// `{mask}` for the latter in hexadecimal, and `{node}` for the NUMA node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mend {
    /// Where.
    pub how: How,
    /// What to write there.
    pub text: &'static str,
}

impl Mend {
    pub(super) const fn firmware(text: &'static str) -> Self {
        Self::new(How::Firmware, text)
    }

    pub(super) const fn parameter(text: &'static str) -> Self {
        Self::new(How::KernelParameter, text)
    }

    pub(super) const fn write(text: &'static str) -> Self {
        Self::new(How::Write, text)
    }

    pub(super) const fn command(text: &'static str) -> Self {
        Self::new(How::Command, text)
    }

    pub(super) const fn advice(text: &'static str) -> Self {
        Self::new(How::Advice, text)
    }

    pub(super) const fn module(text: &'static str) -> Self {
        Self::new(How::ModuleOption, text)
    }

    pub(super) const fn config(text: &'static str) -> Self {
        Self::new(How::Config, text)
    }

    pub(super) const fn guest(text: &'static str) -> Self {
        Self::new(How::GuestParameter, text)
    }

    const fn new(how: How, text: &'static str) -> Self {
        Self { how, text }
    }
}

/// What came of judging an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// How it stands.
    pub state: State,
    /// What was found.
    pub found: String,
    /// More exact than the item's own ways to mend it; empty: those.
    pub mend: Vec<(How, String)>,
}

impl Verdict {
    pub(super) fn new(state: State, found: impl Into<String>) -> Self {
        Self {
            state,
            found: found.into(),
            mend: Vec::new(),
        }
    }

    pub(super) fn good(found: impl Into<String>) -> Self {
        Self::new(State::Good, found)
    }

    pub(super) fn warning(found: impl Into<String>) -> Self {
        Self::new(State::Warning, found)
    }

    pub(super) fn bad(found: impl Into<String>) -> Self {
        Self::new(State::Bad, found)
    }

    pub(super) fn unknown(found: impl Into<String>) -> Self {
        Self::new(State::Unknown, found)
    }

    pub(super) fn not_applicable(found: impl Into<String>) -> Self {
        Self::new(State::NotApplicable, found)
    }

    pub(super) fn mended(mut self, how: How, text: impl Into<String>) -> Self {
        self.mend.push((how, text.into()));
        self
    }

    /// What is not known is not good.
    fn unread(unread: Unread) -> Self {
        let state = match unread {
            Unread::Denied { .. } => State::NoPermission,
            Unread::Missing { .. } | Unread::Odd { .. } => State::Unknown,
        };
        Self::new(state, unread.to_string())
    }
}

/// A value for a file below the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The file, without a leading slash.
    pub path: String,
    /// What is written to it.
    pub value: String,
}

impl Write {
    pub(super) fn new(path: impl Into<String>, value: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            value: value.into(),
        }
    }
}

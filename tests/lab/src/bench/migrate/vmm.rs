//! A VMM under measurement, whatever its control.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::case::{Case, Memory, Way};
use super::process::Process;
use super::qemu::QemuPair;
use super::rest::RestError;
use super::rest_vmm::RestPair;

/// The port of the migration, in a network of our own.
pub const PORT: u16 = 4444;

/// Where the guest's serial port goes: each process has its own.
pub const SERIAL: &str = "/dev/stdout";

/// What the guest may stand still, in milliseconds, as all are told.
pub const DOWNTIME_MS: u64 = 10;

/// A program to measure.
#[derive(Debug, Clone)]
pub struct Vmm {
    /// Its name in the tables.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// How it is driven.
    pub control: Control,
}

/// How a VMM is driven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    /// QEMU's monitor; with the machine type.
    Qmp(String),
    /// The REST routes that godwit has; with more fields for `vm.send-migration`.
    Rest(Vec<(String, Value)>),
}

impl Vmm {
    /// Whether it reads absent memory, which then is not absent any more: all do unless they are
    /// known to be godwit with all its means.
    pub fn touches_all(&self) -> bool {
        self.name != "godwit"
    }

    /// Why it cannot do `case`, if it cannot.
    pub fn lacks(&self, case: &Case) -> Option<&'static str> {
        match (&self.control, case.memory, case.way) {
            (Control::Qmp(_), _, Way::Handover) => Some("no handover of memfds"),
            (Control::Rest(_), Memory::Private, _) => Some("memory is always shared"),
            _ if case.is_vast() && self.touches_all() => Some("it touches what is absent"),
            _ => None,
        }
    }

    /// Starts the source with the payload on it.
    ///
    /// # Errors
    /// See [`DriveError`].
    pub fn start(
        &self,
        case: &Case,
        payload: &Path,
        folder: &Path,
        serial: OwnedFd,
    ) -> Result<Box<dyn Pair>, DriveError> {
        let setup = Setup {
            program: self.program.clone(),
            case: *case,
            payload: payload.to_owned(),
            folder: folder.to_owned(),
        };
        Ok(match &self.control {
            Control::Qmp(machine) => Box::new(QemuPair::start(setup, machine, serial)?),
            Control::Rest(fields) => Box::new(RestPair::start(setup, fields, serial)?),
        })
    }
}

/// What both sides are made from.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The program.
    pub program: PathBuf,
    /// What is asked for.
    pub case: Case,
    /// The guest.
    pub payload: PathBuf,
    /// A folder for sockets and logs, gone after the run.
    pub folder: PathBuf,
}

/// What a VMM says about a migration.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Reported {
    /// From the request to the end, in milliseconds.
    pub total_ms: Option<f64>,
    /// How long the guest stood still, in microseconds.
    pub downtime_us: Option<f64>,
    /// Bytes sent.
    pub sent_bytes: Option<u64>,
    /// All of it, as it came.
    pub raw: Value,
}

/// A source and a destination. Dropped, both are gone.
pub trait Pair {
    /// The source's process.
    fn source(&self) -> &Process;
    /// The destination's process, once there is one.
    fn destination(&self) -> Option<&Process>;
    /// Starts the destination; it listens when this returns.
    ///
    /// # Errors
    /// See [`DriveError`].
    fn receive(&mut self, serial: OwnedFd) -> Result<(), DriveError>;
    /// Asks for the migration.
    ///
    /// # Errors
    /// See [`DriveError`].
    fn send(&mut self) -> Result<(), DriveError>;
    /// Waits a little, and says whether the guest runs at the destination.
    ///
    /// # Errors
    /// When the migration failed.
    fn completed(&mut self, patience: Duration) -> Result<bool, DriveError>;
    /// Waits a little for the source to end, after that; tells it to where it must be told.
    fn wait_for_end(&mut self, patience: Duration);
    /// What the VMM says, when all is over.
    fn reported(&mut self) -> Reported;
}

/// A VMM did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// It could not be started.
    #[error("cannot start {}", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// Its control does not answer, or refuses.
    #[error("{attempt} failed; on standard error it said: {said:?}")]
    Control {
        /// What was attempted.
        attempt: &'static str,
        /// What the process said.
        said: String,
        /// The reason.
        source: io::Error,
    },
    /// A REST request was not granted.
    #[error("a request was not granted; on standard error it said: {said:?}")]
    Rest {
        /// What the process said.
        said: String,
        /// The reason.
        source: RestError,
    },
    /// The migration failed.
    #[error("the migration failed: {reason}")]
    Failed {
        /// The VMM's words.
        reason: String,
    },
}

//! VMMs that run the guest of a config and move it to a second instance of themselves.

mod console;
mod godwit;
mod machine;
mod qemu;
pub(crate) mod threads;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::bench::interrupt;
use crate::bench::rest::RestError;
pub use console::Console;
use godwit::Godwit;
pub use machine::Machine;
use qemu::Qemu;

/// How long one step of a VMM may take: huge pages are made, on an emulated machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long a move may take.
const MOVE_LIMIT: Duration = Duration::from_secs(300);

/// A VMM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Vmm {
    /// This project's, by the path of its program.
    Godwit(PathBuf),
    /// QEMU's q35 machine with KVM and vhost-net.
    Qemu,
}

impl Vmm {
    /// Its name in tables.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Godwit(_) => "godwit",
            Self::Qemu => "QEMU",
        }
    }

    /// Boots `machine` on `tap`.
    ///
    /// # Errors
    /// See [`PeerError`].
    pub fn boot(&self, machine: &Machine, tap: &str) -> Result<Box<dyn Instance>, PeerError> {
        Ok(match self {
            Self::Godwit(program) => Box::new(Godwit::boot(program, machine, tap)?),
            Self::Qemu => Box::new(Qemu::boot(machine, tap)?),
        })
    }
}

/// An instance with a guest, and later a second one. Dropped, all of it is ended.
pub trait Instance {
    /// The guest's serial port, on the side that has the guest.
    fn console(&mut self) -> &mut Console;

    /// Starts a second instance that waits for the guest, to run it on `tap`.
    ///
    /// # Errors
    /// See [`PeerError`].
    fn prepare(&mut self, tap: &str) -> Result<(), PeerError>;

    /// Moves the guest there. It may stand still for `downtime_ms`, or for what the VMM takes by
    /// default; `seen` learns how far it is.
    ///
    /// # Errors
    /// See [`PeerError`].
    fn migrate(
        &mut self,
        downtime_ms: Option<u64>,
        seen: &mut dyn FnMut(String),
    ) -> Result<Moved, PeerError>;

    /// What both sides wrote: their consoles and their errors.
    fn said(&self) -> String;
}

/// A guest that has moved.
#[derive(Debug, Clone)]
pub struct Moved {
    /// When it was asked for.
    pub asked: Instant,
    /// When the first vCPU stopped at the source.
    pub stopped: Instant,
    /// When the guest ran at the destination.
    pub ran: Instant,
    /// What the VMM says of it.
    pub account: Account,
}

/// What a VMM says of a move.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// All of it, in microseconds. godwit counts to the release of the source's memory, QEMU until
    /// the guest is at the destination.
    pub total_us: u64,
    /// How long the guest stood still, in microseconds.
    pub downtime_us: u64,
    /// Phases with their times in microseconds, in order; none where the VMM does not tell.
    pub phases: Vec<(String, u64)>,
    /// Rounds over the memory that was written meanwhile.
    pub rounds: u64,
    /// Guest memory that is backed by pages, in bytes, where the VMM tells.
    pub present_bytes: Option<u64>,
    /// Of it, what was zero and did not travel.
    pub zero_bytes: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
}

/// Phases in which the guest stands still from their beginning to their end, in godwit's words.
const STOPPED: [&str; 5] = ["stop", "last", "state", "await", "handover"];

impl Account {
    /// Time from the request to the first vCPU's stop, in microseconds.
    fn before_stop_us(&self) -> u64 {
        let before = self.phases.iter().take_while(|(name, _)| name != "stop");
        before.map(|(_, us)| us).sum()
    }

    /// The downtime's parts in order, in microseconds; none where the VMM does not tell. The last
    /// one is from the hand-over to the first run at the destination.
    pub fn downtime_parts(&self) -> Vec<(&str, u64)> {
        let phases = self.phases.iter();
        let mut parts: Vec<_> = phases
            .map(|(name, us)| (name.as_str(), *us))
            .filter(|(name, _)| STOPPED.contains(name))
            .collect();
        if !parts.is_empty() {
            let known = parts.iter().map(|(_, us)| us).sum();
            parts.push(("first run", self.downtime_us.saturating_sub(known)));
        }
        parts
    }

    /// The phases while the guest ran, here or there, in order.
    pub fn running_phases(&self) -> impl Iterator<Item = (&str, u64)> {
        let phases = self.phases.iter();
        let phases = phases.map(|(name, us)| (name.as_str(), *us));
        phases.filter(|(name, _)| !STOPPED.contains(name))
    }
}

/// A VMM or its guest did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The system refused.
    #[error("cannot {attempt}")]
    Io {
        /// What was tried.
        attempt: String,
        /// The reason.
        source: io::Error,
    },
    /// The API refused.
    #[error("a request was not granted")]
    Rest(#[from] RestError),
    /// QEMU's monitor refused, or is not there.
    #[error("QEMU's monitor did not do what it was told")]
    Monitor(#[source] io::Error),
    /// It ended, or took too long.
    #[error("{what}: {}", ended.as_deref().unwrap_or("it took too long"))]
    Wait {
        /// What was waited for.
        what: String,
        /// How the process ended, if it did.
        ended: Option<String>,
    },
    /// A config asks for what the VMM does not have.
    #[error("{vmm} cannot do what the config has: {what}")]
    NotAlike {
        /// The VMM.
        vmm: &'static str,
        /// What it cannot do.
        what: String,
    },
    /// Somebody asked for the end.
    #[error("interrupted")]
    Interrupted,
    /// The guest did not move.
    #[error("the guest did not move: {0}")]
    Stayed(String),
}

/// An error once SIGINT or SIGTERM came, where they are noted.
///
/// # Errors
/// [`PeerError::Interrupted`].
pub fn go_on() -> Result<(), PeerError> {
    if interrupt::asked() {
        return Err(PeerError::Interrupted);
    }
    Ok(())
}

fn io(attempt: impl Into<String>) -> impl FnOnce(io::Error) -> PeerError {
    let attempt = attempt.into();
    move |source| PeerError::Io { attempt, source }
}

/// A folder for sockets, gone when dropped.
#[derive(Debug)]
struct Sockets(PathBuf);

impl Sockets {
    fn new() -> Result<Self, PeerError> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("godwit-peer-{}-{number}", process::id()));
        fs::create_dir(&path).map_err(io(format!("make {}", path.display())))?;
        Ok(Self(path))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Waits until `console`'s process listens on the socket `path`: between bind and listen it is
/// there and refuses.
fn wait_for_socket(console: &mut Console, path: &Path) -> Result<(), PeerError> {
    let what = format!("waiting for {}", path.display());
    console.wait_until(&what, PATIENCE, |_| listens(path))
}

/// Whether somebody in this thread's network namespace listens on the Unix socket `path`. That its
/// file is there says less: between bind and listen, who connects is refused.
pub fn listens(path: &Path) -> bool {
    // Of this thread: it may have a network of its own.
    let table = fs::read_to_string("/proc/thread-self/net/unix").unwrap_or_default();
    let path = path.to_string_lossy();
    // Num, RefCount, Protocol, Flags (__SO_ACCEPTCON is 0x10000), Type, St, Inode, Path.
    table.lines().any(|line| {
        let mut fields = line.split_whitespace();
        fields.nth(3) == Some("00010000") && fields.nth(3) == Some(&*path)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_listener_is_told_from_a_socket() {
        let sockets = Sockets::new().unwrap();
        let path = sockets.path("listener.sock");
        assert!(!listens(&path));
        let listener = UnixListener::bind(&path).unwrap();
        assert!(listens(&path));
        drop(listener);
        assert!(path.exists() && !listens(&path));
    }

    #[test]
    fn the_downtime_has_parts_and_the_rest() {
        let phases = [("copy", 70), ("stop", 3), ("await", 5), ("running", 9)];
        let account = Account {
            downtime_us: 10,
            phases: phases.map(|(name, us)| (name.to_owned(), us)).to_vec(),
            ..Account::default()
        };
        assert_eq!(account.before_stop_us(), 70);
        let parts = account.downtime_parts();
        assert_eq!(parts, [("stop", 3), ("await", 5), ("first run", 2)]);
        let beside: Vec<_> = account.running_phases().collect();
        assert_eq!(beside, [("copy", 70), ("running", 9)]);
        assert!(Account::default().downtime_parts().is_empty());
    }
}

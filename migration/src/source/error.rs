//! Why a guest did not leave.

use std::time::Duration;

use crate::channel::ChannelError;
use crate::guest::Cause;
use crate::phase::Phase;

/// The guest did not leave.
#[derive(Debug, thiserror::Error)]
#[error("The migration failed in phase {}{}", .phase.name(), .guest.suffix())]
pub struct SendFailure {
    /// Where.
    pub phase: Phase,
    /// What became of the guest.
    pub guest: GuestIs,
    /// Why.
    #[source]
    pub error: SendError,
}

/// Where the guest is after a failure.
#[derive(Debug)]
pub enum GuestIs {
    /// It goes on at the source.
    Here,
    /// It is at the source, but could not be resumed.
    Stuck(Cause),
}

impl GuestIs {
    fn suffix(&self) -> String {
        match self {
            Self::Here => String::new(),
            Self::Stuck(cause) => format!(
                ", and the guest could not be resumed: {}",
                crate::chain(cause.as_ref())
            ),
        }
    }
}

/// Why.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// A connection, or what came over it.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// Files travel only over a Unix socket.
    #[error("Local handover passes memory as files, which only unix:PATH can; not {0}")]
    LocalNeedsUnix(String),
    /// Too many or no data connections.
    #[error("{0} connections are not possible: 1 to 128 are")]
    Streams(u16),
    /// The destination chose a version that we did not offer.
    #[error("The destination chose version {0} of the protocol, which was not offered")]
    Version(u16),
    /// The destination cannot have the guest.
    #[error("The destination refused the guest: {}", .0.join("; "))]
    Refused(Vec<String>),
    /// The guest cannot be described.
    #[error("The guest cannot be migrated")]
    Describe(#[source] Cause),
    /// What the VMM gave is larger than travels.
    #[error("The guest's {what} of {bytes} bytes is larger than the {limit} that may travel")]
    TooLarge {
        /// Which.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The dirty log failed.
    #[error("The guest's dirty log failed")]
    Log(#[source] Cause),
    /// The guest does not stop.
    #[error("The guest could not be stopped")]
    Stop(#[source] Cause),
    /// The guest's state cannot be read.
    #[error("The guest's state could not be saved")]
    Save(#[source] Cause),
    /// The guest dirties memory too fast.
    #[error(
        "After {} ms the guest could still not be stopped for less than {} us, and {} us were allowed: \
         allow more, add connections, or set timeout_strategy to Ignore",
        .after.as_millis(), .predicted.as_micros(), .wanted.as_micros()
    )]
    TimedOut {
        /// How long was tried.
        after: Duration,
        /// What stopping would have cost.
        predicted: Duration,
        /// What was allowed.
        wanted: Duration,
    },
    /// What does not depend on memory takes too long.
    #[error(
        "Stopping the guest, restoring it and one round trip take {} us whatever is left to copy, and {} us were \
         allowed: allow more, or set timeout_strategy to Ignore",
        .floor.as_micros(), .wanted.as_micros()
    )]
    OutOfReach {
        /// What the stop takes without memory.
        floor: Duration,
        /// What was allowed.
        wanted: Duration,
    },
    /// Time was over in the middle of a round.
    #[error("Time was over after {} ms, while round {round} was being copied", .after.as_millis())]
    TimedOutCopying {
        /// How long was tried.
        after: Duration,
        /// The round.
        round: u32,
    },
    /// A step came before what it needs: a defect of ours.
    #[error("The steps of the migration are out of order")]
    Order,
}

//! Why a guest did not come.

use crate::channel::ChannelError;
use crate::guest::Cause;

/// The guest did not come, or does not run.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// A connection, or what came over it. Nothing is left behind.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// Both sides speak no common version.
    #[error(
        "The source speaks versions {theirs_oldest} to {theirs_newest} of the protocol, and this build {ours_oldest} to {ours_newest}"
    )]
    Version {
        /// The source's oldest.
        theirs_oldest: u16,
        /// The source's newest.
        theirs_newest: u16,
        /// Our oldest.
        ours_oldest: u16,
        /// Our newest.
        ours_newest: u16,
    },
    /// This host cannot have the guest; the source was told each reason.
    #[error("The guest was refused: {}", .0.join("; "))]
    Refused(Vec<String>),
    /// A data connection was opened twice, or one that was not announced.
    #[error("Data connection {0} was opened twice or is not one of those announced")]
    Stream(u16),
    /// The state was not accepted. The guest resumes at the source.
    #[error("The guest's state could not be restored")]
    Restore(#[source] Cause),
    /// The guest is ours, and does not run. It is not at the source any more.
    #[error("The guest was handed over, and could not be started")]
    Run(#[source] Cause),
}

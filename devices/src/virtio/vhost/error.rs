//! Why rings could not be handed to a vhost back end, or taken back.

use std::io;

/// A vhost back end could not be opened, started or stopped.
#[derive(Debug, thiserror::Error)]
pub enum VhostError {
    /// The kernel has no vhost-net here.
    #[error(
        "There is no /dev/vhost-net: load the module (`modprobe vhost_net`), and in a container pass the device in"
    )]
    NoDriver(#[source] io::Error),
    /// The node cannot be opened.
    #[error("Could not open /dev/vhost-net: the user needs read and write permission on it")]
    Open(#[source] io::Error),
    /// A request about the whole back end failed.
    #[error("The vhost back end refused to {request}")]
    Request {
        /// What was asked for.
        request: &'static str,
        /// The answer.
        #[source]
        source: vhost::Error,
    },
    /// A request about one ring failed.
    #[error("The vhost back end refused to {request} of ring {ring}")]
    Ring {
        /// The ring's index in the back end.
        ring: usize,
        /// What was asked for.
        request: &'static str,
        /// The answer.
        #[source]
        source: vhost::Error,
    },
    /// Part of a ring is not in one piece of memory.
    #[error(
        "The {part} of ring {ring} at guest address {address:#x} does not lie whole within one region of guest RAM"
    )]
    Layout {
        /// The ring's index in the back end.
        ring: usize,
        /// Which part.
        part: &'static str,
        /// Where the driver put it.
        address: u64,
    },
    /// The used index could not be read.
    #[error("Could not read the used index of ring {ring} from guest RAM")]
    UsedIndex {
        /// The ring's index in the back end.
        ring: usize,
        /// Why.
        #[source]
        source: vm_memory::GuestMemoryError,
    },
    /// The back end has no dirty log.
    #[error("The vhost back end cannot log what it writes (VHOST_F_LOG_ALL)")]
    NoLog,
    /// No memory for the dirty log.
    #[error("Could not make the memory for a vhost dirty log")]
    LogMemory(#[source] io::Error),
    /// An eventfd could not be made or signalled.
    #[error("Could not {attempt} an eventfd of ring {ring}")]
    EventFd {
        /// The ring's index in the back end.
        ring: usize,
        /// What was attempted.
        attempt: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

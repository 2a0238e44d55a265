//! Rings served outside of this process: by the kernel's vhost-net now.
//!
//! ```text
//!             open            start(features, rings)
//!   (none) ---------> idle -------------------------> serving
//!                      ^                                 |
//!                      +---------------------------------+
//!                        stop() -> ring positions
//! ```
//!
//! [`Rings`] is the mechanism, written once over the `vhost` crate's
//! `VhostBackend`; what differs between back ends, above all in which address
//! space a ring's parts are told, is [`RingBackend`]. A ring is always started
//! from a position and gives one back, so reset, pause, resume and migration
//! need nothing else.
//!
//! Sources: `linux/vhost.h`, `drivers/vhost/{vhost,net}.c`, and the protocol
//! text of vhost-user for the same requests by message.

mod error;
mod kernel;
mod log;
mod rings;
pub mod workers;

pub use error::VhostError;
pub use kernel::KernelNet;
pub use log::SharedLog;
#[cfg(test)]
pub(crate) use rings::tests as rings_tests;
pub use rings::{RingBackend, Rings};

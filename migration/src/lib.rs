//! Live migration of the godwit hypervisor, without the hypervisor.
//!
//! ```text
//!   guest::Source                                        guest::Destination
//!        |                                                       |
//!   source (one worker) ---- control connection ---- destination (one worker)
//!    |  precopy: when to stop                                    |  populate ahead
//!    |  discover: what is present                                |
//!   senders (one a stream) ==== data connections ==== receivers (one a stream)
//!    |  clear, scan, encode                                      |  land
//!   memory ................................................... memory
//! ```
//!
//! The VMM implements [`guest`]'s two traits with KVM and calls
//! [`source::send`] and [`destination::receive`], each in a worker thread of its
//! own; [`stats::Progress`] and [`cancel::Cancel`] are its handles on them. What
//! travels, and in which order, is in [`wire`]; the phases and the point of no
//! return are in [`phase`].
//!
//! `unsafe` is in five leaf files: the mapping of guest memory, the vector scan,
//! system calls on many pieces, those that serve faults, and the page tables. All else denies it.
#![deny(unsafe_code)]

pub mod address;
pub mod bitmap;
pub mod cancel;
pub mod channel;
mod clock;
pub mod destination;
mod discover;
pub mod guest;
pub mod memory;
pub mod options;
mod pagemap;
pub mod phase;
pub mod precopy;
mod scan;
pub mod source;
pub mod stats;
pub mod store;
#[cfg(any(test, feature = "test-utils"))]
pub mod testing;
pub mod untouched;
mod userfault;
pub mod wire;

#[cfg(test)]
mod tests;

/// An error and its sources in one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

//! PCI: configuration space, base address registers, MSI-X, the root bridge.
//!
//! ```text
//!  guest        ports 0xcf8-0xcff   ECAM window      32-bit and 64-bit windows
//!                      \               /                       |
//!  on the buses      [PciRoot: function table]       [PciRoot: routes]
//!                      config_read/_write               bar_read/_write
//!                               \                         /
//!  behind them               dyn PciFunction (slot 0: the host bridge)
//! ```
//!
//! There is no firmware, so the root does its part: it sizes the base address
//! registers of each function with configuration cycles and places them, before
//! the first instruction or when a function is added later. The guest may move
//! them at will; what a move means is decided in one place,
//! [`PciRoot`], and told to the function by [`PciFunction::bar_moved`].

mod address;
pub mod bar;
mod bridge;
pub mod config;
pub mod ids;
pub mod msix;
mod root;
mod routes;

use std::fmt;

use vm_memory::GuestAddress;

pub use address::Bdf;
pub use config::{ConfigSpace, Identity};
pub use msix::Msix;
pub use root::{AttachError, ECAM_BUS_SIZE, PciRoot, PciRootV1, Windows};

use crate::bus::Action;

/// A function behind the root: what answers its configuration cycles and the
/// accesses to its base address registers.
///
/// Calls come from any vCPU thread at any time, so an implementer locks for
/// itself. The root may hold its own lock while it calls; a function never
/// calls the root.
pub trait PciFunction: Send + Sync + fmt::Debug {
    /// Fills `data` with the configuration space from `offset`. The access
    /// never crosses offset 4096.
    fn config_read(&self, offset: u16, data: &mut [u8]);

    /// Takes a write to the configuration space at `offset`.
    fn config_write(&self, offset: u16, data: &[u8]) -> Action;

    /// Fills `data` with what the base address register `bar` (0 to 5) shows at
    /// `offset` from its start.
    fn bar_read(&self, bar: u8, offset: u64, data: &mut [u8]);

    /// Takes a write behind the base address register `bar`.
    fn bar_write(&self, bar: u8, offset: u64, data: &[u8]) -> Action;

    /// Accesses to `bar` reach the function at `address` from now on, or, with
    /// `None`, not at all: memory decoding is off, the address lies outside the
    /// windows, or another function had it before. Doorbells move here.
    fn bar_moved(&self, bar: u8, address: Option<GuestAddress>);
}

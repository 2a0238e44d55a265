//! The guest as migration sees it: what the VMM implements.
//!
//! ```text
//!  source driver                          destination driver
//!    description, regions                   prepare (or prepare_with_files)
//!    start_log, log
//!    dirty / clear, from several threads    (memory is written)
//!    stop
//!    save                                   restore
//!    ---- HANDOVER: point of no return ----
//!    release                                run
//!
//!  any failure before the line: resume      any failure before the line: abandon
//! ```
//!
//! A driver calls the methods in this order, from one thread; only the dirty log
//! is used by several at once.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use crate::bitmap::Bitmap;
use crate::memory::Region;
use crate::stats::Moment;

/// Why the VMM could not do what was asked.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// What the dirty log says when it has just been started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStart {
    /// No page is dirty.
    Clean,
    /// Every page is (`KVM_DIRTY_LOG_INITIALLY_SET`): nothing has been write
    /// protected yet, and what is present is found by discovery.
    AllDirty,
}

/// Which pages were written. Shared by the threads that send.
///
/// It is the union of all that write guest memory: vCPUs, vhost back ends, and
/// the VMM itself.
pub trait DirtyLog: Send + Sync {
    /// Adds to `into` the pages of `region` (its number) that were written since
    /// they were cleared last. Does not clear. A log that cannot be read without
    /// being cleared (vhost) may forget what it reports: the driver keeps it
    /// until the page is sent.
    ///
    /// # Errors
    /// The log cannot be read; the migration fails.
    fn dirty(&self, region: usize, into: &mut Bitmap) -> Result<(), Cause>;

    /// Re-arms tracking of the pages whose bit is set in `pages`; bit 0 of the
    /// first word is `first_page`, a multiple of 64. Called right before those
    /// pages are read (`KVM_CLEAR_DIRTY_LOG`). Bits past the region's end are zero.
    ///
    /// # Errors
    /// The log cannot be cleared; the migration fails.
    fn clear(&self, region: usize, first_page: u64, pages: &[u64]) -> Result<(), Cause>;
}

/// A guest that may leave.
pub trait Source {
    /// What the destination must know to build it: configuration and what it
    /// needs of a host. Opaque here; at most 4 MiB.
    ///
    /// # Errors
    /// The guest cannot leave, and why.
    fn description(&mut self) -> Result<Vec<u8>, Cause>;

    /// Guest memory, in an order that the destination has too. The regions carry
    /// the files behind them, which local handover passes on.
    ///
    /// # Errors
    /// Memory is not of the kind that travels.
    fn regions(&self) -> Result<Vec<Region>, Cause>;

    /// Files beside those of memory that local handover passes on: what devices
    /// hold open and the destination is to hold too. At most 128. From here on
    /// devices do with them only what the guest asks for.
    ///
    /// # Errors
    /// They cannot be duplicated.
    fn device_files(&self) -> Result<Vec<OwnedFd>, Cause>;

    /// Starts to track writes. Not called for local handover.
    ///
    /// # Errors
    /// Tracking cannot be started.
    fn start_log(&mut self) -> Result<LogStart, Cause>;

    /// The log that [`start_log`](Self::start_log) started.
    fn log(&self) -> Arc<dyn DirtyLog>;

    /// Stops vCPUs and then devices, so that nobody writes guest memory when it
    /// returns. The last look at the log comes after. Downtime counts from the
    /// call. A guest that was paused stays so, and arrives paused.
    ///
    /// # Errors
    /// Something does not stop: `resume` is called.
    fn stop(&mut self) -> Result<(), Cause>;

    /// The state of vCPUs and devices. Lets go of what only one instance can hold
    /// (locks of disk images), and must not write guest memory. Runs while the
    /// last pages travel.
    ///
    /// # Errors
    /// The state cannot be read: `resume` is called.
    fn save(&mut self) -> Result<Vec<u8>, Cause>;

    /// The migration failed and the guest is still here: takes back what `save`
    /// let go, stops the log, and lets the guest run, if it did before. Called
    /// exactly once after any failure, from whatever step.
    ///
    /// # Errors
    /// The guest cannot go on.
    fn resume(&mut self) -> Result<(), Cause>;

    /// The guest runs elsewhere: frees memory, stops the log, everything that
    /// takes time. All clones of [`Region`] that the driver had are gone.
    fn release(&mut self);
}

/// Why the destination cannot have the guest: every reason, not only the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal(pub Vec<String>);

impl Refusal {
    /// A refusal for one reason: an error with its sources.
    #[must_use]
    pub fn because(error: &(dyn std::error::Error + 'static)) -> Self {
        Self(vec![crate::chain(error)])
    }
}

/// A destination that is built and waits for memory and state.
#[derive(Debug)]
pub struct Prepared {
    /// Memory, at the same guest addresses and in the same order as at the
    /// source. It reads as zero, unless it came as files.
    pub regions: Vec<Region>,
    /// How long `restore` and the start of vCPUs will take: the source adds it to
    /// the downtime that it predicts.
    pub restore_cost: Duration,
}

/// A place that a guest may come to.
pub trait Destination {
    /// Checks that this host can have the guest, and builds all of it: VM,
    /// memory, vCPUs, devices, back ends. Only state is missing afterwards.
    ///
    /// # Errors
    /// Every reason why not. Nothing is left behind.
    fn prepare(&mut self, description: &[u8]) -> Result<Prepared, Refusal>;

    /// As [`prepare`](Self::prepare), on memory that the source maps too: its
    /// guest still runs there, so nothing may be written before [`run`](Self::run).
    /// One file of `memory` a region, in order; regions that share a file share a
    /// description. `devices` are [`Source::device_files`].
    ///
    /// # Errors
    /// Every reason why not. Nothing is left behind.
    fn prepare_with_files(
        &mut self,
        description: &[u8],
        memory: Vec<OwnedFd>,
        devices: Vec<OwnedFd>,
    ) -> Result<Prepared, Refusal>;

    /// Sets the state. Memory is complete.
    ///
    /// # Errors
    /// The state is not accepted: `abandon` is called, and the guest resumes at
    /// the source.
    fn restore(&mut self, state: &[u8]) -> Result<(), Cause>;

    /// The guest is ours: lets it run, if it ran at the source. Answers when the
    /// first vCPU entered `KVM_RUN`. Called at most once.
    ///
    /// # Errors
    /// It does not run. It is still ours: the source does not take it back.
    fn run(&mut self) -> Result<Moment, Cause>;

    /// The guest does not come: removes what was built. Called at most once, and
    /// never after [`run`](Self::run).
    fn abandon(&mut self);
}

//! Allocates announced memory ahead of its content, in a thread of its own.

use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};

use crate::channel::Stop;
use crate::memory::Region;
use crate::wire::message::Extent;

/// The thread. Dropping it joins it.
#[derive(Debug)]
pub(super) struct Populate {
    extents: Option<Sender<Vec<Extent>>>,
    over: crate::cancel::Cancel,
    thread: Option<JoinHandle<()>>,
}

impl Populate {
    /// Starts it, for all regions but those marked. Without it, memory is allocated as content comes: no error.
    pub(super) fn start(regions: Vec<Region>, leave_out: Vec<bool>, stop: &Stop) -> Option<Self> {
        let (extents, announced) = mpsc::channel::<Vec<Extent>>();
        let over = crate::cancel::Cancel::new().ok()?;
        let ended = over.clone();
        let stop = stop.clone();
        let thread = thread::Builder::new()
            .name("populate".to_owned())
            .spawn(move || {
                for extent in announced.into_iter().flatten() {
                    if ended.is_cancelled() || stop.check().is_err() {
                        return;
                    }
                    if leave_out.get(usize::from(extent.region)) != Some(&false) {
                        continue;
                    }
                    populate(&regions, &extent, || {
                        ended.is_cancelled() || stop.check().is_err()
                    });
                }
            })
            .ok()?;
        Some(Self {
            extents: Some(extents),
            over,
            thread: Some(thread),
        })
    }

    pub(super) fn announce(&self, extents: Vec<Extent>) {
        if let Some(to) = &self.extents {
            // The thread may be gone: then nothing is populated ahead.
            let _ = to.send(extents);
        }
    }
}

impl Populate {
    /// Tells it to end after the piece it works on, and does not wait for that:
    /// it changes nothing that memory holds, so it may overlap whatever follows.
    pub(super) fn end(&self) {
        self.over.cancel();
    }
}

impl Drop for Populate {
    fn drop(&mut self) {
        self.over.cancel();
        self.extents = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// In pieces, so that the end is noticed, and the address space is not locked for
/// long. A failure is met again, and told,
/// when the content comes.
fn populate(regions: &[Region], extent: &Extent, ended: impl Fn() -> bool) {
    const PIECE: u64 = 512;
    let Some(region) = regions.get(usize::from(extent.region)) else {
        return;
    };
    let end = extent
        .first
        .saturating_add(extent.count)
        .min(region.pages());
    let mut at = extent.first;
    while at < end && !ended() {
        let count = PIECE.min(end - at);
        if region.populate(at, count).is_err() {
            return;
        }
        at += count;
    }
}

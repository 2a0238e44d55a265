//! Which huge pages nobody has written since they were new: those hold zeros, and
//! a migration neither reads nor sends them.
//!
//! Memory that was prefaulted has all its pages, so that their presence tells
//! nothing, and a scan of 8 GiB takes most of a second. So new huge pages are
//! write-protected in this process's page table, with userfaultfd in asynchronous
//! mode (Linux 6.7): the kernel itself takes the protection away at the first
//! write and so marks the page. KVM and vhost write through the same page table.
//! It costs one fault of about a microsecond for each huge page, once; no thread
//! waits for this process, and none serves anything.
//!
//! Small pages are not watched: they are many, and each would fault once.
//!
//! The marks are believed only where this process has mapped every page that the
//! file has (discovery compares): a page that another process
//! brought into the file may hold anything.

use std::io;

use crate::memory::{PAGE, Region};
use crate::userfault::Userfault;

/// The watch, which ends when this is dropped: then all counts as written.
#[derive(Debug)]
pub struct Untouched {
    _faults: Userfault,
}

impl Untouched {
    /// Begins with memory that holds zeros only, whether it has pages already or
    /// not. `None`: none of it is on huge pages.
    ///
    /// # Errors
    /// The kernel is older than 6.7, or forbids userfaultfd to this process.
    pub fn watch(regions: &[Region]) -> io::Result<Option<Self>> {
        let huge: Vec<_> = regions
            .iter()
            .filter(|region| region.host_page_bytes() > PAGE)
            .collect();
        if huge.is_empty() {
            return Ok(None);
        }
        let faults = Userfault::of_writes()?;
        for region in huge {
            faults.mark_writes(region)?;
        }
        Ok(Some(Self { _faults: faults }))
    }
}

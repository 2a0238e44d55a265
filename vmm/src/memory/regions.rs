//! Guest memory as `godwit_migration` sees it.

use std::ptr::NonNull;
use std::sync::Arc;

use godwit_devices::GuestRam;
use godwit_migration::memory::{Layout, Region, RegionError};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};

/// All of it, in the order of guest addresses, which is that of KVM's slots.
pub(crate) fn regions(ram: &Arc<GuestRam>) -> Result<Vec<Region>, RegionError> {
    ram.iter()
        .filter_map(|region| {
            let file = region.file_offset()?;
            let host = NonNull::new(region.as_ptr())?;
            let layout = Layout {
                guest_address: region.start_addr().raw_value(),
                size_bytes: region.len(),
                page_bytes: page_bytes(file.file()),
                file_offset: file.start(),
            };
            let keep: Arc<GuestRam> = Arc::clone(ram);
            // SAFETY: the region is a shared mapping of its file at that offset,
            // of that length, and `keep` holds it in place; devices and loaders
            // reach guest memory by copies through raw pointers only.
            Some(unsafe { Region::new(layout, host, Arc::clone(file.arc()), keep) })
        })
        .collect()
}

/// The size of the pages behind a memory file: the block size of its file system.
fn page_bytes(file: &std::fs::File) -> u64 {
    use std::os::unix::fs::MetadataExt;
    file.metadata().map_or(4096, |about| about.blksize())
}

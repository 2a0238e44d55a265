//! Memory that came with a guest, made what its config says: all of it has pages
//! and this process's page tables know them, so that no vCPU waits for one.
//!
//! It goes on while the guest runs: at a stop every microsecond counts, and what
//! is missing is taken by whoever touches it first.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use godwit_devices::GuestRam;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use super::Memory;
use super::prefault::{self, Access};
use crate::affinity;
use crate::spec::{CpuSet, MemorySpec, PageSize, ZoneSpec};

/// What is taken at a time. The address space is locked meanwhile, which vCPUs
/// and devices may need too.
const PIECE: usize = 2 << 20;

/// The thread that does it. Dropping it ends it after the piece it is at.
#[derive(Debug)]
pub struct Settle {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Settle {
    /// Begins with the zones of `spec` that are to be prefaulted or locked, on
    /// `cpus`. There is nothing to do, or no thread to do it, if there is none.
    #[must_use]
    pub fn start(memory: &Memory, spec: &MemorySpec, cpus: CpuSet) -> Option<Self> {
        // A read takes a huge page without a mark that it was written; small pages
        // are not watched, and a write is to find them ready.
        let is_watched = |zone: Option<&ZoneSpec>| {
            memory.untouched.is_some() && zone.is_some_and(|z| z.page_size != PageSize::Small4K)
        };
        let wanted: Vec<_> = memory
            .regions
            .iter()
            .map(|region| (region.start, spec.zones.get(region.zone)))
            .filter(|(_, zone)| spec.lock || zone.is_some_and(|zone| zone.prefault))
            .map(|(start, zone)| match is_watched(zone) {
                true => (start, Access::Read),
                false => (start, Access::Write),
            })
            .collect();
        if wanted.is_empty() {
            return None;
        }
        let ram = Arc::clone(&memory.ram);
        let over = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&over);
        let thread = thread::Builder::new()
            .name("settle".to_owned())
            .spawn(move || {
                // A thread that cannot be moved does it all the same.
                let _ = affinity::pin_current(&cpus);
                let began = Instant::now();
                let mut regions = wanted
                    .iter()
                    .filter_map(|(start, access)| Some((ram.find_region(*start)?, *access)));
                if regions.all(|(region, access)| fill(region, access, &ended)) {
                    tracing::debug!("memory has all its pages after {:?}", began.elapsed());
                }
            })
            .inspect_err(|error| tracing::warn!("memory is filled as it is touched: {error}"))
            .ok()?;
        Some(Self {
            over,
            thread: Some(thread),
        })
    }
}

impl Drop for Settle {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// False when it was not done to its end.
fn fill(region: &<GuestRam as GuestMemoryBackend>::R, access: Access, over: &AtomicBool) -> bool {
    let size = usize::try_from(region.len()).unwrap_or(usize::MAX);
    for offset in (0..size).step_by(PIECE) {
        if over.load(Ordering::Relaxed) {
            return false;
        }
        let start = region.as_ptr().wrapping_add(offset);
        // Pages of 1 GiB are taken whole by their first piece.
        if let Err(error) = prefault::populate_one(start as usize, PIECE.min(size - offset), access)
        {
            tracing::warn!(
                "The guest's memory at {:#x} has no pages yet, and gets them when it is \
                 touched: {error}",
                region.start_addr().0 + offset as u64
            );
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;
    use std::time::Duration;

    fn spec(prefault: bool, lock: bool) -> MemorySpec {
        MemorySpec {
            zones: vec![ZoneSpec {
                id: "mem0".to_owned(),
                size_bytes: 200 << 20,
                page_size: PageSize::Small4K,
                host_numa_node: None,
                prefault,
            }],
            total_bytes: 200 << 20,
            lock,
        }
    }

    fn allocated(memory: &Memory) -> u64 {
        let region = memory.ram.iter().next().unwrap();
        let file = region.file_offset().unwrap().file();
        file.metadata().unwrap().blocks() * 512
    }

    #[test]
    fn memory_to_be_prefaulted_gets_all_its_pages() {
        let spec = spec(true, false);
        let memory = Memory::unfilled(&spec).unwrap();
        let settle = Settle::start(&memory, &spec, affinity::allowed().unwrap()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while allocated(&memory) < 200 << 20 {
            assert!(Instant::now() < deadline, "{}", allocated(&memory));
            thread::sleep(Duration::from_millis(5));
        }
        drop(settle);
    }

    #[test]
    fn other_memory_is_left_alone() {
        let spec = spec(false, false);
        let memory = Memory::unfilled(&spec).unwrap();
        assert!(Settle::start(&memory, &spec, affinity::allowed().unwrap()).is_none());
        assert_eq!(allocated(&memory), 0);
    }
}

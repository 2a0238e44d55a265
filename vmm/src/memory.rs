//! Guest RAM: shared memory files on the page size asked for, reserved, bound
//! to a NUMA node, filled and locked before the guest's first instruction.
//!
//! ```text
//!   zone (one memfd)            guest physical addresses
//!   +-------------+  offset 0   +-------------+ 0
//!   |             |------------>| region      |
//!   |             |             +-------------+ 3 GiB
//!   |             |             | hole        |
//!   |             |             +-------------+ 4 GiB
//!   |             |------------>| region      |
//!   +-------------+             +-------------+
//! ```
//!
//! The memory is always a shared file, whatever its page size: vhost-user
//! back ends map it, and a second instance can take it over. Huge pages are
//! reserved by the mapping itself (no `MAP_NORESERVE`), so that a pool that is
//! too small is an error here and never a SIGBUS in a running guest.

mod prefault;
mod regions;
mod settle;

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use godwit_devices::GuestRam;
use godwit_devices::dirty::DirtyMap;
use godwit_migration::untouched::Untouched;
use vm_memory::mmap::MmapRegionError;
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, GuestRegionCollectionError,
    GuestRegionMmap, MmapRegion,
};

use crate::arch::layout::{self, LayoutError, RamRegion};
use crate::spec::{CpuSet, MemorySpec, PageSize, ZoneSpec};

pub(crate) use regions::regions;
use settle::Settle;

/// Guest RAM could not be had as asked for.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The memory file could not be made.
    #[error("Could not create the memory file of zone {zone} on {page_size} pages")]
    Create {
        /// The zone's id.
        zone: String,
        /// The page size asked for.
        page_size: PageSize,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// The memory file could not be given its size.
    #[error("Could not set the memory file of zone {zone} to {size_bytes} bytes")]
    Size {
        /// The zone's id.
        zone: String,
        /// The size asked for.
        size_bytes: u64,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// The memory could not be mapped, or its huge pages not reserved.
    #[error("Could not map {size_bytes} bytes of zone {zone}{}", pool_hint(*.page_size, *.size_bytes))]
    Map {
        /// The zone's id.
        zone: String,
        /// The size of the region.
        size_bytes: u64,
        /// The page size asked for.
        page_size: PageSize,
        /// The operating system's reason.
        #[source]
        source: MmapRegionError,
    },
    /// The memory could not be bound to a host NUMA node.
    #[error(
        "Could not bind zone {zone} to host NUMA node {node}: it must be online, and the kernel built with NUMA"
    )]
    Bind {
        /// The zone's id.
        zone: String,
        /// The node asked for.
        node: u32,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// The pages could not be allocated up front.
    #[error("Could not fill zone {zone} with pages{}", pool_hint(*.page_size, *.size_bytes))]
    Prefault {
        /// The zone's id.
        zone: String,
        /// The size of the region.
        size_bytes: u64,
        /// The page size asked for.
        page_size: PageSize,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// The memory could not be locked.
    #[error(
        "Could not lock guest memory: raise RLIMIT_MEMLOCK (`ulimit -l`), grant CAP_IPC_LOCK, or set memory.lock to false"
    )]
    Lock(#[source] io::Error),
    /// Memory of another instance does not fit.
    #[error(
        "The file that came for memory region {region} is missing, too short, or on pages of another size"
    )]
    NoFile {
        /// Which region, in the order of guest addresses.
        region: usize,
    },
    /// The zones have no place in the address map.
    #[error("Could not lay out guest memory")]
    Layout(#[from] LayoutError),
    /// The regions do not make an address space: a defect of the layout.
    #[error("The regions of guest memory do not fit together")]
    Arrange(#[source] GuestRegionCollectionError),
    /// A region is larger than this process can address.
    #[error("Zone {zone} of {size_bytes} bytes is larger than this process can map")]
    TooLarge {
        /// The zone's id.
        zone: String,
        /// The size of the region.
        size_bytes: u64,
    },
}

/// The page size of the pool that the pages come from; small pages have none.
fn pool_kib(page_size: PageSize) -> Option<u64> {
    (page_size != PageSize::Small4K).then(|| page_size.bytes() / 1024)
}

fn pool_hint(page_size: PageSize, size_bytes: u64) -> String {
    match pool_kib(page_size) {
        None => String::new(),
        Some(kib) => format!(
            ": it needs {} free pages in the pool hugepages-{kib}kB; \
             see and grow it with /sys/kernel/mm/hugepages/hugepages-{kib}kB/nr_hugepages, \
             and check the limit of this process's hugetlb control group",
            size_bytes / (kib * 1024)
        ),
    }
}

/// Guest RAM and what became of it on the host.
#[derive(Debug)]
pub struct Memory {
    ram: Arc<GuestRam>,
    regions: Vec<RamRegion>,
    settle: Option<Settle>,
    /// Knows which huge pages were never written, for a migration.
    untouched: Option<Untouched>,
}

impl Memory {
    /// Makes guest RAM as `spec` says. `fill_cpus` are the host CPUs that may
    /// be used to fill it; it decides how many threads do.
    ///
    /// # Errors
    /// See [`MemoryError`]; whatever was allocated is freed again.
    pub fn create(spec: &MemorySpec, fill_cpus: &CpuSet) -> Result<Self, MemoryError> {
        let mut memory = Self::unfilled(spec)?;
        memory.prefault(spec, fill_cpus)?;
        if spec.lock {
            memory.lock()?;
        }
        memory.watch_writes();
        Ok(memory)
    }

    /// Makes guest RAM for a guest that comes: as [`unfilled`](Self::unfilled),
    /// and what is written of it is known from the beginning.
    ///
    /// # Errors
    /// As above.
    pub fn awaiting(spec: &MemorySpec) -> Result<Self, MemoryError> {
        let mut memory = Self::unfilled(spec)?;
        memory.watch_writes();
        Ok(memory)
    }

    /// Begins, with memory that nobody has written yet, to know which huge pages
    /// are. Where that cannot be had, a migration reads them all.
    fn watch_writes(&mut self) {
        let watched = regions(&self.ram)
            .map_err(io::Error::other)
            .and_then(|regions| Untouched::watch(&regions));
        match watched {
            Ok(untouched) => self.untouched = untouched,
            Err(error) => tracing::debug!("writes to huge pages are not watched: {error}"),
        }
    }

    /// Makes guest RAM without pages; huge ones are reserved.
    ///
    /// # Errors
    /// As above.
    pub fn unfilled(spec: &MemorySpec) -> Result<Self, MemoryError> {
        let files = spec
            .zones
            .iter()
            .map(|zone| create_file(zone).map(Arc::new))
            .collect::<Result<Vec<_>, _>>()?;
        Self::on(spec, |region, _| files.get(region.zone).map(Arc::clone))
    }

    /// Takes over guest RAM that another instance made: one file for each
    /// region, in the order of guest addresses.
    ///
    /// # Errors
    /// Files that are too few, too short or on other pages, or as above.
    pub fn adopt(spec: &MemorySpec, files: Vec<OwnedFd>) -> Result<Self, MemoryError> {
        let files: Vec<_> = files
            .into_iter()
            .map(|fd| Arc::new(File::from(fd)))
            .collect();
        Self::on(spec, |region, index| {
            let file = files.get(index)?;
            let page_size = spec.zones.get(region.zone)?.page_size;
            let about = file.metadata().ok()?;
            let end = region.offset.checked_add(region.size)?;
            // A file on huge pages says so by its block size.
            let fits = about.len() >= end && about.blksize() == page_size.bytes();
            fits.then(|| Arc::clone(file))
        })
    }

    fn on(
        spec: &MemorySpec,
        file: impl Fn(&RamRegion, usize) -> Option<Arc<File>>,
    ) -> Result<Self, MemoryError> {
        let zones: Vec<_> = spec
            .zones
            .iter()
            .map(|zone| layout::Zone {
                size: zone.size_bytes,
                page_size: zone.page_size.bytes(),
            })
            .collect();
        let regions = layout::place_zones(&zones)?;
        let mut mapped = Vec::with_capacity(regions.len());
        for (index, region) in regions.iter().enumerate() {
            let zone = spec.zones.get(region.zone);
            let (Some(zone), Some(file)) = (zone, file(region, index)) else {
                return Err(MemoryError::NoFile { region: index });
            };
            mapped.push(map(zone, &file, region)?);
        }
        let ram = GuestRam::from_regions(mapped).map_err(MemoryError::Arrange)?;
        Ok(Self {
            ram: Arc::new(ram),
            regions,
            settle: None,
            untouched: None,
        })
    }

    /// Gives every page of the zones that are to be prefaulted its page.
    ///
    /// # Errors
    /// [`MemoryError::Prefault`].
    pub fn prefault(&self, spec: &MemorySpec, fill_cpus: &CpuSet) -> Result<(), MemoryError> {
        for region in &self.regions {
            if let Some(zone) = spec.zones.get(region.zone).filter(|z| z.prefault) {
                self.fill(zone, region.start, fill_cpus)?;
            }
        }
        Ok(())
    }

    /// Begins to give memory that came with a guest what `spec` promises of it,
    /// in a thread on `cpus` that goes on while the guest runs.
    pub fn settle(&mut self, spec: &MemorySpec, cpus: CpuSet) {
        self.settle = Settle::start(self, spec, cpus);
    }

    /// The RAM as devices and loaders use it.
    #[must_use]
    pub fn ram(&self) -> &Arc<GuestRam> {
        &self.ram
    }

    /// Where RAM lies, sorted by zone.
    #[must_use]
    pub fn regions(&self) -> &[RamRegion] {
        &self.regions
    }

    fn fill(&self, zone: &ZoneSpec, start: GuestAddress, cpus: &CpuSet) -> Result<(), MemoryError> {
        let Some(region) = self.ram.find_region(start) else {
            return Ok(());
        };
        prefault::populate(region.as_ptr(), region.size(), zone.page_size, cpus).map_err(|source| {
            MemoryError::Prefault {
                zone: zone.id.clone(),
                size_bytes: region.len(),
                page_size: zone.page_size,
                source,
            }
        })
    }

    /// Locks guest RAM page by page as each is there: for memory that a guest
    /// comes with.
    ///
    /// # Errors
    /// [`MemoryError::Lock`].
    pub fn lock_on_fault(&self) -> Result<(), MemoryError> {
        for region in self.ram.iter() {
            let (start, size) = (region.as_ptr().cast(), region.size());
            // SAFETY: as in `lock`.
            let rc = unsafe { libc::mlock2(start, size, libc::MLOCK_ONFAULT) };
            if rc != 0 {
                return Err(MemoryError::Lock(io::Error::last_os_error()));
            }
        }
        Ok(())
    }

    /// Locks guest RAM (already filled, or filled by this) so that the host
    /// never swaps or migrates it away under a vCPU.
    ///
    /// # Errors
    /// [`MemoryError::Lock`].
    pub fn lock(&self) -> Result<(), MemoryError> {
        for region in self.ram.iter() {
            // SAFETY: the range is a mapping that `region` owns; locking does
            // not change what it holds.
            let rc = unsafe { libc::mlock(region.as_ptr().cast(), region.size()) };
            if rc != 0 {
                return Err(MemoryError::Lock(io::Error::last_os_error()));
            }
        }
        Ok(())
    }
}

fn create_file(zone: &ZoneSpec) -> Result<File, MemoryError> {
    let huge = match zone.page_size {
        PageSize::Small4K => 0,
        PageSize::Huge2M => libc::MFD_HUGETLB | libc::MFD_HUGE_2MB,
        PageSize::Huge1G => libc::MFD_HUGETLB | libc::MFD_HUGE_1GB,
    };
    let create_error = |source| MemoryError::Create {
        zone: zone.id.clone(),
        page_size: zone.page_size,
        source,
    };
    let name = CString::new(format!("guest-{}", zone.id)).map_err(|e| create_error(e.into()))?;
    // SAFETY: `name` is NUL-terminated and outlives the call.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | huge) };
    if fd < 0 {
        return Err(create_error(io::Error::last_os_error()));
    }
    // SAFETY: the kernel just gave us this descriptor, and nobody else owns it.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(zone.size_bytes)
        .map_err(|source| MemoryError::Size {
            zone: zone.id.clone(),
            size_bytes: zone.size_bytes,
            source,
        })?;
    Ok(file)
}

fn map(
    zone: &ZoneSpec,
    file: &Arc<File>,
    range: &RamRegion,
) -> Result<GuestRegionMmap<DirtyMap>, MemoryError> {
    let too_large = || MemoryError::TooLarge {
        zone: zone.id.clone(),
        size_bytes: range.size,
    };
    let size = usize::try_from(range.size).map_err(|_| too_large())?;
    let mapping = MmapRegion::build(
        Some(FileOffset::from_arc(Arc::clone(file), range.offset)),
        size,
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_SHARED,
    )
    .map_err(|source| MemoryError::Map {
        zone: zone.id.clone(),
        size_bytes: range.size,
        page_size: zone.page_size,
        source,
    })?;
    if let Some(node) = zone.host_numa_node {
        bind(mapping.as_ptr(), size, node).map_err(|source| MemoryError::Bind {
            zone: zone.id.clone(),
            node,
            source,
        })?;
    }
    // SAFETY: as in `lock`: our own mapping, whose content does not change. The
    // advice may fail (an old kernel): then a core dump is larger.
    unsafe { libc::madvise(mapping.as_ptr().cast(), size, libc::MADV_DONTDUMP) };
    GuestRegionMmap::new(mapping, range.start).ok_or_else(too_large)
}

/// Binds a mapping's future pages to `node` (mbind(2), `MPOL_BIND`).
fn bind(start: *mut u8, size: usize, node: u32) -> io::Result<()> {
    const MPOL_BIND: libc::c_long = 2;
    const NODES: usize = 1024;
    let mut mask = [0_u64; NODES / 64];
    let node = node as usize;
    *mask.get_mut(node / 64).ok_or(io::ErrorKind::InvalidInput)? |= 1 << (node % 64);
    // SAFETY: the range is a mapping of ours, the mask is alive and as long as
    // the call says.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_mbind,
            start,
            size,
            MPOL_BIND,
            mask.as_ptr(),
            NODES + 1,
            0,
        )
    };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

//! Huge pages touched by one thread and by two: what the kernel gives, and what godwit makes of it.

use std::io;
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::Command;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::unistd::{Pid, ftruncate};
use serde::Serialize;

use super::measure::{self, MeasureError};
use super::peer::godwit_config;
use super::sample::Summary;

/// Page size of the pool that is used.
pub const HUGE_PAGE: u64 = 2 << 20;

/// The same memory, touched by different numbers of threads.
#[derive(Debug, Serialize)]
pub struct Prefault {
    /// MiB touched.
    pub mib: u64,
    /// GiB a second of MADV_POPULATE_WRITE by one thread.
    pub kernel_one: Option<Summary>,
    /// The same by two threads, half each.
    pub kernel_two: Option<Summary>,
    /// Seconds from godwit's start to the guest's first byte, godwit confined to one CPU.
    pub godwit_one: Option<Summary>,
    /// The same on two CPUs.
    pub godwit_two: Option<Summary>,
}

/// Seconds that `threads` threads need for `bytes` of huge pages, each its own part.
pub fn populate(bytes: u64, threads: usize) -> io::Result<Duration> {
    let memory = memfd_create(
        "godwit-bench",
        MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB | MFdFlags::MFD_CLOEXEC,
    )?;
    let length = usize::try_from(bytes)
        .ok()
        .and_then(NonZeroUsize::new)
        .ok_or(io::ErrorKind::InvalidInput)?;
    ftruncate(&memory, i64::try_from(bytes).map_err(io::Error::other)?)?;
    let (read_write, shared) = (
        ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
        MapFlags::MAP_SHARED,
    );
    // SAFETY: a new mapping at an address that the kernel chooses, over nothing.
    let start = unsafe { mmap(None, length, read_write, shared, &memory, 0)? };
    let address = start.as_ptr() as usize;
    let part = length.get() / threads;
    let started = Instant::now();
    // A thread that starts beside one that populates waits for it: both need the lock of the
    // address space.
    let barrier = Barrier::new(threads);
    let all_up = &barrier;
    let populated = thread::scope(|scope| {
        let touch = move |index: usize| {
            all_up.wait();
            // SAFETY: inside the mapping made above, which outlives the scope; no Rust reference to
            // it exists, and populating does not change what it holds.
            let result = unsafe {
                libc::madvise(
                    (address + index * part) as *mut _,
                    part,
                    libc::MADV_POPULATE_WRITE,
                )
            };
            if result == 0 {
                Ok(())
            } else {
                Err(io::Error::last_os_error())
            }
        };
        let all: Vec<_> = (0..threads)
            .map(|index| scope.spawn(move || touch(index)))
            .collect();
        all.into_iter().try_for_each(|one| {
            one.join()
                .unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
        })
    });
    let took = started.elapsed();
    // SAFETY: exactly the mapping made above; its address is not used after this.
    unsafe { munmap(start, length.get())? };
    populated.map(|()| took)
}

/// The time from godwit's start to its guest's first byte, on the first `cpus` CPUs that this
/// process may use: the child inherits them.
pub fn godwit_start(
    godwit: &Path,
    payload: &Path,
    folder: &Path,
    bytes: u64,
    cpus: usize,
) -> Result<Duration, MeasureError> {
    let config = folder.join("prefault.json");
    let failed = |source: io::Error| MeasureError::Spawn {
        program: godwit.display().to_string(),
        source,
    };
    std::fs::write(&config, godwit_config(payload, bytes, "2M").to_string()).map_err(failed)?;
    let all = sched_getaffinity(Pid::from_raw(0)).map_err(|errno| failed(errno.into()))?;
    let mut few = CpuSet::new();
    let allowed = (0..CpuSet::count()).filter(|&cpu| all.is_set(cpu).unwrap_or(false));
    for cpu in allowed.take(cpus) {
        few.set(cpu).map_err(|errno| failed(errno.into()))?;
    }
    let mut command = Command::new(godwit);
    command.arg("run").arg(&config);
    sched_setaffinity(Pid::from_raw(0), &few).map_err(|errno| failed(errno.into()))?;
    let took = measure::first_byte(command, folder);
    sched_setaffinity(Pid::from_raw(0), &all).map_err(|errno| failed(errno.into()))?;
    took
}

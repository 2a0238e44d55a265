//! Where threads run: CPU affinity and the real-time scheduling class.

use std::io;

use nix::sched::{self, sched_setaffinity};
use nix::unistd::Pid;

use crate::spec::{CpuSet, FifoPriority, HostCpu, format_cpu_list};

/// A thread could not be placed as the config asks.
#[derive(Debug, thiserror::Error)]
pub enum PlacementError {
    /// The CPU set was refused.
    #[error(
        "Could not pin thread {thread} to host CPUs {cpus}: they must be online and within this process's cpuset"
    )]
    Pin {
        /// The thread's name.
        thread: String,
        /// The CPUs asked for.
        cpus: String,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// Core scheduling was refused.
    #[error(
        "Could not put thread {thread} into its core scheduling group: set cpus.core_scheduling to \"Off\""
    )]
    Core {
        /// The thread's name.
        thread: String,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// The scheduling class was refused.
    #[error(
        "Could not give thread {thread} SCHED_FIFO priority {priority}: grant CAP_SYS_NICE or raise RLIMIT_RTPRIO (`ulimit -r`)"
    )]
    Schedule {
        /// The thread's name.
        thread: String,
        /// The priority asked for, 1 to 99.
        priority: u8,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
}

/// The same set as system calls take it.
///
/// # Errors
/// A CPU number that no set can hold.
pub fn kernel_set(cpus: &CpuSet) -> io::Result<sched::CpuSet> {
    let mut set = sched::CpuSet::new();
    for cpu in cpus {
        set.set(cpu.0 as usize)?;
    }
    Ok(set)
}

/// Pins the calling thread to `cpus`; an empty set leaves it where it is.
///
/// # Errors
/// The operating system's: no CPU of the set is online and allowed.
pub fn pin_current(cpus: &CpuSet) -> io::Result<()> {
    if cpus.is_empty() {
        return Ok(());
    }
    Ok(sched_setaffinity(Pid::from_raw(0), &kernel_set(cpus)?)?)
}

/// Pins the calling thread, named `thread` in the error.
///
/// # Errors
/// [`PlacementError::Pin`].
pub fn place_current(thread: &str, cpus: &CpuSet) -> Result<(), PlacementError> {
    pin_current(cpus).map_err(|source| PlacementError::Pin {
        thread: thread.to_owned(),
        cpus: format_cpu_list(cpus),
        source,
    })
}

/// Moves every thread that this process has now to `cpus`; those that are
/// started later begin where their maker is.
///
/// # Errors
/// [`PlacementError::Pin`], for the calling thread: others may be ending.
pub fn place_process(cpus: &CpuSet) -> Result<(), PlacementError> {
    place_current("godwit", cpus)?;
    let Ok(set) = kernel_set(cpus) else {
        return Ok(());
    };
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten();
    let ids = threads
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    for id in ids {
        if let Err(error) = sched_setaffinity(Pid::from_raw(id), &set) {
            tracing::debug!("Thread {id} stays where it is: {error}");
        }
    }
    Ok(())
}

/// Puts the calling thread into `SCHED_FIFO` at `priority` (1 to 99).
///
/// # Errors
/// [`PlacementError::Schedule`].
pub fn schedule_fifo_current(thread: &str, priority: FifoPriority) -> Result<(), PlacementError> {
    let param = libc::sched_param {
        sched_priority: i32::from(priority.get()),
    };
    // SAFETY: `param` is alive for the call; pid 0 is the calling thread.
    let rc = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const param) };
    if rc == 0 {
        return Ok(());
    }
    Err(PlacementError::Schedule {
        thread: thread.to_owned(),
        priority: priority.get(),
        source: io::Error::last_os_error(),
    })
}

/// The host CPUs that the calling thread may run on now.
///
/// # Errors
/// The operating system's.
pub fn allowed() -> io::Result<CpuSet> {
    let set = sched::sched_getaffinity(Pid::from_raw(0))?;
    Ok((0..sched::CpuSet::count())
        .filter(|&cpu| set.is_set(cpu).unwrap_or(false))
        .filter_map(|cpu| u32::try_from(cpu).ok().map(HostCpu))
        .collect())
}

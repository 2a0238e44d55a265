//! The kernel threads that serve vhost rings, and the CPUs they run on.
//!
//! `VHOST_SET_OWNER` makes one worker, named `vhost-<tid of the caller>`. Up to
//! Linux 6.3 it is a kernel thread, seen in `/proc` under a process id of its
//! own; since 6.4 (`vhost_task`) it is a thread of the calling process, and
//! Linux 6.17 knows both ways (`fork_owner`). Neither tells its id, so it is
//! found by comparing before and after.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::sync::{Mutex, PoisonError};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::{Pid, gettid};

/// A worker could not be found or placed.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// No new thread showed up.
    #[error(
        "Found no vhost worker thread (vhost-{tid}) to pin to the worker CPUs: /proc does not show the kernel's threads \
         here (a container with a PID namespace of its own, or a mount option hidepid)"
    )]
    NotFound {
        /// The thread that became the owner, which names the worker.
        tid: Pid,
    },
    /// The affinity was refused.
    #[error("Could not pin the vhost worker thread {worker} to the CPUs {cpus}")]
    Pin {
        /// The worker.
        worker: Pid,
        /// The CPUs, as a list.
        cpus: String,
        /// The kernel's answer: no such CPU online, or outside of our cpuset.
        #[source]
        source: io::Error,
    },
}

/// Where to look for workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Search {
    /// Among this process's threads: cheap, enough since Linux 6.4.
    OwnThreads,
    /// Among the kernel's threads as well: reads all of `/proc`.
    Everywhere,
}

/// One at a time, or the workers made by one thread would be taken for those of
/// another.
static SEARCHING: Mutex<()> = Mutex::new(());

/// Runs `open`, and tells which workers came into being meanwhile.
pub fn made_by<T>(search: Search, open: impl FnOnce() -> T) -> (T, Vec<Pid>) {
    let _guard = SEARCHING.lock().unwrap_or_else(PoisonError::into_inner);
    let before = workers(search);
    let result = open();
    let after = workers(search);
    let new = after.difference(&before).copied().map(Pid::from_raw);
    (result, new.collect())
}

/// Pins workers, as [`made_by`] found them, to `cpus`.
///
/// # Errors
/// There are none, or the kernel refused the CPUs.
pub fn pin(workers: &[Pid], cpus: &CpuSet) -> Result<(), WorkerError> {
    if workers.is_empty() {
        return Err(WorkerError::NotFound { tid: gettid() });
    }
    for worker in workers {
        sched_setaffinity(*worker, cpus).map_err(|errno| WorkerError::Pin {
            worker: *worker,
            cpus: list(cpus),
            source: errno.into(),
        })?;
    }
    Ok(())
}

fn list(cpus: &CpuSet) -> String {
    let set = (0..CpuSet::count()).filter(|cpu| cpus.is_set(*cpu).unwrap_or(false));
    set.map(|cpu| cpu.to_string()).collect::<Vec<_>>().join(",")
}

fn workers(search: Search) -> BTreeSet<i32> {
    // None of our own threads has a name like this.
    let mut found = named("/proc/self/task", |name| name.starts_with("vhost-"));
    if search == Search::Everywhere {
        let ours = format!("vhost-{}", gettid());
        found.append(&mut named("/proc", |name| name == ours));
    }
    found
}

/// Ids below `directory` of the threads whose name `wanted` accepts.
fn named(directory: &str, wanted: impl Fn(&str) -> bool) -> BTreeSet<i32> {
    let Ok(entries) = fs::read_dir(directory) else {
        return BTreeSet::new();
    };
    entries
        .filter_map(|entry| {
            let id = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let name = fs::read_to_string(format!("{directory}/{id}/comm")).ok()?;
            wanted(name.trim_end()).then_some(id)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::thread;

    #[test]
    fn a_worker_is_told_from_other_threads_and_pinned() {
        // A thread of our own plays the kernel's, by its name.
        let (end, ended) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        let open = || {
            let worker = thread::Builder::new()
                .name("vhost-1".into())
                .spawn(move || {
                    tell.send(gettid()).unwrap();
                    ended.recv().unwrap_err();
                })
                .unwrap();
            (worker, told.recv().unwrap())
        };
        let ((worker, tid), found) = made_by(Search::Everywhere, open);
        assert_eq!(found, [tid]);
        let allowed = nix::sched::sched_getaffinity(tid).unwrap();
        let first = (0..CpuSet::count())
            .find(|cpu| allowed.is_set(*cpu).unwrap())
            .unwrap();
        let mut cpus = CpuSet::new();
        cpus.set(first).unwrap();
        pin(&found, &cpus).unwrap();
        assert_eq!(nix::sched::sched_getaffinity(tid).unwrap(), cpus);

        let ((), none) = made_by(Search::OwnThreads, || ());
        let error = pin(&none, &cpus).unwrap_err().to_string();
        assert!(error.contains("/proc does not show"), "{error}");

        let error = pin(&found, &CpuSet::new()).unwrap_err();
        assert!(matches!(error, WorkerError::Pin { .. }), "{error}");
        drop(end);
        worker.join().unwrap();
    }
}

//! Threads of a VMM that has no words for where they run.

use std::fs;
use std::io;
use std::path::Path;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// Leaves thread `id` these CPUs only.
pub(crate) fn pin(id: i32, cpus: &[usize]) -> io::Result<()> {
    let set = cpus
        .iter()
        .try_fold(CpuSet::new(), |mut set, cpu| set.set(*cpu).map(|()| set))?;
    Ok(sched_setaffinity(Pid::from_raw(id), &set)?)
}

/// Puts thread `id` under `SCHED_FIFO`.
pub(crate) fn fifo(id: i32, priority: i32) -> io::Result<()> {
    let parameters = libc::sched_param {
        sched_priority: priority,
    };
    // SAFETY: the pointer is to a structure that outlives the call.
    let done = unsafe { libc::sched_setscheduler(id, libc::SCHED_FIFO, &raw const parameters) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The threads of a process.
pub(super) fn of(process: u32) -> Vec<i32> {
    numbers(Path::new(&format!("/proc/{process}/task")))
}

/// The kernel's workers of its vhost devices. Before Linux 6.4 they are no threads of the process.
pub(super) fn vhost_workers(process: u32) -> Vec<i32> {
    let name = format!("vhost-{process}");
    let named = |id: &i32| {
        let comm = fs::read_to_string(format!("/proc/{id}/comm"));
        comm.is_ok_and(|comm| comm.trim_end() == name)
    };
    let all = numbers(Path::new("/proc")).into_iter().chain(of(process));
    all.filter(named).collect()
}

fn numbers(folder: &Path) -> Vec<i32> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_thread_is_left_one_cpu() {
        let pinned = thread::spawn(|| {
            let id = nix::unistd::gettid().as_raw();
            assert!(of(std::process::id()).contains(&id));
            let ours = nix::sched::sched_getaffinity(Pid::from_raw(0)).unwrap();
            let cpu = (0..CpuSet::count())
                .find(|cpu| ours.is_set(*cpu).unwrap_or(false))
                .unwrap();
            pin(id, &[cpu]).unwrap();
            let left = nix::sched::sched_getaffinity(Pid::from_raw(id)).unwrap();
            (0..CpuSet::count())
                .filter(|cpu| left.is_set(*cpu).unwrap())
                .count()
        });
        assert_eq!(pinned.join().unwrap(), 1);
        pin(0, &[CpuSet::count()]).unwrap_err();
    }
}

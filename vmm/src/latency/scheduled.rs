//! What the scheduler counts of a thread.

use std::fs;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Serialize;

/// What became of a thread while it measured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Scheduled {
    /// The thread's name.
    pub thread: String,
    /// Times that it left its CPU to wait for something.
    pub voluntary_switches: u64,
    /// Times that another thread took its CPU.
    pub involuntary_switches: u64,
    /// Time that it ran, in nanoseconds; absent where the kernel does not count.
    pub run_ns: Option<u64>,
    /// Time that it could have run and waited for its CPU, in nanoseconds.
    pub wait_ns: Option<u64>,
}

/// A thread of this process that is watched from a moment on.
#[derive(Clone, Debug)]
pub(super) struct Watched {
    folder: PathBuf,
    before: Scheduled,
}

impl Watched {
    /// The first thread of this name.
    pub(super) fn named(name: &str) -> Option<Self> {
        let tasks = fs::read_dir("/proc/self/task").ok()?;
        let mut folders = tasks.flatten().map(|task| task.path());
        let is_it = |folder: &PathBuf| {
            fs::read_to_string(folder.join("comm")).is_ok_and(|comm| comm.trim_end() == name)
        };
        Self::at(folders.find(is_it)?)
    }

    fn at(folder: PathBuf) -> Option<Self> {
        let before = read(&folder)?;
        Some(Self { folder, before })
    }

    /// What was counted since then.
    pub(super) fn since(&self) -> Option<Scheduled> {
        let now = read(&self.folder)?;
        let before = &self.before;
        let less = |now: Option<u64>, before: Option<u64>| Some(now?.saturating_sub(before?));
        Some(Scheduled {
            voluntary_switches: now.voluntary_switches - before.voluntary_switches,
            involuntary_switches: now.involuntary_switches - before.involuntary_switches,
            run_ns: less(now.run_ns, before.run_ns),
            wait_ns: less(now.wait_ns, before.wait_ns),
            thread: now.thread,
        })
    }
}

fn read(folder: &Path) -> Option<Scheduled> {
    let status = fs::read_to_string(folder.join("status")).ok()?;
    let schedstat = fs::read_to_string(folder.join("schedstat")).unwrap_or_default();
    parse(&status, &schedstat)
}

/// Kernel: Documentation/filesystems/proc.rst, `status`, and
/// Documentation/scheduler/sched-stats.rst, `/proc/<pid>/schedstat`.
fn parse(status: &str, schedstat: &str) -> Option<Scheduled> {
    let entry = |key: &str| {
        let mut lines = status.lines();
        lines.find_map(|line| Some(line.strip_prefix(key)?.strip_prefix(':')?.trim()))
    };
    let mut times = schedstat.split_whitespace().map(|word| word.parse().ok());
    Some(Scheduled {
        thread: entry("Name")?.to_owned(),
        voluntary_switches: entry("voluntary_ctxt_switches")?.parse().ok()?,
        involuntary_switches: entry("nonvoluntary_ctxt_switches")?.parse().ok()?,
        run_ns: times.next().flatten(),
        wait_ns: times.next().flatten(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_a_thread_are_read() {
        let status = "Name:\tvcpu0\nvoluntary_ctxt_switches:\t12\nnonvoluntary_ctxt_switches:\t3\n";
        let read = parse(status, "5000 70 9\n").unwrap();
        assert_eq!(read.thread, "vcpu0");
        assert_eq!(
            (read.voluntary_switches, read.involuntary_switches),
            (12, 3)
        );
        assert_eq!((read.run_ns, read.wait_ns), (Some(5000), Some(70)));
        assert_eq!(parse(status, "").unwrap().wait_ns, None);
        assert_eq!(parse("Name:\tx\n", ""), None);
    }
}

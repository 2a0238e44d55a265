//! What the host shows of a process, and its pool of huge pages.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;

use super::process::{GLANCE, PATIENCE};

/// Scheduling policies, as [`Task::policy`] has them.
pub const SCHED_OTHER: i32 = 0;
pub const SCHED_FIFO: i32 = 1;

/// A thread as `/proc` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    pub name: String,
    /// `Cpus_allowed_list`.
    pub cpus: String,
    /// Scheduling policy and real-time priority (proc_pid_stat(5), fields 41 and 40).
    pub policy: i32,
    pub priority: i32,
}

/// The threads of a process, by name.
pub fn tasks(pid: u32) -> Vec<Task> {
    let folder = format!("/proc/{pid}/task");
    let mut tasks: Vec<_> = fs::read_dir(folder)
        .expect("listing threads")
        .filter_map(|entry| task(&entry.ok()?.path()))
        .collect();
    tasks.sort_by(|a, b| a.name.cmp(&b.name));
    tasks
}

/// The workers of a process's vhost devices: kernel threads that are named after the thread which
/// asked for them, or since Linux 6.4 threads of the process. That thread may have ended since; it
/// is none of another process's.
pub fn vhost_workers(pid: u32) -> Vec<Task> {
    let folders = |path: &str| fs::read_dir(path).into_iter().flatten().flatten();
    let ours = |name: &str| {
        let owner = name
            .strip_prefix("vhost-")
            .and_then(|id| id.parse::<u32>().ok());
        owner.is_some_and(|owner| {
            let of_ours = Path::new(&format!("/proc/{pid}/task/{owner}")).exists();
            // Threads that have ended are not in /proc; ids count up from the process's own.
            of_ours || owner > pid && !Path::new(&format!("/proc/{owner}")).exists()
        })
    };
    folders("/proc")
        .chain(folders(&format!("/proc/{pid}/task")))
        .filter_map(|entry| task(&entry.path()))
        .filter(|task| ours(&task.name))
        .collect()
}

/// `None`: it has ended meanwhile.
fn task(folder: &Path) -> Option<Task> {
    let status = fs::read_to_string(folder.join("status")).ok()?;
    let stat = fs::read_to_string(folder.join("stat")).ok()?;
    // The name may hold blanks, and ends with the last bracket; then comes field 3.
    let (_, fields) = stat.rsplit_once(')')?;
    let field = |number: usize| fields.split_whitespace().nth(number - 3)?.parse().ok();
    Some(Task {
        name: entry(&status, "Name")?.to_owned(),
        cpus: entry(&status, "Cpus_allowed_list")?.to_owned(),
        policy: field(41)?,
        priority: field(40)?,
    })
}

fn entry<'a>(status: &'a str, key: &str) -> Option<&'a str> {
    let mut lines = status.lines();
    lines.find_map(|line| Some(line.strip_prefix(key)?.strip_prefix(':')?.trim()))
}

/// An entry of `/proc/PID/status` that is in kB, in bytes.
#[track_caller]
pub fn status_bytes(pid: u32, key: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("reading its status");
    let value = entry(&status, key).and_then(|value| value.strip_suffix(" kB"));
    let Some(kib) = value.and_then(|value| value.trim().parse::<u64>().ok()) else {
        panic!("no {key} in kB in {status}");
    };
    kib << 10
}

/// The CPUs that this process may use.
pub fn cpus() -> Vec<u32> {
    let set = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).expect("our CPUs");
    (0..1024)
        .filter(|&cpu| set.is_set(cpu).unwrap_or(false))
        .filter_map(|cpu| u32::try_from(cpu).ok())
        .collect()
}

/// Free pages of 1 GiB on a NUMA node.
#[track_caller]
pub fn free_gib_pages(node: u32) -> u64 {
    let path =
        format!("/sys/devices/system/node/node{node}/hugepages/hugepages-1048576kB/free_hugepages");
    let text = fs::read_to_string(&path).unwrap_or_default();
    text.trim()
        .parse()
        .unwrap_or_else(|_| panic!("needs a pool of 1 GiB pages: {path}"))
}

/// Waits for something that comes a moment later.
#[track_caller]
pub fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "in vain: {what}");
        thread::sleep(GLANCE);
    }
}

#[track_caller]
pub fn needs_root() {
    assert!(geteuid().is_root(), "needs root");
}

/// The pool of 2 MiB pages, ours alone until dropped: tests that use it wait for each other,
/// also those of other processes.
#[derive(Debug)]
pub struct HugePages {
    before: u64,
    _lock: Flock<File>,
}

impl HugePages {
    /// Takes the pool as it is.
    pub fn take() -> Self {
        let file = File::open(Self::path("nr_hugepages"));
        let file = file.unwrap_or_else(|e| panic!("needs a pool of 2 MiB pages: {e}"));
        let lock = Flock::lock(file, FlockArg::LockExclusive);
        let lock = lock.unwrap_or_else(|(_, errno)| panic!("locking the pool: {errno}"));
        Self {
            before: Self::read("nr_hugepages"),
            _lock: lock,
        }
    }

    /// Takes the pool and adds `pages` to it.
    pub fn reserve(pages: u64) -> Self {
        needs_root();
        let pool = Self::take();
        let wanted = pool.before + pages;
        Self::set(wanted);
        let there = Self::read("nr_hugepages");
        assert_eq!(
            there, wanted,
            "needs {pages} free huge pages of 2 MiB; the kernel found fewer"
        );
        pool
    }

    pub fn path(name: &str) -> PathBuf {
        Path::new("/sys/kernel/mm/hugepages/hugepages-2048kB").join(name)
    }

    fn read(name: &str) -> u64 {
        let text = fs::read_to_string(Self::path(name)).expect("reading the pool");
        text.trim().parse().expect("a number of pages")
    }

    fn set(pages: u64) {
        fs::write(Self::path("nr_hugepages"), pages.to_string())
            .unwrap_or_else(|error| panic!("needs to set the pool: {error}"));
    }

    pub fn total() -> u64 {
        Self::read("nr_hugepages")
    }

    /// Pages that nobody has, nor has reserved.
    pub fn available(&self) -> u64 {
        Self::read("free_hugepages") - Self::read("resv_hugepages")
    }

    /// Pages that hold something.
    pub fn used(&self) -> u64 {
        Self::total() - Self::read("free_hugepages")
    }

    /// Pages that come one by one.
    #[track_caller]
    pub fn wait_for_used(&self, pages: u64) {
        let start = Instant::now();
        while self.used() != pages {
            assert!(
                start.elapsed() < PATIENCE,
                "{} pages are used, not {pages}",
                self.used()
            );
            thread::sleep(GLANCE);
        }
    }

    /// A process that has just gone gives its pages back a moment later.
    #[track_caller]
    pub fn wait_for_available(&self, pages: u64) {
        let start = Instant::now();
        while self.available() != pages {
            assert!(
                start.elapsed() < PATIENCE,
                "{} pages are available, not {pages}: some stay behind",
                self.available()
            );
            thread::sleep(GLANCE);
        }
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        if Self::total() != self.before {
            Self::set(self.before);
        }
    }
}

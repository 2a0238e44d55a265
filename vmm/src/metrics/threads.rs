//! The threads of this process: who uses CPUs, who waits for one.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use godwit_api::metrics::{Family, Page};

/// How many ticks a second the kernel shows to programs on x86-64, whatever it
/// counts by (`USER_HZ`, part of its interface).
pub(super) const USER_HZ: f64 = 100.0;

/// The thread that gathers, which is not shown: it is a new one each time.
pub(super) const OWN_NAME: &str = "metrics";

/// What a thread is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// A vCPU.
    Vcpu,
    /// The control loop, on the process's first thread.
    Control,
    /// What serves devices in this process.
    Devices,
    /// Interface and events.
    Api,
    /// Signals.
    Signals,
    /// Boots, snapshots and migrations, and memory that is read while the guest runs.
    Worker,
    /// The kernel's, for vhost devices: threads of this process since Linux 6.4.
    Vhost,
    /// The kernel's, for KVM.
    Kvm,
    /// Anything else.
    Other,
}

impl Role {
    /// What the thread of this name does.
    #[must_use]
    pub fn of(name: &str, is_first: bool) -> Self {
        let vcpu = |number: &str| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        match name {
            _ if is_first => Self::Control,
            "devices" => Self::Devices,
            "api" | "events" => Self::Api,
            "signals" => Self::Signals,
            "worker" | "fill" => Self::Worker,
            _ if name.strip_prefix("vcpu").is_some_and(vcpu) => Self::Vcpu,
            _ if name.starts_with("_net") || name.starts_with("_disk") => Self::Devices,
            _ if name.starts_with("send") || name.starts_with("recv") => Self::Worker,
            _ if name.starts_with("vhost-") => Self::Vhost,
            _ if name.starts_with("kvm-") => Self::Kvm,
            _ => Self::Other,
        }
    }

    const fn label(self) -> &'static str {
        match self {
            Self::Vcpu => "vcpu",
            Self::Control => "control",
            Self::Devices => "devices",
            Self::Api => "api",
            Self::Signals => "signals",
            Self::Worker => "worker",
            Self::Vhost => "vhost",
            Self::Kvm => "kvm",
            Self::Other => "other",
        }
    }
}

/// A thread's files.
#[derive(Clone, Debug, Default)]
pub struct ThreadFacts {
    /// Whether it is the process's first.
    pub is_first: bool,
    /// `/proc/self/task/TID/stat`.
    pub stat: String,
    /// `/proc/self/task/TID/status`.
    pub status: String,
    /// `/proc/self/task/TID/schedstat`; empty where the kernel keeps none.
    pub schedstat: String,
}

/// The threads that there are; one that ends meanwhile is left out.
pub(super) fn gather() -> Vec<ThreadFacts> {
    let own = std::process::id().to_string();
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten();
    // A large machine has hundreds of these files, and what costs is the calls:
    // each file comes with one read.
    let mut buffer = [0; 4096];
    let threads = tasks.flatten().filter_map(|task| {
        let folder = task.path();
        let mut read = |name| read_at_once(&folder.join(name), &mut buffer);
        Some(ThreadFacts {
            is_first: task.file_name() == *own,
            stat: read("stat")?,
            status: read("status")?,
            schedstat: read("schedstat").unwrap_or_default(),
        })
    });
    threads.collect()
}

/// A file that one read gives whole, or what of it fits.
fn read_at_once(path: &Path, buffer: &mut [u8]) -> Option<String> {
    let length = File::open(path).ok()?.read(buffer).ok()?;
    Some(String::from_utf8_lossy(buffer.get(..length)?).into_owned())
}

/// Field `number` of a `stat` file, from 3 on (proc_pid_stat(5)).
pub(super) fn field(stat: &str, number: usize) -> Option<u64> {
    // The name may hold blanks and brackets; it ends with the last one.
    let (_, fields) = stat.rsplit_once(')')?;
    let at = number.checked_sub(3)?;
    fields.split_whitespace().nth(at)?.parse().ok()
}

/// The value of `key` in a `status` file.
pub(super) fn entry<'a>(status: &'a str, key: &str) -> Option<&'a str> {
    let mut lines = status.lines();
    lines.find_map(|line| Some(line.strip_prefix(key)?.strip_prefix(':')?.trim()))
}

/// What a thread used, added up for threads of one name.
#[derive(Clone, Copy, Debug, Default)]
struct Used {
    threads: u64,
    /// In ticks.
    user: u64,
    system: u64,
    guest: u64,
    voluntary: u64,
    involuntary: u64,
    /// Where the kernel keeps them.
    scheduled: Option<Scheduled>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Scheduled {
    run_ns: u64,
    wait_ns: u64,
    slices: u64,
}

impl Used {
    fn add(&mut self, thread: &ThreadFacts) {
        let ticks = |number| field(&thread.stat, number).unwrap_or(0);
        let switches = |key| {
            let count = entry(&thread.status, key);
            count.and_then(|count| count.parse().ok()).unwrap_or(0)
        };
        let guest = ticks(43);
        let sum = |total: &mut u64, more: u64| *total = total.saturating_add(more);
        sum(&mut self.threads, 1);
        // The kernel counts the guest's time among the user's.
        sum(&mut self.user, ticks(14).saturating_sub(guest));
        sum(&mut self.system, ticks(15));
        sum(&mut self.guest, guest);
        sum(&mut self.voluntary, switches("voluntary_ctxt_switches"));
        sum(
            &mut self.involuntary,
            switches("nonvoluntary_ctxt_switches"),
        );
        if let Some(more) = Scheduled::parse(&thread.schedstat) {
            let scheduled = self.scheduled.get_or_insert_default();
            sum(&mut scheduled.run_ns, more.run_ns);
            sum(&mut scheduled.wait_ns, more.wait_ns);
            sum(&mut scheduled.slices, more.slices);
        }
    }
}

impl Scheduled {
    /// Kernel: Documentation/scheduler/sched-stats.rst, `/proc/<pid>/schedstat`.
    fn parse(schedstat: &str) -> Option<Self> {
        let mut fields = schedstat.split_whitespace().map(str::parse);
        let mut field = || fields.next()?.ok();
        Some(Self {
            run_ns: field()?,
            wait_ns: field()?,
            slices: field()?,
        })
    }
}

const THREADS: Family = Family::gauge(
    "godwit_threads",
    "Threads of this process, by what they are for.",
    &["role", "thread"],
);
const CPU: Family = Family::counter(
    "godwit_thread_cpu_seconds_total",
    "CPU time of a thread, in the guest, in user mode outside of it, and in the kernel.",
    &["role", "thread", "mode"],
);
const RUN: Family = Family::counter(
    "godwit_thread_run_seconds_total",
    "CPU time of a thread as the scheduler counts it, to the nanosecond.",
    &["role", "thread"],
);
const WAIT: Family = Family::counter(
    "godwit_thread_run_queue_wait_seconds_total",
    "Time that a thread could have run and waited for a CPU.",
    &["role", "thread"],
);
const SLICES: Family = Family::counter(
    "godwit_thread_timeslices_total",
    "Times that a thread got a CPU.",
    &["role", "thread"],
);
const SWITCHES: Family = Family::counter(
    "godwit_thread_context_switches_total",
    "Times that a thread left its CPU: it waited for something (voluntary), or another took it (involuntary).",
    &["role", "thread", "kind"],
);

pub(super) fn show(page: &mut Page, threads: &[ThreadFacts]) {
    let mut used: BTreeMap<(Role, String), Used> = BTreeMap::new();
    for thread in threads {
        let Some((role, name)) = identity(thread) else {
            continue;
        };
        used.entry((role, name)).or_default().add(thread);
    }
    for ((role, name), used) in &used {
        let labels = [role.label(), name.as_str()];
        let more = |third| [role.label(), name.as_str(), third];
        page.set(&THREADS, &labels, used.threads);
        for (mode, ticks) in [
            ("guest", used.guest),
            ("user", used.user),
            ("system", used.system),
        ] {
            page.set(&CPU, &more(mode), ticks as f64 / USER_HZ);
        }
        page.set(&SWITCHES, &more("voluntary"), used.voluntary);
        page.set(&SWITCHES, &more("involuntary"), used.involuntary);
        if let Some(scheduled) = used.scheduled {
            page.set(&RUN, &labels, scheduled.run_ns as f64 / 1e9);
            page.set(&WAIT, &labels, scheduled.wait_ns as f64 / 1e9);
            page.set(&SLICES, &labels, scheduled.slices);
        }
    }
}

/// What a thread is shown as; `None`: not at all.
fn identity(thread: &ThreadFacts) -> Option<(Role, String)> {
    let (start, _) = thread.stat.rsplit_once(')')?;
    let (_, name) = start.split_once('(')?;
    if name == OWN_NAME {
        return None;
    }
    let role = Role::of(name, thread.is_first);
    let name = match role {
        // Its name is another thread's id, new at each start.
        Role::Vhost => "vhost",
        _ => name,
    };
    Some((role, name.to_owned()))
}

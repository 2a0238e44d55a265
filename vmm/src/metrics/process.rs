//! This process: what it is, and what it has of the host. The names `process_*`
//! are those of Prometheus' own client libraries, which dashboards know.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use godwit_api::metrics::{Family, Page};
use nix::sys::resource::{Resource, getrlimit};

use super::threads::{self, USER_HZ};

/// This process.
#[derive(Clone, Debug, Default)]
pub struct ProcessFacts {
    /// `/proc/self/status`.
    pub status: String,
    /// `/proc/self/stat`.
    pub stat: String,
    /// How many descriptors are open.
    pub open_fds: Option<u64>,
    /// How many may be.
    pub max_fds: Option<u64>,
    /// Seconds since 1970.
    pub now: f64,
    /// `/proc/uptime`.
    pub host_uptime: String,
}

impl ProcessFacts {
    pub(super) fn gather() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let limit = getrlimit(Resource::RLIMIT_NOFILE);
        Self {
            status: read("/proc/self/status"),
            stat: read("/proc/self/stat"),
            open_fds: fs::read_dir("/proc/self/fd")
                .ok()
                // One is the folder itself.
                .map(|fds| (fds.count() as u64).saturating_sub(1)),
            max_fds: limit.ok().map(|(soft, _)| soft),
            now: now.map_or(0.0, |now| now.as_secs_f64()),
            host_uptime: read("/proc/uptime"),
        }
    }

    /// A figure of `/proc/self/status` in bytes.
    fn bytes(&self, key: &str) -> Option<u64> {
        let kib: u64 = threads::entry(&self.status, key)?
            .strip_suffix("kB")?
            .trim()
            .parse()
            .ok()?;
        kib.checked_mul(1024)
    }

    fn start_time(&self) -> Option<f64> {
        let started = threads::field(&self.stat, 22)? as f64 / USER_HZ;
        let up: f64 = self.host_uptime.split_whitespace().next()?.parse().ok()?;
        // Rounded, so that it stays the same.
        Some((self.now - up + started).round())
    }
}

const BUILD: Family = Family::gauge(
    "godwit_build_info",
    "1, with the version of godwit.",
    &["version"],
);
const UPTIME: Family = Family::gauge(
    "godwit_uptime_seconds",
    "Time since godwit was started.",
    &[],
);
const RESIDENT: Family = Family::gauge(
    "godwit_process_resident_memory_bytes",
    "Memory of the host that this process uses: shared and hugetlb are guest memory, \
     anonymous and file are godwit's own.",
    &["kind"],
);
const PAGE_TABLES: Family = Family::gauge(
    "godwit_process_page_tables_bytes",
    "Page tables of this process; those of the guest are KVM's and not among them.",
    &[],
);
const LOCKED: Family = Family::gauge(
    "godwit_process_locked_memory_bytes",
    "Locked memory of this process; huge pages are never swapped and not counted.",
    &[],
);
const SWAPPED: Family = Family::gauge(
    "godwit_process_swapped_memory_bytes",
    "Anonymous memory of this process that is swapped out.",
    &[],
);
const CPU: Family = Family::counter(
    "process_cpu_seconds_total",
    "Total user and system CPU time spent in seconds, the guest's included.",
    &[],
);
const START: Family = Family::gauge(
    "process_start_time_seconds",
    "Start time of the process since unix epoch in seconds.",
    &[],
);
const VIRTUAL: Family = Family::gauge(
    "process_virtual_memory_bytes",
    "Virtual memory size in bytes.",
    &[],
);
const RSS: Family = Family::gauge(
    "process_resident_memory_bytes",
    "Resident memory size in bytes; huge pages are not counted.",
    &[],
);
const OPEN_FDS: Family = Family::gauge("process_open_fds", "Number of open file descriptors.", &[]);
const MAX_FDS: Family = Family::gauge(
    "process_max_fds",
    "Maximum number of open file descriptors.",
    &[],
);

/// Kinds of resident memory, which add up, and where the kernel shows them.
const KINDS: [(&str, &str); 4] = [
    ("anonymous", "RssAnon"),
    ("file", "RssFile"),
    ("shared", "RssShmem"),
    ("hugetlb", "HugetlbPages"),
];

pub(super) fn show_build(page: &mut Page, uptime: Duration) {
    page.set(&BUILD, &[env!("CARGO_PKG_VERSION")], 1_u64);
    page.set(&UPTIME, &[], uptime.as_secs_f64());
}

pub(super) fn show(page: &mut Page, process: &ProcessFacts) {
    for (kind, key) in KINDS {
        if let Some(bytes) = process.bytes(key) {
            page.set(&RESIDENT, &[kind], bytes);
        }
    }
    for (family, value) in [
        (PAGE_TABLES, process.bytes("VmPTE")),
        (LOCKED, process.bytes("VmLck")),
        (SWAPPED, process.bytes("VmSwap")),
        (VIRTUAL, process.bytes("VmSize")),
        (RSS, process.bytes("VmRSS")),
        (OPEN_FDS, process.open_fds),
        (MAX_FDS, process.max_fds),
    ] {
        if let Some(value) = value {
            page.set(&family, &[], value);
        }
    }
    let ticks = |number| threads::field(&process.stat, number);
    if let (Some(user), Some(system)) = (ticks(14), ticks(15)) {
        page.set(&CPU, &[], user.saturating_add(system) as f64 / USER_HZ);
    }
    if let Some(start) = process.start_time() {
        page.set(&START, &[], start);
    }
}

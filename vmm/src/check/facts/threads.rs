//! Threads: where each may run, and where it ran last.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::list::parse_list;
use super::tree::{Fact, Tree};
use crate::spec::{CpuSet, HostCpu};

/// `PF_KTHREAD` and `PF_NO_SETAFFINITY` (include/linux/sched.h).
const KERNEL: u64 = 0x0020_0000;
const BOUND: u64 = 0x0400_0000;

/// A thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thread {
    /// Its process.
    pub pid: u32,
    /// Itself.
    pub tid: u32,
    /// Its name.
    pub name: String,
    /// Where it may run.
    pub allowed: Arc<CpuSet>,
    /// Where it ran last.
    pub last: HostCpu,
    /// Whether it is the kernel's.
    pub kernel: bool,
    /// Whether the kernel binds it to its CPUs and nobody can change that.
    pub bound: bool,
}

/// All threads but those of this process. One that ends meanwhile is not there.
pub(super) fn read(tree: &Tree) -> Fact<Vec<Thread>> {
    let own = std::process::id();
    let mut lists = BTreeMap::new();
    let mut threads = Vec::new();
    for pid in numbers(tree, "proc")?.filter(|pid| *pid != own) {
        let folder = format!("proc/{pid}/task");
        let Ok(tids) = numbers(tree, &folder) else {
            continue;
        };
        for tid in tids {
            let thread = || {
                let stat = tree.text(&format!("{folder}/{tid}/stat")).ok()?;
                let status = tree.text(&format!("{folder}/{tid}/status")).ok()?;
                parse(pid, tid, &stat, &status, &mut lists)
            };
            threads.extend({ thread }());
        }
    }
    Ok(threads)
}

fn numbers(tree: &Tree, folder: &str) -> Fact<impl Iterator<Item = u32> + use<>> {
    let names = tree.names(folder)?;
    Ok(names.into_iter().filter_map(|name| name.parse().ok()))
}

/// `lists` keeps one set for the many threads that may run at the same places.
pub(super) fn parse(
    pid: u32,
    tid: u32,
    stat: &str,
    status: &str,
    lists: &mut BTreeMap<String, Arc<CpuSet>>,
) -> Option<Thread> {
    // The name may hold blanks and brackets, and ends with the last one; then comes
    // field 3 (proc_pid_stat(5)).
    let (head, fields) = stat.rsplit_once(')')?;
    let name = head.split_once('(')?.1;
    let field = |number: usize| fields.split_whitespace().nth(number - 3);
    let flags: u64 = field(9)?.parse().ok()?;
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?
        .trim();
    let allowed = match lists.get(list) {
        Some(known) => Arc::clone(known),
        None => {
            let set = Arc::new(parse_list(list, HostCpu(0))?);
            lists.insert(list.to_owned(), Arc::clone(&set));
            set
        }
    };
    Some(Thread {
        pid,
        tid,
        name: name.to_owned(),
        allowed,
        last: HostCpu(field(39)?.parse().ok()?),
        kernel: flags & KERNEL != 0,
        bound: flags & BOUND != 0,
    })
}

//! What this host has: CPUs, NUMA nodes, huge pages.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::host_cpu::{CpuSet, ParseCpuListError, parse_cpu_list};
use super::memory::PageSize;

/// What of a host a machine depends on, read once from sysfs and procfs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// CPUs that are there, online or not.
    pub present_cpus: CpuSet,
    /// CPUs that run threads.
    pub online_cpus: CpuSet,
    /// NUMA nodes by number; empty on a kernel without NUMA.
    pub nodes: BTreeMap<u32, NodeFacts>,
    /// Pools of huge pages by page size; a size that is not here is not
    /// supported by the host.
    pub huge_pages: BTreeMap<PageSize, HugePagePool>,
    /// The size of a huge page when none is asked for.
    pub default_huge_page: Option<PageSize>,
}

/// What a NUMA node has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its CPUs that are online.
    pub cpus: CpuSet,
    /// Its part of the pools of huge pages.
    pub huge_pages: BTreeMap<PageSize, HugePagePool>,
}

/// A pool of huge pages (Linux: `Documentation/admin-guide/mm/hugetlbpage.rst`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HugePagePool {
    /// Pages in the pool.
    pub total: u64,
    /// Pages that can still be reserved: free ones that nobody has reserved,
    /// and those that the kernel may make on demand.
    pub available: u64,
}

/// Why the facts were not read.
#[derive(Debug, Error)]
pub enum HostFactsError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// A file that should hold a CPU list holds something else.
    #[error("{} is not understood", path.display())]
    List {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: ParseCpuListError,
    },
    /// A file that should hold a number holds something else.
    #[error("{} holds {text:?}, expected a number", path.display())]
    Number {
        /// The file.
        path: PathBuf,
        /// What it holds.
        text: String,
    },
}

impl HostFacts {
    /// Reads the facts of this host.
    ///
    /// # Errors
    ///
    /// As [`Self::read_from`].
    pub fn read() -> Result<Self, HostFactsError> {
        Self::read_from(Path::new("/"))
    }

    /// Reads the facts of the host whose `sys` and `proc` are below `root`.
    ///
    /// A kernel without NUMA or without huge pages is a host that has none.
    ///
    /// # Errors
    ///
    /// [`HostFactsError`]: a file is there that cannot be read or understood,
    /// or the list of online CPUs is missing.
    pub fn read_from(root: &Path) -> Result<Self, HostFactsError> {
        let cpu = root.join("sys/devices/system/cpu");
        let online_cpus = cpu_list(&cpu.join("online"))?;
        let present_cpus = match optional(&cpu.join("present"))? {
            Some(_) => cpu_list(&cpu.join("present"))?,
            None => online_cpus.clone(),
        };
        let mut huge_pages = BTreeMap::new();
        for size in PageSize::HUGE {
            if let Some(pool) = system_pool(&root.join(size.system_pool()))? {
                huge_pages.insert(size, pool);
            }
        }
        Ok(Self {
            present_cpus,
            online_cpus,
            nodes: nodes(root)?,
            huge_pages,
            default_huge_page: default_huge_page(root)?,
        })
    }
}

fn nodes(root: &Path) -> Result<BTreeMap<u32, NodeFacts>, HostFactsError> {
    let directory = root.join("sys/devices/system/node");
    let list = directory.join("online");
    let mut nodes = BTreeMap::new();
    if optional(&list)?.is_none() {
        return Ok(nodes);
    }
    // A list of nodes is written as a list of CPUs is.
    for node in cpu_list(&list)? {
        let node = node.0;
        let cpus = cpu_list(&directory.join(format!("node{node}/cpulist")))?;
        let mut huge_pages = BTreeMap::new();
        for size in PageSize::HUGE {
            if let Some(pool) = node_pool(&root.join(size.node_pool(node)))? {
                huge_pages.insert(size, pool);
            }
        }
        nodes.insert(node, NodeFacts { cpus, huge_pages });
    }
    Ok(nodes)
}

/// The pool of the whole system: reservations are counted only here.
fn system_pool(directory: &Path) -> Result<Option<HugePagePool>, HostFactsError> {
    let value = |name: &str| number(&directory.join(name));
    let (Some(total), Some(free)) = (value("nr_hugepages")?, value("free_hugepages")?) else {
        return Ok(None);
    };
    let reserved = value("resv_hugepages")?.unwrap_or(0);
    let overcommit = value("nr_overcommit_hugepages")?.unwrap_or(0);
    let surplus = value("surplus_hugepages")?.unwrap_or(0);
    Ok(Some(HugePagePool {
        total,
        available: free
            .saturating_sub(reserved)
            .saturating_add(overcommit.saturating_sub(surplus)),
    }))
}

fn node_pool(directory: &Path) -> Result<Option<HugePagePool>, HostFactsError> {
    let total = number(&directory.join("nr_hugepages"))?;
    let free = number(&directory.join("free_hugepages"))?;
    Ok(total
        .zip(free)
        .map(|(total, available)| HugePagePool { total, available }))
}

/// `Hugepagesize` of `/proc/meminfo`, if it is a size that x86-64 has.
fn default_huge_page(root: &Path) -> Result<Option<PageSize>, HostFactsError> {
    let Some(meminfo) = optional(&root.join("proc/meminfo"))? else {
        return Ok(None);
    };
    let kib = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("Hugepagesize:"))
        .and_then(|rest| rest.trim().strip_suffix("kB"))
        .and_then(|number| number.trim().parse::<u64>().ok());
    Ok(kib
        .and_then(|kib| kib.checked_mul(1024))
        .and_then(PageSize::huge_from_bytes))
}

fn cpu_list(path: &Path) -> Result<CpuSet, HostFactsError> {
    let text = fs::read_to_string(path).map_err(|source| HostFactsError::Read {
        path: path.to_owned(),
        source,
    })?;
    parse_cpu_list(&text).map_err(|source| HostFactsError::List {
        path: path.to_owned(),
        source,
    })
}

fn number(path: &Path) -> Result<Option<u64>, HostFactsError> {
    let Some(text) = optional(path)? else {
        return Ok(None);
    };
    match text.trim().parse() {
        Ok(number) => Ok(Some(number)),
        Err(_) => Err(HostFactsError::Number {
            path: path.to_owned(),
            text: text.trim().chars().take(64).collect(),
        }),
    }
}

/// What a file holds, if it is there.
fn optional(path: &Path) -> Result<Option<String>, HostFactsError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(HostFactsError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

#[cfg(test)]
mod tests;

//! What this host has: CPUs, NUMA nodes, huge pages.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use godwit_api::config::VmConfig;
use thiserror::Error;

use super::host_cpu::{CpuSet, ParseCpuListError, parse_cpu_list};
use super::memory::PageSize;

/// What of a host a machine depends on, read once from sysfs and procfs. What its
/// config does not ask about is not read, and so looks as if it were not there: a
/// host with huge pages has some twenty files about them.
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

/// Which facts a config is judged by, besides the CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Memory is to come from a NUMA node.
    pub nodes: bool,
    /// Memory is to be on huge pages.
    pub huge_pages: bool,
}

impl Wanted {
    /// All that a config can be about.
    pub const ALL: Self = Self {
        nodes: true,
        huge_pages: true,
    };

    /// Those that `config` is judged by.
    #[must_use]
    pub fn by(config: &VmConfig) -> Self {
        let zones = &config.memory.zones;
        Self {
            nodes: zones.iter().any(|zone| zone.host_numa_node.is_some()),
            huge_pages: config.memory.hugepages || zones.iter().any(|zone| zone.hugepages),
        }
    }
}

impl HostFacts {
    /// Reads the facts of this host that `config` is judged by.
    ///
    /// # Errors
    ///
    /// As [`Self::read_from`].
    pub fn read(config: &VmConfig) -> Result<Self, HostFactsError> {
        Self::read_from(Path::new("/"), Wanted::by(config))
    }

    /// Reads the facts of the host whose `sys` and `proc` are below `root`.
    ///
    /// A kernel without NUMA or without huge pages is a host that has none.
    ///
    /// # Errors
    ///
    /// [`HostFactsError`]: a file is there that cannot be read or understood,
    /// or the list of online CPUs is missing.
    pub fn read_from(root: &Path, wanted: Wanted) -> Result<Self, HostFactsError> {
        let cpu = root.join("sys/devices/system/cpu");
        let online_cpus = cpu_list(&cpu.join("online"))?;
        let mut facts = Self {
            present_cpus: optional_list(&cpu.join("present"))?
                .unwrap_or_else(|| online_cpus.clone()),
            online_cpus,
            ..Self::default()
        };
        if wanted.nodes {
            facts.nodes = nodes(root)?;
        }
        if wanted.huge_pages {
            for size in PageSize::HUGE {
                if let Some(pool) = system_pool(&root.join(size.system_pool()))? {
                    facts.huge_pages.insert(size, pool);
                }
            }
            facts.default_huge_page = default_huge_page(root)?;
        }
        Ok(facts)
    }
}

fn nodes(root: &Path) -> Result<BTreeMap<u32, NodeFacts>, HostFactsError> {
    let directory = root.join("sys/devices/system/node");
    let mut nodes = BTreeMap::new();
    // A list of nodes is written as a list of CPUs is.
    for node in optional_list(&directory.join("online"))?.unwrap_or_default() {
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
    optional_list(path)?.ok_or_else(|| HostFactsError::Read {
        path: path.to_owned(),
        source: io::ErrorKind::NotFound.into(),
    })
}

fn optional_list(path: &Path) -> Result<Option<CpuSet>, HostFactsError> {
    let list = optional(path)?.map(|text| parse_cpu_list(&text));
    list.transpose().map_err(|source| HostFactsError::List {
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

//! Guest memory: zones, page sizes, and whether the host's pools suffice.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use godwit_api::config::{MemoryConfig, ZoneConfig};

use super::error::Problems;
use super::facts::{HostFacts, HugePagePool};
use super::host_cpu::ranges;

/// The most memory a machine has, in bytes: 1 TiB.
pub const MAX_MEMORY_BYTES: u64 = 1 << 40;

/// Memory of a machine that does not say, in bytes.
const DEFAULT_MEMORY_BYTES: u64 = 512 << 20;

/// Name of the only zone of a machine that has none of its own.
const ONLY_ZONE: &str = "mem0";

/// A page size of x86-64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PageSize {
    /// 4 KiB.
    Small4K,
    /// 2 MiB.
    Huge2M,
    /// 1 GiB.
    Huge1G,
}

impl PageSize {
    /// The sizes that come from pools.
    pub const HUGE: [Self; 2] = [Self::Huge2M, Self::Huge1G];

    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Small4K => 4 << 10,
            Self::Huge2M => 2 << 20,
            Self::Huge1G => 1 << 30,
        }
    }

    /// The huge page of this size, if there is one.
    #[must_use]
    pub fn huge_from_bytes(bytes: u64) -> Option<Self> {
        Self::HUGE.into_iter().find(|size| size.bytes() == bytes)
    }

    /// Whether pages come from a pool.
    #[must_use]
    pub const fn is_huge(self) -> bool {
        !matches!(self, Self::Small4K)
    }

    /// The system's pool of these pages, below the root of the file system.
    pub(super) fn system_pool(self) -> String {
        format!("sys/kernel/mm/hugepages/{}", self.pool_name())
    }

    /// A node's pool of these pages, below the root of the file system.
    pub(super) fn node_pool(self, node: u32) -> String {
        format!(
            "sys/devices/system/node/node{node}/hugepages/{}",
            self.pool_name()
        )
    }

    fn pool_name(self) -> String {
        format!("hugepages-{}kB", self.bytes() >> 10)
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Small4K => "4 KiB",
            Self::Huge2M => "2 MiB",
            Self::Huge1G => "1 GiB",
        })
    }
}

/// Guest memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemorySpec {
    /// The pieces, in the order of guest addresses; at least one.
    pub zones: Vec<ZoneSpec>,
    /// Sum of the zones in bytes, at most [`MAX_MEMORY_BYTES`].
    pub total_bytes: u64,
    /// Whether all memory of the process is locked.
    pub lock: bool,
}

/// A piece of guest memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZoneSpec {
    /// Its name, unique among zones.
    pub id: String,
    /// Its size in bytes, a whole number of pages and not 0.
    pub size_bytes: u64,
    /// Its pages.
    pub page_size: PageSize,
    /// The host's NUMA node that it must come from.
    pub host_numa_node: Option<u32>,
    /// Whether all of it is there before the first instruction.
    pub prefault: bool,
}

impl MemorySpec {
    pub(super) fn complete(&self, config: &mut MemoryConfig) {
        if config.zones.is_empty() {
            config.size = Some(self.total_bytes);
            if let [zone] = self.zones.as_slice() {
                config.prefault = Some(zone.prefault);
                config.hugepage_size = zone.page_size.is_huge().then(|| zone.page_size.bytes());
            }
        } else {
            config.size = Some(0);
        }
        for (wire, zone) in config.zones.iter_mut().zip(&self.zones) {
            wire.prefault = Some(zone.prefault);
            wire.hugepage_size = zone.page_size.is_huge().then(|| zone.page_size.bytes());
        }
    }
}

pub(super) fn build(
    config: &MemoryConfig,
    facts: &HostFacts,
    problems: &mut Problems,
) -> Option<MemorySpec> {
    let zones = if config.zones.is_empty() {
        vec![only_zone(config, facts, problems)]
    } else {
        check_zones_alone(config, problems);
        zones(&config.zones, facts, problems)
    };
    // A zone that failed has said why.
    let zones: Vec<Placed> = zones.into_iter().collect::<Option<_>>()?;
    let total_bytes = total(config, &zones, problems)?;
    check_pools(&zones, facts, problems);
    Some(MemorySpec {
        zones: zones.into_iter().map(|placed| placed.zone).collect(),
        total_bytes,
        lock: config.lock,
    })
}

/// A zone and the field of its size.
struct Placed {
    field: String,
    zone: ZoneSpec,
}

/// What the settings of a zone and of the whole memory have in common.
struct Pages<'a> {
    prefix: &'a str,
    size: u64,
    hugepages: bool,
    hugepage_size: Option<u64>,
    prefault: Option<bool>,
}

fn only_zone(config: &MemoryConfig, facts: &HostFacts, problems: &mut Problems) -> Option<Placed> {
    Pages {
        prefix: "memory",
        size: config.size.unwrap_or(DEFAULT_MEMORY_BYTES),
        hugepages: config.hugepages,
        hugepage_size: config.hugepage_size,
        prefault: config.prefault,
    }
    .zone(ONLY_ZONE, None, facts, problems)
}

fn zones(
    configs: &[ZoneConfig],
    facts: &HostFacts,
    problems: &mut Problems,
) -> Vec<Option<Placed>> {
    let mut ids = BTreeSet::new();
    configs
        .iter()
        .enumerate()
        .map(|(i, config)| {
            let prefix = format!("memory.zones[{i}]");
            if config.id.is_empty() {
                problems.invalid(format!("{prefix}.id"), "empty; give the zone a name");
            } else if !ids.insert(&config.id) {
                problems.duplicate(
                    format!("{prefix}.id"),
                    format!("another zone is named {:?}; names must differ", config.id),
                );
            }
            let node = config.host_numa_node;
            if let Some(node) = node
                && !facts.nodes.contains_key(&node)
            {
                let there = if facts.nodes.is_empty() {
                    "it has none: leave the field out".to_owned()
                } else {
                    format!("it has {}", ranges(facts.nodes.keys().copied()))
                };
                problems.host(
                    format!("{prefix}.host_numa_node"),
                    format!("this host has no NUMA node {node}; {there}"),
                );
            }
            Pages {
                prefix: &prefix,
                size: config.size,
                hugepages: config.hugepages,
                hugepage_size: config.hugepage_size,
                prefault: config.prefault,
            }
            .zone(&config.id, node, facts, problems)
        })
        .collect()
}

impl Pages<'_> {
    fn zone(
        self,
        id: &str,
        host_numa_node: Option<u32>,
        facts: &HostFacts,
        problems: &mut Problems,
    ) -> Option<Placed> {
        let page_size = self.page_size(facts, problems)?;
        let field = format!("{}.size", self.prefix);
        let page = page_size.bytes();
        if self.size == 0 {
            problems.invalid(
                field,
                format!("0 bytes are no memory; the least is one page, {page}"),
            );
            return None;
        }
        if !self.size.is_multiple_of(page) {
            let below = self.size - self.size % page;
            let near = match below.checked_add(page) {
                Some(above) if below == 0 => format!("the least is {above}"),
                Some(above) => format!("the nearest are {below} and {above}"),
                None => format!("the nearest is {below}"),
            };
            problems.invalid(
                field,
                format!(
                    "{} bytes are not a whole number of {page_size} pages; {near}",
                    self.size
                ),
            );
            return None;
        }
        Some(Placed {
            field,
            zone: ZoneSpec {
                id: id.to_owned(),
                size_bytes: self.size,
                page_size,
                host_numa_node,
                prefault: self.prefault.unwrap_or(page_size.is_huge()),
            },
        })
    }

    fn page_size(&self, facts: &HostFacts, problems: &mut Problems) -> Option<PageSize> {
        let field = format!("{}.hugepage_size", self.prefix);
        let size = match (self.hugepages, self.hugepage_size) {
            (false, None) => return Some(PageSize::Small4K),
            (false, Some(_)) => {
                problems.invalid(
                    field,
                    "set, but \"hugepages\" is not true; set that too, or leave both out",
                );
                return None;
            }
            (true, None) => facts.default_huge_page.unwrap_or(PageSize::Huge2M),
            (true, Some(bytes)) => {
                let Some(size) = PageSize::huge_from_bytes(bytes) else {
                    problems.invalid(
                        field,
                        format!(
                            "{bytes} bytes are no huge page of x86-64; \
                             there are 2097152 (2 MiB) and 1073741824 (1 GiB)"
                        ),
                    );
                    return None;
                };
                size
            }
        };
        if !facts.huge_pages.contains_key(&size) {
            problems.host(
                field,
                format!(
                    "this host has no huge pages of {size}: /{} is not there; it has {}",
                    size.system_pool(),
                    if facts.huge_pages.is_empty() {
                        "none of any size".to_owned()
                    } else {
                        sizes(facts.huge_pages.keys())
                    }
                ),
            );
            return None;
        }
        Some(size)
    }
}

fn sizes<'a>(sizes: impl Iterator<Item = &'a PageSize>) -> String {
    sizes
        .map(PageSize::to_string)
        .collect::<Vec<_>>()
        .join(" and ")
}

/// With zones, the settings of the whole memory would apply to nothing.
fn check_zones_alone(config: &MemoryConfig, problems: &mut Problems) {
    if let Some(size @ 1..) = config.size {
        problems.invalid(
            "memory.size",
            format!("{size}, but the zones have sizes of their own; leave it out or set it to 0"),
        );
    }
    for (name, set) in [
        ("hugepages", config.hugepages),
        ("hugepage_size", config.hugepage_size.is_some()),
        ("prefault", config.prefault == Some(true)),
    ] {
        if set {
            problems.invalid(
                format!("memory.{name}"),
                "set, but with zones it applies to nothing; set it for each zone",
            );
        }
    }
}

fn total(config: &MemoryConfig, zones: &[Placed], problems: &mut Problems) -> Option<u64> {
    let total = zones
        .iter()
        .try_fold(0_u64, |sum, placed| sum.checked_add(placed.zone.size_bytes))
        .filter(|total| *total <= MAX_MEMORY_BYTES);
    if total.is_none() {
        let (field, what) = if config.zones.is_empty() {
            ("memory.size", format!("{} bytes", config.size.unwrap_or(0)))
        } else {
            ("memory.zones", "the zones together".to_owned())
        };
        problems.invalid(
            field,
            format!("{what} are too much; a machine has at most 1 TiB ({MAX_MEMORY_BYTES} bytes)"),
        );
    }
    total
}

/// Pages wanted of a pool, and the field that wants the first of them.
struct Demand<'a> {
    pages: u64,
    field: &'a str,
}

fn check_pools(zones: &[Placed], facts: &HostFacts, problems: &mut Problems) {
    let mut system: BTreeMap<PageSize, Demand<'_>> = BTreeMap::new();
    let mut nodes: BTreeMap<(PageSize, u32), Demand<'_>> = BTreeMap::new();
    for Placed { field, zone } in zones {
        let size = zone.page_size;
        if !size.is_huge() {
            continue;
        }
        let pages = zone.size_bytes / size.bytes();
        let none = || Demand { pages: 0, field };
        system.entry(size).or_insert_with(none).pages += pages;
        if let Some(node) = zone.host_numa_node {
            nodes.entry((size, node)).or_insert_with(none).pages += pages;
        }
    }
    let mut told = BTreeSet::new();
    for ((size, node), demand) in nodes {
        // A node that is not there has been told.
        let Some(facts) = facts.nodes.get(&node) else {
            continue;
        };
        let pool = facts.huge_pages.get(&size).copied().unwrap_or_default();
        if demand.exceeds(pool) {
            told.insert(size);
            problems.host(
                demand.field,
                demand.shortage(size, pool, &size.node_pool(node)),
            );
        }
    }
    for (size, demand) in system {
        let pool = facts.huge_pages.get(&size).copied().unwrap_or_default();
        // A node's pool is part of the system's: one way out mends both.
        if demand.exceeds(pool) && !told.contains(&size) {
            problems.host(
                demand.field,
                demand.shortage(size, pool, &size.system_pool()),
            );
        }
    }
}

impl Demand<'_> {
    fn exceeds(&self, pool: HugePagePool) -> bool {
        self.pages > pool.available
    }

    fn shortage(&self, size: PageSize, pool: HugePagePool, path: &str) -> String {
        let missing = self.pages.saturating_sub(pool.available);
        let needed = pool.total.saturating_add(missing);
        let boot = match size {
            PageSize::Huge1G => format!(
                ", or, when memory is too scattered for that, boot the host with \
                 hugepagesz=1G hugepages={needed}"
            ),
            _ => String::new(),
        };
        format!(
            "{} huge pages of {size} are needed, but of {} in the pool /{path} only {} can be \
             had; to grow it: echo {needed} > /{path}/nr_hugepages{boot}",
            self.pages, pool.total, pool.available
        )
    }
}

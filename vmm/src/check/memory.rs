//! Memory: what moves it, what limits it, and huge pages.

use super::case::Case;
use super::facts::{Fact, Unread, seen};
use super::guest::Pool;
use super::item::{Group, How, Item, Mend, Verdict, Write};
use super::threads::{Capability, capable, limit};
use super::words::some_of;
use crate::spec::{HugePagePool, PageSize};

const ENABLED: &str = "sys/kernel/mm/transparent_hugepage/enabled";
const DEFRAG: &str = "sys/kernel/mm/transparent_hugepage/khugepaged/defrag";
const KSM: &str = "sys/kernel/mm/ksm/run";
const BALANCE: &str = "proc/sys/kernel/numa_balancing";
const SWAPS: &str = "proc/swaps";

pub(super) const TRANSPARENT: Item = Item {
    id: "transparent-huge-pages",
    group: Group::Runtime,
    reads: &[ENABLED],
    judge: transparent,
    why: "making a huge page of small ones stops who uses them, and shoots down TLBs",
    mend: &[
        Mend::parameter("transparent_hugepage=never"),
        Mend::write("echo never > /sys/kernel/mm/transparent_hugepage/enabled"),
    ],
    fix: Some(|_| vec![Write::new(ENABLED, "never")]),
};

pub(super) const COLLAPSING: Item = Item {
    id: "khugepaged",
    group: Group::Runtime,
    reads: &[ENABLED, DEFRAG],
    judge: collapsing,
    why: "it moves pages about to make huge ones",
    mend: &[Mend::write(
        "echo 0 > /sys/kernel/mm/transparent_hugepage/khugepaged/defrag",
    )],
    fix: Some(|_| vec![Write::new(DEFRAG, "0")]),
};

pub(super) const MERGING: Item = Item {
    id: "ksm",
    group: Group::Runtime,
    reads: &[KSM],
    judge: merging,
    why: "merging equal pages write-protects them, and each write to one copies it again",
    mend: &[Mend::write("echo 0 > /sys/kernel/mm/ksm/run")],
    fix: Some(|_| vec![Write::new(KSM, "0")]),
};

pub(super) const BALANCING: Item = Item {
    id: "numa-balancing",
    group: Group::Runtime,
    reads: &[BALANCE],
    judge: balancing,
    why: "it unmaps pages to see who uses them: page faults in a guest that should have none",
    mend: &[
        Mend::parameter("numa_balancing=disable"),
        Mend::write("echo 0 > /proc/sys/kernel/numa_balancing"),
    ],
    fix: Some(|_| vec![Write::new(BALANCE, "0")]),
};

pub(super) const SWAP: Item = Item {
    id: "swap",
    group: Group::Runtime,
    reads: &[SWAPS],
    judge: swap,
    why: "a page that was swapped out stops the vCPU for milliseconds",
    mend: &[
        Mend::command("swapoff -a"),
        Mend::config("\"memory\": { \"lock\": true }"),
    ],
    fix: None,
};

pub(super) const LIMIT: Item = Item {
    id: "cgroup-memory",
    group: Group::Runtime,
    reads: &[
        "proc/self/cgroup",
        "sys/fs/cgroup/**/memory.max",
        "sys/fs/cgroup/**/hugetlb.*.max",
    ],
    judge: cgroup_memory,
    why: "a guest that outgrows its cgroup's memory is killed",
    mend: &[Mend::advice(
        "raise memory.max or hugetlb.*.max of the cgroup (systemd: MemoryMax=)",
    )],
    fix: None,
};

pub(super) const LOCKING: Item = Item {
    id: "memory-lock",
    group: Group::Runtime,
    reads: &["proc/self/status", "proc/self/limits"],
    judge: locking,
    why: "memory.lock needs CAP_IPC_LOCK or a limit that allows all of the memory",
    mend: &[Mend::advice(
        "run godwit as root, or with LimitMEMLOCK=infinity (systemd) or ulimit -l unlimited",
    )],
    fix: None,
};

pub(super) const POOLS: Item = Item {
    id: "huge-pages",
    group: Group::Runtime,
    reads: &[
        "sys/kernel/mm/hugepages/*/*",
        "sys/devices/system/node/node*/hugepages/*/*",
    ],
    judge: pools,
    why: "guest memory on small pages costs a TLB miss for every few packets",
    mend: &[
        Mend::parameter("hugepagesz=2M hugepages=COUNT (for pages of 2 MiB)"),
        Mend::write(
            "echo COUNT > /sys/devices/system/node/node{node}/hugepages/hugepages-2048kB/nr_hugepages",
        ),
    ],
    fix: Some(fix_pools),
};

fn transparent(case: &Case<'_>) -> Fact<Verdict> {
    if case.facts.optional(ENABLED)?.is_none() {
        return Ok(Verdict::good("this kernel has none"));
    }
    Ok(match case.facts.choice(ENABLED)? {
        "always" => Verdict::warning("always"),
        choice => Verdict::good(choice),
    })
}

fn collapsing(case: &Case<'_>) -> Fact<Verdict> {
    let facts = case.facts;
    if facts.optional(ENABLED)?.is_none() || facts.choice(ENABLED)? == "never" {
        return Ok(Verdict::good("does not run"));
    }
    Ok(if facts.switch(DEFRAG)? {
        Verdict::warning("runs, and moves pages")
    } else {
        Verdict::good("runs, but moves no pages")
    })
}

fn merging(case: &Case<'_>) -> Fact<Verdict> {
    Ok(match case.facts.optional(KSM)? {
        None => Verdict::good("this kernel has none"),
        Some("1") => Verdict::warning("runs"),
        Some(_) => Verdict::good("does not run"),
    })
}

fn balancing(case: &Case<'_>) -> Fact<Verdict> {
    if case.facts.optional(BALANCE)?.is_none() {
        return Ok(Verdict::good("this kernel has none"));
    }
    // 2 is tiering only, and moves pages as well.
    Ok(match case.facts.number::<u32>(BALANCE)? {
        0 => Verdict::good("off"),
        _ => case.disturbed("on"),
    })
}

fn swap(case: &Case<'_>) -> Fact<Verdict> {
    let swaps = case.facts.file(SWAPS)?.lines().skip(1);
    let names: Vec<_> = swaps
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    if names.is_empty() {
        return Ok(Verdict::good("none"));
    }
    let found = format!("on {}", some_of(names));
    Ok(if case.guest.stays_in_memory() {
        Verdict::good(format!("{found}, but the config locks its memory"))
    } else {
        Verdict::warning(found)
    })
}

fn cgroup_memory(case: &Case<'_>) -> Fact<Verdict> {
    let cgroup = &case.facts.cgroup;
    let mut limits = Vec::new();
    if let Some(limit) = seen(&cgroup.memory)? {
        limits.push((limit, case.guest.small_bytes()));
    }
    let wanted = case.guest.pools(default_size(case));
    for (size, limit) in &cgroup.huge_pages {
        let pages = wanted.iter().filter(|(pool, _)| pool.size == *size);
        let pages = pages.fold(0_u64, |sum, (_, pages)| sum.saturating_add(*pages));
        if let Some(limit) = seen(limit)? {
            limits.push((limit, pages.saturating_mul(size.bytes())));
        }
    }
    if case.guest.config.is_none() {
        return Ok(match limits.first() {
            None => Verdict::good("no limit"),
            Some((limit, _)) => {
                Verdict::warning(format!("/{} is {} MiB", limit.path, limit.value >> 20))
            }
        });
    }
    let short = limits.iter().find(|(limit, wanted)| limit.value < *wanted);
    Ok(match (short, limits.is_empty()) {
        (Some((limit, wanted)), _) => Verdict::bad(format!(
            "/{} is {} MiB, and the guest needs {} MiB",
            limit.path,
            limit.value >> 20,
            wanted >> 20
        )),
        (None, true) => Verdict::good("no limit"),
        (None, false) => Verdict::good("limited, but enough for the guest"),
    })
}

fn locking(case: &Case<'_>) -> Fact<Verdict> {
    if !case.guest.stays_in_memory() {
        return Ok(Verdict::not_applicable("no config asks for memory.lock"));
    }
    if capable(case, Capability::LockMemory)? {
        return Ok(Verdict::good("CAP_IPC_LOCK"));
    }
    let wanted = case.guest.bytes();
    Ok(match limit(case, "Max locked memory")? {
        Some(limit) if limit < wanted => Verdict::bad(format!(
            "{} MiB are asked for, and this user may lock {} MiB at most",
            wanted >> 20,
            limit >> 20
        )),
        _ => Verdict::good("the limit allows it"),
    })
}

/// The size of a huge page when the config names none.
fn default_size(case: &Case<'_>) -> PageSize {
    let host = case.facts.host.as_ref().ok();
    host.and_then(|host| host.default_huge_page)
        .unwrap_or(PageSize::Huge2M)
}

/// A pool that is too small.
struct Shortage {
    path: String,
    pool: HugePagePool,
    wanted: u64,
    what: Pool,
}

impl Shortage {
    /// How many pages the pool must have.
    fn target(&self) -> u64 {
        let missing = self.wanted.saturating_sub(self.pool.available);
        self.pool.total.saturating_add(missing)
    }
}

fn shortages(case: &Case<'_>) -> Fact<Vec<Shortage>> {
    let host = seen(&case.facts.host)?;
    let mut shortages = Vec::new();
    let mut unbound = std::collections::BTreeMap::new();
    let wanted = case.guest.pools(default_size(case));
    for (pool, pages) in &wanted {
        *unbound.entry(pool.size).or_insert(0_u64) += pages;
    }
    let kib = |size: PageSize| size.bytes() >> 10;
    for (what, wanted) in wanted {
        let Some(node) = what.node else {
            continue;
        };
        let there = host.nodes.get(&node).map(|node| &node.huge_pages);
        let pool = there.and_then(|pools| pools.get(&what.size));
        let pool = pool.copied().unwrap_or_default();
        if pool.available < wanted {
            let path = format!(
                "sys/devices/system/node/node{node}/hugepages/hugepages-{}kB/nr_hugepages",
                kib(what.size)
            );
            unbound.remove(&what.size);
            shortages.push(Shortage {
                path,
                pool,
                wanted,
                what,
            });
        }
    }
    for (size, wanted) in unbound {
        let pool = host.huge_pages.get(&size).copied().unwrap_or_default();
        if pool.available < wanted {
            let path = format!(
                "sys/kernel/mm/hugepages/hugepages-{}kB/nr_hugepages",
                kib(size)
            );
            shortages.push(Shortage {
                path,
                pool,
                wanted,
                what: Pool { size, node: None },
            });
        }
    }
    Ok(shortages)
}

fn pools(case: &Case<'_>) -> Fact<Verdict> {
    let host = seen(&case.facts.host)?;
    if host.huge_pages.is_empty() {
        return Err(Unread::missing("sys/kernel/mm/hugepages"));
    }
    if case.guest.config.is_none() {
        let there = host.huge_pages.iter().filter(|(_, pool)| pool.total > 0);
        let there = there
            .map(|(size, pool)| format!("{} of {} free of {size}", pool.available, pool.total));
        let there: Vec<_> = there.collect();
        return Ok(if there.is_empty() {
            Verdict::warning("no pool has any page")
        } else {
            Verdict::good(some_of(there))
        });
    }
    let small = case.guest.small_bytes();
    if small > 0 {
        return Ok(Verdict::warning(format!(
            "{} MiB of the guest are on pages of 4 KiB",
            small >> 20
        ))
        .mended(How::Config, "\"memory\": { \"hugepages\": true }"));
    }
    let shortages = shortages(case)?;
    if shortages.is_empty() {
        return Ok(Verdict::good("enough of each pool"));
    }
    let found = shortages.iter().map(|short| {
        let place = match short.what.node {
            Some(node) => format!(" on node {node}"),
            None => String::new(),
        };
        format!(
            "{} of {} needed{place}, {} free",
            short.wanted, short.what.size, short.pool.available
        )
    });
    let mut verdict = Verdict::bad(some_of(found));
    for short in &shortages {
        let target = short.target();
        verdict = verdict.mended(How::Write, format!("echo {target} > /{}", short.path));
        if short.what.size == PageSize::Huge1G {
            verdict = verdict.mended(
                How::KernelParameter,
                format!("hugepagesz=1G hugepages={target}"),
            );
        }
    }
    Ok(verdict)
}

fn fix_pools(case: &Case<'_>) -> Vec<Write> {
    let shortages = shortages(case).unwrap_or_default();
    shortages
        .iter()
        .map(|short| Write::new(&*short.path, short.target().to_string()))
        .collect()
}

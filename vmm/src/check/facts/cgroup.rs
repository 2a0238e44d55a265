//! The limits of the control group that we run in, and of those around it.

use std::collections::BTreeMap;

use super::list;
use super::tree::{Fact, Tree, Unread};
use crate::spec::{CpuSet, PageSize};

/// Groups inside of groups, more than anybody has.
const MAX_DEPTH: usize = 64;

/// What we may use. `None`: there is no limit, or no controller that could set one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    /// CPUs.
    pub cpus: Fact<Option<CpuSet>>,
    /// CPU time, `max` of v2 or the quota of v1, as it stands there.
    pub quota: Fact<Option<Limit<String>>>,
    /// Memory in bytes, the tightest.
    pub memory: Fact<Option<Limit<u64>>>,
    /// Huge pages in bytes, the tightest of each size.
    pub huge_pages: BTreeMap<PageSize, Fact<Option<Limit<u64>>>>,
}

/// A limit and the file that sets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit<T> {
    /// The file.
    pub path: String,
    /// How much.
    pub value: T,
}

impl Cgroup {
    pub(super) fn read(tree: &Tree) -> Self {
        let own = tree.text("proc/self/cgroup").unwrap_or_default();
        let v2 = tree.text("sys/fs/cgroup/cgroup.controllers").is_ok();
        let folders = |controllers: &[&str]| folders(&own, v2, controllers);
        Self {
            cpus: cpus(tree, v2, &folders(&["cpuset"])),
            quota: quota(tree, v2, &folders(&["cpu", "cpu,cpuacct"])),
            memory: tightest(
                tree,
                &folders(&["memory"]),
                if v2 {
                    "memory.max"
                } else {
                    "memory.limit_in_bytes"
                },
            ),
            huge_pages: PageSize::HUGE
                .into_iter()
                .map(|size| {
                    let name = match size {
                        PageSize::Huge1G => "1GB",
                        _ => "2MB",
                    };
                    let file = match v2 {
                        true => format!("hugetlb.{name}.max"),
                        false => format!("hugetlb.{name}.limit_in_bytes"),
                    };
                    (size, tightest(tree, &folders(&["hugetlb"]), &file))
                })
                .collect(),
        }
    }
}

/// The folders of our group and of those around it, the innermost first.
pub(super) fn folders(own: &str, v2: bool, controllers: &[&str]) -> Vec<String> {
    let mut folders = Vec::new();
    for line in own.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(names), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let mount = match (v2, names) {
            (true, "") => "sys/fs/cgroup".to_owned(),
            (false, names) if controllers.contains(&names) => format!("sys/fs/cgroup/{names}"),
            (false, names) if names.split(',').any(|name| controllers.contains(&name)) => {
                format!("sys/fs/cgroup/{names}")
            }
            _ => continue,
        };
        // `..` leads out of what this namespace shows.
        let parts = path.split('/').filter(|part| !part.is_empty());
        let parts: Vec<_> = parts.take_while(|part| *part != "..").collect();
        for depth in (0..=parts.len().min(MAX_DEPTH)).rev() {
            let below = parts.get(..depth).unwrap_or_default().join("/");
            folders.push(format!("{mount}/{below}").trim_end_matches('/').to_owned());
        }
        break;
    }
    folders
}

/// A file of the first folder that has it.
fn innermost(tree: &Tree, folders: &[String], file: &str) -> Fact<Option<(String, String)>> {
    for folder in folders {
        let path = format!("{folder}/{file}");
        match tree.text(&path) {
            Ok(text) => return Ok(Some((path, text))),
            Err(Unread::Missing { .. }) => {}
            Err(unread) => return Err(unread),
        }
    }
    Ok(None)
}

fn cpus(tree: &Tree, v2: bool, folders: &[String]) -> Fact<Option<CpuSet>> {
    let file = match v2 {
        true => "cpuset.cpus.effective",
        false => "cpuset.effective_cpus",
    };
    match innermost(tree, folders, file)? {
        Some((path, text)) => list::understood(&path, &text).map(Some),
        None => Ok(None),
    }
}

/// Any group around ours stops us when its time is up.
fn quota(tree: &Tree, v2: bool, folders: &[String]) -> Fact<Option<Limit<String>>> {
    let file = if v2 { "cpu.max" } else { "cpu.cfs_quota_us" };
    for folder in folders {
        let path = format!("{folder}/{file}");
        match tree.text(&path) {
            Ok(text) if text.starts_with("max") || text.starts_with('-') => {}
            Ok(value) => return Ok(Some(Limit { path, value })),
            Err(Unread::Missing { .. }) => {}
            Err(unread) => return Err(unread),
        }
    }
    Ok(None)
}

fn tightest(tree: &Tree, folders: &[String], file: &str) -> Fact<Option<Limit<u64>>> {
    // v1 writes "none" as the largest number of whole pages.
    const UNLIMITED: u64 = 1 << 62;
    let mut least: Option<Limit<u64>> = None;
    for folder in folders {
        let path = format!("{folder}/{file}");
        let text = match tree.text(&path) {
            Ok(text) if text == "max" => continue,
            Ok(text) => text,
            Err(Unread::Missing { .. }) => continue,
            Err(unread) => return Err(unread),
        };
        let value = text
            .parse()
            .map_err(|_| Unread::odd(&path, &text, "a number of bytes or max"))?;
        if value < UNLIMITED && least.as_ref().is_none_or(|least| value < least.value) {
            least = Some(Limit { path, value });
        }
    }
    Ok(least)
}

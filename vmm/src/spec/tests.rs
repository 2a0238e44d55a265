//! Whole configs: what is accepted, and what is said about the rest.

use std::fs;
use std::path::Path;

use godwit_api::json;
use serde_json::{Value, json};
use vmm_sys_util::tempdir::TempDir;

use super::*;

mod accepted;
mod configs;
mod properties;
mod refused;

/// A host with CPUs 0 to 3 online and 4 and 5 offline, two NUMA nodes, and
/// some huge pages.
fn facts() -> HostFacts {
    let pool = |total, available| HugePagePool { total, available };
    let node = |cpus: [u32; 2], small, big| NodeFacts {
        cpus: cpus.map(HostCpu).into(),
        huge_pages: [(PageSize::Huge2M, small), (PageSize::Huge1G, big)].into(),
    };
    HostFacts {
        present_cpus: [0, 1, 2, 3, 4, 5].map(HostCpu).into(),
        online_cpus: [0, 1, 2, 3].map(HostCpu).into(),
        nodes: [
            (0, node([0, 1], pool(512, 500), pool(2, 2))),
            (1, node([2, 3], pool(512, 12), pool(0, 0))),
        ]
        .into(),
        huge_pages: [
            (PageSize::Huge2M, pool(1024, 512)),
            (PageSize::Huge1G, pool(2, 2)),
        ]
        .into(),
        default_huge_page: Some(PageSize::Huge2M),
    }
}

/// A folder with a kernel, an initramfs and a disk in it.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        for name in ["kernel", "initramfs", "disk"] {
            fs::write(folder.as_path().join(name), name).unwrap();
        }
        fs::write(folder.as_path().join("empty"), "").unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> String {
        self.0.as_path().join(name).to_str().unwrap().to_owned()
    }

    /// A machine of two vCPUs, with `patch` laid over it: objects are joined,
    /// everything else is replaced, and `@` in a string is this folder.
    fn config(&self, patch: Value) -> VmConfig {
        let mut document = json!({
            "payload": {"kernel": "@/kernel"},
            "cpus": {"boot_vcpus": 2},
        });
        lay_over(&mut document, patch);
        let text = document.to_string().replace('@', &self.path(""));
        json::read_strict(text.replace("//", "/").as_bytes()).unwrap()
    }

    fn spec(&self, patch: Value) -> Result<MachineSpec, SpecError> {
        MachineSpec::from_config(&self.config(patch), &facts())
    }
}

fn lay_over(below: &mut Value, above: Value) {
    match (below, above) {
        (Value::Object(below), Value::Object(above)) => {
            for (key, value) in above {
                lay_over(below.entry(key).or_insert(Value::Null), value);
            }
        }
        (below, above) => *below = above,
    }
}

//! The guest as godwit's config has it; other VMMs get the same machine.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::PeerError;

/// A config, with those parts read that other VMMs need.
#[derive(Debug, Clone)]
pub struct Machine {
    document: Value,
    parts: Parts,
}

#[derive(Debug, Clone, Deserialize)]
struct Parts {
    payload: Payload,
    cpus: Cpus,
    memory: Memory,
    net: [Net; 1],
}

#[derive(Debug, Clone, Deserialize)]
struct Payload {
    kernel: PathBuf,
    initramfs: PathBuf,
    cmdline: String,
}

#[derive(Debug, Clone, Deserialize)]
struct Cpus {
    boot_vcpus: u32,
    #[serde(default)]
    affinity: Vec<Affinity>,
}

/// The CPUs of the host that a vCPU may run on.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Affinity {
    /// The vCPU.
    pub vcpu: u64,
    /// CPUs of the host.
    pub host_cpus: Vec<usize>,
}

#[derive(Debug, Clone, Deserialize)]
struct Memory {
    size: u64,
}

#[derive(Debug, Clone, Deserialize)]
struct Net {
    id: String,
    mac: String,
}

impl Machine {
    /// Reads a config with one network device.
    ///
    /// # Errors
    /// When the file cannot be read, or lacks something.
    pub fn read(path: &Path) -> Result<Self, PeerError> {
        let refused = || super::io(format!("take a machine from {}", path.display()));
        let text = fs::read(path).map_err(refused())?;
        Self::parse(&text).map_err(refused())
    }

    fn parse(text: &[u8]) -> io::Result<Self> {
        let document: Value = serde_json::from_slice(text)?;
        let parts = Parts::deserialize(&document)?;
        Ok(Self { document, parts })
    }

    /// The config, with the guest's network device on `tap`.
    pub fn on_tap(&self, tap: &str) -> Value {
        let mut document = self.document.clone();
        document["net"][0]["tap"] = tap.into();
        document
    }

    /// The kernel, the initramfs and the command line.
    pub fn payload(&self) -> (&Path, &Path, &str) {
        let payload = &self.parts.payload;
        (&payload.kernel, &payload.initramfs, &payload.cmdline)
    }

    /// Number of vCPUs.
    pub fn vcpus(&self) -> u32 {
        self.parts.cpus.boot_vcpus
    }

    /// Where vCPUs run.
    pub fn affinity(&self) -> &[Affinity] {
        &self.parts.cpus.affinity
    }

    /// Memory in bytes.
    pub fn memory(&self) -> u64 {
        self.parts.memory.size
    }

    /// The network device's name.
    pub fn net(&self) -> &str {
        self.parts.net.each_ref().map(|net| net.id.as_str())[0]
    }

    /// The network device's MAC address.
    pub fn mac(&self) -> &str {
        self.parts.net.each_ref().map(|net| net.mac.as_str())[0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace;

    #[test]
    fn the_example_is_a_machine_for_all() {
        let path = workspace::root().join("resources/configs/dpdk-l2fwd.json");
        let machine = Machine::read(&path).unwrap();
        assert_eq!((machine.vcpus(), machine.memory()), (2, 768 << 20));
        assert_eq!(
            (machine.net(), machine.mac()),
            ("net0", "52:54:00:00:00:01")
        );
        assert_eq!(machine.affinity().len(), 2);
        let moved = machine.on_tap("other");
        assert_eq!(moved["net"][0]["tap"], "other");
        assert_eq!(moved["net"][0]["mac"], machine.mac());
    }

    #[test]
    fn a_machine_without_a_network_is_refused() {
        let text = br#"{"payload": {"kernel": "k", "initramfs": "i", "cmdline": ""},
            "cpus": {"boot_vcpus": 1}, "memory": {"size": 1}, "net": []}"#;
        Machine::parse(text).unwrap_err();
    }
}

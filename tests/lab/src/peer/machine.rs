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
    #[serde(default)]
    platform: Platform,
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
    sched: Option<Sched>,
    #[serde(default)]
    disable_exits: Vec<String>,
    #[serde(default)]
    realtime_hint: bool,
}

/// How vCPU threads are scheduled.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Sched {
    /// `other` or `fifo`.
    pub policy: String,
    /// Under `fifo`, 1 to 99.
    #[serde(default)]
    pub priority: i32,
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
    #[serde(default)]
    lock: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Platform {
    emulator_cpus: Option<Vec<usize>>,
}

#[derive(Debug, Clone, Deserialize)]
struct Net {
    id: String,
    mac: String,
    worker_cpus: Option<Vec<usize>>,
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

    pub(super) fn parse(text: &[u8]) -> io::Result<Self> {
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

    /// How vCPU threads are scheduled, if not as any other.
    pub fn sched(&self) -> Option<&Sched> {
        self.parts.cpus.sched.as_ref()
    }

    /// What a vCPU does without leaving the guest: of `hlt`, `pause` and `mwait`.
    pub fn disable_exits(&self) -> &[String] {
        &self.parts.cpus.disable_exits
    }

    /// Whether the guest is told that its vCPUs have CPUs of their own.
    pub fn realtime_hint(&self) -> bool {
        self.parts.cpus.realtime_hint
    }

    /// Whether guest memory is locked.
    pub fn lock(&self) -> bool {
        self.parts.memory.lock
    }

    /// Where the VMM's other threads run, if anywhere in particular.
    pub fn emulator_cpus(&self) -> Option<&[usize]> {
        self.parts.platform.emulator_cpus.as_deref()
    }

    /// Where the network device's vhost worker runs, if anywhere in particular.
    pub fn worker_cpus(&self) -> Option<&[usize]> {
        let [net] = &self.parts.net;
        net.worker_cpus.as_deref()
    }

    /// The same as six bytes.
    ///
    /// # Errors
    /// When it is no MAC address.
    pub fn mac_bytes(&self) -> Result<[u8; 6], PeerError> {
        let byte = |text: &str| u8::from_str_radix(text, 16).ok();
        let bytes: Option<Vec<u8>> = self.mac().split(':').map(byte).collect();
        bytes
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or_else(|| {
                let source = io::Error::from(io::ErrorKind::InvalidData);
                super::io(format!("take {:?} for a MAC address", self.mac()))(source)
            })
    }

    /// The same machine with other words after `godwit.task=`: another task, and what it is told.
    #[must_use]
    pub fn with_task(&self, task: &str) -> Self {
        let mut machine = self.clone();
        let (_, _, cmdline) = self.payload();
        let others = cmdline.split_whitespace();
        let others = others.filter(|word| !word.starts_with("godwit."));
        let mut words: Vec<&str> = others.collect();
        let task = format!("godwit.task={task}");
        words.push(&task);
        let cmdline = words.join(" ");
        machine.document["payload"]["cmdline"] = cmdline.clone().into();
        machine.parts.payload.cmdline = cmdline;
        machine
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
        assert_eq!(machine.mac_bytes().unwrap(), [0x52, 0x54, 0, 0, 0, 1]);
        let moved = machine.on_tap("other");
        assert_eq!(moved["net"][0]["tap"], "other");
        assert_eq!(moved["net"][0]["mac"], machine.mac());
    }

    #[test]
    fn another_task_comes_in_place_of_the_first() {
        let path = workspace::root().join("resources/configs/dpdk-l2fwd.json");
        let machine = Machine::read(&path)
            .unwrap()
            .with_task("facts godwit.pairs=2");
        let cmdline = "console=ttyS0 quiet godwit.task=facts godwit.pairs=2";
        assert_eq!(machine.payload().2, cmdline);
        assert_eq!(machine.on_tap("gw0")["payload"]["cmdline"], cmdline);
    }

    #[test]
    fn a_machine_without_a_network_is_refused() {
        let text = br#"{"payload": {"kernel": "k", "initramfs": "i", "cmdline": ""},
            "cpus": {"boot_vcpus": 1}, "memory": {"size": 1}, "net": []}"#;
        Machine::parse(text).unwrap_err();
    }
}

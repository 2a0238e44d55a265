//! The machine as asked for, valid by construction.
//!
//! ```text
//! VmConfig (dumb) + HostFacts (what this host has) -> MachineSpec, or every
//!                                                     problem at once
//! ```
//!
//! A config is parsed here once. A [`MachineSpec`] exists only when all of it
//! fits together and fits this host, so nothing later checks again; later
//! steps fail only on what changed in between, or on what only trying can tell
//! (opening a tap, locking a disk, allocating memory).
//!
//! A field that is known and asks for what godwit does not do is a problem
//! like any other: nothing that was asked for is dropped in silence. The value
//! that means "off" is always accepted, because clients send it unasked.

mod character;
mod cpus;
mod device_ids;
mod disks;
mod error;
mod facts;
mod files;
mod host_cpu;
mod mac;
mod memory;
mod net;
mod numa;
mod payload;
mod platform;
mod unsupported;

use std::path::PathBuf;

use godwit_api::config::VmConfig;

pub use character::{CharacterSpec, ConsoleSpec, SerialSpec};
pub use cpus::{CpuSpec, DisabledExits, FifoPriority, MAX_VCPUS, VcpuId};
pub use disks::DiskSpec;
pub use error::{Problem, ProblemKind, SpecError};
pub use facts::{HostFacts, HostFactsError, HugePagePool, NodeFacts, Wanted};
pub use host_cpu::{CpuSet, HostCpu, ParseCpuListError, format_cpu_list, parse_cpu_list};
pub use mac::{MacAddress, ParseMacError};
pub use memory::{MAX_MEMORY_BYTES, MemorySpec, PageSize, ZoneSpec};
pub use net::{NetSpec, Offloads, TapSpec};
pub use numa::NumaNodeSpec;
pub use payload::PayloadSpec;
pub use platform::PlatformSpec;

use error::Problems;

/// A machine that this host can be asked to build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineSpec {
    /// What is booted.
    pub payload: PayloadSpec,
    /// vCPUs, where they run and how.
    pub cpus: CpuSpec,
    /// Guest memory, in the order of guest addresses.
    pub memory: MemorySpec,
    /// NUMA nodes that the guest sees; empty: none are described.
    pub numa: Vec<NumaNodeSpec>,
    /// Network devices.
    pub net: Vec<NetSpec>,
    /// Block devices.
    pub disks: Vec<DiskSpec>,
    /// The entropy device.
    pub rng: RngSpec,
    /// The serial port.
    pub serial: SerialSpec,
    /// The virtio console.
    pub console: ConsoleSpec,
    /// CPUs for the threads that are no vCPU's.
    pub platform: PlatformSpec,
}

/// The entropy device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RngSpec {
    /// Where the bytes come from: a readable character device or file.
    pub source: PathBuf,
}

/// What becomes of the machine that is specified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// It is booted: kernel and initramfs must be there.
    Boot,
    /// Its state comes from elsewhere: no kernel is read, and what the guest
    /// already knows of its devices must be named.
    Incoming,
}

impl MachineSpec {
    /// The machine that `config` asks for, to be booted on this host.
    ///
    /// Reads no more than metadata of the files named; opens no device.
    ///
    /// # Errors
    ///
    /// [`SpecError`] with every problem found, each with its field, value,
    /// reason and way out.
    pub fn from_config(config: &VmConfig, facts: &HostFacts) -> Result<Self, SpecError> {
        Self::build(config, facts, Origin::Boot)
    }

    /// The machine that `config` asks for, whose state comes from another host
    /// or from a snapshot.
    ///
    /// `config` is what [`Self::complete`] left: kernel and initramfs need not
    /// be here, but ids and MAC addresses must be named, because the guest
    /// knows them.
    ///
    /// # Errors
    ///
    /// As [`Self::from_config`].
    pub fn from_incoming(config: &VmConfig, facts: &HostFacts) -> Result<Self, SpecError> {
        Self::build(config, facts, Origin::Incoming)
    }

    /// The last network device of `config`, to be added to a machine that runs
    /// with the others.
    ///
    /// # Errors
    ///
    /// As [`Self::from_config`], of that device alone.
    pub fn net_to_plug(config: &VmConfig, facts: &HostFacts) -> Result<NetSpec, SpecError> {
        let mut problems = Problems::default();
        let p = &mut problems;
        let ids = device_ids::assign(config, Origin::Boot, p);
        let last = config.net.len().saturating_sub(1);
        let (nets, ids) = (config.net.get(last..), ids.net.get(last..));
        let nets = nets.unwrap_or_default();
        let built = net::build(nets, ids.unwrap_or_default(), facts, Origin::Boot, p);
        match built.into_iter().next() {
            Some(net) if problems.is_empty() => Ok(net),
            _ => Err(problems.into()),
        }
    }

    fn build(config: &VmConfig, facts: &HostFacts, origin: Origin) -> Result<Self, SpecError> {
        let mut problems = Problems::default();
        let p = &mut problems;

        unsupported::check(config, p);
        let payload = payload::build(&config.payload, origin, p);
        let cpus = cpus::build(&config.cpus, facts, p);
        let memory = memory::build(&config.memory, facts, p);
        let numa = numa::build(config, p);
        let ids = device_ids::assign(config, origin, p);
        let net = net::build(&config.net, &ids.net, facts, origin, p);
        let disks = disks::build(&config.disks, &ids.disks, p);
        let rng = files::readable("rng.src", &config.rng.src, p).map(|source| RngSpec { source });
        let (serial, console) = character::build(&config.serial, &config.console, p);
        let platform = platform::build(&config.platform, facts, p);
        platform::check_isolation(config, p);

        match (payload, cpus, memory, rng, serial, console) {
            (Some(payload), Some(cpus), Some(memory), Some(rng), Some(serial), Some(console))
                if problems.is_empty() =>
            {
                Ok(Self {
                    payload,
                    cpus,
                    memory,
                    numa,
                    net,
                    disks,
                    rng,
                    serial,
                    console,
                    platform,
                })
            }
            _ => Err(problems.into()),
        }
    }

    /// Writes into the config what was decided here: ids, MAC addresses, sizes
    /// and defaults that depend on other fields.
    ///
    /// `config` is the one that `self` was made from. The result is what
    /// `vm.info` shows and what a migration sends ahead.
    pub fn complete(&self, config: &mut VmConfig) {
        config.cpus.max_vcpus = Some(config.cpus.boot_vcpus);
        self.memory.complete(&mut config.memory);
        for (wire, spec) in config.net.iter_mut().zip(&self.net) {
            wire.id = Some(spec.id.clone());
            wire.mac = Some(spec.mac.to_string());
        }
        for (wire, spec) in config.disks.iter_mut().zip(&self.disks) {
            wire.id = Some(spec.id.clone());
        }
    }
}

#[cfg(test)]
mod tests;

//! What this machine is, and so what runs where.

use std::fmt;
use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::packages::{self, FOR_IMAGE, FOR_OUTER, FOR_RT_IMAGE, FOR_TESTS};
use crate::{image, workspace};

/// The kinds of machine the tests tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum MachineKind {
    /// `/dev/kvm`, and `svm` or `vmx` among the CPU's flags.
    HardwareVirtualization,
    /// `/dev/kvm` without either flag: KVM runs guest kernels by emulation, too slow for Linux.
    SoftwareKvm,
    /// No `/dev/kvm` that this user can open.
    NoKvm,
}

impl MachineKind {
    /// Finds out what this machine is.
    pub fn detect() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let kvm = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .is_ok();
        Self::from_facts(kvm, &cpuinfo)
    }

    fn from_facts(kvm: bool, cpuinfo: &str) -> Self {
        let flags = cpuinfo
            .lines()
            .find(|line| line.starts_with("flags"))
            .unwrap_or_default();
        let hardware = flags
            .split_whitespace()
            .any(|flag| flag == "svm" || flag == "vmx");
        match (kvm, hardware) {
            (true, true) => Self::HardwareVirtualization,
            (true, false) => Self::SoftwareKvm,
            (false, _) => Self::NoKvm,
        }
    }

    /// Where payload guests run.
    pub fn payload_runner(self) -> Runner {
        match self {
            Self::HardwareVirtualization | Self::SoftwareKvm => Runner::Direct,
            Self::NoKvm => Runner::Lab,
        }
    }

    /// Where Linux and DPDK guests run.
    pub fn linux_runner(self) -> Runner {
        match self {
            Self::HardwareVirtualization => Runner::Direct,
            Self::SoftwareKvm | Self::NoKvm => Runner::Lab,
        }
    }
}

impl fmt::Display for MachineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HardwareVirtualization => "hardware virtualization",
            Self::SoftwareKvm => "software KVM (no svm or vmx flag)",
            Self::NoKvm => "no KVM",
        })
    }
}

/// Where a guest runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Runner {
    /// On this machine's own KVM.
    Direct,
    /// In the outer machine.
    Lab,
}

impl fmt::Display for Runner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "directly",
            Self::Lab => "in the lab",
        })
    }
}

/// Everything `cargo lab doctor` reports.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What the machine is.
    pub machine: MachineKind,
    /// Its kernel release.
    pub kernel: String,
    /// CPUs this process may run on.
    pub cpus: usize,
    /// Memory that can be had without swapping, MiB.
    pub memory_available_mib: u64,
    /// Whether `/dev/vhost-net` can be used.
    pub vhost_net: bool,
    /// Whether `/dev/net/tun` can be used.
    pub tun: bool,
    /// Programs that are missing, with their packages.
    pub missing: Vec<Missing>,
    /// Whether the guest image is built and current.
    pub image_current: bool,
    /// Where payload tests run.
    pub payload_tests: Runner,
    /// Where Linux and DPDK tests run.
    pub linux_tests: Runner,
}

/// A program that this machine lacks.
#[derive(Debug, Serialize)]
pub struct Missing {
    /// The program.
    pub program: &'static str,
    /// The package to install.
    pub package: &'static str,
    /// What the lab does with it.
    pub purpose: &'static str,
}

impl Report {
    /// Looks at this machine.
    pub fn gather() -> Self {
        let machine = MachineKind::detect();
        let missing = [FOR_IMAGE, FOR_RT_IMAGE, FOR_OUTER, FOR_TESTS].concat();
        Self {
            machine,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .unwrap_or_default()
                .trim()
                .to_owned(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory_available_mib: memory_available_mib(),
            vhost_net: openable("/dev/vhost-net"),
            tun: openable("/dev/net/tun"),
            missing: packages::missing(&missing)
                .into_iter()
                .map(|program| Missing {
                    program: program.name,
                    package: program.package,
                    purpose: program.purpose,
                })
                .collect(),
            image_current: image::Image::at(&workspace::lab().join("image")).is_some(),
            payload_tests: machine.payload_runner(),
            linux_tests: machine.linux_runner(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let yes = |there| if there { "yes" } else { "no" };
        writeln!(
            f,
            "machine        {}, Linux {}, {} CPUs, {} MiB free",
            self.machine, self.kernel, self.cpus, self.memory_available_mib
        )?;
        writeln!(f, "vhost-net      {}", yes(self.vhost_net))?;
        writeln!(f, "tap devices    {}", yes(self.tun))?;
        writeln!(
            f,
            "guest image    {}",
            if self.image_current {
                "built"
            } else {
                "not built: `cargo lab image`"
            }
        )?;
        writeln!(f, "payload tests  {}", self.payload_tests)?;
        writeln!(f, "Linux tests    {}", self.linux_tests)?;
        if self.missing.is_empty() {
            return write!(f, "packages       nothing is missing");
        }
        write!(
            f,
            "packages       missing; the lab installs them when it needs them:"
        )?;
        for missing in &self.missing {
            write!(
                f,
                "\n  {:<20} {:<16} {}",
                missing.program, missing.package, missing.purpose
            )?;
        }
        Ok(())
    }
}

/// Memory that can be had without swapping, MiB (`MemAvailable` of `/proc/meminfo`).
pub fn memory_available_mib() -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .unwrap_or(0)
        / 1024
}

/// Whether this user can open a device for reading and writing.
pub fn openable(device: &str) -> bool {
    fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(Path::new(device))
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kinds_are_told_apart_by_node_and_flag() {
        let amd = "processor\t: 0\nflags\t\t: fpu svm npt\n";
        let none = "processor\t: 0\nflags\t\t: fpu vmxnet3 hypervisor\n";
        assert_eq!(
            MachineKind::from_facts(true, amd),
            MachineKind::HardwareVirtualization
        );
        assert_eq!(
            MachineKind::from_facts(true, none),
            MachineKind::SoftwareKvm
        );
        assert_eq!(MachineKind::from_facts(false, amd), MachineKind::NoKvm);
    }

    #[test]
    fn only_hardware_runs_linux_directly() {
        assert_eq!(MachineKind::SoftwareKvm.payload_runner(), Runner::Direct);
        assert_eq!(MachineKind::SoftwareKvm.linux_runner(), Runner::Lab);
        assert_eq!(
            MachineKind::HardwareVirtualization.linux_runner(),
            Runner::Direct
        );
        assert_eq!(MachineKind::NoKvm.payload_runner(), Runner::Lab);
    }
}

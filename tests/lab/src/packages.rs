//! Distribution packages that the lab uses, and their installation.

use std::env;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::command::{self, CommandError};
use crate::progress::Step;

/// A program and the Debian package that holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Program {
    /// Its name, looked for on `PATH` and in the usual folders.
    pub name: &'static str,
    /// The package to install when it is missing.
    pub package: &'static str,
    /// What the lab does with it.
    pub purpose: &'static str,
}

const fn program(name: &'static str, package: &'static str, purpose: &'static str) -> Program {
    Program {
        name,
        package,
        purpose,
    }
}

/// What building the guest image takes.
pub const FOR_IMAGE: &[Program] = &[
    program("busybox", "busybox-static", "the guest's user land"),
    program("depmod", "kmod", "the order in which kernel modules load"),
    program("dpdk-testpmd", "dpdk-dev", "the guest's network function"),
    program("iperf3", "iperf3", "TCP streams through the guest"),
    program(
        "ethtool",
        "ethtool",
        "offloads and queues as the guest sees them",
    ),
    program("ip", "iproute2", "addresses, taps and bridges"),
    program(
        "lscpu",
        "util-linux",
        "the CPU topology as the guest sees it",
    ),
    program("lspci", "pciutils", "PCI functions as the guest sees them"),
    program("xz", "xz-utils", "unpacking the kernel"),
];

/// What the image with a PREEMPT_RT kernel takes beyond [`FOR_IMAGE`].
pub const FOR_RT_IMAGE: &[Program] = &[program(
    "cyclictest",
    "rt-tests",
    "how late a PREEMPT_RT guest wakes up",
)];

/// What the outer machine takes beyond [`FOR_IMAGE`].
pub const FOR_OUTER: &[Program] = &[
    program(
        "qemu-system-x86_64",
        "qemu-system-x86",
        "the outer machine, and the peer to compare with",
    ),
    program("ping", "iputils-ping", "ICMP to the guest"),
];

/// What the integration tests take: they hold a payload guest in C, and some look through programs
/// of the host.
pub const FOR_TESTS: &[Program] = &[
    program("cc", "gcc", "building the payload guest"),
    program("systemd-analyze", "systemd", "checking the service units"),
    program("tmux", "tmux", "a terminal for `godwit ctl top`"),
    program("stress-ng", "stress-ng", "the load of `godwit latency`"),
];

/// What holding the OpenAPI document against a live instance takes.
pub const FOR_SCHEMA: &[Program] = &[
    program("cc", "gcc", "building the payload guest"),
    program(
        "python3",
        "python3-venv",
        "schemathesis, in a folder of its own",
    ),
];

/// Where `name` is: on `PATH`, or in a folder that an ordinary user's `PATH` may lack.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
}

/// Those of `programs` that this machine lacks.
pub fn missing(programs: &[Program]) -> Vec<Program> {
    programs
        .iter()
        .filter(|program| find(program.name).is_none())
        .copied()
        .collect()
}

/// Installs the packages of those `programs` that are missing, after saying which.
///
/// # Errors
/// When `apt-get` fails or is not there; the message then names what to install by hand.
pub fn install_missing(programs: &[Program]) -> Result<(), PackageError> {
    let mut packages: Vec<&str> = missing(programs)
        .iter()
        .map(|program| program.package)
        .collect();
    packages.sort_unstable();
    packages.dedup();
    if packages.is_empty() {
        return Ok(());
    }
    let names = packages.join(" ");
    let step = Step::start(format!("installing {names}"));
    let refused = |source| PackageError::Install {
        packages: names.clone(),
        source,
    };
    update().map_err(refused)?;
    let mut install = apt_get("install");
    install
        .args(["--yes", "--no-install-recommends"])
        .args(&packages);
    command::succeed(install, Duration::from_secs(600)).map_err(refused)?;
    match missing(programs).first() {
        Some(program) => Err(PackageError::StillMissing {
            program: program.name,
            package: program.package,
        }),
        None => {
            step.done("done");
            Ok(())
        }
    }
}

/// Reads the package lists anew.
///
/// # Errors
/// When `apt-get update` fails or takes more than five minutes.
pub fn update() -> Result<(), CommandError> {
    command::succeed(apt_get("update"), Duration::from_secs(300)).map(drop)
}

/// `apt-get VERB`, through `sudo` when this user is not root and `sudo` is there.
pub fn apt_get(verb: &str) -> Command {
    let mut command = if nix::unistd::geteuid().is_root() || find("sudo").is_none() {
        Command::new("apt-get")
    } else {
        let mut sudo = Command::new("sudo");
        sudo.args(["--non-interactive", "apt-get"]);
        sudo
    };
    command
        .args(["-q", verb])
        .env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// Why a package could not be installed.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// `apt-get` refused.
    #[error(
        "cannot install {packages}: install these Debian packages by hand, then run this again"
    )]
    Install {
        /// The packages.
        packages: String,
        /// The reason.
        source: CommandError,
    },
    /// The package is there now, the program is not.
    #[error("`{program}` is still missing after package {package} was installed")]
    StillMissing {
        /// The program.
        program: &'static str,
        /// The package that should hold it.
        package: &'static str,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_programs_are_found_out() {
        const NONE: Program = program("godwit-no-such-program", "none", "");
        assert_eq!(missing(&[program("sh", "dash", ""), NONE]), [NONE]);
    }
}

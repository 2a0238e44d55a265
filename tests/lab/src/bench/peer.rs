//! The VMMs that are compared, and how each is told to boot the payload.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

/// Guest memory of the start-up benchmark, in MiB; one vCPU.
pub const GUEST_MIB: u64 = 128;

/// The serial port is opened by this name, so it is the same pipe for every peer.
const SERIAL: &str = "/dev/stdout";

/// Which program it is: they differ in their command lines only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Godwit,
    QemuMicrovm,
    QemuQ35,
    CloudHypervisor,
    Firecracker,
}

/// A VMM to measure.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its name in the tables.
    pub name: &'static str,
    /// The program.
    pub program: PathBuf,
    kind: Kind,
}

impl Peer {
    /// This project's.
    pub fn godwit(program: PathBuf) -> Self {
        Self {
            name: "godwit",
            program,
            kind: Kind::Godwit,
        }
    }

    /// QEMU's two machines.
    pub fn qemu(program: &Path) -> [Self; 2] {
        [
            Self {
                name: "qemu microvm",
                program: program.into(),
                kind: Kind::QemuMicrovm,
            },
            Self {
                name: "qemu q35",
                program: program.into(),
                kind: Kind::QemuQ35,
            },
        ]
    }

    /// Cloud Hypervisor.
    pub fn cloud_hypervisor(program: PathBuf) -> Self {
        Self {
            name: "cloud-hypervisor",
            program,
            kind: Kind::CloudHypervisor,
        }
    }

    /// Firecracker.
    pub fn firecracker(program: PathBuf) -> Self {
        Self {
            name: "firecracker",
            program,
            kind: Kind::Firecracker,
        }
    }

    /// The command that boots `payload` with `hello` and its serial port on standard output. Files
    /// that it needs are written to `folder`.
    ///
    /// # Errors
    /// When such a file cannot be written.
    pub fn command(&self, payload: &Path, folder: &Path) -> io::Result<Command> {
        let mut command = Command::new(&self.program);
        match self.kind {
            Kind::Godwit => {
                let config = folder.join("godwit.json");
                fs::write(
                    &config,
                    godwit_config(payload, GUEST_MIB << 20, "4K").to_string(),
                )?;
                command.arg("run").arg(config);
            }
            Kind::QemuMicrovm => qemu(&mut command, "microvm", payload),
            Kind::QemuQ35 => qemu(&mut command, "q35", payload),
            Kind::CloudHypervisor => {
                command.arg("--kernel").arg(payload).args([
                    "--cmdline",
                    "hello",
                    "--cpus",
                    "boot=1",
                ]);
                command.args([
                    "--memory",
                    &format!("size={GUEST_MIB}M"),
                    "--console",
                    "off",
                ]);
                command.args(["--serial", &format!("file={SERIAL}")]);
            }
            Kind::Firecracker => {
                let config = folder.join("firecracker.json");
                let text = json!({
                    "boot-source": {"kernel_image_path": payload, "boot_args": "hello"},
                    "drives": [],
                    "machine-config": {"vcpu_count": 1, "mem_size_mib": GUEST_MIB},
                });
                fs::write(&config, text.to_string())?;
                command
                    .args(["--no-api", "--level", "Off", "--config-file"])
                    .arg(config);
            }
        }
        Ok(command)
    }
}

/// A machine with nothing but the payload; `pages` is `4K` or a huge page's size.
pub fn godwit_config(payload: &Path, size: u64, pages: &str) -> serde_json::Value {
    let mut memory = json!({"size": size});
    if pages != "4K" {
        memory["hugepages"] = true.into();
        memory["hugepage_size"] = (2u64 << 20).into();
        memory["prefault"] = true.into();
    }
    json!({
        "payload": {"kernel": payload, "cmdline": "hello"},
        "cpus": {"boot_vcpus": 1, "max_vcpus": 1},
        "memory": memory,
        "serial": {"mode": "File", "file": SERIAL},
        "console": {"mode": "Off"},
    })
}

fn qemu(command: &mut Command, machine: &str, payload: &Path) {
    // QEMU 7.2 aborts on an Intel host whose KVM has no IA32_ARCH_CAPABILITIES; nothing here
    // depends on what that register would tell.
    command.args([
        "-M",
        machine,
        "-accel",
        "kvm",
        "-cpu",
        "host,arch-capabilities=off",
    ]);
    command.args([
        "-smp",
        "1",
        "-m",
        &GUEST_MIB.to_string(),
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
    ]);
    command
        .args([
            "-serial",
            &format!("file:{SERIAL}"),
            "-append",
            "hello",
            "-kernel",
        ])
        .arg(payload);
}

//! QEMU's q35 machine with KVM, a vhost-net tap and huge pages: what godwit's DPDK guest gets.

use std::path::PathBuf;
use std::process::Command;

/// A guest for QEMU.
#[derive(Debug, Clone)]
pub struct QemuGuest {
    /// bzImage.
    pub kernel: PathBuf,
    /// Initramfs.
    pub initramfs: PathBuf,
    /// Kernel command line.
    pub cmdline: String,
    /// Number of vCPUs.
    pub vcpus: u32,
    /// Memory, MiB: a shared memfd of 2 MiB pages, prefaulted.
    pub memory_mib: u64,
    /// An existing tap, served by vhost-net, and the guest's MAC address on it.
    pub tap: Option<(String, String)>,
}

impl QemuGuest {
    /// The command that runs it, with its serial port on standard input and output.
    pub fn command(&self) -> Command {
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args([
            "-machine",
            "q35,accel=kvm,memory-backend=memory",
            "-cpu",
            "host",
        ]);
        qemu.args([
            "-nodefaults",
            "-nographic",
            "-no-reboot",
            "-serial",
            "stdio",
        ]);
        qemu.arg("-smp")
            .arg(self.vcpus.to_string())
            .arg("-m")
            .arg(self.memory_mib.to_string());
        qemu.arg("-object").arg(format!(
            "memory-backend-memfd,id=memory,size={}M,share=on,hugetlb=on,hugetlbsize=2M,prealloc=on",
            self.memory_mib
        ));
        qemu.arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(&self.initramfs);
        qemu.arg("-append").arg(&self.cmdline);
        if let Some((tap, mac)) = &self.tap {
            qemu.arg("-netdev").arg(format!(
                "tap,id=net0,ifname={tap},script=no,downscript=no,vhost=on"
            ));
            qemu.arg("-device")
                .arg(format!("virtio-net-pci,netdev=net0,mac={mac},romfile="));
        }
        qemu
    }
}

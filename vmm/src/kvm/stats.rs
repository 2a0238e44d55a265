//! KVM's own counters of a virtual machine and of its vCPUs, in the binary form
//! (kernel: Documentation/virt/kvm/api.rst, 4.133 `KVM_GET_STATS_FD`).
//!
//! ```text
//! builder: KVM_GET_STATS_FD on each vCPU --> KvmStats --> whoever serves metrics: pread
//! ```
//!
//! A descriptor of statistics is read from any thread and takes no lock: KVM
//! copies the counters while the vCPU runs, and the vCPU notices nothing. It
//! keeps KVM's virtual machine alive, so it goes when the machine goes.

mod layout;

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock};

use kvm_bindings::{KVM_CAP_BINARY_STATS_FD, KVMIO};
use kvm_ioctls::VcpuFd;

use super::{KvmError, Vm};
use crate::spec::VcpuId;

pub use layout::{Descriptor, Histogram, Layout, LayoutError, Sort, Unit};

/// `_IO(KVMIO, 0xce)`, linux/kvm.h.
const KVM_GET_STATS_FD: libc::c_ulong = (KVMIO as libc::c_ulong) << 8 | 0xce;

/// Where the counters of a machine are read: nothing at all where this KVM
/// does not offer them.
#[derive(Debug, Default)]
pub struct KvmStats {
    vm: Option<StatsFd>,
    vcpus: Vec<(VcpuId, StatsFd)>,
}

/// The counters of a machine as they were read, together or nearly so.
#[derive(Clone, Debug, Default)]
pub struct KvmReadings {
    /// The virtual machine's own.
    pub vm: Option<Reading>,
    /// Each vCPU's.
    pub vcpus: Vec<(u8, Reading)>,
}

impl KvmStats {
    /// The counters of `vm` and of `vcpus`, before threads have those. A KVM that
    /// lacks them (before Linux 5.14) is told of once, here.
    #[must_use]
    pub fn of<'a>(vm: &Vm, vcpus: impl Iterator<Item = (VcpuId, &'a VcpuFd)>) -> Self {
        let capability = KVM_CAP_BINARY_STATS_FD.into();
        if vm.fd().check_extension_raw(capability) <= 0 {
            tracing::warn!(
                "This host's KVM has no binary statistics: /metrics shows none of KVM's"
            );
            return Self::default();
        }
        let vm = match StatsFd::open(vm.fd().as_raw_fd()) {
            Ok(stats) => stats,
            Err(error) => {
                tracing::warn!("{}: /metrics shows none of KVM's", refused(error));
                return Self::default();
            }
        };
        let vcpus = vcpus.filter_map(|(vcpu, fd)| match StatsFd::open(fd.as_raw_fd()) {
            Ok(stats) => Some((vcpu, stats)),
            Err(error) => {
                tracing::warn!("{}: /metrics lacks vCPU {vcpu}", refused(error));
                None
            }
        });
        Self {
            vm: Some(vm),
            vcpus: vcpus.collect(),
        }
    }

    /// Reads them all: one `pread` each.
    #[must_use]
    pub fn read(&self) -> KvmReadings {
        let vcpus = self.vcpus.iter();
        KvmReadings {
            vm: self.vm.as_ref().and_then(StatsFd::read),
            vcpus: vcpus
                .filter_map(|(vcpu, stats)| Some((vcpu.0, stats.read()?)))
                .collect(),
        }
    }
}

fn refused(source: io::Error) -> String {
    let attempt = "open its statistics";
    let error = KvmError::Ioctl {
        attempt,
        source: io::Error::from(source.kind()),
    };
    format!("{error} ({source})")
}

/// One set of counters.
#[derive(Debug)]
struct StatsFd {
    file: File,
    /// What is where, learnt at the first reading; `None`: not understood.
    layout: OnceLock<Option<Arc<Layout>>>,
}

impl StatsFd {
    fn open(of: RawFd) -> io::Result<Self> {
        // SAFETY: the ioctl takes no argument and touches no memory of ours;
        // what is no descriptor of KVM's is refused.
        let fd = unsafe { libc::ioctl(of, KVM_GET_STATS_FD, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            // SAFETY: the kernel just made this descriptor, and nobody else owns it.
            file: unsafe { File::from_raw_fd(fd) },
            layout: OnceLock::new(),
        })
    }

    /// `None`: what KVM says of them is not understood, which is logged once.
    fn read(&self) -> Option<Reading> {
        let layout = self.layout.get_or_init(|| {
            let layout = Layout::read(|buffer, at| self.file.read_exact_at(buffer, at));
            match layout {
                Ok(layout) => Some(Arc::new(layout)),
                Err(error) => {
                    tracing::warn!("Could not understand KVM's statistics: {error}");
                    None
                }
            }
        });
        let layout = layout.as_ref()?;
        let mut bytes = vec![0; layout.data_bytes()];
        self.file
            .read_exact_at(&mut bytes, layout.data_offset())
            .ok()?;
        let (words, _) = bytes.as_chunks();
        Some(Reading {
            layout: Arc::clone(layout),
            words: words.iter().map(|&word| u64::from_ne_bytes(word)).collect(),
        })
    }
}

/// The counters of one descriptor at one moment.
#[derive(Clone, Debug)]
pub struct Reading {
    layout: Arc<Layout>,
    words: Vec<u64>,
}

impl Reading {
    /// Counters that were read elsewhere; those that `words` has no place for
    /// are left out.
    #[must_use]
    pub fn new(layout: Arc<Layout>, words: Vec<u64>) -> Self {
        Self { layout, words }
    }

    /// What is counted, and the values: one, or a histogram's buckets.
    pub fn iter(&self) -> impl Iterator<Item = (&Descriptor, &[u64])> {
        let descriptors = self.layout.descriptors().iter();
        descriptors.filter_map(|found| Some((found, self.words.get(found.words())?)))
    }

    /// The value of the one that KVM calls `name`.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<(&Descriptor, u64)> {
        let (found, values) = self.iter().find(|(found, _)| found.name() == name)?;
        Some((found, *values.first()?))
    }
}

#[cfg(test)]
pub(crate) mod tests;

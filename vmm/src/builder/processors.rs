//! The vCPUs of a machine: what they look like, and how they begin.

use std::sync::Arc;

use kvm_bindings::{CpuId, Msrs, kvm_cpuid_entry2};
use kvm_ioctls::VcpuFd;

use super::{BuildError, Start};
use crate::arch::{Topology, cpuid, msr, regs};
use crate::boot::Entry;
use crate::core_scheduling::CoreGroup;
use crate::kvm::{Hypervisor, KvmError, Vm, attempt};
use crate::machine::ProcessorFacts;
use crate::spec::{CpuSet, MachineSpec, VcpuId};
use crate::vcpu::{Buses, Placement, Report, SpawnError, VcpuHandle, readable_msrs};

/// The CPUID of each vCPU of a machine of `spec`.
fn cpuid_of(
    hypervisor: &Hypervisor,
    tsc_deadline: bool,
    spec: &MachineSpec,
) -> Result<Vec<Vec<kvm_cpuid_entry2>>, KvmError> {
    let supported = hypervisor.supported_cpuid()?;
    let mwait = spec.cpus.disable_exits.mwait;
    let cpuid = cpuid::CpuidSpec {
        topology: spec.cpus.topology,
        nested: spec.cpus.nested,
        realtime_hint: spec.cpus.realtime_hint,
        max_phys_bits: spec.cpus.max_phys_bits,
        tsc_deadline,
        mwait: mwait.then(cpuid::host_mwait).flatten(),
    };
    let of = |vcpu: VcpuId| cpuid::for_vcpu(supported.as_slice(), &cpuid, vcpu.0.into());
    Ok(spec.cpus.vcpus().map(of).collect())
}

/// The CPUID that the first vCPU of a machine of `spec` would have here.
///
/// # Errors
/// KVM does not tell.
pub fn cpuid_here(spec: &MachineSpec) -> Result<Vec<kvm_cpuid_entry2>, KvmError> {
    let hypervisor = Hypervisor::open()?;
    let deadline = hypervisor.has_tsc_deadline();
    let all = cpuid_of(&hypervisor, deadline, spec)?;
    Ok(all.into_iter().next().unwrap_or_default())
}

/// What is the same for all vCPUs, and what CPUID each gets.
pub(super) struct Processors {
    topology: Topology,
    /// One list for each vCPU.
    cpuid: Vec<Vec<kvm_cpuid_entry2>>,
    /// What KVM lists.
    msrs: Vec<u32>,
}

/// A vCPU whose thread has not started.
pub(super) struct Made {
    id: VcpuId,
    fd: VcpuFd,
}

impl Made {
    pub(super) fn id(&self) -> VcpuId {
        self.id
    }

    pub(super) fn fd(&self) -> &VcpuFd {
        &self.fd
    }
}

impl Processors {
    pub(super) fn describe(
        hypervisor: &Hypervisor,
        vm: &Vm,
        spec: &MachineSpec,
        start: Start<'_>,
    ) -> Result<Self, KvmError> {
        let cpuid = match start.description() {
            // The guest has seen these.
            Some(description) => description.cpuid.clone(),
            None => cpuid_of(hypervisor, vm.has_tsc_deadline(), spec)?,
        };
        Ok(Self {
            topology: spec.cpus.topology,
            cpuid,
            msrs: hypervisor.msr_indices()?,
        })
    }

    fn of(&self, vcpu: VcpuId) -> &[kvm_cpuid_entry2] {
        self.cpuid
            .get(usize::from(vcpu.0))
            .map_or(&[], Vec::as_slice)
    }

    pub(super) fn phys_bits(&self) -> u8 {
        cpuid::phys_bits(self.of(VcpuId(0)))
    }

    /// Makes the vCPUs of `spec`.
    pub(super) fn make(
        &self,
        spec: &MachineSpec,
        vm: &Vm,
        entry: Option<Entry>,
    ) -> Result<Vec<Made>, KvmError> {
        let made = |id| {
            let fd = self.make_one(vm, entry, id)?;
            Ok(Made { id, fd })
        };
        spec.cpus.vcpus().map(made).collect()
    }

    /// A vCPU with its CPUID, and with its registers where it is the first: the
    /// others wait for the start-up interrupt of the guest.
    fn make_one(&self, vm: &Vm, entry: Option<Entry>, vcpu: VcpuId) -> Result<VcpuFd, KvmError> {
        // KVM takes the id of a vCPU for its APIC id.
        let apic_id = self.topology.apic_id(vcpu.0.into());
        let fd = vm
            .fd()
            .create_vcpu(apic_id.into())
            .map_err(attempt("create a vCPU"))?;
        let cpuid = self.of(vcpu);
        let has_mtrr = cpuid::has_mtrr(cpuid);
        let cpuid = CpuId::from_entries(cpuid).map_err(|_| KvmError::Ioctl {
            attempt: "hold that many CPUID leaves",
            source: std::io::ErrorKind::InvalidInput.into(),
        })?;
        fd.set_cpuid2(&cpuid)
            .map_err(attempt("set a vCPU's CPUID"))?;
        let Some(entry) = entry else {
            // Its registers come with the state.
            return Ok(fd);
        };
        set_msrs(&fd, &msr::boot(&self.msrs, has_mtrr))?;
        if vcpu == VcpuId(0) {
            let reset = fd.get_sregs().map_err(attempt("read a vCPU's segments"))?;
            fd.set_sregs(&regs::special(&entry, reset))
                .map_err(attempt("set a vCPU's segments"))?;
            fd.set_regs(&regs::general(&entry))
                .map_err(attempt("set a vCPU's registers"))?;
            fd.set_fpu(&regs::floating_point())
                .map_err(attempt("set a vCPU's floating-point state"))?;
        }
        Ok(fd)
    }

    /// What only a vCPU can tell: which registers it has, and how fast its
    /// counter is. Asked while no thread has the vCPUs: a thread would have to
    /// be woken for each answer.
    pub(super) fn facts(
        self,
        vcpus: &[Made],
        start: Start<'_>,
    ) -> Result<ProcessorFacts, BuildError> {
        let first = vcpus.first().map(Made::fd);
        let msrs = first.map_or(Vec::new(), |fd| readable_msrs(fd, &self.msrs));
        let here = first.and_then(|fd| fd.get_tsc_khz().ok()).unwrap_or(0);
        let tsc_khz = match start.description() {
            None => here,
            Some(description) => {
                let guest = description.tsc_khz;
                if !same_rate(guest, here) {
                    for vcpu in vcpus {
                        let scaled = vcpu.fd.set_tsc_khz(guest);
                        scaled.map_err(|_| BuildError::Tsc { guest, here })?;
                    }
                }
                guest
            }
        };
        Ok(ProcessorFacts {
            cpuid: self.cpuid,
            msrs: msrs.into(),
            tsc_khz,
        })
    }
}

fn set_msrs(fd: &VcpuFd, entries: &[kvm_bindings::kvm_msr_entry]) -> Result<(), KvmError> {
    let refused = |source| KvmError::Ioctl {
        attempt: "set a vCPU's model-specific registers",
        source,
    };
    let msrs = Msrs::from_entries(entries)
        .map_err(|_| refused(std::io::ErrorKind::InvalidInput.into()))?;
    let set = fd.set_msrs(&msrs).map_err(|e| refused(e.into()))?;
    match entries.get(set) {
        None => Ok(()),
        Some(first) => Err(refused(std::io::Error::other(format!(
            "KVM refused MSR {:#x}",
            first.index
        )))),
    }
}

/// Whether a guest cannot tell the two rates apart: clocks are corrected by more
/// (KVM's own tolerance, `tsc_tolerance_ppm`, is 250 parts in a million).
fn same_rate(guest_khz: u32, host_khz: u32) -> bool {
    let difference = u64::from(guest_khz.abs_diff(host_khz));
    guest_khz == 0 || host_khz == 0 || difference * 1_000_000 <= u64::from(host_khz) * 250
}

/// Starts the vCPUs' threads; `anywhere` is where one runs that has no CPUs of
/// its own.
pub(super) fn start_threads(
    vcpus: Vec<Made>,
    spec: &MachineSpec,
    anywhere: &CpuSet,
    buses: &Arc<Buses>,
    report: &Report,
) -> Result<Vec<VcpuHandle>, SpawnError> {
    let core = CoreGroup::of(spec.cpus.core_scheduling);
    let start = |Made { id, fd }| {
        let own = spec.cpus.affinity.get(&id);
        let placement = Placement {
            cpus: own.unwrap_or(anywhere).clone(),
            fifo: spec.cpus.sched,
            core: core.clone(),
        };
        VcpuHandle::spawn(id, fd, Arc::clone(buses), placement, Arc::clone(report))
    };
    vcpus.into_iter().map(start).collect()
}

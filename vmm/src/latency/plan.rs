//! What is measured, where, and with which settings.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use godwit_api::config::{
    AffinityConfig, CharacterConfig, CharacterMode, ExitName, SchedConfig, SchedPolicy, VmConfig,
};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::{LatencyError, guest, system};
use crate::affinity;
use crate::arch::cpuid;
use crate::memory::{Memory, MemoryError};
use crate::spec::{CpuSet, HostCpu, HostFacts, MachineSpec, VcpuId, format_cpu_list};

/// The longest period: one-shot timers of KVM's local APIC count to four seconds.
pub const MAX_PERIOD: Duration = Duration::from_secs(1);

/// What a vCPU does until its timer fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Wait {
    /// It halts, as an idle guest does.
    Halt,
    /// It spins, as a packet processor does.
    Poll,
}

/// Which timer of the local APIC a guest uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// TSC-deadline mode, where this KVM has it; else one-shot.
    Deadline,
    /// One-shot mode.
    OneShot,
}

/// When the timer fires, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// From one time to the next.
    pub period: Duration,
    /// Of the whole.
    pub duration: Duration,
    /// What a vCPU does in between.
    pub wait: Wait,
    /// Which timer of a guest's.
    pub timer: Timer,
}

/// A machine that can be measured here.
#[derive(Debug)]
pub struct Plan {
    pub(super) spec: Arc<MachineSpec>,
    pub(super) timing: Timing,
    /// Where this process may run.
    pub(super) home: CpuSet,
    /// What is not as it was asked for.
    pub warnings: Vec<String>,
    /// The guest's kernel: the spec names it by this descriptor.
    _image: OwnedFd,
}

impl Plan {
    /// The plan for the machine of `config`, without its devices.
    ///
    /// # Errors
    /// The config does not fit this host, or a vCPU's CPUs are not for this process.
    pub fn of(mut config: VmConfig, timing: Timing) -> Result<Self, LatencyError> {
        let image = image().map_err(system("hold the measuring guest in memory"))?;
        let path = format!("/proc/self/fd/{}", image.as_raw_fd());
        config.payload.kernel = Some(path.into());
        config.payload.initramfs = None;
        config.payload.cmdline = None;
        config.disks.clear();
        config.devices.clear();
        config.serial = CharacterConfig::new(CharacterMode::Null);
        config.console = CharacterConfig::new(CharacterMode::Off);
        let facts = HostFacts::read(&config)?;
        let mut spec = MachineSpec::from_config(&config, &facts)?;
        // Only now: what a config says of them must fit, and no more.
        spec.net.clear();
        let home = affinity::allowed().map_err(system("read this process's CPU affinity"))?;
        let mut warnings = Vec::new();
        try_places(&mut spec, &mut warnings)?;
        let vcpu_cpus: CpuSet = spec.cpus.affinity.values().flatten().copied().collect();
        if spec.platform.emulator_cpus.is_none() && !vcpu_cpus.is_empty() {
            warnings.push(format!(
                "godwit's other threads may run on the CPUs of vCPUs ({}) too: platform.emulator_cpus \
                 is not set",
                format_cpu_list(&vcpu_cpus)
            ));
        }
        Ok(Self {
            spec: Arc::new(spec),
            timing,
            home,
            warnings,
            _image: image,
        })
    }

    /// The plan for one vCPU on `cpu`, with all settings that keep it undisturbed and
    /// that this process is permitted.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub fn on(cpu: HostCpu, timing: Timing) -> Result<Self, LatencyError> {
        let home = affinity::allowed().map_err(system("read this process's CPU affinity"))?;
        let named = |error| match error {
            LatencyError::Config(error) => LatencyError::Cpu {
                cpu: cpu.0,
                reason: error
                    .problems()
                    .first()
                    .map_or_else(|| error.to_string(), |problem| problem.reason.clone()),
            },
            error => error,
        };
        let mut plan = Self::of(for_cpu(cpu, &home), timing).map_err(named)?;
        let fill_cpus = &plan.home;
        if let Err(MemoryError::Lock(source)) = Memory::create(&plan.spec.memory, fill_cpus) {
            plan.warnings.push(format!(
                "guest memory is not locked ({source}): raise RLIMIT_MEMLOCK (`ulimit -l`) or grant \
                 CAP_IPC_LOCK"
            ));
            Arc::make_mut(&mut plan.spec).memory.lock = false;
        }
        Ok(plan)
    }

    /// The vCPUs, and the CPUs of each.
    pub(super) fn places(&self) -> Vec<(VcpuId, CpuSet)> {
        let cpus = &self.spec.cpus;
        let place = |vcpu: VcpuId| (vcpu, cpus.affinity.get(&vcpu).unwrap_or(&self.home).clone());
        cpus.vcpus().map(place).collect()
    }

    /// Every CPU that is measured.
    #[must_use]
    pub fn measured_cpus(&self) -> CpuSet {
        self.places()
            .into_iter()
            .flat_map(|(_, cpus)| cpus)
            .collect()
    }

    /// CPUs of this process that nothing is measured on.
    #[must_use]
    pub fn other_cpus(&self) -> CpuSet {
        &self.home - &self.measured_cpus()
    }

    /// What is asked for.
    #[must_use]
    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// How the threads are scheduled, in words.
    #[must_use]
    pub fn scheduling(&self) -> String {
        match self.spec.cpus.sched {
            Some(priority) => format!("SCHED_FIFO {}", priority.get()),
            None => "SCHED_OTHER".to_owned(),
        }
    }

    /// The settings of the machine that matter here, in words.
    #[must_use]
    pub fn settings(&self) -> String {
        let cpus = &self.spec.cpus;
        let exits = cpus.disable_exits;
        let names = [
            (exits.hlt, "hlt"),
            (exits.pause, "pause"),
            (exits.mwait, "mwait"),
        ];
        let names: Vec<_> = names
            .iter()
            .filter(|(on, _)| *on)
            .map(|(_, n)| *n)
            .collect();
        let sched = self.scheduling();
        let disabled = match names.as_slice() {
            [] => "exits as usual".to_owned(),
            names => format!("no exits on {}", names.join(", ")),
        };
        let pages: Vec<_> = self
            .spec
            .memory
            .zones
            .iter()
            .map(|zone| zone.page_size)
            .collect();
        let pages = pages
            .first()
            .map_or_else(String::new, |size| format!("{size} pages"));
        let locked = if self.spec.memory.lock {
            ", locked"
        } else {
            ""
        };
        format!("{sched}, {disabled}, {pages}{locked}")
    }
}

/// A config for one vCPU on `cpu`; this process's other threads go to the rest of
/// `home`.
#[must_use]
pub fn for_cpu(cpu: HostCpu, home: &CpuSet) -> VmConfig {
    let mut config = VmConfig::default();
    config.cpus.affinity = vec![AffinityConfig {
        vcpu: 0,
        host_cpus: vec![cpu.0],
    }];
    config.cpus.sched = Some(SchedConfig {
        policy: SchedPolicy::Fifo,
        priority: Some(1),
    });
    config.cpus.disable_exits = vec![ExitName::Hlt, ExitName::Pause];
    if cpuid::host_mwait().is_some() {
        config.cpus.disable_exits.push(ExitName::Mwait);
    }
    config.cpus.halt_poll_ns = Some(0);
    config.cpus.realtime_hint = true;
    config.memory.size = Some(16 << 20);
    config.memory.prefault = Some(true);
    config.memory.lock = true;
    config.platform.emulator_cpus = home
        .iter()
        .map(|cpu| cpu.0)
        .filter(|&n| n != cpu.0)
        .collect();
    config
}

/// The CPU that is measured when none is named: the last that this process may use.
///
/// # Errors
/// The operating system's.
pub fn last_cpu() -> std::io::Result<HostCpu> {
    let home = affinity::allowed()?;
    home.last()
        .copied()
        .ok_or_else(|| std::io::ErrorKind::NotFound.into())
}

fn image() -> std::io::Result<OwnedFd> {
    let mut file = File::from(memfd_create("latency-guest", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(guest::image())?;
    Ok(file.into())
}

/// Tries on a thread of its own whether a vCPU may run as the spec says: before
/// anything is built, and with a warning where it can be done without.
fn try_places(spec: &mut MachineSpec, warnings: &mut Vec<String>) -> Result<(), LatencyError> {
    for (vcpu, cpus) in &spec.cpus.affinity {
        let name = format!("vcpu{vcpu}");
        on_thread(|| affinity::place_current(&name, cpus))??;
    }
    let Some(priority) = spec.cpus.sched else {
        return Ok(());
    };
    if let Err(error) = on_thread(|| affinity::schedule_fifo_current("vcpu0", priority))? {
        let source =
            std::error::Error::source(&error).map_or_else(String::new, |s| format!(" ({s})"));
        warnings.push(format!("measured without SCHED_FIFO: {error}{source}"));
        spec.cpus.sched = None;
    }
    Ok(())
}

fn on_thread<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, LatencyError> {
    let ended = || std::io::Error::other("the thread ended early");
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, work)?;
        thread.join().map_err(|_| ended())
    })
    .map_err(system("try where a thread may run"))
}

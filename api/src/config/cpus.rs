//! vCPUs, where they run and how.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The guest's vCPUs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct CpusConfig {
    /// vCPUs at boot, 1 to 64; 1.
    pub boot_vcpus: u32,
    /// vCPUs at most; as many as at boot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_vcpus: Option<u32>,
    /// How they are grouped; one package of single-threaded cores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topology: Option<TopologyConfig>,
    /// Hyper-V enlightenments.
    pub kvm_hyperv: bool,
    /// Width of guest physical addresses at most, in bits; 46.
    pub max_phys_bits: u8,
    /// Host CPUs for each vCPU; a vCPU that is not listed runs anywhere.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub affinity: Vec<AffinityConfig>,
    /// Features of the processor that are off unless asked for.
    pub features: CpuFeaturesConfig,
    /// Whether the guest may run virtual machines itself; yes.
    pub nested: bool,
    /// What may share a physical core with a vCPU, where the kernel has core
    /// scheduling and the processor hardware threads: anything (`Off`, which is
    /// right for vCPUs on isolated CPUs), the other vCPUs, or nothing; `Off`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub core_scheduling: Option<CoreScheduling>,
    /// The processor model; `Host` is the only one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Scheduling class of the vCPU threads. *godwit's own.*
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sched: Option<SchedConfig>,
    /// Instructions that do not leave the guest. *godwit's own.*
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disable_exits: Vec<ExitName>,
    /// How long KVM polls before it lets a halted vCPU's thread sleep, in
    /// nanoseconds; the kernel's module parameter decides where it is not set.
    /// *godwit's own.*
    #[serde(skip_serializing_if = "Option::is_none")]
    pub halt_poll_ns: Option<u32>,
    /// Whether the guest is told (`KVM_HINTS_REALTIME`) that its vCPUs are
    /// never preempted for long; no. *godwit's own.*
    pub realtime_hint: bool,
}

impl Default for CpusConfig {
    fn default() -> Self {
        Self {
            boot_vcpus: 1,
            max_vcpus: None,
            topology: None,
            kvm_hyperv: false,
            max_phys_bits: 46,
            affinity: Vec::new(),
            features: CpuFeaturesConfig::default(),
            nested: true,
            core_scheduling: None,
            profile: None,
            sched: None,
            disable_exits: Vec::new(),
            halt_poll_ns: None,
            realtime_hint: false,
        }
    }
}

/// How vCPUs are grouped; the product is the number of vCPUs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TopologyConfig {
    /// Hardware threads in a core, 1 or 2.
    pub threads_per_core: u16,
    /// Cores in a die.
    pub cores_per_die: u16,
    /// Dies in a package.
    pub dies_per_package: u16,
    /// Packages in the machine.
    pub packages: u16,
}

/// Where one vCPU runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AffinityConfig {
    /// The vCPU, from 0.
    pub vcpu: u32,
    /// Host CPUs by number.
    pub host_cpus: Vec<u32>,
}

/// Features of the processor that are off unless asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct CpuFeaturesConfig {
    /// Advanced matrix extensions.
    pub amx: bool,
}

/// What may run beside a vCPU on the other hardware threads of its core, which is
/// idle otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CoreScheduling {
    /// Other vCPUs of its machine.
    Vm,
    /// Nothing.
    Vcpu,
    /// Anything.
    Off,
}

/// Scheduling class of the vCPU threads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SchedConfig {
    /// The class.
    pub policy: SchedPolicy,
    /// Priority, 1 to 99; only for `fifo`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
}

/// A scheduling class of the kernel (sched(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SchedPolicy {
    /// `SCHED_FIFO`.
    Fifo,
    /// `SCHED_OTHER`.
    Other,
}

/// An instruction that can be made not to leave the guest
/// (`KVM_CAP_X86_DISABLE_EXITS`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ExitName {
    /// `HLT`.
    Hlt,
    /// `PAUSE`.
    Pause,
    /// `MWAIT`.
    Mwait,
}

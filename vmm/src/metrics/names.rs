//! What KVM's statistics are called here, and what they mean. One that is not
//! in the tables keeps its own name.

use godwit_api::metrics::Kind;

/// Whose statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    Vm,
    Vcpu,
}

/// How a statistic is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    /// Without prefix, unit and ending.
    pub(super) stem: String,
    /// A label, and its value for this one of several in a family.
    pub(super) kind: Option<(&'static str, String)>,
    pub(super) help: String,
}

/// KVM's name, our stem, what it means.
type Known = (&'static str, &'static str, &'static str);

/// Of a vCPU (kernel: arch/x86/include/asm/kvm_host.h, `struct kvm_vcpu_stat`,
/// and include/linux/kvm_types.h, `struct kvm_vcpu_stat_generic`).
const VCPU: [Known; 36] = [
    ("exits", "exits", "Times the vCPU left the guest."),
    (
        "halt_attempted_poll",
        "halt_polls_attempted",
        "Times KVM polled for a wake-up of the halted vCPU.",
    ),
    (
        "halt_successful_poll",
        "halt_polls_successful",
        "Times a poll of the halted vCPU ended with a wake-up.",
    ),
    (
        "halt_poll_invalid",
        "halt_polls_invalid",
        "Times a poll of the halted vCPU ended with a wake-up that does not count.",
    ),
    (
        "halt_wakeup",
        "halt_wakeups",
        "Times the halted vCPU was woken up after it had gone to sleep.",
    ),
    (
        "halt_poll_success",
        "halt_poll_success",
        "Time that polls took which ended with a wake-up.",
    ),
    (
        "halt_poll_fail",
        "halt_poll_fail",
        "Time that polls took in vain.",
    ),
    ("halt_wait", "halt_wait", "Time that the halted vCPU slept."),
    ("blocking", "blocking", "1 while the vCPU sleeps in KVM."),
    (
        "guest_mode",
        "guest_mode",
        "1 while the vCPU runs a guest of the guest's.",
    ),
    (
        "pf_taken",
        "page_faults",
        "Page faults of the guest that KVM took up.",
    ),
    (
        "pf_fixed",
        "page_faults_fixed",
        "Page faults that KVM ended by mapping a page.",
    ),
    (
        "pf_emulate",
        "page_faults_emulated",
        "Page faults that KVM ended by emulating the instruction.",
    ),
    (
        "pf_spurious",
        "page_faults_spurious",
        "Page faults on pages that were mapped meanwhile.",
    ),
    (
        "pf_fast",
        "page_faults_fast",
        "Page faults that KVM ended without its lock.",
    ),
    (
        "pf_mmio_spte_created",
        "page_faults_mmio",
        "Page faults on addresses of devices, which KVM noted.",
    ),
    (
        "pf_guest",
        "page_faults_reflected",
        "Page faults that KVM passed on to the guest.",
    ),
    (
        "tlb_flush",
        "tlb_flushes",
        "Flushes of the vCPU's translations.",
    ),
    ("invlpg", "invlpg", "INVLPG instructions that KVM did."),
    (
        "l1d_flush",
        "l1d_flushes",
        "Flushes of the first-level data cache before an entry.",
    ),
    (
        "host_state_reload",
        "host_state_reloads",
        "Times the host's registers were loaded again.",
    ),
    (
        "fpu_reload",
        "fpu_reloads",
        "Times the guest's floating-point registers were loaded.",
    ),
    (
        "insn_emulation",
        "emulated_instructions",
        "Instructions that KVM emulated.",
    ),
    (
        "insn_emulation_fail",
        "emulated_instructions_failed",
        "Instructions that KVM could not emulate.",
    ),
    ("hypercalls", "hypercalls", "Calls of the guest to KVM."),
    (
        "irq_injections",
        "irq_injections",
        "Interrupts that the guest was given.",
    ),
    (
        "nmi_injections",
        "nmi_injections",
        "Non-maskable interrupts that the guest was given.",
    ),
    (
        "req_event",
        "event_requests",
        "Times KVM looked for events to give to the guest.",
    ),
    (
        "nested_run",
        "nested_runs",
        "Entries to guests of the guest's.",
    ),
    (
        "directed_yield_attempted",
        "directed_yields_attempted",
        "Times the vCPU's CPU was offered to another vCPU.",
    ),
    (
        "directed_yield_successful",
        "directed_yields_successful",
        "Times another vCPU took the offered CPU.",
    ),
    (
        "preemption_reported",
        "preemptions_reported",
        "Times the guest was told that the vCPU lost its CPU.",
    ),
    (
        "preemption_other",
        "preemptions_unreported",
        "Times the vCPU lost its CPU and the guest was not told.",
    ),
    (
        "request_irq_exits",
        "irq_window_requests",
        "Exits to take an interrupt of this process's.",
    ),
    (
        "pf_parked",
        "page_faults_parked",
        "Page faults that waited for another vCPU's.",
    ),
    (
        "pf_park_timeouts",
        "page_faults_park_timeouts",
        "Page faults that waited in vain for another vCPU's.",
    ),
];

const EXITS_BY_KIND: &str = "exits_by_kind";
const EXITS_BY_KIND_HELP: &str =
    "Exits of some kinds; not every exit is of one of them, and some are of two.";
const MAPPED_PAGES: &str = "mapped_pages";
const MAPPED_PAGES_HELP: &str = "Guest memory that KVM has mapped, in pages of each size.";

/// Of a virtual machine (`struct kvm_vm_stat`, `struct kvm_vm_stat_generic`).
const VM: [Known; 12] = [
    (
        "remote_tlb_flush",
        "remote_tlb_flushes",
        "Flushes of the translations of all vCPUs.",
    ),
    (
        "remote_tlb_flush_requests",
        "remote_tlb_flush_requests",
        "Times such a flush was asked for.",
    ),
    (
        "mmu_shadow_zapped",
        "mmu_shadow_zapped",
        "Shadow page tables that KVM gave up.",
    ),
    (
        "mmu_pte_write",
        "mmu_pte_writes",
        "Writes of the guest to its page tables that KVM followed.",
    ),
    (
        "mmu_pde_zapped",
        "mmu_pde_zapped",
        "Shadow page directories that KVM gave up.",
    ),
    (
        "mmu_flooded",
        "mmu_flooded",
        "Shadow page tables that KVM gave up since they were written often.",
    ),
    (
        "mmu_recycled",
        "mmu_recycled",
        "Shadow page tables that KVM took for others.",
    ),
    (
        "mmu_cache_miss",
        "mmu_cache_misses",
        "Shadow page tables that KVM had to make.",
    ),
    (
        "mmu_unsync",
        "mmu_unsynced_pages",
        "Shadow page tables that differ from the guest's at the moment.",
    ),
    (
        "nx_lpage_splits",
        "nx_huge_page_splits",
        "Huge pages that are split so that they can be executed.",
    ),
    (
        "max_mmu_rmap_size",
        "mmu_rmap_size_max",
        "The most mappings that a page of the guest has had.",
    ),
    (
        "max_mmu_page_hash_collisions",
        "mmu_page_hash_collisions_max",
        "The most shadow page tables that shared a place in the hash.",
    ),
];

impl Scope {
    pub(super) const fn prefix(self) -> &'static str {
        match self {
            Self::Vm => "godwit_kvm_vm_",
            Self::Vcpu => "godwit_kvm_vcpu_",
        }
    }

    pub(super) fn labels(self, kind: Option<&'static str>) -> &'static [&'static str] {
        match (self, kind) {
            (Self::Vm, None) => &[],
            (Self::Vm, Some(_)) => &["size"],
            (Self::Vcpu, None) => &["vcpu"],
            (Self::Vcpu, Some(_)) => &["vcpu", "kind"],
        }
    }
}

impl Name {
    /// For what KVM calls `name`.
    pub(super) fn of(scope: Scope, name: &str, kind: Kind) -> Self {
        let bare = ["_ns", "_hist"]
            .iter()
            .find_map(|end| name.strip_suffix(end));
        let bare = bare.unwrap_or(name);
        let known: &[Known] = match scope {
            Scope::Vm => &VM,
            Scope::Vcpu => &VCPU,
        };
        let known = known.iter().find(|(theirs, ..)| *theirs == bare);
        if let Some((_, stem, help)) = known {
            return Self {
                stem: (*stem).to_owned(),
                kind: None,
                help: (*help).to_owned(),
            };
        }
        let grouped = match (scope, kind) {
            (Scope::Vcpu, Kind::Counter) => name
                .strip_suffix("_exits")
                .map(|of| (EXITS_BY_KIND, "kind", of, EXITS_BY_KIND_HELP)),
            (Scope::Vm, Kind::Gauge) => name
                .strip_prefix("pages_")
                .map(|of| (MAPPED_PAGES, "size", of, MAPPED_PAGES_HELP)),
            _ => None,
        };
        match grouped {
            Some((stem, label, of, help)) => Self {
                stem: stem.to_owned(),
                kind: Some((label, of.to_owned())),
                help: help.to_owned(),
            },
            None => Self {
                stem: bare.strip_suffix("_total").unwrap_or(bare).to_lowercase(),
                kind: None,
                help: format!("What KVM counts as {name}."),
            },
        }
    }
}

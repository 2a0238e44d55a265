//! What `GET /metrics` shows: facts are gathered, then made into families.
//!
//! ```text
//! control loop --observe--> MetricsSource --gather--> Facts --page--> text
//!                             (weak: of the machine that is there)
//! ```
//!
//! The loop only starts the thread that answers, so an answer comes in every
//! phase, also while a worker has the machine. Nothing here stops a vCPU or takes a lock that one
//! takes, nor one that is held while guest memory is filled: `smaps_rollup`
//! would walk all of it, so memory is told from the kernel's own counts.
//!
//! | module | families |
//! |---|---|
//! | `machine` | `godwit_vm_*`, `godwit_guest_memory_*`, `godwit_serial_*`, `godwit_device_*` |
//! | `kvm`, `names` | `godwit_kvm_vm_*`, `godwit_kvm_vcpu_*`: whatever KVM offers |
//! | `threads` | `godwit_thread_*` |
//! | `migration` | `godwit_migration_*` |
//! | `process` | `godwit_build_info`, `godwit_uptime_seconds`, `process_*` |

mod kvm;
mod machine;
mod migration;
mod names;
mod process;
mod source;
mod threads;

use std::time::Duration;

use godwit_api::metrics::Page;
use godwit_api::response::Progress;

use crate::control::phase::Phase;

pub use machine::{DeviceFacts, MachineFacts, ZoneFacts};
pub use process::ProcessFacts;
pub use source::MetricsSource;
pub use threads::{Role, ThreadFacts};

/// All that the page is made from.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Where the machine is in its life.
    pub phase: Phase,
    /// Since the process started.
    pub uptime: Duration,
    /// The machine, when there is one.
    pub machine: Option<MachineFacts>,
    /// The migration under way, or the last one.
    pub migration: Option<Progress>,
    /// This process.
    pub process: ProcessFacts,
    /// Its threads.
    pub threads: Vec<ThreadFacts>,
}

/// The families of `facts`.
#[must_use]
pub fn page(facts: &Facts) -> Page {
    let mut page = Page::new();
    process::show_build(&mut page, facts.uptime);
    machine::show_state(&mut page, facts.phase);
    if let Some(machine) = &facts.machine {
        machine::show(&mut page, machine);
        kvm::show(&mut page, &machine.kvm);
    }
    if let Some(migration) = &facts.migration {
        migration::show(&mut page, migration);
    }
    threads::show(&mut page, &facts.threads);
    process::show(&mut page, &facts.process);
    page
}

#[cfg(test)]
mod tests;

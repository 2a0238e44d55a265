//! The godwit hypervisor: the machine itself, on KVM.
//!
//! Data flows one way:
//!
//! ```text
//! JSON -> godwit_api::config (dumb wire types)
//!      -> spec    (valid by construction)
//!      -> builder (numbered short steps)
//!      -> machine (live)
//! ```
//!
//! What comes back up are values; nothing below holds a pointer upward.

pub mod affinity;
pub mod arch;
pub mod boot;
pub mod builder;
pub mod check;
pub mod control;
pub mod core_scheduling;
pub mod host;
pub mod kvm;
pub mod latency;
pub mod machine;
pub mod memory;
pub mod metrics;
pub mod migrate;
pub mod seccomp;
pub mod signals;
pub mod snapshot;
pub mod spec;
mod trim;
pub mod vcpu;

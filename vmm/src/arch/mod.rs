//! x86-64 as plain functions and tables: address layout, CPUID, MSRs, boot
//! registers, ACPI.

pub mod acpi;
pub mod cpuid;
pub mod layout;
pub mod msr;
pub mod regs;
pub mod reset_vector;
mod topology;

pub use topology::Topology;

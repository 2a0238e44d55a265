//! x86-64 as plain functions and tables: address layout, CPUID, MSRs, boot
//! registers, ACPI.

pub mod layout;
pub mod regs;
mod topology;

pub use topology::Topology;

//! The payload guest (`resources/payload`) on this machine's KVM, hardware or not.

mod acpi;
mod boot;
mod cpus;
mod end;
mod memory;
mod metrics;
mod serial;
mod threads;

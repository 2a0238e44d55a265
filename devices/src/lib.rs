//! Devices of the godwit hypervisor.

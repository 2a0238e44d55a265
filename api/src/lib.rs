//! JSON types of the godwit hypervisor.
#![forbid(unsafe_code)]

//! Live migration of the godwit hypervisor.
//!
//! This crate holds no code yet: its place in the star of crates is fixed, and
//! what it will need of a guest comes with the first phase of migration.
#![forbid(unsafe_code)]

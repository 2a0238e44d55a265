//! Other VMMs with the same guest, to compare with.

pub mod qemu;

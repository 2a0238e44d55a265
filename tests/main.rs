//! Tests through the user's door: each starts the real `godwit` with a config of its own, and
//! looks at what the guest says, at what the host shows, and at how the process ends.
//!
//! `cargo test -p godwit --test integration` runs them where `/dev/kvm` is; `GODWIT_BIN` names
//! another binary to test. Nothing is skipped: a test that a machine cannot run fails and says
//! what it needs.

mod check;
mod dpdk;
mod isolated;
mod latency;
mod linux;
mod migration;
mod payload;
mod refusal;
mod rest;
mod support;

//! What tests are made of: a folder, a config, a process, and what the guest said.

pub mod config;
pub mod daemon;
pub mod gate;
pub mod host;
pub mod linux;
pub mod namespace;
pub mod network;
pub mod output;
pub mod process;
pub mod proxy;
pub mod scrape;
pub mod scratch;
pub mod trace;
pub mod traveller;
pub mod vm;
pub mod watch;

//! Bytes that an earlier godwit wrote are read for as long as their version is.
//!
//! `fixtures/` has files of a snapshot of version 1: two vCPUs, a disk, a serial
//! port, by godwit 0.1.0 on Linux 6.18. They are never written anew: a struct that
//! changes gets a new version, and the old one stays readable.

use std::path::Path;

use super::seal::SealV1;
use crate::machine::{Description, MachineV1};

const MACHINE_V1: &[u8] = include_bytes!("fixtures/machine-v1.bin");
const STATE_V1: &[u8] = include_bytes!("fixtures/state-v1.bin");

#[test]
fn a_description_of_version_1_is_read() {
    let description = Description::decode(MACHINE_V1).unwrap();
    assert_eq!(description.version, "0.1.0");
    let config = description.config().unwrap();
    assert_eq!(config.cpus.boot_vcpus, 2);
    assert_eq!(description.cpuid.len(), 2);
    assert!(!description.running);
    let ids: Vec<_> = description.functions.iter().map(|f| &f.id).collect();
    assert_eq!(ids, ["disk0", "__rng"]);
    assert_eq!(description.encode().unwrap(), MACHINE_V1);
}

#[test]
fn a_state_of_version_1_is_read() {
    let path = Path::new("state.bin");
    let seal = SealV1::decode(path, STATE_V1).unwrap();
    seal.check(path, "machine.bin", MACHINE_V1).unwrap();
    let machine = MachineV1::decode(&seal.state).unwrap();
    // Nothing of it is lost on the way.
    assert_eq!(machine.encode().unwrap(), seal.state);
}

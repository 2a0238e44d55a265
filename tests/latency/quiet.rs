//! A guest that polls is left alone: no other thread of godwit's is on its core, none wakes up
//! while nobody asks for anything, and the vCPU never comes out to godwit. The same with a CPU that
//! the kernel isolates is in `isolated`.

use std::time::Duration;

use godwit_lab::doctor::MachineKind;

use crate::support::host;
use crate::support::namespace::apart;
use crate::support::watch::Polling;

/// How long the guest is watched.
const WATCH: Duration = Duration::from_secs(60);

#[test]
fn a_polling_guest_is_left_alone() {
    let _core = super::core();
    let cpus = host::cpus();
    let (emulator, vcpu) = match cpus.as_slice() {
        [first, .., last] => (*first, *last),
        _ => panic!("needs two CPUs"),
    };
    // Where KVM interprets the guest, each of its steps is an exit.
    let with_exits = MachineKind::detect() == MachineKind::HardwareVirtualization;
    apart(|| Polling::start(vcpu, emulator).watch(WATCH, with_exits));
}

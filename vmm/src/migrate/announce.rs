//! Telling the network where a guest is that has moved.
//!
//! Switches send frames to the port where they last saw the guest's address.
//! Until they see it elsewhere, the guest hears nothing; and the frames that
//! would tell them may get lost, so they are told several times.

use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use godwit_devices::virtio::pci::VirtioPci;

use crate::machine::Machine;

/// Has the network send here from now on. Ahead of the guest's first instruction:
/// frames that come before it is served wait in its tap, and those that go to
/// where it was are lost.
pub(super) fn once(machine: &Machine) {
    for function in &machine.functions {
        function.device.with_device(|device| device.announce());
    }
}

/// Times between announcements, the first at once.
const PAUSES: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_millis(50),
    Duration::from_millis(150),
    Duration::from_millis(300),
    Duration::from_millis(500),
    Duration::from_millis(1000),
];

/// Announces the machine's network devices now and a few times more, on a thread
/// of its own that ends earlier when the machine goes.
pub(super) fn start(machine: &Machine) {
    let functions: Vec<Weak<VirtioPci>> = machine
        .functions
        .iter()
        .map(|function| Arc::downgrade(&function.device))
        .collect();
    let announced = thread::Builder::new()
        .name("announce".to_owned())
        .spawn(move || {
            for pause in PAUSES {
                thread::sleep(pause);
                for function in &functions {
                    let Some(function) = function.upgrade() else {
                        return;
                    };
                    function.with_device(|device| device.announce());
                }
            }
        });
    if let Err(error) = announced {
        tracing::warn!("The network is not told where the guest is: {error}");
    }
}

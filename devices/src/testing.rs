//! Fakes of what the hypervisor implements, the driver's half of a ring, and
//! the suite that every device passes.

mod device;
mod doorbell;
mod guest;
mod irq;
mod ring;
mod suite;

use std::sync::Arc;

use vm_memory::GuestAddress;

use crate::GuestRam;
pub use crate::virtio::net::ControlGuest;

pub use device::{FakeDevice, FakeDeviceLog};
pub use doorbell::FakeDoorbells;
pub use guest::{PciGuest, Space, Step};
pub use irq::{FakeMsi, FakeVectors};
pub use ring::{Buffer, DriverRing};
pub use suite::{device_suite, device_suite_in};

/// Guest RAM at the given ranges (address and size in bytes), zeroed.
///
/// # Panics
/// The ranges overlap, or the host has no memory.
#[must_use]
pub fn guest_ram(ranges: &[(u64, usize)]) -> Arc<GuestRam> {
    let ranges: Vec<_> = ranges.iter().map(|(a, s)| (GuestAddress(*a), *s)).collect();
    Arc::new(GuestRam::from_ranges(&ranges).expect("guest RAM for a test"))
}

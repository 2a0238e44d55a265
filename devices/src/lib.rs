//! Devices of the godwit hypervisor.
//!
//! How a kick and an interrupt travel:
//!
//! ```text
//!  guest driver                                   guest interrupt handler
//!      | writes the queue's notify address               ^
//!      v                                                 | MSI-X message
//!  KVM: ioeventfd ([doorbell])                    KVM: irqfd ([irq])
//!      | signals the ring's kick eventfd                 ^
//!      v                                                 | signals the call eventfd
//!  vhost worker (kernel), or our device loop  ------> uses the ring
//! ```
//!
//! For a vhost device no line of this crate runs between the two: it only
//! connects the descriptors when the driver sets DRIVER_OK.
//!
//! Three seams keep the parts apart. A *device* ([`virtio::VirtioDevice`])
//! knows queues and its own configuration, but no PCI. A *transport*
//! ([`virtio::pci`]) knows PCI and MSI-X, but no KVM. What both need from the
//! hypervisor are small traits ([`irq`], [`doorbell`]) that the VMM implements.
//! So this crate builds and tests without `/dev/kvm`.

pub mod bus;
pub mod device_loop;
pub mod dirty;
pub mod doorbell;
pub mod irq;
pub mod pci;
pub mod reset;
#[cfg(test)]
mod saved;
pub mod serial;
pub mod tap;
#[cfg(any(test, feature = "test-utils"))]
pub mod testing;
pub mod virtio;

/// The guest's RAM as devices see it, which knows what they wrote.
pub type GuestRam = vm_memory::GuestMemoryMmap<dirty::DirtyMap>;

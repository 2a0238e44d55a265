//! Why a machine could not be built.

use godwit_devices::bus::OverlapError;
use godwit_devices::pci::AttachError;
use godwit_devices::virtio::pci::CreateError;

use crate::arch::{acpi, regs};
use crate::boot::BootError;
use crate::host::HostError;
use crate::kvm::KvmError;
use crate::machine::NotDescribed;
use crate::vcpu::SpawnError;

/// The machine could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A resource of the host.
    #[error(transparent)]
    Host(#[from] HostError),
    /// KVM.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The kernel, the initramfs or the command line.
    #[error("Could not load the guest's kernel")]
    Boot(#[from] BootError),
    /// The ACPI tables.
    #[error("Could not write the ACPI tables")]
    Acpi(#[from] acpi::AcpiError),
    /// The boot processor's tables.
    #[error("Could not write the boot processor's tables")]
    Tables(#[from] regs::BootTablesError),
    /// The code at the reset vector.
    #[error("Could not write the code at the reset vector")]
    ResetVector(#[source] vm_memory::GuestMemoryError),
    /// A virtio device's transport.
    #[error("Could not build the PCI function of device {id}")]
    Function {
        /// The device's id.
        id: String,
        /// Why.
        #[source]
        source: CreateError,
    },
    /// A PCI function found no place.
    #[error("Could not attach device {id}")]
    Attach {
        /// The device's id.
        id: String,
        /// Why.
        #[source]
        source: AttachError,
    },
    /// Two devices claim the same addresses: a defect of the layout.
    #[error("Could not arrange the devices")]
    Overlap(#[from] OverlapError),
    /// A vCPU thread.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// The time-stamp counter counts differently here.
    #[error(
        "The guest's time-stamp counter counts {guest} kHz and this host's {here} kHz, which its KVM cannot scale"
    )]
    Tsc {
        /// The guest's, in kHz.
        guest: u32,
        /// This host's, in kHz.
        here: u32,
    },
    /// A description that does not fit its config.
    #[error(transparent)]
    Described(#[from] NotDescribed),
    /// The guest has more memory than its processor can address.
    #[error(
        "The guest's memory ends at {ram_end:#x}, and its processor addresses only {phys_bits} bits: \
         no room is left for PCI; give it less memory"
    )]
    AddressSpace {
        /// First address behind RAM.
        ram_end: u64,
        /// Physical address bits of the guest's processor.
        phys_bits: u8,
    },
}

//! Numbers of the PCI Local Bus Specification 3.0, and of vendors.

/// Offset of the vendor id; the device id follows.
pub const VENDOR_ID: u16 = 0x00;
/// Offset of the command register.
pub const COMMAND: u16 = 0x04;
/// Offset of the status register.
pub const STATUS: u16 = 0x06;
/// Offset of the revision id; the class code's three bytes follow.
pub const REVISION_ID: u16 = 0x08;
/// Offset of the first base address register.
pub const BAR0: u16 = 0x10;
/// Offset just after the last base address register.
pub const BARS_END: u16 = 0x28;
/// Offset of the subsystem vendor id; the subsystem id follows.
pub const SUBSYSTEM_VENDOR_ID: u16 = 0x2c;
/// Offset of the pointer to the first capability.
pub const CAPABILITIES: u16 = 0x34;
/// Offset of the interrupt line register, which only software uses.
pub const INTERRUPT_LINE: u16 = 0x3c;

/// Command: answer I/O port accesses.
pub const COMMAND_IO: u16 = 1 << 0;
/// Command: answer memory accesses.
pub const COMMAND_MEMORY: u16 = 1 << 1;
/// Command: may access memory, message-signalled interrupts included.
pub const COMMAND_BUS_MASTER: u16 = 1 << 2;
/// Command: never assert INTx.
pub const COMMAND_INTX_DISABLE: u16 = 1 << 10;

/// Status: there is a capability list.
pub const STATUS_CAPABILITIES: u16 = 1 << 4;

/// Capability: vendor specific.
pub const CAPABILITY_VENDOR: u8 = 0x09;
/// Capability: MSI-X.
pub const CAPABILITY_MSIX: u8 = 0x11;

/// Red Hat, whose device ids the virtio devices use (virtio 1.2, 4.1.2).
pub const VENDOR_VIRTIO: u16 = 0x1af4;
/// Red Hat's virtual platform devices.
pub const VENDOR_REDHAT: u16 = 0x1b36;
/// A generic PCI Express host bridge of [`VENDOR_REDHAT`].
pub const DEVICE_HOST_BRIDGE: u16 = 0x0008;

/// Class code of a host bridge.
pub const CLASS_HOST_BRIDGE: u32 = 0x06_0000;
/// Class code of an Ethernet controller.
pub const CLASS_ETHERNET: u32 = 0x02_0000;
/// Class code of a mass storage controller of no standard kind.
pub const CLASS_STORAGE: u32 = 0x01_8000;
/// Class code of a simple communication controller of no standard kind.
pub const CLASS_COMMUNICATION: u32 = 0x07_8000;
/// Class code of a device that fits no other class.
pub const CLASS_OTHER: u32 = 0xff_0000;

//! Interrupts as devices see them; the VMM implements them with KVM.

use std::fmt;
use std::io;

use vmm_sys_util::eventfd::EventFd;

/// A wired interrupt: an edge on a pin of the I/O APIC.
pub trait IrqLine: Send + Sync + fmt::Debug {
    /// Raises one edge.
    ///
    /// # Errors
    /// The operating system's, when the line cannot be signalled.
    fn trigger(&self) -> io::Result<()>;
}

/// What a device writes to memory to raise a message-signalled interrupt
/// (PCI Local Bus 3.0, 6.8.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MsiMessage {
    /// Message address.
    pub address: u64,
    /// Message data.
    pub data: u32,
}

/// The MSI-X vectors of one function.
///
/// Each vector is an eventfd for its whole life, so that it can be handed to
/// vhost once. While the vector is enabled a signal becomes an interrupt
/// without us; while it is disabled (masked, or not programmed yet) signals
/// gather in the eventfd and are delivered when it is enabled again: that is
/// the pending bit of PCI Local Bus 3.0, 6.8.2.6.
pub trait MsiVectors: Send + Sync + fmt::Debug {
    /// How many vectors there are.
    fn count(&self) -> u16;

    /// The eventfd that raises `vector`; `None` when there is no such vector.
    fn eventfd(&self, vector: u16) -> Option<&EventFd>;

    /// Routes `vector` to `message`, and delivers what was pending. Called
    /// again with another message, it moves the vector.
    ///
    /// # Errors
    /// The operating system's, when the route cannot be set.
    fn enable(&self, vector: u16, message: MsiMessage) -> io::Result<()>;

    /// Routes several vectors at once, as [`enable`](Self::enable) does each:
    /// when MSI-X is switched on and when it is restored. An implementer whose
    /// routes are one table sets it once.
    ///
    /// # Errors
    /// The operating system's; which of the vectors are routed is not known.
    fn enable_many(&self, routes: &[(u16, MsiMessage)]) -> io::Result<()> {
        routes
            .iter()
            .try_for_each(|(vector, message)| self.enable(*vector, *message))
    }

    /// Holds `vector` back: signals stay pending from now on.
    ///
    /// # Errors
    /// The operating system's.
    fn disable(&self, vector: u16) -> io::Result<()>;

    /// Whether a signal is waiting while `vector` is disabled.
    fn is_pending(&self, vector: u16) -> bool;
}

/// Gives out MSI-X vectors.
pub trait MsiController: Send + Sync + fmt::Debug {
    /// Allocates `count` disabled vectors for one function.
    ///
    /// # Errors
    /// No more interrupt routes, or the operating system's.
    fn allocate(&self, count: u16) -> io::Result<Box<dyn MsiVectors>>;
}

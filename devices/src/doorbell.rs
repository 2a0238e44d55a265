//! Doorbells: guest addresses whose write signals an eventfd without an exit to
//! us. The VMM implements them with KVM's ioeventfd.

use std::fmt;
use std::io;

use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::EventFd;

/// Binds memory-mapped addresses to eventfds.
pub trait Doorbells: Send + Sync + fmt::Debug {
    /// A write of any length and value at `address` signals `fd` from now on.
    ///
    /// # Errors
    /// The operating system's, such as no more devices on KVM's bus.
    fn bind(&self, address: GuestAddress, fd: &EventFd) -> io::Result<()>;

    /// Undoes [`bind`](Self::bind), with the same arguments.
    ///
    /// # Errors
    /// The operating system's, when the pair is not bound.
    fn unbind(&self, address: GuestAddress, fd: &EventFd) -> io::Result<()>;
}

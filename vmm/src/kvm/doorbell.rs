//! Doorbells by KVM's ioeventfd.

use std::io;
use std::sync::Arc;

use godwit_devices::doorbell::Doorbells;
use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use vm_memory::{Address, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

/// [`Doorbells`] of one virtual machine.
#[derive(Clone, Debug)]
pub struct KvmDoorbells(pub Arc<VmFd>);

impl Doorbells for KvmDoorbells {
    fn bind(&self, address: GuestAddress, fd: &EventFd) -> io::Result<()> {
        let address = IoEventAddress::Mmio(address.raw_value());
        Ok(self.0.register_ioevent(fd, &address, NoDatamatch)?)
    }

    fn unbind(&self, address: GuestAddress, fd: &EventFd) -> io::Result<()> {
        let address = IoEventAddress::Mmio(address.raw_value());
        Ok(self.0.unregister_ioevent(fd, &address, NoDatamatch)?)
    }
}

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Mutex, PoisonError};

use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::EventFd;

use crate::doorbell::Doorbells;

/// Doorbells that the test rings. As KVM does, it refuses to bind an address
/// twice and to unbind what is not bound; each refusal is counted.
#[derive(Debug, Default)]
pub struct FakeDoorbells {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    bound: BTreeMap<u64, (RawFd, EventFd)>,
    refused: usize,
}

impl FakeDoorbells {
    /// The addresses that are bound, in order.
    #[must_use]
    pub fn bound(&self) -> Vec<u64> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.bound.keys().copied().collect()
    }

    /// How many calls were refused.
    #[must_use]
    pub fn refused(&self) -> usize {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.refused
    }

    /// Does what a guest's write at `address` does: `false` when nothing is
    /// bound there.
    #[must_use]
    pub fn ring(&self, address: u64) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let bell = state.bound.get(&address);
        bell.is_some_and(|(_, fd)| fd.write(1).is_ok())
    }
}

impl Doorbells for FakeDoorbells {
    fn bind(&self, address: GuestAddress, fd: &EventFd) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.bound.contains_key(&address.0) {
            state.refused += 1;
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let bell = (fd.as_raw_fd(), fd.try_clone()?);
        state.bound.insert(address.0, bell);
        Ok(())
    }

    fn unbind(&self, address: GuestAddress, fd: &EventFd) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let bell = state.bound.get(&address.0);
        if bell.is_none_or(|(raw, _)| *raw != fd.as_raw_fd()) {
            state.refused += 1;
            return Err(io::ErrorKind::NotFound.into());
        }
        state.bound.remove(&address.0);
        Ok(())
    }
}

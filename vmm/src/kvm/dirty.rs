//! KVM's dirty log: which pages the guest's vCPUs wrote.
//!
//! With `KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2` reading the log and clearing it are
//! two calls, and a log that is switched on says at first that every page is
//! dirty, without having write-protected any (kernel:
//! Documentation/virt/kvm/api.rst, 4.8, 4.117, 7.14).

use std::io;

use kvm_bindings::{
    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_DIRTY_LOG_INITIALLY_SET,
    KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE, KVM_MEM_LOG_DIRTY_PAGES, KVMIO, kvm_clear_dirty_log,
    kvm_clear_dirty_log__bindgen_ty_1, kvm_dirty_log, kvm_dirty_log__bindgen_ty_1,
    kvm_userspace_memory_region,
};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::ioctl::{ioctl_with_mut_ref, ioctl_with_ref};
use vmm_sys_util::{ioctl_iow_nr, ioctl_iowr_nr};

use godwit_devices::GuestRam;

use super::{KvmError, Vm, attempt};

ioctl_iow_nr!(KVM_GET_DIRTY_LOG, KVMIO, 0x42, kvm_dirty_log);
ioctl_iowr_nr!(KVM_CLEAR_DIRTY_LOG, KVMIO, 0xc0, kvm_clear_dirty_log);

/// How this KVM logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogKind {
    /// Read and cleared apart; all pages are dirty at the start.
    Manual,
    /// Reading clears (before Linux 5.7): what is read must be kept.
    ReadClears,
}

impl Vm {
    /// Chooses how dirty pages will be logged; before any log is switched on.
    ///
    /// # Errors
    /// The ioctl's.
    pub(super) fn choose_log(&self) -> Result<LogKind, KvmError> {
        let wanted = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET;
        let known = self
            .fd
            .check_extension_raw(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2.into());
        if u32::try_from(known).unwrap_or(0) & wanted != wanted {
            return Ok(LogKind::ReadClears);
        }
        self.enable(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, wanted.into())
            .map_err(attempt("separate reading the dirty log from clearing it"))?;
        Ok(LogKind::Manual)
    }

    /// How dirty pages are logged.
    #[must_use]
    pub fn log_kind(&self) -> LogKind {
        self.log
    }

    /// Switches the dirty log of all memory on or off.
    ///
    /// # Errors
    /// The ioctl's; some of the memory may be logged then.
    pub fn log_dirty_pages(&self, ram: &GuestRam, on: bool) -> Result<(), KvmError> {
        let flags = if on { KVM_MEM_LOG_DIRTY_PAGES } else { 0 };
        self.set_slots(ram, flags)
    }

    /// Maps guest memory: one slot a region, in their order.
    pub(super) fn set_slots(&self, ram: &GuestRam, flags: u32) -> Result<(), KvmError> {
        for (slot, region) in (0_u32..).zip(ram.iter()) {
            let region = kvm_userspace_memory_region {
                slot,
                guest_phys_addr: region.start_addr().raw_value(),
                memory_size: region.len(),
                userspace_addr: region.as_ptr() as u64,
                flags,
            };
            // SAFETY: the region is a mapping that the machine keeps for as long
            // as the virtual machine exists, and regions do not overlap.
            unsafe { self.fd.set_user_memory_region(region) }
                .map_err(attempt("map guest memory"))?;
        }
        Ok(())
    }

    /// Reads the log of a slot into `bitmap`, one bit for each page of 4 KiB; it
    /// must have a bit for each page, in whole words.
    ///
    /// # Errors
    /// The ioctl's.
    pub fn dirty_log(&self, slot: u32, bitmap: &mut [u64]) -> Result<(), KvmError> {
        let log = kvm_dirty_log {
            slot,
            padding1: 0,
            __bindgen_anon_1: kvm_dirty_log__bindgen_ty_1 {
                dirty_bitmap: bitmap.as_mut_ptr().cast(),
            },
        };
        // SAFETY: KVM writes one bit for each page of the slot, rounded up to a
        // word; the caller gives room for that (see above).
        let rc = unsafe { ioctl_with_ref(self.fd.as_ref(), KVM_GET_DIRTY_LOG(), &log) };
        check(rc, "read the dirty log")
    }

    /// Marks pages clean, and watches them again: those whose bit is set in
    /// `bitmap`, whose first bit is `first_page`, a multiple of 64. `pages` is
    /// how many it speaks of: a multiple of 64, or all up to the slot's end.
    ///
    /// # Errors
    /// The ioctl's, or a bitmap shorter than `pages`.
    pub fn clear_dirty_log(
        &self,
        slot: u32,
        first_page: u64,
        pages: u32,
        bitmap: &[u64],
    ) -> Result<(), KvmError> {
        if (bitmap.len() as u64) < u64::from(pages).div_ceil(64) {
            return Err(KvmError::Ioctl {
                attempt: "clear more of the dirty log than is named",
                source: io::ErrorKind::InvalidInput.into(),
            });
        }
        let mut log = kvm_clear_dirty_log {
            slot,
            num_pages: pages,
            first_page,
            __bindgen_anon_1: kvm_clear_dirty_log__bindgen_ty_1 {
                // KVM only reads it.
                dirty_bitmap: bitmap.as_ptr().cast_mut().cast(),
            },
        };
        // SAFETY: KVM reads one bit for each of `pages`, for which the bitmap has
        // room (checked above).
        let rc = unsafe { ioctl_with_mut_ref(self.fd.as_ref(), KVM_CLEAR_DIRTY_LOG(), &mut log) };
        check(rc, "clear the dirty log")
    }
}

fn check(rc: libc::c_int, attempt: &'static str) -> Result<(), KvmError> {
    if rc == 0 {
        return Ok(());
    }
    let source = io::Error::last_os_error();
    Err(KvmError::Ioctl { attempt, source })
}

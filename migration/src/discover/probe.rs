//! Asking the page cache for one huge page after the other, with userfaultfd in
//! minor mode (linux/userfaultfd.h, Linux 5.13).
//!
//! In a second view of the memory, where nothing is mapped, `UFFDIO_CONTINUE` maps
//! a page that the file has and answers `EFAULT` for one that it has not; it
//! allocates nothing. The view goes away again, and nobody else ever touched it.
#![allow(unsafe_code, reason = "userfaultfd's ioctls are fenced here")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

use crate::bitmap::Bitmap;
use crate::memory::{PAGE, Region};

const UFFD_API: u64 = 0xaa;
const UFFD_FEATURE_MINOR_HUGETLBFS: u64 = 1 << 9;
const UFFDIO_REGISTER_MODE_MINOR: u64 = 1 << 2;
const UFFDIO_CONTINUE_MODE_DONTWAKE: u64 = 1 << 0;
/// Faults of user space only: allowed without privilege.
const UFFD_USER_MODE_ONLY: libc::c_int = 1;

#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct Register {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
struct Continue {
    start: u64,
    len: u64,
    mode: u64,
    mapped: i64,
}

nix::ioctl_readwrite!(uffdio_api, UFFD_API, 0x3f, Api);
nix::ioctl_readwrite!(uffdio_register, UFFD_API, 0x00, Register);
nix::ioctl_readwrite!(uffdio_continue, UFFD_API, 0x07, Continue);

/// Adds to `map` the pages of `region` that its file has.
pub(super) fn probe(region: &Region, map: &mut Bitmap) -> io::Result<()> {
    // The fields of a layout that was mapped once can be mapped again.
    let view = Region::map(*region.layout(), region.file().clone()).map_err(io::Error::other)?;
    let faults = open()?;
    let mut register = Register {
        start: view.host_range().start,
        len: view.layout().size_bytes,
        mode: UFFDIO_REGISTER_MODE_MINOR,
        ioctls: 0,
    };
    // SAFETY: the kernel reads and writes one `Register`; the range is `view`,
    // which nobody but this function touches.
    unsafe { uffdio_register(faults.as_raw_fd(), &mut register) }?;
    let step = view.layout().page_bytes;
    let mut at = view.host_range().start;
    while at < view.host_range().end {
        let mut page = Continue {
            start: at,
            len: step,
            mode: UFFDIO_CONTINUE_MODE_DONTWAKE,
            mapped: 0,
        };
        // SAFETY: the kernel reads and writes one `Continue`, and maps a page of
        // the registered `view` at most.
        match unsafe { uffdio_continue(faults.as_raw_fd(), &mut page) } {
            // EEXIST: mapped meanwhile, so present.
            Ok(_) | Err(Errno::EEXIST) => {
                let first = (at - view.host_range().start) / PAGE;
                map.add_range(first..first + step / PAGE);
            }
            Err(Errno::EFAULT) => {}
            // Memory maps changed meanwhile: ask again.
            Err(Errno::EAGAIN) => continue,
            Err(error) => return Err(error.into()),
        }
        at += step;
    }
    Ok(())
}

fn open() -> io::Result<OwnedFd> {
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | UFFD_USER_MODE_ONLY;
    // SAFETY: the call takes flags only.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor.
    let faults = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut api = Api {
        api: UFFD_API,
        features: UFFD_FEATURE_MINOR_HUGETLBFS,
        ioctls: 0,
    };
    // SAFETY: the kernel reads and writes one `Api`, which lives through the call.
    unsafe { uffdio_api(faults.as_raw_fd(), &mut api) }?;
    Ok(faults)
}

//! Faults of guest memory, served by this process (linux/userfaultfd.h).
//!
//! Three uses: [`discover`](crate::discover) asks the page cache for pages in a view
//! of its own, [`store`](crate::store) puts pages in place as somebody wants them,
//! and [`untouched`](crate::untouched) has the kernel mark what is written.
#![allow(unsafe_code, reason = "userfaultfd's ioctls are fenced here")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

use crate::memory::{PAGE, Region};

const UFFD_API: u64 = 0xaa;
/// Absent pages of hugetlbfs.
const UFFD_FEATURE_MISSING_HUGETLBFS: u64 = 1 << 4;
/// Absent pages of shared memory.
const UFFD_FEATURE_MISSING_SHMEM: u64 = 1 << 5;
/// Pages of hugetlbfs that are there and not mapped (Linux 5.13).
const UFFD_FEATURE_MINOR_HUGETLBFS: u64 = 1 << 9;
/// Write protection of shared memory and hugetlbfs (Linux 5.19).
const UFFD_FEATURE_WP_HUGETLBFS_SHMEM: u64 = 1 << 12;
/// The kernel takes the protection away by itself (Linux 6.7).
const UFFD_FEATURE_WP_ASYNC: u64 = 1 << 15;
const UFFDIO_WRITEPROTECT_MODE_WP: u64 = 1 << 0;
const UFFDIO_REGISTER_MODE_WP: u64 = 1 << 1;
const UFFDIO_REGISTER_MODE_MISSING: u64 = 1 << 0;
const UFFDIO_REGISTER_MODE_MINOR: u64 = 1 << 2;
const UFFDIO_CONTINUE_MODE_DONTWAKE: u64 = 1 << 0;
const UFFD_EVENT_PAGEFAULT: u8 = 0x12;
/// Faults of user space only: allowed without privilege.
const UFFD_USER_MODE_ONLY: libc::c_int = 1;

#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct Range {
    start: u64,
    len: u64,
}

#[repr(C)]
struct Register {
    range: Range,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
struct Copy {
    to: u64,
    from: u64,
    len: u64,
    mode: u64,
    copied: i64,
}

/// `UFFDIO_ZEROPAGE`, `UFFDIO_CONTINUE` and `UFFDIO_POISON` have the same form.
#[repr(C)]
struct Put {
    range: Range,
    mode: u64,
    done: i64,
}

#[repr(C)]
struct Protect {
    range: Range,
    mode: u64,
}

/// `struct uffd_msg` of a fault.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Message {
    event: u8,
    reserved: [u8; 7],
    flags: u64,
    address: u64,
    thread: u64,
}

nix::ioctl_readwrite!(uffdio_api, UFFD_API, 0x3f, Api);
nix::ioctl_readwrite!(uffdio_register, UFFD_API, 0x00, Register);
nix::ioctl_read!(uffdio_unregister, UFFD_API, 0x01, Range);
nix::ioctl_read!(uffdio_wake, UFFD_API, 0x02, Range);
nix::ioctl_readwrite!(uffdio_copy, UFFD_API, 0x03, Copy);
nix::ioctl_readwrite!(uffdio_zeropage, UFFD_API, 0x04, Put);
nix::ioctl_readwrite!(uffdio_writeprotect, UFFD_API, 0x06, Protect);
nix::ioctl_readwrite!(uffdio_continue, UFFD_API, 0x07, Put);
nix::ioctl_readwrite!(uffdio_poison, UFFD_API, 0x08, Put);
/// `USERFAULTFD_IOC_NEW` of `/dev/userfaultfd` (Linux 6.1).
const USERFAULTFD_IOC_NEW: libc::Ioctl = 0xaa00;

/// See the module.
#[derive(Debug)]
pub(crate) struct Userfault(OwnedFd);

impl Userfault {
    /// Faults that only user space has, on pages of hugetlbfs that are not mapped.
    pub(crate) fn of_unmapped() -> io::Result<Self> {
        Self::with(
            system_call(UFFD_USER_MODE_ONLY)?,
            UFFD_FEATURE_MINOR_HUGETLBFS,
        )
    }

    /// Faults on absent pages, also those that KVM and vhost have: that takes
    /// `CAP_SYS_PTRACE`, the sysctl `vm.unprivileged_userfaultfd`, or
    /// `/dev/userfaultfd`.
    pub(crate) fn of_absent() -> io::Result<Self> {
        let descriptor = system_call(0).or_else(|error| device().map_err(|_| error))?;
        let features = UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MISSING_HUGETLBFS;
        Self::with(descriptor, features)
    }

    /// Writes, which are marked and not waited for, whoever they are of: so no
    /// privilege is needed.
    pub(crate) fn of_writes() -> io::Result<Self> {
        let features = UFFD_FEATURE_WP_HUGETLBFS_SHMEM | UFFD_FEATURE_WP_ASYNC;
        Self::with(system_call(UFFD_USER_MODE_ONLY)?, features)
    }

    fn with(descriptor: OwnedFd, features: u64) -> io::Result<Self> {
        let mut api = Api {
            api: UFFD_API,
            features,
            ioctls: 0,
        };
        // SAFETY: the kernel reads and writes one `Api`, which lives through the call.
        unsafe { uffdio_api(descriptor.as_raw_fd(), &mut api) }?;
        Ok(Self(descriptor))
    }

    /// Serves what is absent in `region` from now on.
    pub(crate) fn watch_absent(&self, region: &Region) -> io::Result<()> {
        self.register(region, UFFDIO_REGISTER_MODE_MISSING)
    }

    /// Serves what is not mapped of `region` from now on.
    pub(crate) fn watch_unmapped(&self, region: &Region) -> io::Result<()> {
        self.register(region, UFFDIO_REGISTER_MODE_MINOR)
    }

    /// Marks each page of `region` that is written from now on.
    pub(crate) fn mark_writes(&self, region: &Region) -> io::Result<()> {
        self.register(region, UFFDIO_REGISTER_MODE_WP)?;
        loop {
            let mut protect = Protect {
                range: whole(region),
                mode: UFFDIO_WRITEPROTECT_MODE_WP,
            };
            // SAFETY: the kernel reads one `Protect`. A write to the region faults
            // once for each page from here on, and goes on by itself.
            match unsafe { uffdio_writeprotect(self.0.as_raw_fd(), &mut protect) } {
                Ok(_) => return Ok(()),
                // Memory maps changed meanwhile: ask again.
                Err(Errno::EAGAIN) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn register(&self, region: &Region, mode: u64) -> io::Result<()> {
        let mut register = Register {
            range: whole(region),
            mode,
            ioctls: 0,
        };
        // SAFETY: the kernel reads and writes one `Register`. Accesses to the
        // region may wait from here on, and find the same bytes.
        unsafe { uffdio_register(self.0.as_raw_fd(), &mut register) }?;
        Ok(())
    }

    /// Serves no more faults of `region`; whoever waits finds zeros.
    pub(crate) fn forget(&self, region: &Region) -> io::Result<()> {
        // SAFETY: the kernel reads one `Range`.
        unsafe { uffdio_unregister(self.0.as_raw_fd(), &mut whole(region)) }?;
        Ok(())
    }

    /// Puts pages in place that are absent, and wakes whoever waits for them.
    /// Those that are there already stay.
    pub(crate) fn copy(&self, region: &Region, first: u64, bytes: &[u8]) -> io::Result<()> {
        let step = page_bytes(region);
        let Range { start, len } = range(region, first, bytes.len() as u64 / PAGE)?;
        let mut done = 0;
        while done < len {
            let from = usize::try_from(done).ok().and_then(|at| bytes.get(at..));
            let mut copy = Copy {
                to: start + done,
                from: from.map_or(0, |from| from.as_ptr().addr() as u64),
                len: len - done,
                mode: 0,
                copied: 0,
            };
            // SAFETY: the kernel reads and writes one `Copy`, reads `len - done`
            // bytes of `bytes` from `done` on, and puts them into absent pages of
            // the region, of which nobody has a Rust reference.
            let result = unsafe { uffdio_copy(self.0.as_raw_fd(), &mut copy) };
            done += match (result, u64::try_from(copy.copied)) {
                (Ok(_), _) => len - done,
                // Some, and then something came between.
                (Err(_), Ok(copied @ 1..)) => copied,
                (Err(Errno::EEXIST), _) => {
                    self.wake(region, first + done / PAGE, step / PAGE)?;
                    step
                }
                // Memory maps changed meanwhile: ask again.
                (Err(Errno::EAGAIN), _) => 0,
                (Err(error), _) => return Err(error.into()),
            };
        }
        Ok(())
    }

    /// Puts a page of zeros in place of one that is absent, and wakes whoever
    /// waits for it. Not for huge pages.
    pub(crate) fn zero(&self, region: &Region, page: u64) -> io::Result<()> {
        self.put(region, page, 1, |fd, put| {
            // SAFETY: the kernel reads and writes one `Put`, and fills an absent
            // page of the region.
            unsafe { uffdio_zeropage(fd, put) }
        })
    }

    /// Whoever accesses these absent pages, or waits for them, gets an error
    /// (Linux 6.6).
    pub(crate) fn poison(&self, region: &Region, first: u64, count: u64) -> io::Result<()> {
        let step = page_bytes(region) / PAGE;
        for page in (first..first + count).step_by(usize::try_from(step).unwrap_or(1)) {
            self.put(region, page, step, |fd, put| {
                // SAFETY: the kernel reads and writes one `Put`, and marks an
                // absent page of the region.
                unsafe { uffdio_poison(fd, put) }
            })?;
        }
        Ok(())
    }

    fn put(
        &self,
        region: &Region,
        first: u64,
        count: u64,
        ask: impl Fn(libc::c_int, &mut Put) -> nix::Result<libc::c_int>,
    ) -> io::Result<()> {
        loop {
            let mut put = Put {
                range: range(region, first, count)?,
                mode: 0,
                done: 0,
            };
            match ask(self.0.as_raw_fd(), &mut put) {
                Ok(_) => return Ok(()),
                Err(Errno::EEXIST) => return self.wake(region, first, count),
                Err(Errno::EAGAIN) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn wake(&self, region: &Region, first: u64, count: u64) -> io::Result<()> {
        let mut range = range(region, first, count)?;
        // SAFETY: the kernel reads one `Range`.
        unsafe { uffdio_wake(self.0.as_raw_fd(), &mut range) }?;
        Ok(())
    }

    /// Whether the file behind `region` has the page at `first`, of the size of
    /// the region's pages. For a view of one's own: it is mapped if so.
    pub(crate) fn has(&self, region: &Region, first: u64) -> io::Result<bool> {
        loop {
            let mut page = Put {
                range: range(region, first, page_bytes(region) / PAGE)?,
                mode: UFFDIO_CONTINUE_MODE_DONTWAKE,
                done: 0,
            };
            // SAFETY: the kernel reads and writes one `Put`, and maps a page of
            // the registered region at most.
            match unsafe { uffdio_continue(self.0.as_raw_fd(), &mut page) } {
                // EEXIST: mapped meanwhile, so present.
                Ok(_) | Err(Errno::EEXIST) => return Ok(true),
                Err(Errno::EFAULT) => return Ok(false),
                // Memory maps changed meanwhile: ask again.
                Err(Errno::EAGAIN) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The addresses in this process that somebody waits for, as far as they are
    /// known; none if nobody does.
    pub(crate) fn wanted(&self) -> io::Result<Vec<u64>> {
        let mut messages = [Message::default(); 32];
        // SAFETY: the kernel writes whole messages into the array, which has room
        // for as many bytes as the call says and is valid with any content.
        let bytes = unsafe {
            libc::read(
                self.0.as_raw_fd(),
                messages.as_mut_ptr().cast(),
                size_of_val(&messages),
            )
        };
        let Ok(bytes) = usize::try_from(bytes) else {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(Vec::new()),
                _ => Err(error),
            };
        };
        let came = messages.iter().take(bytes / size_of::<Message>());
        Ok(came
            .filter(|message| message.event == UFFD_EVENT_PAGEFAULT)
            .map(|message| message.address)
            .collect())
    }
}

impl AsFd for Userfault {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The size of the pages that the kernel puts in place.
fn page_bytes(region: &Region) -> u64 {
    region.host_page_bytes()
}

fn whole(region: &Region) -> Range {
    let host = region.host_range();
    Range {
        start: host.start,
        len: host.end - host.start,
    }
}

/// Pages of `region`, none of them outside.
fn range(region: &Region, first: u64, count: u64) -> io::Result<Range> {
    let end = first.checked_add(count);
    if end.is_none_or(|end| end > region.pages()) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(Range {
        start: region.host_range().start + first * PAGE,
        len: count * PAGE,
    })
}

fn system_call(more: libc::c_int) -> io::Result<OwnedFd> {
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | more;
    // SAFETY: the call takes flags only.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
    owned(i32::try_from(fd).map_err(io::Error::other)?)
}

fn device() -> io::Result<OwnedFd> {
    let device = std::fs::File::open("/dev/userfaultfd")?;
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
    // SAFETY: the call takes flags only.
    owned(unsafe { libc::ioctl(device.as_raw_fd(), USERFAULTFD_IOC_NEW, flags) })
}

fn owned(fd: libc::c_int) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

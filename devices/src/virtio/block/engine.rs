//! io_uring: requests that the kernel carries out while the device loop goes on.

use std::io;
use std::os::fd::AsRawFd;

use io_uring::{IoUring, Probe, opcode, squeue, types};
use vmm_sys_util::eventfd::EventFd;

use super::image::Image;
use super::request::{IoVectors, Operation};
use super::transfer::{Durability, fallocate_mode};

/// How many requests of one disk can be in flight. The completion queue is
/// twice as long, so that it cannot overflow.
pub(super) const DEPTH: u16 = 128;

/// A tag that no request has.
const NO_REQUEST: u16 = u16::MAX;

/// One ring for all queues of a disk.
pub(super) struct Uring {
    ring: IoUring,
    completed: EventFd,
    in_flight: usize,
}

impl std::fmt::Debug for Uring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uring")
            .field("in_flight", &self.in_flight)
            .finish_non_exhaustive()
    }
}

impl Uring {
    /// Sets a ring up, if this kernel has what we need and permits it.
    pub(super) fn new() -> io::Result<Self> {
        let ring = IoUring::new(u32::from(DEPTH))?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        let needed = [
            opcode::Readv::CODE,
            opcode::Writev::CODE,
            opcode::Fsync::CODE,
            opcode::Fallocate::CODE,
        ];
        if needed.iter().any(|&code| !probe.is_supported(code)) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let completed = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        ring.submitter().register_eventfd(completed.as_raw_fd())?;
        Ok(Self {
            ring,
            completed,
            in_flight: 0,
        })
    }

    /// To be called first on the thread that is going to submit: holds the
    /// kernel's worker threads for it to the CPUs that it may run on. Kernels
    /// since 6.2 do so by themselves (a thread's affinity binds its workers);
    /// before, they run on any CPU, those of the vCPUs included.
    pub(super) fn settle(&mut self) {
        // The kernel knows the thread once it submitted something.
        let nothing = opcode::Nop::new().build().user_data(NO_REQUEST.into());
        // SAFETY: the operation touches no memory.
        if unsafe { self.ring.submission().push(&nothing) }.is_ok() {
            self.in_flight += 1;
        }
        self.submit();
        // SAFETY: an all-zero set is valid and empty.
        let mut cpus: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        // SAFETY: the length is that of the set, which the call fills.
        let got = unsafe { libc::sched_getaffinity(0, size_of_val(&cpus), &raw mut cpus) };
        if got != 0 {
            return;
        }
        if let Err(error) = self.ring.submitter().register_iowq_aff(&cpus) {
            // Kernels before 5.14 cannot; they run these workers where they like.
            tracing::debug!("Could not pin the workers of io_uring: {error}");
        }
    }

    /// Signalled when requests have been completed.
    pub(super) fn completed(&self) -> &EventFd {
        &self.completed
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Queues a request; `tag` comes back with its result. Answers false when
    /// the ring is full, or the request is not one for the kernel.
    ///
    /// # Safety
    /// `vectors`, the memory that they lead to, and the image's descriptor stay
    /// as they are until the result came back.
    pub(super) unsafe fn push(
        &mut self,
        image: &Image,
        operation: Operation,
        vectors: &IoVectors,
        durability: Durability,
        tag: u16,
    ) -> bool {
        let Some(entry) = entry(image, operation, vectors, durability) else {
            return false;
        };
        // SAFETY: the caller's promise.
        let pushed = unsafe {
            self.ring
                .submission()
                .push(&entry.user_data(u64::from(tag)))
        };
        self.in_flight += usize::from(pushed.is_ok());
        pushed.is_ok()
    }

    /// Hands what was queued to the kernel.
    pub(super) fn submit(&mut self) {
        if self.ring.submission().is_empty() {
            return;
        }
        if let Err(error) = self.ring.submit() {
            // Not lost: the entries stay queued, and signalling ourselves makes
            // us try again (io_uring_enter(2): EAGAIN, EBUSY, EINTR).
            tracing::debug!("Could not submit to io_uring: {error}");
            let _ = self.completed.write(1);
        }
    }

    /// Waits for at least one completion.
    pub(super) fn wait(&mut self) -> io::Result<()> {
        match self.ring.submit_and_wait(1) {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR | libc::EAGAIN | libc::EBUSY) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// The next completed request: its tag and the system call's result.
    pub(super) fn reap(&mut self) -> Option<(u16, i32)> {
        let entry = self.ring.completion().next()?;
        self.in_flight = self.in_flight.saturating_sub(1);
        Some((u16::try_from(entry.user_data()).ok()?, entry.result()))
    }
}

fn entry(
    image: &Image,
    operation: Operation,
    vectors: &IoVectors,
    durability: Durability,
) -> Option<squeue::Entry> {
    let fd = types::Fd(image.file.as_raw_fd());
    let count = u32::try_from(vectors.0.len()).ok()?;
    let memory = vectors.0.as_ptr();
    Some(match operation {
        Operation::Read { offset } => opcode::Readv::new(fd, memory, count).offset(offset).build(),
        Operation::Write { offset } => opcode::Writev::new(fd, memory, count)
            .offset(offset)
            .rw_flags(durability.flags())
            .build(),
        Operation::Flush => opcode::Fsync::new(fd)
            .flags(types::FsyncFlags::DATASYNC)
            .build(),
        Operation::Discard { offset, len } => opcode::Fallocate::new(fd, len)
            .offset(offset)
            .mode(fallocate_mode(operation))
            .build(),
        // With durability "immediate" there would be two steps: left to the
        // system calls that wait.
        Operation::WriteZeroes { offset, len, .. } if durability == Durability::Flushed => {
            opcode::Fallocate::new(fd, len)
                .offset(offset)
                .mode(fallocate_mode(operation))
                .build()
        }
        Operation::WriteZeroes { .. } | Operation::GetId => return None,
    })
}

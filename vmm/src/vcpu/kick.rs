//! Getting a vCPU out of the guest.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};

use kvm_bindings::kvm_run;
use kvm_ioctls::VcpuFd;

/// The run page that a vCPU shares with KVM, for the two fields that are read
/// or written beside `KVM_RUN`.
#[derive(Clone, Copy, Debug)]
pub(super) struct RunPage(NonNull<kvm_run>);

// SAFETY: the page is a shared mapping that lives as long as its vCPU's
// descriptor; the only field written from another thread is `immediate_exit`,
// and that as an atomic byte.
unsafe impl Send for RunPage {}
// SAFETY: as above.
unsafe impl Sync for RunPage {}

impl RunPage {
    pub(super) fn of(fd: &mut VcpuFd) -> Self {
        Self(NonNull::from(fd.get_kvm_run()))
    }

    fn immediate_exit(&self) -> &AtomicU8 {
        // SAFETY: the field is one byte in a live mapping (see `Send`), and all
        // accesses from our side go through this atomic.
        unsafe { AtomicU8::from_ptr(&raw mut (*self.0.as_ptr()).immediate_exit) }
    }

    /// Makes the next `KVM_RUN` return at once, or lets it run again.
    pub(super) fn set_immediate_exit(&self, on: bool) {
        self.immediate_exit().store(u8::from(on), Ordering::SeqCst);
    }

    /// The width of one item of the last port access, in bytes: a string
    /// instruction hands over several at once.
    pub(super) fn port_access_width(&self) -> usize {
        // SAFETY: a plain read of a live mapping, on the thread that ran the
        // vCPU; KVM filled the `io` member before it answered KVM_EXIT_IO.
        usize::from(unsafe { (*self.0.as_ptr()).__bindgen_anon_1.io.size })
    }
}

/// The pthread that runs a vCPU.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target(libc::pthread_t);

/// The calling thread.
pub(super) fn current_thread() -> Target {
    // SAFETY: has no precondition.
    Target(unsafe { libc::pthread_self() })
}

/// Kicks one vCPU; valid until its thread is joined.
#[derive(Debug)]
pub(super) struct Kick {
    target: Target,
    page: RunPage,
}

impl Kick {
    pub(super) fn new(target: Target, page: RunPage) -> Self {
        Self { target, page }
    }

    /// The vCPU's current or next `KVM_RUN` ends at once.
    pub(super) fn now(&self) {
        self.page.set_immediate_exit(true);
        // SAFETY: the thread is not joined while its handle lives, so the id is
        // valid; the signal's handler does nothing (`install_signal_handler`).
        unsafe { libc::pthread_kill(self.target.0, signal()) };
    }
}

fn signal() -> libc::c_int {
    libc::SIGRTMIN()
}

extern "C" fn nothing(_: libc::c_int) {}

/// Makes the kick signal interrupt a system call and do nothing else. Once,
/// before the first vCPU.
///
/// # Errors
/// The operating system's.
pub fn install_signal_handler() -> io::Result<()> {
    // SAFETY: the handler is async-signal-safe as it does nothing; the struct is
    // valid as zeros, with no flags (so that KVM_RUN is not restarted).
    let rc = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as libc::sighandler_t;
        libc::sigaction(signal(), &raw const action, std::ptr::null_mut())
    };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

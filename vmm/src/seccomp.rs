//! A filter of system calls (seccomp(2)) over the whole process.
//!
//! One allow list for all threads, set before the first of them is started. It
//! holds what a virtual machine takes from boot to migration and nothing that
//! starts programs, changes users or mounts, traces or loads anything. Arguments
//! are not looked at: `ioctl` is most of what a VMM does, and device nodes are
//! guarded by their permissions.

use std::fmt;
use std::io;
use std::str::FromStr;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

/// What happens to a system call that is not in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// There is no filter.
    Off,
    /// It is done, and the kernel's log (audit, `dmesg`) has it.
    Log,
    /// It is not done, its number is told on standard error, and the process ends.
    On,
}

/// The filter could not be set.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// The list cannot be made a program.
    #[error("Could not make the filter of system calls")]
    Compile(#[from] seccompiler::BackendError),
    /// The kernel does not take it.
    #[error(
        "Could not set the filter of system calls: the kernel needs CONFIG_SECCOMP_FILTER; --seccomp false does without"
    )]
    Apply(#[from] seccompiler::Error),
    /// Nobody could be told of a violation.
    #[error("Could not catch SIGSYS")]
    Signal(#[source] io::Error),
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "false" => Ok(Self::Off),
            "log" => Ok(Self::Log),
            "true" => Ok(Self::On),
            _ => Err("expected true, false or log".to_owned()),
        }
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "false",
            Self::Log => "log",
            Self::On => "true",
        })
    }
}

/// System calls that are allowed.
const ALLOWED: &[libc::c_long] = &[
    // Memory.
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_mbind,
    libc::SYS_membarrier,
    libc::SYS_memfd_create,
    libc::SYS_mincore,
    libc::SYS_mlock,
    libc::SYS_mlock2,
    libc::SYS_mlockall,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munlock,
    libc::SYS_munlockall,
    libc::SYS_munmap,
    libc::SYS_set_mempolicy,
    libc::SYS_get_mempolicy,
    libc::SYS_userfaultfd,
    // Threads, scheduling, waiting.
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_get_robust_list,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_prctl,
    libc::SYS_prlimit64,
    libc::SYS_getrlimit,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_setattr,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setscheduler,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    // Signals.
    libc::SYS_kill,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sigaltstack,
    libc::SYS_signalfd4,
    libc::SYS_tgkill,
    libc::SYS_tkill,
    // Time.
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
    libc::SYS_time,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_gettime,
    libc::SYS_timerfd_settime,
    // Descriptors and events.
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_dup,
    libc::SYS_dup2,
    libc::SYS_dup3,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_epoll_wait,
    libc::SYS_eventfd2,
    libc::SYS_fcntl,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_ioctl,
    libc::SYS_pipe2,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_select,
    // Files.
    libc::SYS_access,
    libc::SYS_chmod,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fadvise64,
    libc::SYS_fallocate,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_lseek,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_mkdirat,
    libc::SYS_newfstatat,
    libc::SYS_open,
    libc::SYS_openat,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_read,
    libc::SYS_readlink,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_rmdir,
    libc::SYS_stat,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_sync_file_range,
    libc::SYS_umask,
    libc::SYS_unlink,
    libc::SYS_unlinkat,
    libc::SYS_write,
    libc::SYS_writev,
    // Sockets.
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_listen,
    libc::SYS_recvfrom,
    libc::SYS_recvmmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_socket,
    libc::SYS_socketpair,
    // What this machine and process are.
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getppid,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_getuid,
    libc::SYS_getcpu,
    libc::SYS_sysinfo,
    libc::SYS_uname,
];

/// Sets the filter for this process: to be called while it has one thread. A
/// process cannot get rid of it again, nor gain rights by starting a program.
///
/// # Errors
/// The kernel has no seccomp.
pub fn set(filter: Filter) -> Result<(), FilterError> {
    let otherwise = match filter {
        Filter::Off => return Ok(()),
        Filter::Log => SeccompAction::Log,
        Filter::On => SeccompAction::Trap,
    };
    tell_violations()?;
    let rules = ALLOWED.iter().map(|call| (*call, Vec::new()));
    let filter = SeccompFilter::new(
        rules.collect(),
        otherwise,
        SeccompAction::Allow,
        TargetArch::x86_64,
    )?;
    let program: BpfProgram = filter.try_into()?;
    seccompiler::apply_filter_all_threads(&program)?;
    Ok(())
}

fn tell_violations() -> Result<(), FilterError> {
    // SAFETY: all bytes zero are a valid sigaction, and the handler does only what
    // is async-signal-safe.
    let result = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = violated as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
        libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut())
    };
    if result != 0 {
        return Err(FilterError::Signal(io::Error::last_os_error()));
    }
    Ok(())
}

/// Exit code after a violation, as a shell tells of SIGSYS.
const VIOLATION: i32 = 128 + libc::SIGSYS;

/// Offset of `si_syscall` in `siginfo_t` (`_sigsys`: an address before it).
const SYSCALL_AT: usize = 24;

extern "C" fn violated(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a whole siginfo_t, of which 128 bytes can be read.
    let mut number = unsafe {
        info.cast::<u8>()
            .add(SYSCALL_AT)
            .cast::<i32>()
            .read_unaligned()
    };
    let mut digits = [b' '; 10];
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
        if number <= 0 {
            break;
        }
    }
    let parts: [&[u8]; 3] = [
        b"godwit: the filter of system calls (--seccomp) does not allow number ",
        digits.as_slice().trim_ascii_start(),
        b"; --seccomp log tells without ending, --seccomp false does without\n",
    ];
    for part in parts {
        // SAFETY: write and _exit are async-signal-safe, and the bytes outlive the call.
        unsafe { libc::write(libc::STDERR_FILENO, part.as_ptr().cast(), part.len()) };
    }
    // SAFETY: as above.
    unsafe { libc::_exit(VIOLATION) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_starts_programs_or_gains_rights_is_allowed() {
        for call in [
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_fork,
            libc::SYS_vfork,
            libc::SYS_ptrace,
            libc::SYS_process_vm_writev,
            libc::SYS_mount,
            libc::SYS_setns,
            libc::SYS_unshare,
            libc::SYS_setuid,
            libc::SYS_bpf,
            libc::SYS_init_module,
            libc::SYS_kexec_load,
            libc::SYS_perf_event_open,
            libc::SYS_keyctl,
        ] {
            assert!(!ALLOWED.contains(&call), "{call}");
        }
    }

    #[test]
    fn words() {
        for filter in [Filter::Off, Filter::Log, Filter::On] {
            assert_eq!(filter.to_string().parse(), Ok(filter));
        }
        assert!("maybe".parse::<Filter>().is_err());
    }
}

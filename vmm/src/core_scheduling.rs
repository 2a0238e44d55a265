//! Who may share a physical core with a vCPU: the kernel's core scheduling
//! (Documentation/admin-guide/hw-vuln/core-scheduling.rst).
//!
//! Threads with the same cookie may run on the two hardware threads of a core at
//! one time, others not: the sibling stays idle. That keeps secrets of one machine
//! from another where CPUs are shared, and costs what idles. vCPUs that are pinned
//! to isolated CPUs, as those of network functions are, have no strangers beside
//! them, so that it is off unless it is asked for.

use std::io;
use std::sync::{Arc, Once, OnceLock};

use godwit_api::config::CoreScheduling;

/// `PR_SCHED_CORE` and its operations (linux/prctl.h).
const PR_SCHED_CORE: i32 = 62;
const CREATE: u64 = 1;
const SHARE_FROM: u64 = 3;
const SCOPE_THREAD: u64 = 0;

/// What a vCPU thread shares a core with.
#[derive(Clone, Debug)]
pub enum CoreGroup {
    /// The other vCPUs of its machine: the first has made the cookie.
    Vm(Arc<OnceLock<libc::pid_t>>),
    /// Nobody.
    Vcpu,
}

impl CoreGroup {
    /// The group of a machine that is configured so; `None`: anybody.
    #[must_use]
    pub fn of(asked: CoreScheduling) -> Option<Self> {
        match asked {
            CoreScheduling::Off => None,
            CoreScheduling::Vm => Some(Self::Vm(Arc::default())),
            CoreScheduling::Vcpu => Some(Self::Vcpu),
        }
    }

    /// Puts the calling thread into the group; the first of a group has returned
    /// before the next one calls. Where the kernel has no core
    /// scheduling, or the processor no hardware threads, the log says so once and
    /// nothing happens.
    ///
    /// # Errors
    /// The operating system's: a permission, or no memory.
    pub fn enter(&self) -> io::Result<()> {
        // SAFETY: the call takes nothing and cannot fail.
        let own = unsafe { libc::gettid() };
        let (operation, of) = match self {
            Self::Vcpu => (CREATE, 0),
            Self::Vm(leader) => match *leader.get_or_init(|| own) {
                leader if leader == own => (CREATE, 0),
                leader => (SHARE_FROM, leader),
            },
        };
        // SAFETY: the call takes numbers only; pid 0 is the calling thread.
        let rc =
            unsafe { libc::prctl(PR_SCHED_CORE, operation, i64::from(of), SCOPE_THREAD, 0_u64) };
        if rc == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            // No hardware threads: nobody shares a core.
            Some(libc::ENODEV) => Ok(()),
            // Linux before 5.14, or built without it.
            Some(libc::EINVAL) => {
                static TOLD: Once = Once::new();
                TOLD.call_once(|| {
                    tracing::warn!(
                        "cpus.core_scheduling has no effect: this kernel has no core scheduling"
                    );
                });
                Ok(())
            }
            _ => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: u64 = 0;

    /// The cookie of the calling thread; `None` where the kernel has none.
    fn cookie() -> Option<u64> {
        let mut cookie = 0_u64;
        let to = &raw mut cookie;
        // SAFETY: the kernel writes a number to `cookie`, which lives through the call.
        let rc = unsafe { libc::prctl(PR_SCHED_CORE, GET, 0_i64, SCOPE_THREAD, to) };
        (rc == 0).then_some(cookie)
    }

    /// Entered by two threads, one after the other; the first lives until the second is
    /// in.
    fn two(asked: CoreScheduling) -> [Option<u64>; 2] {
        let group = CoreGroup::of(asked).unwrap();
        std::thread::scope(|scope| {
            let first = scope.spawn(|| {
                group.enter().unwrap();
                let second = scope.spawn(|| {
                    group.enter().unwrap();
                    cookie()
                });
                [cookie(), second.join().unwrap()]
            });
            first.join().unwrap()
        })
    }

    /// Without core scheduling all there is to see is that nothing fails.
    #[test]
    fn cookies_are_shared_as_asked() {
        assert!(CoreGroup::of(CoreScheduling::Off).is_none());
        let [of_first, of_second] = two(CoreScheduling::Vm);
        assert_eq!(of_first, of_second);
        let [of_first, of_second] = two(CoreScheduling::Vcpu);
        let has_cookies = of_first.is_some_and(|cookie| cookie != 0);
        assert_eq!(of_first != of_second, has_cookies);
    }
}

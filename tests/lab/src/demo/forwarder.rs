//! A guest on a bridge with a port for frames, in a network of its own.

use std::io;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};

use super::DemoError;
use crate::bench::{HugePagePool, interrupt};
use crate::command;
use crate::packages;
use crate::peer::{Instance, Machine, PeerError, Vmm};
use crate::progress::Step;
use crate::traffic::{self, Bridge, Port};

/// What a guest says once testpmd forwards.
pub(crate) const READY: &str = "godwit: ready testpmd";

/// Longest time until a guest is ready; emulated machines on busy cores take their time.
const READY_LIMIT: Duration = Duration::from_secs(240);

/// Longest time until the guest is off.
const OFF_LIMIT: Duration = Duration::from_secs(60);

/// A guest that serves. Dropped, it is ended, and what was made for it is removed.
pub(crate) struct Forwarder {
    /// The guest, on the first tap.
    pub guest: Box<dyn Instance>,
    /// The port that reaches it.
    pub port: Port,
    _bridge: Bridge,
    _pool: HugePagePool,
}

impl Forwarder {
    /// Boots `machine` on the first of `taps` and waits until it says `ready`. There are huge
    /// pages for a guest on each tap. To be called [`apart`].
    ///
    /// # Errors
    /// See [`DemoError`].
    pub(crate) fn boot(
        vmm: &Vmm,
        machine: &Machine,
        taps: &[&str],
        ready: &str,
    ) -> Result<Self, DemoError> {
        if *vmm == Vmm::Qemu {
            packages::install_missing(packages::FOR_OUTER)?;
        }
        let guests = u64::try_from(taps.len()).unwrap_or(1);
        let pool = HugePagePool::with_free(guests * (machine.memory() >> 21))?;
        let bridge = Bridge::new(taps, false)?;
        let port = Port::open(traffic::PORT)?;
        let step = Step::start(format!("booting the guest in {}", vmm.name()));
        let tap = taps.first().copied().unwrap_or_default();
        let mut guest = vmm.boot(machine, tap).map_err(alone)?;
        let console = guest.console();
        let waited = console.wait_until("the guest's start", READY_LIMIT, |text| {
            text.contains(ready)
        });
        explained(&*guest, waited)?;
        step.done("it is ready");
        Ok(Self {
            guest,
            port,
            _bridge: bridge,
            _pool: pool,
        })
    }

    /// Ends the guest's task, and so the guest.
    ///
    /// # Errors
    /// When it does not end, or not well.
    pub(crate) fn turn_off(mut self) -> Result<(), DemoError> {
        let step = Step::start("turning the guest off");
        let console = self.guest.console();
        let off = console.type_in("stop\n");
        let off = off.and_then(|()| console.wait_for_end("the guest's end", OFF_LIMIT));
        explained(&*self.guest, off)?;
        step.done("off");
        Ok(())
    }
}

/// Runs `task` on a thread whose network is its own, so that nothing of it stays. Ctrl-C is noted
/// from now on, so that no grown pool stays either.
///
/// # Errors
/// Those of `task`, and when this is not root.
pub(crate) fn apart<T: Send>(
    task: impl FnOnce() -> Result<T, DemoError> + Send,
) -> Result<T, DemoError> {
    interrupt::note_signals().map_err(|source| DemoError::Io {
        path: PathBuf::from("signals"),
        source,
    })?;
    thread::scope(|scope| {
        let task = scope.spawn(|| {
            own_network()?;
            task()
        });
        task.join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A failure of a VMM that has not said anything.
pub(crate) fn alone(source: PeerError) -> DemoError {
    DemoError::Guest {
        said: String::new(),
        source,
    }
}

/// A failure with what both sides said.
pub(crate) fn explained<T>(
    guest: &dyn Instance,
    result: Result<T, PeerError>,
) -> Result<T, DemoError> {
    result.map_err(|source| DemoError::Guest {
        said: guest.said(),
        source,
    })
}

/// Gives the calling thread, and what it starts from now on, a network and mounts of its own. They
/// go with the last process that has them.
fn own_network() -> Result<(), DemoError> {
    let at = |source: io::Error| DemoError::Io {
        path: PathBuf::from("a network of its own (is this root?)"),
        source,
    };
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)
        .map_err(|errno| at(errno.into()))?;
    for arguments in [
        &["--make-rprivate", "/"][..],
        // Interfaces are shown by a sysfs that was mounted in their namespace.
        &["-t", "sysfs", "sysfs", "/sys"],
    ] {
        let mut mount = Command::new("mount");
        mount.args(arguments);
        command::succeed(mount, Duration::from_secs(30))?;
    }
    // Kernels may give new interfaces addresses, and neighbour discovery is traffic.
    let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
    Ok(())
}

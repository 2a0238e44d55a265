//! vCPU threads.
//!
//! ```text
//!             Command (channel, then a kick)
//!   control ---------------------------------> thread "vcpuN"
//!           <---------------------------------   paused <-> running -> finished
//!             VcpuEvent (Report)
//! ```
//!
//! A thread starts paused. A kick sets `immediate_exit` in the run page it
//! shares with KVM and then sends a signal: whether the vCPU is in the guest, on
//! its way there or between two exits, its next `KVM_RUN` ends at once with
//! `EINTR` (kernel: Documentation/virt/kvm/api.rst, 5, `immediate_exit`).

mod exit;
mod kick;
mod run;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread;

use godwit_devices::bus::Bus;
use kvm_ioctls::VcpuFd;

use crate::affinity::{self, PlacementError};
use crate::spec::{CpuSet, FifoPriority, VcpuId};

pub use exit::ExitError;
pub use kick::install_signal_handler;

use kick::Kick;

/// What a vCPU's accesses reach: built once, shared by all.
#[derive(Debug)]
pub struct Buses {
    /// Port I/O.
    pub ports: Bus,
    /// Memory-mapped I/O.
    pub memory: Bus,
}

/// Why a vCPU left the guest for good, until it is told to go on.
#[derive(Debug)]
pub enum Stop {
    /// The guest switched itself off.
    PowerOff,
    /// The guest asked for a reset.
    Reset,
    /// The guest's processor shut down: a fault while it delivered a double
    /// fault, which resets a real machine.
    TripleFault,
    /// KVM could not go on.
    Failed(ExitError),
}

/// A message from a vCPU thread.
#[derive(Debug)]
pub struct VcpuEvent {
    /// Whose.
    pub vcpu: VcpuId,
    /// What happened.
    pub stop: Stop,
}

/// Where a vCPU thread sends what happened.
pub type Report = Box<dyn Fn(VcpuEvent) + Send>;

#[derive(Debug)]
enum Command {
    Run,
    Pause(Sender<()>),
    Finish,
}

/// How a vCPU thread is to run on the host.
#[derive(Clone, Debug, Default)]
pub struct Placement {
    /// The host CPUs it may use; empty for wherever the process may run.
    pub cpus: CpuSet,
    /// `SCHED_FIFO` priority; `None` for the default class.
    pub fifo: Option<FifoPriority>,
}

/// A vCPU thread could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The operating system gave no thread.
    #[error("Could not start the thread of vCPU {}", .vcpu.0)]
    Thread {
        /// Which vCPU.
        vcpu: VcpuId,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// The thread ended before it was ready.
    #[error("The thread of vCPU {} ended before it was ready", .vcpu.0)]
    Ended {
        /// Which vCPU.
        vcpu: VcpuId,
    },
    /// The thread could not be placed as asked.
    #[error("Could not place the thread of vCPU {}", .vcpu.0)]
    Place {
        /// Which vCPU.
        vcpu: VcpuId,
        /// What was refused.
        #[source]
        source: PlacementError,
    },
}

/// Our end of a vCPU thread; dropping it ends the thread.
pub struct VcpuHandle {
    vcpu: VcpuId,
    commands: Sender<Command>,
    kick: Kick,
    /// Gives back the descriptor, so that the run page outlives every kick.
    thread: Option<thread::JoinHandle<VcpuFd>>,
}

impl fmt::Debug for VcpuHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VcpuHandle")
            .field("vcpu", &self.vcpu)
            .finish_non_exhaustive()
    }
}

impl VcpuHandle {
    /// Starts the thread of a vCPU whose registers are set; it waits, paused,
    /// placed on the host as `placement` says.
    ///
    /// # Errors
    /// No thread, or the placement was refused.
    pub fn spawn(
        vcpu: VcpuId,
        mut fd: VcpuFd,
        buses: Arc<Buses>,
        placement: Placement,
        report: Report,
    ) -> Result<Self, SpawnError> {
        let name = format!("vcpu{}", vcpu.0);
        let (commands, received) = mpsc::channel();
        let (ready, started) = mpsc::channel();
        let run_page = kick::RunPage::of(&mut fd);
        let thread_name = name.clone();
        let thread = thread::Builder::new()
            .name(name)
            .spawn(move || {
                enter_once(&mut fd);
                let placed = place(&thread_name, &placement);
                let refused = placed.is_err();
                // The other end waits for this message before it goes on.
                let _ = ready.send(placed.map(|()| kick::current_thread()));
                if refused {
                    return fd;
                }
                run::VcpuThread::new(vcpu, fd, buses, received, report).run()
            })
            .map_err(|source| SpawnError::Thread { vcpu, source })?;
        match started.recv() {
            Ok(Ok(target)) => Ok(Self {
                vcpu,
                commands,
                kick: Kick::new(target, run_page),
                thread: Some(thread),
            }),
            Ok(Err(source)) => Err(SpawnError::Place { vcpu, source }),
            Err(_) => Err(SpawnError::Ended { vcpu }),
        }
    }

    /// Lets the vCPU run.
    pub fn resume(&self) {
        self.send(Command::Run);
    }

    /// Asks the vCPU to leave the guest; what it answers arrives when it has.
    /// Asking all vCPUs first and waiting then stops them together.
    #[must_use = "the vCPU is stopped only when the answer came"]
    pub fn pause(&self) -> mpsc::Receiver<()> {
        let (done, paused) = mpsc::channel();
        self.send(Command::Pause(done));
        paused
    }

    fn send(&self, command: Command) {
        // A thread that has ended needs no command any more.
        if self.commands.send(command).is_ok() {
            self.kick.now();
        }
    }
}

impl Drop for VcpuHandle {
    fn drop(&mut self) {
        self.send(Command::Finish);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("The thread of vCPU {} panicked", self.vcpu.0);
        }
    }
}

/// Enters KVM before the thread is placed, without running the guest.
///
/// The first entry of a virtual machine starts a kernel thread in this process
/// (`kvm-nx-lpage-recovery`), with the CPUs and the scheduling class of the
/// thread that enters: it must not get those of a vCPU.
fn enter_once(fd: &mut VcpuFd) {
    let page = kick::RunPage::of(fd);
    page.set_immediate_exit(true);
    // It ends with EINTR; what else may be wrong, the next entry tells.
    let _ = fd.run();
    page.set_immediate_exit(false);
}

fn place(name: &str, placement: &Placement) -> Result<(), PlacementError> {
    affinity::place_current(name, &placement.cpus)?;
    match placement.fifo {
        Some(priority) => affinity::schedule_fifo_current(name, priority),
        None => Ok(()),
    }
}

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
mod state;
mod tsc;

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Weak};
use std::thread;

use godwit_devices::bus::Bus;
use kvm_bindings::{KVM_MP_STATE_RUNNABLE, kvm_mp_state};
use kvm_ioctls::VcpuFd;

use crate::affinity::{self, PlacementError};
use crate::arch::regs;
use crate::boot::Entry;
use crate::core_scheduling::CoreGroup;
use crate::kvm::attempt;
use crate::spec::{CpuSet, FifoPriority, VcpuId};

pub use exit::ExitError;
pub use kick::install_signal_handler;
pub(crate) use state::readable_msrs;
pub use state::{VcpuStateError, VcpuV1};
pub use tsc::TscShift;

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
pub type Report = Arc<dyn Fn(VcpuEvent) + Send + Sync>;

/// Something to do with a vCPU that is not in the guest.
type Call = Box<dyn FnOnce(&VcpuFd) + Send>;

enum Command {
    Run,
    Pause(Sender<()>),
    /// Only while paused; else it is dropped, undone.
    Call(Call),
    Finish,
}

/// How a vCPU thread is to run on the host.
#[derive(Clone, Debug, Default)]
pub struct Placement {
    /// The host CPUs it may use; empty for wherever the process may run.
    pub cpus: CpuSet,
    /// `SCHED_FIFO` priority; `None` for the default class.
    pub fifo: Option<FifoPriority>,
    /// What it may share a physical core with; `None` for anything.
    pub core: Option<CoreGroup>,
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

/// What a vCPU thread notes for whoever looks.
#[derive(Debug, Default)]
struct Marks {
    /// When it last began to run.
    entered_ns: AtomicU64,
    /// It left the guest for good.
    stopped: AtomicBool,
    /// Times that it came out of KVM. The thread alone counts.
    exits: AtomicU64,
}

/// How often a vCPU came out of KVM, for who looks now and then: it keeps nothing
/// of the vCPU.
#[derive(Clone, Debug)]
pub struct ExitCount(Weak<Marks>);

impl ExitCount {
    /// As [`VcpuHandle::exits`]; `None`: the vCPU is gone.
    #[must_use]
    pub fn read(&self) -> Option<u64> {
        Some(self.0.upgrade()?.exits.load(Ordering::Relaxed))
    }
}

/// Our end of a vCPU thread; dropping it ends the thread.
pub struct VcpuHandle {
    vcpu: VcpuId,
    commands: Sender<Command>,
    kick: Kick,
    marks: Arc<Marks>,
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
        let marks = Arc::new(Marks::default());
        let shared = Arc::clone(&marks);
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
                run::VcpuThread::new(vcpu, fd, buses, received, report, shared).run()
            })
            .map_err(|source| SpawnError::Thread { vcpu, source })?;
        match started.recv() {
            Ok(Ok(target)) => Ok(Self {
                vcpu,
                commands,
                kick: Kick::new(target, run_page),
                marks,
                thread: Some(thread),
            }),
            Ok(Err(source)) => Err(SpawnError::Place { vcpu, source }),
            Err(_) => Err(SpawnError::Ended { vcpu }),
        }
    }

    /// Lets the paused vCPU run. It waits for just that, so it needs no kick,
    /// which would only throw it out of its first entry.
    pub fn resume(&self) {
        // A thread that has ended needs no command any more.
        let _ = self.commands.send(Command::Run);
    }

    /// When the vCPU last began to run after a [`resume`](Self::resume), by
    /// `CLOCK_MONOTONIC` in nanoseconds; 0: not yet.
    #[must_use]
    pub fn entered_ns(&self) -> u64 {
        self.marks.entered_ns.load(Ordering::Acquire)
    }

    /// Whether the vCPU left the guest for good, which it has told then or is
    /// about to.
    #[must_use]
    pub fn has_stopped(&self) -> bool {
        self.marks.stopped.load(Ordering::Acquire)
    }

    /// Times that the vCPU came out of KVM to godwit: exits that KVM does not
    /// serve itself, and kicks.
    #[must_use]
    pub fn exits(&self) -> u64 {
        self.marks.exits.load(Ordering::Relaxed)
    }

    /// The same, to be read later.
    #[must_use]
    pub fn exit_count(&self) -> ExitCount {
        ExitCount(Arc::downgrade(&self.marks))
    }

    /// Sets the registers of a paused vCPU so that it begins at `entry`, whichever
    /// of the machine's it is, and without a start-up interrupt. The tables are
    /// those of the boot processor.
    #[must_use = "the registers are set only when the answer came"]
    pub(crate) fn begin(&self, entry: Entry) -> Answer<()> {
        self.call(move |fd| {
            let runnable = kvm_mp_state {
                mp_state: KVM_MP_STATE_RUNNABLE,
            };
            let sregs = fd.get_sregs().map_err(attempt("read a vCPU's segments"))?;
            fd.set_sregs(&regs::special(&entry, sregs))
                .map_err(attempt("set a vCPU's segments"))?;
            fd.set_regs(&regs::general(&entry))
                .map_err(attempt("set a vCPU's registers"))?;
            fd.set_mp_state(runnable)
                .map_err(attempt("set a vCPU's multi-processing state"))?;
            Ok(())
        })
    }

    /// Forgets when it last began to run.
    pub fn forget_entry(&self) {
        self.marks.entered_ns.store(0, Ordering::Release);
    }

    /// Asks for the state of a paused vCPU: `msrs` are those to read.
    #[must_use = "the state comes with the answer"]
    pub fn save(&self, msrs: Arc<[u32]>) -> Answer<VcpuV1> {
        self.call(move |fd| VcpuV1::save(fd, &msrs))
    }

    /// Sets the state of a paused vCPU.
    #[must_use = "the state is set only when the answer came"]
    pub fn restore(&self, saved: VcpuV1, shift: Option<TscShift>) -> Answer<()> {
        self.call(move |fd| saved.restore(fd, shift))
    }

    /// Tells the guest's clock that the vCPU stood still, so that its watchdogs
    /// do not take that for a hang (`KVM_KVMCLOCK_CTRL`).
    #[must_use = "it is told only when the answer came"]
    pub fn tell_stop(&self) -> Answer<()> {
        self.call(|fd| {
            // A guest that does not use kvmclock cannot be told, nor need be.
            let _ = fd.kvmclock_ctrl();
            Ok(())
        })
    }

    fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(&VcpuFd) -> Result<T, VcpuStateError> + Send + 'static,
    ) -> Answer<T> {
        let (sender, answer) = mpsc::channel();
        self.send(Command::Call(Box::new(move |fd| {
            // Who does not wait for the answer does not need it.
            let _ = sender.send(call(fd));
        })));
        Answer {
            vcpu: self.vcpu,
            answer,
        }
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

/// What a vCPU's thread will answer. Asking all vCPUs first and waiting then
/// lets them work in parallel.
#[derive(Debug)]
pub struct Answer<T> {
    vcpu: VcpuId,
    answer: mpsc::Receiver<Result<T, VcpuStateError>>,
}

impl<T> Answer<T> {
    /// Waits for it.
    ///
    /// # Errors
    /// What went wrong there, or the thread has ended.
    pub fn wait(self) -> Result<T, VcpuStateError> {
        self.answer
            .recv()
            .unwrap_or(Err(VcpuStateError::NoAnswer(self.vcpu.0)))
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
    if let Some(core) = &placement.core {
        core.enter().map_err(|source| PlacementError::Core {
            thread: name.to_owned(),
            source,
        })?;
    }
    match placement.fifo {
        Some(priority) => affinity::schedule_fifo_current(name, priority),
        None => Ok(()),
    }
}

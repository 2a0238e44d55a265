//! The thread's state machine: paused, running, finished.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError};

use kvm_ioctls::VcpuFd;
use nix::time::{ClockId, clock_gettime};

use super::exit::{self, ExitError, Outcome};
use super::kick::RunPage;
use super::{Buses, Command, Marks, Report, Stop, VcpuEvent};
use crate::spec::VcpuId;

enum State {
    Paused,
    Running,
    Finished,
}

pub(super) struct VcpuThread {
    vcpu: VcpuId,
    fd: VcpuFd,
    page: RunPage,
    buses: Arc<Buses>,
    commands: Receiver<Command>,
    report: Report,
    marks: Arc<Marks>,
}

impl VcpuThread {
    pub(super) fn new(
        vcpu: VcpuId,
        mut fd: VcpuFd,
        buses: Arc<Buses>,
        commands: Receiver<Command>,
        report: Report,
        marks: Arc<Marks>,
    ) -> Self {
        Self {
            vcpu,
            page: RunPage::of(&mut fd),
            fd,
            buses,
            commands,
            report,
            marks,
        }
    }

    pub(super) fn run(mut self) -> VcpuFd {
        let mut state = State::Paused;
        loop {
            state = match state {
                State::Paused => self.paused(),
                State::Running => self.running(),
                State::Finished => return self.fd,
            };
        }
    }

    fn paused(&mut self) -> State {
        match self.commands.recv() {
            Ok(Command::Run) => {
                self.marks
                    .entered_ns
                    .store(monotonic_ns(), Ordering::Release);
                self.marks.stopped.store(false, Ordering::Release);
                State::Running
            }
            Ok(Command::Call(call)) => {
                call(&self.fd);
                State::Paused
            }
            Ok(Command::Pause(done)) => {
                let _ = done.send(());
                State::Paused
            }
            Ok(Command::Finish) | Err(_) => State::Finished,
        }
    }

    /// Runs the guest until a command or an outcome ends it.
    fn running(&mut self) -> State {
        loop {
            // Cleared before the channel is read: a command sent after that
            // sets it again, and the next KVM_RUN returns at once.
            self.page.set_immediate_exit(false);
            match self.commands.try_recv() {
                // Not for a vCPU that runs; the next one may be, and its kick is
                // the one that was just forgotten.
                Ok(Command::Run | Command::Call(_)) => continue,
                Err(TryRecvError::Empty) => {}
                Ok(Command::Pause(done)) => {
                    if let Err(stop) = self.finish_pending_access() {
                        self.report(stop);
                    }
                    let _ = done.send(());
                    return State::Paused;
                }
                Ok(Command::Finish) | Err(TryRecvError::Disconnected) => {
                    let rip = self.instruction_pointer();
                    tracing::debug!("vCPU {} ended at instruction pointer {rip:#x}", self.vcpu.0);
                    return State::Finished;
                }
            }
            if let Err(stop) = self.until_kicked() {
                self.report(stop);
                return State::Paused;
            }
        }
    }

    /// The hot loop: from exit to entry, with no other state.
    fn until_kicked(&mut self) -> Result<(), Stop> {
        loop {
            let exit = self.fd.run();
            // One writer: a load and a store, no locked instruction.
            let exits = self.marks.exits.load(Ordering::Relaxed);
            self.marks.exits.store(exits + 1, Ordering::Relaxed);
            let outcome = match exit {
                Ok(exit) => exit::serve(exit, self.page.port_access_width(), &self.buses),
                Err(error) => match error.errno() {
                    libc::EINTR => return Ok(()),
                    libc::EAGAIN => continue,
                    _ => {
                        return Err(Stop::Failed(ExitError::Run {
                            rip: self.instruction_pointer(),
                            source: io::Error::from(error),
                        }));
                    }
                },
            };
            match outcome {
                Outcome::Continue => {}
                Outcome::Stop(stop) => return Err(stop),
                Outcome::InternalError => {
                    return Err(Stop::Failed(ExitError::Internal {
                        rip: self.instruction_pointer(),
                    }));
                }
            }
        }
    }

    /// KVM completes a port or memory access only when it is entered again:
    /// until then the registers are those of an instruction half done. Enter
    /// with `immediate_exit`, so that nothing more is executed (kernel:
    /// Documentation/virt/kvm/api.rst, 5, "KVM_EXIT_IO"); an access that KVM
    /// splits in two comes out once more.
    fn finish_pending_access(&mut self) -> Result<(), Stop> {
        self.page.set_immediate_exit(true);
        let finished = self.until_kicked();
        self.page.set_immediate_exit(false);
        finished
    }

    fn report(&self, stop: Stop) {
        self.marks.stopped.store(true, Ordering::Release);
        (self.report)(VcpuEvent {
            vcpu: self.vcpu,
            stop,
        });
    }

    fn instruction_pointer(&self) -> u64 {
        self.fd.get_regs().map_or(0, |regs| regs.rip)
    }
}

/// `CLOCK_MONOTONIC`, in nanoseconds.
fn monotonic_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| {
        let seconds = u64::try_from(now.tv_sec()).unwrap_or(0);
        let nanoseconds = u64::try_from(now.tv_nsec()).unwrap_or(0);
        seconds * 1_000_000_000 + nanoseconds
    })
}

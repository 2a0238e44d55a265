//! One exit from the guest becomes one outcome.

use std::io;

use godwit_devices::bus::Action;
use kvm_bindings::{KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN};
use kvm_ioctls::VcpuExit;

use super::{Buses, Stop};

/// KVM left the guest for a reason that godwit cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ExitError {
    /// `KVM_RUN` failed.
    #[error("KVM could not run the vCPU at instruction pointer {rip:#x}")]
    Run {
        /// Where the guest was.
        rip: u64,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// The processor refused the guest's state.
    #[error(
        "The processor refused to enter the guest: hardware reason {reason:#x} on host CPU {cpu}"
    )]
    Entry {
        /// The processor's reason (for VMX: Intel SDM 3C, appendix C).
        reason: u64,
        /// The host CPU.
        cpu: u32,
    },
    /// KVM met an instruction or state that it cannot emulate.
    #[error("KVM could not emulate what the guest did at instruction pointer {rip:#x}")]
    Internal {
        /// Where the guest was.
        rip: u64,
    },
    /// An exit that nobody asked KVM for.
    #[error("KVM left the guest for a reason that godwit does not serve: {0}")]
    Unknown(String),
}

/// What follows an exit.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Back into the guest.
    Continue,
    /// Out, and tell the machine's owner.
    Stop(Stop),
    /// KVM's internal error: the registers tell where.
    InternalError,
}

impl From<Action> for Outcome {
    fn from(action: Action) -> Self {
        match action {
            Action::Continue => Self::Continue,
            Action::PowerOff => Self::Stop(Stop::PowerOff),
            Action::Reset => Self::Stop(Stop::Reset),
        }
    }
}

/// Serves `exit`. `width` is the size of one item of a port access.
pub(super) fn serve(exit: VcpuExit<'_>, width: usize, buses: &Buses) -> Outcome {
    match exit {
        VcpuExit::IoIn(port, data) => {
            for item in data.chunks_mut(width.max(1)) {
                buses.ports.read(port.into(), item);
            }
            Outcome::Continue
        }
        VcpuExit::IoOut(port, data) => data
            .chunks(width.max(1))
            .map(|item| buses.ports.write(port.into(), item))
            .find(|action| *action != Action::Continue)
            .map_or(Outcome::Continue, Outcome::from),
        VcpuExit::MmioRead(address, data) => {
            buses.memory.read(address, data);
            Outcome::Continue
        }
        VcpuExit::MmioWrite(address, data) => buses.memory.write(address, data).into(),
        // A signal, or a halt that KVM left to us although it has the local
        // APIC: the command loop looks, and the guest goes on.
        VcpuExit::Intr | VcpuExit::Hlt | VcpuExit::IrqWindowOpen => Outcome::Continue,
        VcpuExit::Shutdown => Outcome::Stop(Stop::TripleFault),
        VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN, _) => Outcome::Stop(Stop::PowerOff),
        VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET, _) => Outcome::Stop(Stop::Reset),
        VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_CRASH, _) => Outcome::Stop(Stop::TripleFault),
        VcpuExit::FailEntry(reason, cpu) => {
            Outcome::Stop(Stop::Failed(ExitError::Entry { reason, cpu }))
        }
        VcpuExit::InternalError => Outcome::InternalError,
        other => Outcome::Stop(Stop::Failed(ExitError::Unknown(format!("{other:?}")))),
    }
}

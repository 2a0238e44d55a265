//! The serial port COM1, a 16550A, and what stands behind it.
//!
//! ```text
//!   guest  --- ports 0x3f8-0x3ff --->  Serial (registers, 64-byte FIFO)
//!                                        |  ^            |
//!          written through at once by    |  |            | "the FIFO has room",
//!          the vCPU, or kept (bounded)   |  | fed by     v "output is waiting"
//!                                        v  |          wake
//!                                     Outlet Pump (on the device loop)
//!                                        |  ^
//!                                        v  |
//!                        terminal, pseudo-terminal, file, socket
//! ```
//!
//! **Output never stops the guest.** A byte goes out in the system call of the
//! vCPU that wrote it, unless the other side is not ready; then it is kept, up
//! to [`PENDING_LIMIT`] bytes, and the device loop sends it when the other side
//! reads again. Beyond the limit the oldest bytes are dropped and counted
//! ([`SerialCounters::dropped`]), so that a late reader sees the latest output.
//! The exception is a regular file, which is written directly: the page cache
//! takes it.
//!
//! **Input has back-pressure.** What the guest has not room for stays where it
//! is (in the pipe, the socket, the pseudo-terminal), and is read when the guest
//! has emptied its FIFO. Only a terminal is always read, because the escape key
//! must work when the guest hangs; what is typed beyond 4 KiB is dropped.

mod backend;
mod escape;
mod handover;
mod outlet;
mod pump;
mod state;
mod terminal;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vm_superio::serial::NoEvents;
use vmm_sys_util::eventfd::EventFd;

use crate::bus::{Action, BusDevice};
use crate::device_loop::{Joined, Leaving, LoopError, LoopHandle};
use crate::irq::IrqLine;

pub use escape::Escape;
pub use outlet::PENDING_LIMIT;
pub use state::{SerialStateError, SerialV1};
pub use terminal::restore as restore_terminal;

use handover::Handover;
use outlet::Outlet;
use pump::{Pump, SharedPump, TYPED_LIMIT};

/// What stands behind the port.
///
/// There is no "off" here: a machine without a serial port has no [`Serial`],
/// and its ports read as all ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Output is thrown away, and there is no input.
    Null,
    /// Standard input and output. A terminal is put into raw mode, and Ctrl-A
    /// is its escape key: Ctrl-A x ends the machine, Ctrl-A Ctrl-A sends one
    /// Ctrl-A, Ctrl-A ? shows help. Anything else than a terminal is read as it
    /// comes, without an escape key, until its end.
    Tty,
    /// Standard output, and no input.
    TtyOutput,
    /// A new pseudo-terminal, in raw mode; [`SerialHandle::pty_path`] tells where.
    Pty,
    /// A file, created or emptied.
    File(PathBuf),
    /// A file, created or added to: what the guest wrote elsewhere stays.
    Append(PathBuf),
    /// A Unix stream socket that we listen on. One client is served at a time,
    /// the next one waits; without a client, output is dropped and counted.
    Socket(PathBuf),
}

/// Where escape keys are reported; called on the device loop's thread, so it
/// must not call into the loop.
pub type EscapeSink = Box<dyn Fn(Escape) + Send>;

/// What a serial port is made of.
pub struct SerialSetup<'a> {
    /// What stands behind it.
    pub backend: &'a Backend,
    /// What [`SerialHandle::hand_over`] gave in another process, to be served after
    /// [`SerialHandle::go_on`]; empty: it is opened.
    pub handed: Vec<OwnedFd>,
    /// Its interrupt (COM1: pin 4).
    pub irq: Arc<dyn IrqLine>,
    /// Where input is read.
    pub device_loop: &'a LoopHandle,
    /// Where escape keys go.
    pub escape: EscapeSink,
    /// The registers to start with: `SerialV1::default()` after power-on.
    pub state: SerialV1,
}

impl fmt::Debug for SerialSetup<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SerialSetup")
            .field("backend", &self.backend)
            .finish_non_exhaustive()
    }
}

/// The serial port could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SerialError {
    /// A file or socket could not be opened.
    #[error("Could not open {path} for the serial port")]
    Open {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another process listens on the socket.
    #[error(
        "Could not listen on {path} for the serial port: another process does; name another path"
    )]
    SocketInUse {
        /// Its path.
        path: PathBuf,
    },
    /// Standard input or output could not be used.
    #[error("Could not use {stream} for the serial port; is it open?")]
    Standard {
        /// Which one.
        stream: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No pseudo-terminal could be made.
    #[error("Could not make a pseudo-terminal for the serial port")]
    Pty(#[source] io::Error),
    /// What came from another instance is not what such a port has.
    #[error("{came} descriptors came with the serial port, which are not those of its kind")]
    Handed {
        /// How many came, beside the note.
        came: usize,
    },
    /// What came from another instance could not be used.
    #[error("Could not take over the serial port of another instance")]
    TakeOver(#[source] io::Error),
    /// No eventfd could be made.
    #[error("Could not make an eventfd for the serial port")]
    Wake(#[source] io::Error),
    /// The saved registers are not those of a serial port.
    #[error("Could not restore the serial port")]
    State(#[from] SerialStateError),
    /// The device loop did not take it.
    #[error("Could not serve the serial port")]
    Loop(#[from] LoopError),
}

/// What went through a serial port since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SerialCounters {
    /// Bytes that the guest was given.
    pub received: u64,
    /// Bytes that the guest wrote and that went out.
    pub sent: u64,
    /// Bytes that the guest wrote and nobody was there to take.
    pub dropped: u64,
}

/// The interrupt as the register model wants it.
#[derive(Debug)]
struct Edge(Arc<dyn IrqLine>);

impl vm_superio::Trigger for Edge {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.trigger()
    }
}

type Uart = vm_superio::Serial<Edge, NoEvents, Outlet>;

#[derive(Debug)]
struct Port {
    uart: Uart,
    /// The pump wants to know when the FIFO is empty or can take input again.
    waiting: bool,
    received: u64,
}

/// A 16550A behind eight ports.
#[derive(Debug)]
pub struct Serial {
    port: Mutex<Port>,
    wake: Arc<EventFd>,
    irq: Arc<dyn IrqLine>,
}

impl Serial {
    /// How many ports it takes.
    pub const PORTS: u64 = 8;

    /// Opens the back end and starts to serve it on the device loop.
    ///
    /// # Errors
    /// The back end cannot be opened, or the saved registers make no sense.
    pub fn new(setup: SerialSetup<'_>) -> Result<(Arc<Self>, SerialHandle), SerialError> {
        let wake = Arc::new(EventFd::new(libc::EFD_NONBLOCK).map_err(SerialError::Wake)?);
        let mut handed = setup.handed.into_iter();
        let note = handed.next();
        let opened = match &note {
            Some(_) => backend::take_over(setup.backend, handed.collect())?,
            None => backend::open(setup.backend)?,
        };
        let outlet = Outlet::new(opened.sink, Arc::clone(&wake));
        let uart = Uart::from_state(
            &setup.state.registers()?,
            Edge(Arc::clone(&setup.irq)),
            NoEvents,
            outlet,
        )
        .map_err(SerialStateError::from)?;
        let serial = Arc::new(Self {
            port: Mutex::new(Port {
                uart,
                waiting: false,
                received: 0,
            }),
            wake,
            irq: setup.irq,
        });
        let mut handle = SerialHandle {
            serial: Arc::clone(&serial),
            device_loop: setup.device_loop.clone(),
            subscriber: None,
            pump: None,
            place: opened.place,
        };
        if opened.input.is_some() || opened.listener.is_some() || opened.may_stall {
            let pump = Pump::new(
                Arc::clone(&serial),
                opened.input,
                opened.listener,
                setup.escape,
                note.map(Handover::of),
            );
            let pump = SharedPump::new(pump);
            handle.pump = Some(pump.clone());
            handle.subscriber = Some(setup.device_loop.join(Box::new(pump))?);
        }
        Ok((serial, handle))
    }

    /// The registers and the bytes in the FIFO, to be restored elsewhere.
    #[must_use]
    pub fn save(&self) -> SerialV1 {
        SerialV1::from(self.lock().uart.state())
    }

    /// Takes over saved registers and received bytes; the back end stays.
    ///
    /// # Errors
    /// The saved registers make no sense, or the interrupt that was pending
    /// cannot be raised: the port is of no use then.
    pub fn restore(&self, saved: SerialV1) -> Result<(), SerialStateError> {
        let registers = saved.registers()?;
        let mut port = self.lock();
        let nobody = Outlet::new(outlet::Sink::Nobody, Arc::clone(&self.wake));
        let outlet = std::mem::replace(port.uart.writer_mut(), nobody);
        port.uart = Uart::from_state(&registers, Edge(Arc::clone(&self.irq)), NoEvents, outlet)?;
        self.wake_if_wanted(&mut port);
        Ok(())
    }

    /// What went through so far.
    #[must_use]
    pub fn counters(&self) -> SerialCounters {
        let port = self.lock();
        let outlet = port.uart.writer();
        SerialCounters {
            received: port.received,
            sent: outlet.sent(),
            dropped: outlet.dropped(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Port> {
        // A thread that panicked left registers, which stay valid whatever they
        // hold.
        self.port.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the pump when it waits for the guest and the guest has done its part.
    fn wake_if_wanted(&self, port: &mut Port) {
        if port.waiting && port.uart.fifo_capacity() == state::FIFO_SIZE {
            port.waiting = false;
            // The counter cannot overflow: one is added per emptied FIFO, and
            // when it did, the pump would be awake already.
            let _ = self.wake.write(1);
        }
    }
}

impl BusDevice for Serial {
    fn read(&self, offset: u64, data: &mut [u8]) {
        // A byte-wide device: wider accesses see ones in the other bytes.
        data.fill(0xff);
        let (Ok(register @ 0..8), Some(value)) = (u8::try_from(offset), data.first_mut()) else {
            return;
        };
        let mut port = self.lock();
        *value = port.uart.read(register);
        self.wake_if_wanted(&mut port);
    }

    fn write(&self, offset: u64, data: &[u8]) -> Action {
        let (Ok(register @ 0..8), Some(&value)) = (u8::try_from(offset), data.first()) else {
            return Action::Continue;
        };
        let mut port = self.lock();
        if let Err(error) = port.uart.write(register, value) {
            // The guest can repeat this at will, so it is not worth more.
            tracing::debug!("Serial port: {error}");
        }
        self.wake_if_wanted(&mut port);
        Action::Continue
    }
}

/// Our end of a serial port; dropping it stops the port's service, restores the
/// terminal, and removes the socket.
#[derive(Debug)]
pub struct SerialHandle {
    serial: Arc<Serial>,
    device_loop: LoopHandle,
    subscriber: Option<Joined>,
    pump: Option<SharedPump>,
    place: backend::Place,
}

impl SerialHandle {
    /// Where the pseudo-terminal is, when the back end is one.
    #[must_use]
    pub fn pty_path(&self) -> Option<&Path> {
        match &self.place {
            backend::Place::Pty { path, .. } => Some(path),
            _ => None,
        }
    }

    /// Stops the service, after what the guest wrote last has had up to one
    /// second to go out to standard output.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for SerialHandle {
    fn drop(&mut self) {
        if let Some(subscriber) = self.subscriber.take()
            && let Err(error) = self.device_loop.leave(subscriber).and_then(Leaving::wait)
        {
            tracing::debug!("Serial port: {error}");
        }
        let patience = match self.place {
            backend::Place::Standard(_) => Duration::from_secs(1),
            _ => Duration::ZERO,
        };
        self.serial.lock().uart.writer_mut().finish(patience);
    }
}

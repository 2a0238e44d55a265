//! The saved form of a serial port.

use std::io;

use serde::{Deserialize, Serialize};
use vm_superio::serial::{Error, SerialState};

/// How many received bytes the port holds for the guest (the model's FIFO is
/// larger than a real 16550A's 16 bytes, which no driver can tell).
pub(super) const FIFO_SIZE: usize = 64;

/// Data ready, bit 0 of the line status register.
const LSR_DATA_READY: u8 = 1;

/// The registers of a 16550A and the received bytes that the guest has not read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SerialV1 {
    /// Divisor latch, low byte.
    pub divisor_low: u8,
    /// Divisor latch, high byte.
    pub divisor_high: u8,
    /// Interrupt enable register.
    pub interrupt_enable: u8,
    /// Interrupt identification register.
    pub interrupt_identification: u8,
    /// Line control register.
    pub line_control: u8,
    /// Line status register.
    pub line_status: u8,
    /// Modem control register.
    pub modem_control: u8,
    /// Modem status register.
    pub modem_status: u8,
    /// Scratch register.
    pub scratch: u8,
    /// Received and not read yet, oldest first; at most 64 bytes.
    pub received: Vec<u8>,
}

impl Default for SerialV1 {
    fn default() -> Self {
        SerialState::default().into()
    }
}

/// The saved registers cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum SerialStateError {
    /// More bytes than the FIFO holds.
    #[error("The saved FIFO of the serial port is longer than {FIFO_SIZE} bytes")]
    FifoTooLong,
    /// The interrupt that was pending could not be raised.
    #[error("Could not raise the interrupt that was pending")]
    Interrupt(#[source] io::Error),
}

impl From<Error<io::Error>> for SerialStateError {
    fn from(error: Error<io::Error>) -> Self {
        match error {
            Error::FullFifo => Self::FifoTooLong,
            Error::Trigger(source) | Error::IOError(source) => Self::Interrupt(source),
        }
    }
}

impl From<SerialState> for SerialV1 {
    fn from(state: SerialState) -> Self {
        Self {
            divisor_low: state.baud_divisor_low,
            divisor_high: state.baud_divisor_high,
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
            received: state.in_buffer,
        }
    }
}

impl SerialV1 {
    /// The registers as the model takes them.
    pub(super) fn registers(self) -> Result<SerialState, SerialStateError> {
        if self.received.len() > FIFO_SIZE {
            return Err(SerialStateError::FifoTooLong);
        }
        // "Data ready" follows from the FIFO; saved bytes that contradict
        // themselves would leave a driver waiting.
        let ready = if self.received.is_empty() {
            0
        } else {
            LSR_DATA_READY
        };
        Ok(SerialState {
            baud_divisor_low: self.divisor_low,
            baud_divisor_high: self.divisor_high,
            interrupt_enable: self.interrupt_enable,
            interrupt_identification: self.interrupt_identification,
            line_control: self.line_control,
            line_status: self.line_status & !LSR_DATA_READY | ready,
            modem_control: self.modem_control,
            modem_status: self.modem_status,
            scratch: self.scratch,
            in_buffer: self.received,
        })
    }
}

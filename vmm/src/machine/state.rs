//! A machine's saved form, and its bytes.
//!
//! ```text
//!  "GODWITST" | version u32 | length u64 | CRC-32C u32 | postcard of MachineV1
//! ```
//!
//! Integers are little-endian. Guest memory is not part of it.

use serde::{Deserialize, Serialize};

use godwit_devices::hotplug::HotPlugV1;
use godwit_devices::pci::PciRootV1;
use godwit_devices::pci::config::RestoreConfigError;
use godwit_devices::serial::{SerialStateError, SerialV1};
use godwit_devices::virtio::pci::VirtioPciV1;

use super::Machine;
use super::laps::Laps;
use crate::kvm::{ClockV1, Elapsed, IrqchipV1, KvmError};
use crate::vcpu::{Answer, VcpuStateError, VcpuV1};

/// The version that is written; older ones are read.
const VERSION: u32 = 1;
const HEADER: usize = 24;

/// All of a machine but its memory, first version.
#[derive(Debug, Serialize, Deserialize)]
pub struct MachineV1 {
    vcpus: Vec<VcpuV1>,
    irqchip: IrqchipV1,
    clock: ClockV1,
    serial: Option<SerialV1>,
    root: PciRootV1,
    hotplug: HotPlugV1,
    functions: Vec<FunctionV1>,
}

/// A device behind PCI, first version.
#[derive(Debug, Serialize, Deserialize)]
struct FunctionV1 {
    id: String,
    transport: VirtioPciV1,
}

/// A machine could not be saved.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// A vCPU.
    #[error("Could not save vCPU {vcpu}")]
    Vcpu {
        /// Which one.
        vcpu: usize,
        /// Why.
        #[source]
        source: VcpuStateError,
    },
    /// Interrupt controllers or clock.
    #[error(transparent)]
    Kvm(#[from] KvmError),
}

/// A machine could not take over a saved state.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The state is that of a machine of another shape.
    #[error("The saved state has {saved} {what}, this machine has {here}")]
    Shape {
        /// vCPUs or devices.
        what: &'static str,
        /// How many were saved.
        saved: usize,
        /// How many are here.
        here: usize,
    },
    /// A device of the state is not here.
    #[error("The saved state has a device {0}, this machine has none of that name")]
    NoSuchDevice(String),
    /// A vCPU.
    #[error("Could not restore vCPU {vcpu}")]
    Vcpu {
        /// Which one.
        vcpu: usize,
        /// Why.
        #[source]
        source: VcpuStateError,
    },
    /// Interrupt controllers or clock.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The serial port.
    #[error("Could not restore the serial port")]
    Serial(#[from] SerialStateError),
    /// The PCI root.
    #[error("Could not restore the PCI root")]
    Root(#[from] RestoreConfigError),
    /// A device's transport.
    #[error(transparent)]
    Function(#[from] godwit_devices::virtio::pci::RestoreError),
}

/// Bytes that are no saved state.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Too short, or something else altogether.
    #[error("These {0} bytes are not a saved machine")]
    Format(usize),
    /// Written by a newer version.
    #[error("The saved state is of version {found}; this godwit knows {VERSION} and older")]
    Version {
        /// The version found.
        found: u32,
    },
    /// Cut off, or longer than it says.
    #[error("The saved state has {found} bytes where {expected} are announced")]
    Length {
        /// What the header says.
        expected: u64,
        /// How many there are.
        found: usize,
    },
    /// Changed on its way.
    #[error("The saved state is damaged: its checksum is {found:#010x}, not {expected:#010x}")]
    Checksum {
        /// What the header says.
        expected: u32,
        /// What the bytes give.
        found: u32,
    },
    /// The bytes do not make up a machine.
    #[error("The saved state cannot be decoded")]
    Decode(#[from] postcard::Error),
}

impl MachineV1 {
    /// How its bytes begin.
    pub(crate) const MAGIC: &[u8; 8] = b"GODWITST";

    /// The bytes to store or send.
    ///
    /// # Errors
    /// The encoder's, which can only be a lack of memory.
    pub fn encode(&self) -> Result<Vec<u8>, StateError> {
        let mut bytes = vec![0; HEADER];
        bytes = postcard::to_extend(self, bytes)?;
        let (header, body) = bytes.split_at_mut(HEADER);
        let checksum = crc32c::crc32c(body);
        header[..8].copy_from_slice(Self::MAGIC);
        header[8..12].copy_from_slice(&VERSION.to_le_bytes());
        header[12..20].copy_from_slice(&(body.len() as u64).to_le_bytes());
        header[20..24].copy_from_slice(&checksum.to_le_bytes());
        Ok(bytes)
    }

    /// The machine that `bytes` say.
    ///
    /// # Errors
    /// See [`StateError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        let format = || StateError::Format(bytes.len());
        let (header, body) = bytes.split_at_checked(HEADER).ok_or_else(format)?;
        let field = |range: std::ops::Range<usize>| header.get(range).ok_or_else(format);
        let word = |range: std::ops::Range<usize>| -> Result<u32, StateError> {
            let bytes = field(range)?.try_into().map_err(|_| format())?;
            Ok(u32::from_le_bytes(bytes))
        };
        if field(0..8)? != Self::MAGIC {
            return Err(format());
        }
        let found = word(8..12)?;
        if found == 0 || found > VERSION {
            return Err(StateError::Version { found });
        }
        let length = field(12..20)?.try_into().map_err(|_| format())?;
        let expected = u64::from_le_bytes(length);
        if expected != body.len() as u64 {
            return Err(StateError::Length {
                expected,
                found: body.len(),
            });
        }
        let (expected, found) = (word(20..24)?, crc32c::crc32c(body));
        if expected != found {
            return Err(StateError::Checksum { expected, found });
        }
        Ok(postcard::from_bytes(body)?)
    }
}

impl Machine {
    /// Saves the machine, which must be paused.
    ///
    /// # Errors
    /// KVM could not tell.
    pub fn save(&self) -> Result<MachineV1, SaveError> {
        let answers: Vec<_> = self
            .vcpus
            .iter()
            .map(|vcpu| vcpu.save(self.processors.msrs.clone()))
            .collect();
        let irqchip = self.vm.save_irqchip()?;
        let functions = self
            .functions
            .iter()
            .map(|function| FunctionV1 {
                id: function.id.clone(),
                transport: function.device.save(),
            })
            .collect();
        let serial = self.host.serial.as_ref().map(|port| port.device.save());
        let vcpus = (0..)
            .zip(answers)
            .map(|(vcpu, answer)| {
                answer
                    .wait()
                    .map_err(|source| SaveError::Vcpu { vcpu, source })
            })
            .collect::<Result<_, _>>()?;
        Ok(MachineV1 {
            vcpus,
            irqchip,
            // Last: the guest's clocks stand still from here.
            clock: self.vm.save_clock()?,
            serial,
            root: self.root.save(),
            hotplug: self.platform.hotplug.save(),
            functions,
        })
    }

    /// Takes over a saved state; the machine is paused and its guest has not
    /// run yet. `elapsed` says what becomes of the time since then.
    ///
    /// # Errors
    /// The state does not fit the machine, or KVM refuses it.
    pub fn restore(&self, saved: MachineV1, elapsed: Elapsed) -> Result<(), RestoreError> {
        check("vCPUs", saved.vcpus.len(), self.vcpus.len())?;
        check("devices", saved.functions.len(), self.functions.len())?;
        let mut laps = Laps::begin("restoring");
        self.vm.restore_clock(&saved.clock, elapsed)?;
        let here = self.vm.save_clock()?;
        let shift = saved.clock.tsc_shift(&here, self.processors.tsc_khz);
        laps.lap("clock");
        self.vm.restore_irqchip(&saved.irqchip)?;
        laps.lap("interrupt controllers");
        let answers: Vec<Answer<()>> = self
            .vcpus
            .iter()
            .zip(saved.vcpus)
            .map(|(vcpu, saved)| vcpu.restore(saved, shift))
            .collect();
        for saved in &saved.functions {
            let function = self.functions.iter().find(|f| f.id == saved.id);
            let function = function.ok_or_else(|| RestoreError::NoSuchDevice(saved.id.clone()))?;
            function.device.restore(&saved.transport)?;
        }
        laps.lap("devices");
        self.root.restore(&saved.root)?;
        self.root.refresh();
        laps.lap("PCI root");
        for (vcpu, answer) in (0..).zip(answers) {
            answer
                .wait()
                .map_err(|source| RestoreError::Vcpu { vcpu, source })?;
        }
        laps.lap("vCPUs");
        // These raise an interrupt that is still pending, which a local APIC that
        // is restored afterwards would forget.
        self.platform.hotplug.restore(saved.hotplug);
        if let (Some(port), Some(saved)) = (&self.host.serial, saved.serial) {
            port.device.restore(saved)?;
        }
        laps.lap("platform");
        Ok(())
    }
}

fn check(what: &'static str, saved: usize, here: usize) -> Result<(), RestoreError> {
    if saved == here {
        Ok(())
    } else {
        Err(RestoreError::Shape { what, saved, here })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::from(MachineV1::MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend((body.len() as u64).to_le_bytes());
        bytes.extend(crc32c::crc32c(body).to_le_bytes());
        bytes.extend(body);
        bytes
    }

    #[test]
    fn what_is_no_state_is_refused() {
        assert!(matches!(MachineV1::decode(b""), Err(StateError::Format(0))));
        assert!(matches!(
            MachineV1::decode(&[0; 64]),
            Err(StateError::Format(64))
        ));
        let mut newer = envelope(b"");
        newer[8] = 2;
        assert!(matches!(
            MachineV1::decode(&newer),
            Err(StateError::Version { found: 2 })
        ));
        let mut longer = envelope(b"abc");
        longer.push(0);
        assert!(matches!(
            MachineV1::decode(&longer),
            Err(StateError::Length {
                expected: 3,
                found: 4
            })
        ));
        let mut damaged = envelope(b"abc");
        *damaged.last_mut().unwrap() ^= 1;
        assert!(matches!(
            MachineV1::decode(&damaged),
            Err(StateError::Checksum { .. })
        ));
        // A count that the bytes do not hold allocates nothing.
        let huge = envelope(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]);
        assert!(matches!(
            MachineV1::decode(&huge),
            Err(StateError::Decode(_))
        ));
    }
}

//! What a machine is, as told to a host that is to take it over: enough to
//! build all of it before its state comes, and to refuse what does not fit.

use godwit_api::config::VmConfig;
use kvm_bindings::kvm_cpuid_entry2;
use serde::{Deserialize, Serialize};

use super::{Function, Machine};

/// A machine before its memory and state.
#[derive(Debug, Serialize, Deserialize)]
pub struct Description {
    /// The version of godwit that wrote it.
    pub version: String,
    /// The config, completed, as JSON.
    config: String,
    /// Where each device is on PCI, in the order in which they were attached.
    pub functions: Vec<FunctionPlace>,
    /// The CPUID of each vCPU.
    pub cpuid: Vec<Vec<kvm_cpuid_entry2>>,
    /// How fast the guest's time-stamp counter counts, in kHz; 0: unknown.
    pub tsc_khz: u32,
    /// Model-specific registers of the state.
    pub msrs: Vec<u32>,
    /// Address and data of each interrupt vector, in the order of the functions.
    pub routes: Vec<Option<(u64, u32)>>,
    /// Whether the guest is to run when it has arrived.
    pub running: bool,
    /// The doorbells that devices have bound. Behind all else in the bytes: an
    /// older godwit does not read it, and did not write it.
    #[serde(skip)]
    pub doorbells: Vec<FunctionDoorbells>,
}

/// Where a device's doorbells are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionDoorbells {
    /// The device's id.
    pub id: String,
    /// The guest address of the BAR that they are in.
    pub bar: u64,
    /// Of which queues.
    pub queues: Vec<u16>,
}

/// What follows a description.
#[derive(Debug, Serialize, Deserialize)]
struct Ahead {
    doorbells: Vec<FunctionDoorbells>,
}

/// Where a device is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionPlace {
    /// Its id.
    pub id: String,
    /// Its slot on bus 0.
    pub slot: u8,
}

/// Bytes that do not describe a machine.
#[derive(Debug, thiserror::Error)]
pub enum DescriptionError {
    /// They cannot be decoded.
    #[error("The description of the machine cannot be decoded")]
    Decode(#[from] postcard::Error),
    /// The config in it cannot be read.
    #[error("The config in the description of the machine cannot be read")]
    Config(#[source] godwit_api::json::ReadError),
    /// The config cannot be written.
    #[error("The machine's config cannot be written as JSON")]
    Write(#[from] serde_json::Error),
}

/// A device of the config has no place in the description.
#[derive(Debug, thiserror::Error)]
#[error("The description of the machine has a device {0} in its config, and no place for it")]
pub struct NotDescribed(String);

impl Description {
    /// Describes `machine`, which was made from `config`.
    ///
    /// # Errors
    /// The config cannot be written.
    pub fn of(
        machine: &Machine,
        config: &VmConfig,
        running: bool,
    ) -> Result<Self, DescriptionError> {
        let functions = machine.functions.iter().map(|function| FunctionPlace {
            id: function.id.clone(),
            slot: function.at.device(),
        });
        Ok(Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            config: serde_json::to_string(config)?,
            functions: functions.collect(),
            cpuid: machine.processors.cpuid.clone(),
            tsc_khz: machine.processors.tsc_khz,
            msrs: machine.processors.msrs.to_vec(),
            routes: machine.platform.interrupts.table(),
            running,
            doorbells: machine.functions.iter().filter_map(doorbells).collect(),
        })
    }

    /// The config in it.
    ///
    /// # Errors
    /// It is not one.
    pub fn config(&self) -> Result<VmConfig, DescriptionError> {
        let lenient = godwit_api::json::read_lenient(self.config.as_bytes())
            .map_err(DescriptionError::Config)?;
        for field in &lenient.ignored {
            tracing::warn!("From the other side: {field}");
        }
        Ok(lenient.value)
    }

    /// The slot of the device `id`.
    ///
    /// # Errors
    /// It has none.
    pub fn slot(&self, id: &str) -> Result<u8, NotDescribed> {
        let place = self.functions.iter().find(|place| place.id == id);
        place
            .map(|place| place.slot)
            .ok_or_else(|| NotDescribed(id.to_owned()))
    }

    /// The bytes to store or send.
    ///
    /// # Errors
    /// The encoder's.
    pub fn encode(&self) -> Result<Vec<u8>, DescriptionError> {
        let bytes = postcard::to_stdvec(self)?;
        if self.doorbells.is_empty() {
            return Ok(bytes);
        }
        let doorbells = self.doorbells.clone();
        Ok(postcard::to_extend(&Ahead { doorbells }, bytes)?)
    }

    /// The description that `bytes` are.
    ///
    /// # Errors
    /// They are none.
    pub fn decode(bytes: &[u8]) -> Result<Self, DescriptionError> {
        let (mut description, ahead): (Self, _) = postcard::take_from_bytes(bytes)?;
        if !ahead.is_empty() {
            let ahead: Ahead = postcard::from_bytes(ahead)?;
            description.doorbells = ahead.doorbells;
        }
        Ok(description)
    }
}

fn doorbells(function: &Function) -> Option<FunctionDoorbells> {
    let (bar, queues) = function.device.doorbells()?;
    let id = function.id.clone();
    Some(FunctionDoorbells { id, bar, queues })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description(doorbells: Vec<FunctionDoorbells>) -> Description {
        Description {
            version: "0.1.0".to_owned(),
            config: "{}".to_owned(),
            functions: Vec::new(),
            cpuid: Vec::new(),
            tsc_khz: 2_000_000,
            msrs: vec![0x10],
            routes: vec![None],
            running: true,
            doorbells,
        }
    }

    #[test]
    fn doorbells_follow_what_older_ones_read() {
        let doorbells = vec![FunctionDoorbells {
            id: "net0".to_owned(),
            bar: 0xe000_0000,
            queues: vec![0, 1, 2],
        }];
        let bytes = description(doorbells.clone()).encode().unwrap();
        assert_eq!(Description::decode(&bytes).unwrap().doorbells, doorbells);
        let old = description(Vec::new()).encode().unwrap();
        assert!(bytes.starts_with(&old) && bytes.len() > old.len());
        assert_eq!(Description::decode(&old).unwrap().doorbells, []);
        // Cut off anywhere behind the old part: an error, and no panic.
        for end in old.len() + 1..bytes.len() {
            assert!(Description::decode(&bytes[..end]).is_err(), "{end}");
        }
    }
}

//! What a machine is, as told to a host that is to take it over: enough to
//! build all of it before its state comes, and to refuse what does not fit.

use godwit_api::config::VmConfig;
use kvm_bindings::kvm_cpuid_entry2;
use serde::{Deserialize, Serialize};

use super::Machine;

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
        Ok(postcard::to_stdvec(self)?)
    }

    /// The description that `bytes` are.
    ///
    /// # Errors
    /// They are none.
    pub fn decode(bytes: &[u8]) -> Result<Self, DescriptionError> {
        Ok(postcard::from_bytes(bytes)?)
    }
}

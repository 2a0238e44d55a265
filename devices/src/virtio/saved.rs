//! What a device itself keeps, apart from its rings and registers, as it is
//! saved and moved.

use serde::{Deserialize, Serialize};

use super::block::BlockV1;
use super::net::NetV1;

/// A device's own state, first version of each.
///
/// The number of a variant is on the wire: new ones are added at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceV1 {
    /// All that the driver can tell of the device is in its transport.
    Stateless,
    /// A network device.
    Net(NetV1),
    /// A disk.
    Block(BlockV1),
}

impl DeviceV1 {
    /// What kind of device this is of.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Stateless => "a device without state",
            Self::Net(_) => "a network device",
            Self::Block(_) => "a disk",
        }
    }
}

/// A saved state does not fit the device here.
#[derive(Debug, thiserror::Error)]
pub enum DeviceStateError {
    /// It is another kind of device.
    #[error("The saved state is that of {saved}")]
    Kind {
        /// What it is of.
        saved: &'static str,
    },
    /// The device refused it.
    #[error(transparent)]
    Device(Box<dyn std::error::Error + Send + Sync>),
}

impl DeviceStateError {
    /// The state of another kind of device.
    #[must_use]
    pub const fn kind(saved: &DeviceV1) -> Self {
        Self::Kind {
            saved: saved.name(),
        }
    }
}

/// Restores a device that has no state.
///
/// # Errors
/// The saved state is that of a device that has.
pub const fn stateless(saved: &DeviceV1) -> Result<(), DeviceStateError> {
    match saved {
        DeviceV1::Stateless => Ok(()),
        other => Err(DeviceStateError::kind(other)),
    }
}

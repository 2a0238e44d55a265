//! Character devices: the serial port and the console.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where the bytes of a serial port or a console go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CharacterConfig {
    /// The kind of place.
    pub mode: CharacterMode,
    /// With `File`, the file to write. With `Pty`, filled in by the machine
    /// with the path of the terminal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// With `Socket`, the Unix socket to listen on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
    /// Whether the device is behind a virtual IOMMU.
    #[serde(default)]
    pub iommu: bool,
    /// Name of the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The PCI segment.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub pci_segment: u16,
    /// The PCI slot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pci_device_id: Option<u8>,
    /// The I/O port of the debug console.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iobase: Option<u16>,
}

impl CharacterConfig {
    /// A device of this kind with nothing else set.
    #[must_use]
    pub const fn new(mode: CharacterMode) -> Self {
        Self {
            mode,
            file: None,
            socket: None,
            iommu: false,
            id: None,
            pci_segment: 0,
            pci_device_id: None,
            iobase: None,
        }
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(value: &u16) -> bool {
    *value == 0
}

/// The kind of place that bytes go to and come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CharacterMode {
    /// No device.
    Off,
    /// A device; its bytes go nowhere.
    Null,
    /// The terminal of the process.
    Tty,
    /// A new pseudo-terminal.
    Pty,
    /// A file, written only.
    File,
    /// A Unix socket.
    Socket,
}

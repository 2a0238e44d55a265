//! ACPI tables: what the guest finds its processors, PCI and power switches by.
//!
//! ```text
//! RSDP (0xe0000) -> XSDT -> FADT -> DSDT    sleep and reset registers; devices
//!                        -> MADT            processors and interrupt controllers
//!                        -> MCFG            PCI configuration space
//!                        -> SRAT, SLIT      NUMA, where asked for
//! ```
//!
//! The machine is hardware-reduced (ACPI 6.5, 4.1): no fixed event hardware, no FACS.
//! [`build`] is a pure function of the machine's shape; [`write()`] puts its result into
//! guest memory.

use std::ops::Range;

use acpi_tables::Aml;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError};

use super::Topology;
use super::layout::{self, RamRegion};
use crate::spec::NumaNodeSpec;

mod dsdt;
mod fixed;
pub mod hotplug;
mod madt;
mod numa;
pub mod power;

#[cfg(test)]
mod tests;

const OEM_ID: [u8; 6] = *b"GODWIT";
const OEM_TABLE_ID: [u8; 8] = *b"GODWIT  ";
const OEM_REVISION: u32 = 1;
const TABLE_ALIGNMENT: u64 = 16;

/// The highest NUMA node number that the distance table has room for.
pub const NODE_MAX: u32 = 127;

/// What the tables describe.
#[expect(
    missing_debug_implementations,
    reason = "AML objects cannot be printed"
)]
pub struct AcpiSpec<'a> {
    /// Shape of the guest's processor.
    pub topology: Topology,
    /// RAM, as [`layout::place_zones`] gave it.
    pub regions: &'a [RamRegion],
    /// NUMA nodes; none, and the guest gets no SRAT and SLIT.
    pub numa: &'a [NumaNodeSpec],
    /// The PCI memory window above RAM, from [`layout::pci_window_64`].
    pub pci_window_64: Option<Range<u64>>,
    /// More objects for the `\_SB` scope: the generic event device, hot-plug.
    pub devices: &'a [&'a dyn Aml],
}

/// Why the tables could not be made or written.
#[derive(Debug, thiserror::Error)]
pub enum AcpiError {
    /// The tables do not fit below 1 MiB.
    #[error("ACPI tables take {size} bytes, there is room for {room}: ask for fewer NUMA nodes")]
    TooLarge {
        /// What they take.
        size: u64,
        /// Room, in bytes.
        room: u64,
    },
    /// A node number that the distance table has no room for.
    #[error("NUMA node {id}: node numbers go from 0 to {NODE_MAX}")]
    NodeNumber {
        /// The node's number.
        id: u32,
    },
    /// Guest memory does not reach the tables.
    #[error("cannot write ACPI tables at {address:#x}: guest memory does not reach there")]
    Write {
        /// Where the write was to go.
        address: u64,
        /// What failed.
        source: GuestMemoryError,
    },
}

/// A table at its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// First address.
    pub address: GuestAddress,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// All tables at their addresses; the first is the RSDP, at [`layout::RSDP`].
///
/// # Errors
///
/// When they do not fit, or a NUMA node has a number above [`NODE_MAX`].
pub fn build(spec: &AcpiSpec<'_>) -> Result<Vec<Table>, AcpiError> {
    let mut placed = Placed {
        next: layout::RSDP.0 + Rsdp::len() as u64,
        tables: Vec::new(),
    };
    let dsdt = placed.add(&dsdt::table(spec));
    let mut entries = vec![
        placed.add(&fixed::fadt(dsdt)),
        placed.add(&madt::table(&spec.topology)),
        placed.add(&fixed::mcfg()),
    ];
    if !spec.numa.is_empty() {
        entries.push(placed.add(&numa::srat(spec)));
        entries.push(placed.add(&numa::slit(spec.numa)?));
    }
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    for entry in entries {
        xsdt.add_entry(entry.0);
    }
    let xsdt = placed.add(&xsdt);

    let end = placed.next;
    if end > layout::ACPI_END {
        return Err(AcpiError::TooLarge {
            size: end - layout::RSDP.0,
            room: layout::ACPI_END - layout::RSDP.0,
        });
    }
    let rsdp = Table {
        address: layout::RSDP,
        bytes: bytes(&Rsdp::new(OEM_ID, xsdt.0)),
    };
    Ok([vec![rsdp], placed.tables].concat())
}

/// Builds the tables and writes them; returns the address of the RSDP, which the boot
/// parameters state.
///
/// # Errors
///
/// As [`build`], and when guest memory does not reach to 1 MiB.
pub fn write<M: GuestMemoryBackend>(
    memory: &M,
    spec: &AcpiSpec<'_>,
) -> Result<GuestAddress, AcpiError> {
    for table in build(spec)? {
        memory
            .write_slice(&table.bytes, table.address)
            .map_err(|source| AcpiError::Write {
                address: table.address.0,
                source,
            })?;
    }
    Ok(layout::RSDP)
}

/// Tables so far, and where the next one goes.
struct Placed {
    next: u64,
    tables: Vec<Table>,
}

impl Placed {
    fn add(&mut self, table: &dyn Aml) -> GuestAddress {
        let address = GuestAddress(self.next.next_multiple_of(TABLE_ALIGNMENT));
        let bytes = bytes(table);
        self.next = address.0 + bytes.len() as u64;
        self.tables.push(Table { address, bytes });
        address
    }
}

fn bytes(object: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    object.to_aml_bytes(&mut bytes);
    bytes
}

/// A table with `body` behind its header.
fn table(signature: [u8; 4], revision: u8, body: &[u8]) -> Sdt {
    const HEADER_SIZE: u32 = 36;
    let mut table = Sdt::new(
        signature,
        HEADER_SIZE,
        revision,
        OEM_ID,
        OEM_TABLE_ID,
        OEM_REVISION,
    );
    table.append_slice(body);
    table
}

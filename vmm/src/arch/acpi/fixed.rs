//! FADT and MCFG.

use acpi_tables::fadt::{FADT, FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::mcfg::MCFG;
use vm_memory::GuestAddress;

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use crate::arch::layout;

/// IAPC_BOOT_ARCH (ACPI 6.5, table 5.11): there is no VGA and no CMOS clock, nor, with
/// bit 1 clear, a keyboard controller. The guest does not probe for them.
const VGA_NOT_PRESENT: u16 = 1 << 2;
const CMOS_RTC_NOT_PRESENT: u16 = 1 << 5;

/// The fixed description table: hardware-reduced, with sleep and reset registers.
pub(super) fn fadt(dsdt: GuestAddress) -> FADT {
    let mut fadt = [
        Flags::Wbinvd,
        // No power and sleep buttons in fixed hardware: devices in the DSDT, if any.
        Flags::PwrButton,
        Flags::SlpButton,
        Flags::FixRtc,
        Flags::ResetRegSup,
        Flags::Headless,
        Flags::HwReducedAcpi,
    ]
    .into_iter()
    .fold(
        FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION),
        FADTBuilder::flag,
    )
    .dsdt_64(dsdt.0);
    fadt.iapc_boot_arch = (VGA_NOT_PRESENT | CMOS_RTC_NOT_PRESENT).into();
    fadt.reset_reg = port(layout::RESET_PORT);
    fadt.reset_value = layout::RESET_VALUE;
    fadt.sleep_control_reg = port(layout::SLEEP_CONTROL_PORT);
    fadt.sleep_status_reg = port(layout::SLEEP_STATUS_PORT);
    fadt.hypervisor_vendor_identity = u64::from_le_bytes(OEM_TABLE_ID).into();
    fadt.finalize()
}

fn port(address: u16) -> GAS {
    GAS::new(
        AddressSpace::SystemIo,
        8,
        0,
        AccessSize::ByteAccess,
        address.into(),
    )
}

/// The PCI Express configuration space.
pub(super) fn mcfg() -> MCFG {
    let mut mcfg = MCFG::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    mcfg.add_ecam(layout::ECAM_START, 0, 0, layout::ECAM_LAST_BUS);
    mcfg
}

//! DSDT: the devices that a guest cannot find by itself.
//!
//! PCI functions interrupt by MSI-X only, so there is no `_PRT`.

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, And, Arg, CreateDWordField, Device, EISAName, Else, Equal,
    IO, If, Interrupt, Memory32Fixed, Method, Name, Or, Package, Path, ResourceTemplate, Return,
    Scope, Uuid, Zero,
};
use acpi_tables::sdt::Sdt;

use super::AcpiSpec;
use crate::arch::layout;

/// What `_OSC` of a PCI host bridge is asked with (PCI Firmware Specification 3.3, 4.5.1).
const PCI_HOST_BRIDGE: &str = "33DB4D5B-1FF7-401C-9657-7441C03DD766";
/// `_OSC` control bits that the guest may have: PME, AER, the PCI Express capability.
/// Not native hot-plug (bits 0 and 1), which is ACPI's here.
const OSC_GRANTED: u32 = 0x1c;
/// `_OSC` status: the UUID is not known.
const OSC_UNKNOWN_UUID: u32 = 1 << 2;

pub(super) fn table(spec: &AcpiSpec<'_>) -> Sdt {
    let mut aml = Vec::new();
    sleep_states(&mut aml);
    motherboard(&mut aml);
    serial_port(&mut aml);
    pci_root(spec, &mut aml);
    if !spec.devices.is_empty() {
        Scope::new(Path::new("_SB_"), spec.devices.to_vec()).to_aml_bytes(&mut aml);
    }
    super::table(*b"DSDT", 2, &aml)
}

fn sleep_states(aml: &mut Vec<u8>) {
    let values: [&dyn Aml; 4] = [&layout::S5_SLEEP_TYPE, &Zero {}, &Zero {}, &Zero {}];
    Name::new(Path::new("_S5_"), &Package::new(values.to_vec())).to_aml_bytes(aml);
}

/// Puts one device into `\_SB`.
fn device(aml: &mut Vec<u8>, name: &str, children: Vec<&dyn Aml>) {
    let device = Device::new(Path::new(name), children);
    Scope::new(Path::new("_SB_"), vec![&device]).to_aml_bytes(aml);
}

/// Ranges that belong to no device, so that the guest puts nothing there. Linux uses an
/// ECAM only if it is reserved so (PCI Firmware Specification 3.3, 4.1.2).
fn motherboard(aml: &mut Vec<u8>) {
    let ecam = fixed_memory(layout::ECAM_START, layout::ECAM_SIZE);
    let platform = fixed_memory(layout::PLATFORM_START, layout::PLATFORM_SIZE);
    let ports = io(&layout::PLATFORM_PORTS);
    device(
        aml,
        "MBRD",
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0C02")),
            &Name::new(Path::new("_UID"), &Zero {}),
            &Name::new(
                Path::new("_CRS"),
                &ResourceTemplate::new(vec![&ecam, &platform, &ports]),
            ),
        ],
    );
}

fn serial_port(aml: &mut Vec<u8>) {
    let interrupt = Interrupt::new(true, true, false, false, layout::COM1_IRQ);
    let ports = IO::new(
        layout::COM1_PORT,
        layout::COM1_PORT,
        1,
        layout::COM1_PORT_COUNT,
    );
    device(
        aml,
        "COM1",
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0501")),
            &Name::new(Path::new("_UID"), &Zero {}),
            &Name::new(
                Path::new("_CRS"),
                &ResourceTemplate::new(vec![&interrupt, &ports]),
            ),
        ],
    );
}

fn pci_root(spec: &AcpiSpec<'_>, aml: &mut Vec<u8>) {
    let buses = AddressSpace::new_bus_number(0_u16, u16::from(layout::ECAM_LAST_BUS));
    let address_ports = IO::new(layout::PCI_ADDRESS_PORT, layout::PCI_ADDRESS_PORT, 1, 8);
    let ports = AddressSpace::new_io(
        *layout::PCI_IO_WINDOW.start(),
        *layout::PCI_IO_WINDOW.end(),
        None,
    );
    let low = AddressSpace::new_memory(
        AddressSpaceCacheable::NotCacheable,
        true,
        word(layout::PCI_WINDOW_32.start),
        word(layout::PCI_WINDOW_32.end - 1),
        None,
    );
    let high = spec.pci_window_64.as_ref().map(|window| {
        AddressSpace::new_memory(
            AddressSpaceCacheable::NotCacheable,
            true,
            window.start,
            window.end.saturating_sub(1),
            None,
        )
    });
    let mut resources: Vec<&dyn Aml> = vec![&buses, &address_ports, &ports, &low];
    if let Some(high) = &high {
        resources.push(high);
    }
    let osc = OperatingSystemCapabilities;
    device(
        aml,
        "PCI0",
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0A08")),
            &Name::new(Path::new("_CID"), &EISAName::new("PNP0A03")),
            &Name::new(Path::new("_UID"), &Zero {}),
            &Name::new(Path::new("_SEG"), &Zero {}),
            &Name::new(Path::new("_BBN"), &Zero {}),
            &Name::new(Path::new("_CRS"), &ResourceTemplate::new(resources)),
            &osc,
        ],
    );
}

/// `_OSC` of the PCI root: hands PME, AER and the PCI Express capability to the guest.
///
/// Arg0 is the UUID, Arg3 the buffer of capability words, which is also the answer.
struct OperatingSystemCapabilities;

impl Aml for OperatingSystemCapabilities {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        let (status, control) = (Path::new("CDW1"), Path::new("CDW3"));
        let answer = Arg(3);
        Method::new(
            Path::new("_OSC"),
            4,
            true,
            vec![
                &CreateDWordField::new(&status, &answer, &Zero {}),
                &If::new(
                    &Equal::new(&Arg(0), &Uuid::new(PCI_HOST_BRIDGE)),
                    vec![
                        &CreateDWordField::new(&control, &answer, &8_u8),
                        &And::new(&control, &control, &OSC_GRANTED),
                    ],
                ),
                &Else::new(vec![&Or::new(&status, &status, &OSC_UNKNOWN_UUID)]),
                &Return::new(&answer),
            ],
        )
        .to_aml_bytes(sink);
    }
}

fn fixed_memory(start: u64, size: u64) -> Memory32Fixed {
    Memory32Fixed::new(true, word(start), word(size))
}

fn io(range: &std::ops::Range<u16>) -> IO {
    let length = u8::try_from(range.end - range.start).unwrap_or(u8::MAX);
    IO::new(range.start, range.start, 1, length)
}

/// An address in the 32-bit part of the layout.
fn word(address: u64) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "constants below 4 GiB")]
    let word = address as u32;
    word
}

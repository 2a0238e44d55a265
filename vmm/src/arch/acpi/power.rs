//! AML for the power button: a press is an interrupt of a Generic Event Device, which
//! notifies the guest's button driver (ACPI 6.5, 4.8.2.2.1.2 and 5.6.9).

use acpi_tables::aml::{
    Arg, Device, EISAName, Equal, If, Interrupt, Method, Name, Notify, One, Path, ResourceTemplate,
    Zero,
};
use acpi_tables::{Aml, AmlSink};

/// The pin of the I/O APIC by which a press interrupts: an edge.
pub const INTERRUPT: u32 = 11;

/// "S0 power button pressed" (ACPI 6.5, table 5.189).
const PRESSED: u8 = 0x80;

/// Goes into the `\_SB` scope, among [`super::AcpiSpec::devices`].
#[derive(Clone, Copy, Debug)]
pub struct PowerButton;

impl Aml for PowerButton {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let id = Name::new(Path::new("_HID"), &EISAName::new("PNP0C0C"));
        let unique = Name::new(Path::new("_UID"), &Zero {});
        Device::new(Path::new("PWRB"), vec![&id, &unique]).to_aml_bytes(sink);

        let id = Name::new(Path::new("_HID"), &"ACPI0013");
        let unique = Name::new(Path::new("_UID"), &One {});
        let interrupt = Interrupt::new(true, true, false, false, INTERRUPT);
        let resources = Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&interrupt]));
        let (event, number) = (Arg(0), INTERRUPT);
        let ours = Equal::new(&event, &number);
        let (button, value) = (Path::new("\\_SB_.PWRB"), PRESSED);
        let notify = Notify::new(&button, &value);
        let if_ours = If::new(&ours, vec![&notify]);
        let method = Method::new(Path::new("_EVT"), 1, true, vec![&if_ours]);
        Device::new(Path::new("PWGE"), vec![&id, &unique, &resources, &method]).to_aml_bytes(sink);
    }
}

//! AML for the hot-plug of PCI functions: what the guest runs on the registers of
//! [`godwit_devices::hotplug`].
//!
//! ```text
//! Scope (PCI0) {
//!   OperationRegion (HPRG, SystemMemory, …)   UP, DOWN, EJECT
//!   Device (S01_) … Device (S1F_)             one a slot: _ADR, _SUN, _EJ0
//!   Method (HPEV)                             acknowledges UP and DOWN, notifies slots
//! }
//! Device (HPGE) { _HID ACPI0013; _CRS one interrupt; _EVT calls HPEV }
//! ```
//!
//! Slots that are empty have an object too: Linux takes the slots of the root bus when
//! it finds the bus, and looks for the function itself when it is notified.

use acpi_tables::aml::{
    And, Arg, Device, Equal, Field, FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule,
    If, Interrupt, Local, Method, MethodCall, Name, Notify, OpRegion, OpRegionSpace, Path,
    ResourceTemplate, Scope, Store, Zero,
};
use acpi_tables::{Aml, AmlSink};
use godwit_devices::hotplug::HotPlug;

use crate::arch::layout;

/// Where the registers are: in the block that the motherboard reserves.
pub const REGISTERS: u64 = layout::PLATFORM_START;

/// The pin of the I/O APIC by which the Generic Event Device interrupts: an edge, as the
/// line of [`HotPlug`] raises.
pub const INTERRUPT: u32 = 10;

/// The slots that functions can come to; slot 0 is the host bridge's.
const SLOTS: std::ops::RangeInclusive<u8> = 1..=31;

/// Values of `Notify` (ACPI 6.5, table 5.185).
const DEVICE_CHECK: u8 = 1;
const EJECT_REQUEST: u8 = 3;

/// Goes into the `\_SB` scope: put this among [`super::AcpiSpec::devices`] of a machine with hot-plug.
#[derive(Clone, Copy, Debug)]
pub struct PciHotPlug;

impl Aml for PciHotPlug {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let slots: Vec<Slot> = SLOTS.map(Slot).collect();
        let mut children: Vec<&dyn Aml> = vec![&Registers];
        children.extend(slots.iter().map(|slot| -> &dyn Aml { slot }));
        children.push(&Events);
        Scope::new(Path::new("PCI0"), children).to_aml_bytes(sink);
        event_device(sink);
    }
}

/// The registers as fields, whole words only.
struct Registers;

impl Aml for Registers {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        #[expect(clippy::cast_possible_truncation, reason = "constants below 4 GiB")]
        let (start, size) = (REGISTERS as u32, HotPlug::SIZE as u32);
        let region = Path::new("HPRG");
        OpRegion::new(region, OpRegionSpace::SystemMemory, &start, &size).to_aml_bytes(sink);
        Field::new(
            Path::new("HPRG"),
            FieldAccessType::DWord,
            FieldLockRule::NoLock,
            FieldUpdateRule::WriteAsZeroes,
            [*b"HPUP", *b"HPDN", *b"HPEJ"]
                .map(|name| FieldEntry::Named(name, 32))
                .into(),
        )
        .to_aml_bytes(sink);
    }
}

/// One slot.
struct Slot(u8);

impl Slot {
    fn path(&self) -> Path {
        Path::new(&format!("S{:02X}_", self.0))
    }

    fn bit(&self) -> u32 {
        1 << self.0
    }
}

impl Aml for Slot {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        // Device in the upper half, function in the lower one (ACPI 6.5, 6.1.1).
        let address = Name::new(Path::new("_ADR"), &(u32::from(self.0) << 16));
        let number = Name::new(Path::new("_SUN"), &self.0);
        let (register, bit) = (Path::new("HPEJ"), self.bit());
        let store = Store::new(&register, &bit);
        let eject = Method::new(Path::new("_EJ0"), 1, true, vec![&store]);
        Device::new(self.path(), vec![&address, &number, &eject]).to_aml_bytes(sink);
    }
}

/// Tells the guest's bus driver about each slot of both registers. A register is
/// acknowledged before its slots are told, so that what comes later is not lost.
struct Events;

impl Aml for Events {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let (up, down) = (
            Told::new("HPUP", DEVICE_CHECK),
            Told::new("HPDN", EJECT_REQUEST),
        );
        Method::new(Path::new("HPEV"), 0, true, vec![&up, &down]).to_aml_bytes(sink);
    }
}

struct Told {
    register: Path,
    value: u8,
}

impl Told {
    fn new(register: &str, value: u8) -> Self {
        let register = Path::new(register);
        Self { register, value }
    }
}

impl Aml for Told {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let pending = Local(0);
        Store::new(&pending, &self.register).to_aml_bytes(sink);
        Store::new(&self.register, &pending).to_aml_bytes(sink);
        for slot in SLOTS.map(Slot) {
            let (path, bit) = (slot.path(), slot.bit());
            let set = And::new(&Zero {}, &pending, &bit);
            let notify = Notify::new(&path, &self.value);
            If::new(&set, vec![&notify]).to_aml_bytes(sink);
        }
    }
}

/// The Generic Event Device (ACPI 6.5, 5.6.9).
fn event_device(sink: &mut dyn AmlSink) {
    let id = Name::new(Path::new("_HID"), &"ACPI0013");
    let unique = Name::new(Path::new("_UID"), &Zero {});
    let interrupt = Interrupt::new(true, true, false, false, INTERRUPT);
    let resources = Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&interrupt]));
    let call = MethodCall::new(Path::new("\\_SB_.PCI0.HPEV"), vec![]);
    let (event, number) = (Arg(0), INTERRUPT);
    let ours = Equal::new(&event, &number);
    let if_ours = If::new(&ours, vec![&call]);
    let method = Method::new(Path::new("_EVT"), 1, true, vec![&if_ours]);
    Device::new(Path::new("HPGE"), vec![&id, &unique, &resources, &method]).to_aml_bytes(sink);
}

//! MADT: processors and interrupt controllers (ACPI 6.5, 5.2.12).

use acpi_tables::sdt::Sdt;

use crate::arch::{Topology, layout};

/// Bit 0 of a processor's flags.
const ENABLED: u32 = 1;
/// Local APIC entries hold ids up to here; 255 means every processor.
pub(super) const XAPIC_ID_MAX: u32 = 254;
const ALL_PROCESSORS: u8 = 0xff;
const ISA_BUS: u8 = 0;

/// The table: each processor in vCPU order, its UID the vCPU's number.
pub(super) fn table(topology: &Topology) -> Sdt {
    let mut body = Vec::new();
    body.extend(layout::LOCAL_APIC.to_le_bytes());
    // Flags: PCAT_COMPAT is clear, for the guest need not disable an 8259 pair.
    body.extend(0_u32.to_le_bytes());
    for vcpu in 0..topology.vcpus() {
        let id = topology.apic_id(vcpu);
        match (u8::try_from(vcpu), u8::try_from(id)) {
            (Ok(uid), Ok(short)) if id <= XAPIC_ID_MAX => {
                body.extend([0, 8, uid, short]);
                body.extend(ENABLED.to_le_bytes());
            }
            _ => {
                body.extend([9, 16, 0, 0]);
                for word in [id, ENABLED, vcpu] {
                    body.extend(word.to_le_bytes());
                }
            }
        }
    }
    // IOAPIC 0, global interrupts from 0.
    body.extend([1, 12, 0, 0]);
    body.extend(layout::IOAPIC.to_le_bytes());
    body.extend(0_u32.to_le_bytes());
    // COM1 keeps its ISA interrupt: edge-triggered, active high, as the bus has it.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "an ISA interrupt is below 16"
    )]
    body.extend([2, 10, ISA_BUS, layout::COM1_IRQ as u8]);
    body.extend(layout::COM1_IRQ.to_le_bytes());
    body.extend(0_u16.to_le_bytes());
    // NMI at LINT1 of every processor.
    body.extend([4, 6, ALL_PROCESSORS, 0, 0, 1]);
    super::table(*b"APIC", 5, &body)
}

//! What KVM keeps of a virtual machine beside its vCPUs: interrupt controllers
//! and the clock.

use std::io;

use kvm_bindings::{
    KVM_CLOCK_HOST_TSC, KVM_CLOCK_REALTIME, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, kvm_clock_data, kvm_irqchip,
};
use serde::{Deserialize, Serialize};

use super::{KvmError, Vm, attempt};
use crate::vcpu::TscShift;

/// The interrupt controllers, first version.
#[derive(Debug, Serialize, Deserialize)]
pub struct IrqchipV1 {
    pic_master: kvm_irqchip,
    pic_slave: kvm_irqchip,
    ioapic: kvm_irqchip,
}

/// The guest's clock, first version, with the host's clocks of the same moment
/// where KVM tells them (Linux 5.16).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockV1 {
    /// kvmclock, in nanoseconds.
    pub guest_ns: u64,
    /// `CLOCK_REALTIME` of the host, in nanoseconds.
    pub realtime_ns: Option<u64>,
    /// The host's time-stamp counter.
    pub host_tsc: Option<u64>,
}

impl ClockV1 {
    /// What the offset of the guest's time-stamp counter differs by between the
    /// moments of `self`, before, and of `here`, after (kernel:
    /// Documentation/virt/kvm/devices/vcpu.rst, 4.1). `None` where the host's
    /// counter is not known.
    #[must_use]
    pub fn tsc_shift(&self, here: &Self, tsc_khz: u32) -> Option<TscShift> {
        const NS_PER_MS: i128 = 1_000_000;
        let (before, after) = (self.host_tsc?, here.host_tsc?);
        if tsc_khz == 0 {
            return None;
        }
        let passed_ns = i128::from(here.guest_ns) - i128::from(self.guest_ns);
        let passed = passed_ns * i128::from(tsc_khz) / NS_PER_MS;
        // Ticks are counted modulo 2^64, and so are offsets.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let passed = passed as u64;
        Some(TscShift(passed.wrapping_add(before).wrapping_sub(after)))
    }
}

/// What becomes of the time between saving and restoring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elapsed {
    /// The guest's clocks go on as if it had run: a live migration.
    Counts,
    /// The guest's clocks stood still: a snapshot, of whatever age.
    Skipped,
}

impl Vm {
    /// Reads the interrupt controllers.
    ///
    /// # Errors
    /// The ioctl's.
    pub fn save_irqchip(&self) -> Result<IrqchipV1, KvmError> {
        let read = |chip_id| {
            let mut chip = kvm_irqchip {
                chip_id,
                ..kvm_irqchip::default()
            };
            self.fd
                .get_irqchip(&mut chip)
                .map_err(attempt("read an interrupt controller"))?;
            Ok(chip)
        };
        Ok(IrqchipV1 {
            pic_master: read(KVM_IRQCHIP_PIC_MASTER)?,
            pic_slave: read(KVM_IRQCHIP_PIC_SLAVE)?,
            ioapic: read(KVM_IRQCHIP_IOAPIC)?,
        })
    }

    /// Sets the interrupt controllers.
    ///
    /// # Errors
    /// The ioctl's, or the state is not one of these controllers.
    pub fn restore_irqchip(&self, saved: &IrqchipV1) -> Result<(), KvmError> {
        let chips = [
            (&saved.pic_master, KVM_IRQCHIP_PIC_MASTER),
            (&saved.pic_slave, KVM_IRQCHIP_PIC_SLAVE),
            (&saved.ioapic, KVM_IRQCHIP_IOAPIC),
        ];
        for (chip, id) in chips {
            if chip.chip_id != id {
                return Err(KvmError::Ioctl {
                    attempt: "set an interrupt controller that is another one",
                    source: io::ErrorKind::InvalidInput.into(),
                });
            }
            self.fd
                .set_irqchip(chip)
                .map_err(attempt("set an interrupt controller"))?;
        }
        Ok(())
    }

    /// Reads the guest's clock.
    ///
    /// # Errors
    /// The ioctl's.
    pub fn save_clock(&self) -> Result<ClockV1, KvmError> {
        let clock = self
            .fd
            .get_clock()
            .map_err(attempt("read the guest's clock"))?;
        let has = |flag: u32| clock.flags & flag != 0;
        Ok(ClockV1 {
            guest_ns: clock.clock,
            realtime_ns: has(KVM_CLOCK_REALTIME).then_some(clock.realtime),
            host_tsc: has(KVM_CLOCK_HOST_TSC).then_some(clock.host_tsc),
        })
    }

    /// Sets the guest's clock.
    ///
    /// # Errors
    /// The ioctl's.
    pub fn restore_clock(&self, saved: &ClockV1, elapsed: Elapsed) -> Result<(), KvmError> {
        let mut clock = kvm_clock_data {
            clock: saved.guest_ns,
            ..kvm_clock_data::default()
        };
        if let (Elapsed::Counts, Some(realtime)) = (elapsed, saved.realtime_ns) {
            clock.flags = KVM_CLOCK_REALTIME;
            clock.realtime = realtime;
        }
        self.fd
            .set_clock(&clock)
            .map_err(attempt("set the guest's clock"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock(guest_ns: u64, host_tsc: Option<u64>) -> ClockV1 {
        ClockV1 {
            guest_ns,
            realtime_ns: None,
            host_tsc,
        }
    }

    #[test]
    fn on_one_host_an_offset_stays() {
        // A millisecond at 2 GHz, by both clocks.
        let shift = clock(5_000_000, Some(1_000_000))
            .tsc_shift(&clock(6_000_000, Some(3_000_000)), 2_000_000);
        assert_eq!(shift, Some(TscShift(0)));
    }

    #[test]
    fn on_another_host_the_counter_goes_on() {
        // The counter here started later; 1 ms passed. The guest's counter was
        // 1_000_000 + 7, and is 1_000_000 + 2_000_000 + 7 now.
        let shift = clock(0, Some(1_000_000)).tsc_shift(&clock(1_000_000, Some(50)), 2_000_000);
        let offset = shift.unwrap().apply(7);
        assert_eq!(50_u64.wrapping_add(offset), 3_000_007);
    }

    #[test]
    fn unknown_counters_give_no_shift() {
        assert_eq!(clock(0, None).tsc_shift(&clock(1, Some(1)), 1), None);
        assert_eq!(clock(0, Some(1)).tsc_shift(&clock(1, Some(1)), 0), None);
    }
}

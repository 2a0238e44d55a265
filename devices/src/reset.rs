//! How a guest switches itself off and restarts: the ACPI sleep registers, the
//! ACPI reset register, and the keyboard controller's reset line that kernels
//! fall back to. (Port 0xcf9 lies within the PCI host bridge's ports: [`crate::pci`].)
//!
//! Each device sees offsets into its own range; where the range lies is the
//! machine's layout, and what the FADT says about it is the machine's too. The
//! two meet in the constants of this module.

use crate::bus::{Action, BusDevice};

/// The `SLP_TYPx` value of soft-off: what `_S5` in the DSDT must hold.
pub const SLEEP_TYPE_S5: u8 = 5;

/// The value that the FADT's `RESET_VALUE` must hold (ACPI 6.5, 5.2.9).
pub const RESET_VALUE: u8 = 1;

/// `SLP_TYPx`, bits 2 to 4 of the sleep control register (ACPI 6.5, 4.8.3.7).
const SLP_TYP_SHIFT: u8 = 2;
const SLP_TYP_MASK: u8 = 0b111;

/// `SLP_EN`, bit 5 of the sleep control register.
const SLP_EN: u8 = 1 << 5;

/// The sleep registers of hardware-reduced ACPI (ACPI 6.5, 4.8.3.7): the
/// control register at offset 0, the status register at offset 1.
///
/// Writing `SLP_EN` together with `SLP_TYP` = [`SLEEP_TYPE_S5`] switches the
/// machine off. Other sleep types do not exist here and change nothing. The
/// status register always reads zero: `WAK_STS` says that the machine woke up,
/// which it never does without having slept.
#[derive(Debug, Default)]
pub struct SleepRegisters;

impl SleepRegisters {
    /// How many ports the registers take.
    pub const PORTS: u64 = 2;
}

impl BusDevice for SleepRegisters {
    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, offset: u64, data: &[u8]) -> Action {
        match data.first() {
            Some(&value)
                if offset == 0
                    && value & SLP_EN != 0
                    && (value >> SLP_TYP_SHIFT) & SLP_TYP_MASK == SLEEP_TYPE_S5 =>
            {
                Action::PowerOff
            }
            _ => Action::Continue,
        }
    }
}

/// The reset register that the FADT names (ACPI 6.5, 4.8.3.6): one port, and a
/// write of [`RESET_VALUE`] restarts the machine.
#[derive(Debug, Default)]
pub struct ResetRegister;

impl ResetRegister {
    /// How many ports the register takes.
    pub const PORTS: u64 = 1;
}

impl BusDevice for ResetRegister {
    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, offset: u64, data: &[u8]) -> Action {
        match data.first() {
            Some(&RESET_VALUE) if offset == 0 => Action::Reset,
            _ => Action::Continue,
        }
    }
}

/// The command and status port (0x64) of a keyboard controller that is not
/// there but for its reset line, which kernels pulse when nothing else works.
///
/// The status reads as "output buffer full, input buffer empty". A driver that
/// probes for a keyboard drains the buffer first, finds that it never empties,
/// and gives up after some 16 reads; the loop that pulses the reset line waits
/// for an empty input buffer, and finds it at once.
#[derive(Debug, Default)]
pub struct KeyboardReset;

/// Output buffer full.
const I8042_OBF: u8 = 1;

/// "Pulse output line 0", which is the processor's reset.
const I8042_PULSE_RESET: u8 = 0xfe;

impl KeyboardReset {
    /// How many ports it takes: 0x64 alone. Port 0x60 has nothing behind it,
    /// and 0x61 in between belongs to KVM's timer.
    pub const PORTS: u64 = 1;
}

impl BusDevice for KeyboardReset {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let (0, Some(status)) = (offset, data.first_mut()) {
            *status = I8042_OBF;
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Action {
        match data.first() {
            Some(&I8042_PULSE_RESET) if offset == 0 => Action::Reset,
            _ => Action::Continue,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(device: &dyn BusDevice, offset: u64) -> u8 {
        let mut byte = [0xaa];
        device.read(offset, &mut byte);
        byte[0]
    }

    #[test]
    fn only_soft_off_with_the_enable_bit_switches_off() {
        for value in 0..=u8::MAX {
            let expected = if value & 0b11_1100 == 0b11_0100 {
                Action::PowerOff
            } else {
                Action::Continue
            };
            assert_eq!(SleepRegisters.write(0, &[value]), expected, "{value:#x}");
            assert_eq!(SleepRegisters.write(1, &[value]), Action::Continue);
        }
        assert_eq!(read(&SleepRegisters, 0), 0);
        assert_eq!(read(&SleepRegisters, 1), 0);
    }

    #[test]
    fn only_the_reset_value_resets() {
        for value in 0..=u8::MAX {
            let reset = ResetRegister.write(0, &[value]) == Action::Reset;
            assert_eq!(reset, value == RESET_VALUE);
            let pulsed = KeyboardReset.write(0, &[value]) == Action::Reset;
            assert_eq!(pulsed, value == 0xfe);
        }
    }

    #[test]
    fn the_keyboard_probe_gives_up_and_the_reset_loop_does_not_wait() {
        let status = read(&KeyboardReset, 0);
        assert_eq!(status & 0b01, 0b01, "the output buffer never empties");
        assert_eq!(status & 0b10, 0, "the input buffer is always empty");
    }

    proptest! {
        #[test]
        fn any_access_is_survived(offset: u64, data in prop::collection::vec(any::<u8>(), 0..9)) {
            let devices: [&dyn BusDevice; 3] = [&SleepRegisters, &ResetRegister, &KeyboardReset];
            for device in devices {
                let mut read = data.clone();
                device.read(offset, &mut read);
                let action = device.write(offset, &data);
                prop_assert!(offset == 0 || action == Action::Continue);
            }
        }
    }
}

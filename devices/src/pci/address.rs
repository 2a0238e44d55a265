//! Where a function is: bus, device, function.

use std::fmt;

/// The address of a PCI function: 8 bits bus, 5 bits device, 3 bits function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bdf(u16);

impl Bdf {
    /// Function 0 of `slot` on bus 0; `None` from slot 32 on.
    #[must_use]
    pub fn from_slot(slot: u8) -> Option<Self> {
        (slot < 32).then(|| Self(u16::from(slot) << 3))
    }

    /// From the number that configuration cycles and MSI remapping use.
    #[must_use]
    pub const fn from_number(number: u16) -> Self {
        Self(number)
    }

    /// Bus, device and function as one number.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }

    /// The bus, 0 to 255.
    #[must_use]
    pub const fn bus(self) -> u8 {
        self.0.to_be_bytes()[0]
    }

    /// The device on its bus, 0 to 31: its slot.
    #[must_use]
    pub const fn device(self) -> u8 {
        self.0.to_le_bytes()[0] >> 3
    }

    /// The function in its device, 0 to 7.
    #[must_use]
    pub const fn function(self) -> u8 {
        self.0.to_le_bytes()[0] & 7
    }
}

impl fmt::Display for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bus, device, function) = (self.bus(), self.device(), self.function());
        write!(f, "0000:{bus:02x}:{device:02x}.{function}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_as_lspci_shows_it() {
        assert_eq!(Bdf::from_slot(31).unwrap().to_string(), "0000:00:1f.0");
        assert_eq!(Bdf::from_slot(32), None);
        assert_eq!(Bdf::from_number(0x12ab).to_string(), "0000:12:15.3");
    }
}

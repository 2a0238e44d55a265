//! MAC addresses.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::str::FromStr;

use thiserror::Error;

/// A unicast MAC address that is not all zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress([u8; 6]);

/// Set in the first octet of a group address (IEEE 802-2014, 8.2.2).
const GROUP: u8 = 0x01;
/// Set in the first octet of an address that no vendor gave out.
const LOCAL: u8 = 0x02;

/// Why a text is not the address of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ParseMacError {
    /// Not six octets in hexadecimal with colons.
    #[error("is not a MAC address; write it as 52:54:00:12:34:56")]
    Form,
    /// A group address.
    #[error(
        "is a multicast address (the lowest bit of its first octet is set); \
         a device needs a unicast one, such as 52:54:00:12:34:56"
    )]
    Multicast,
    /// All zeros.
    #[error("is no address; leave the field out for a random one")]
    Zero,
}

impl MacAddress {
    /// A random address that is locally administered.
    ///
    /// # Errors
    ///
    /// The kernel's random source cannot be read.
    pub fn random() -> io::Result<Self> {
        let mut octets = [0; 6];
        File::open("/dev/urandom")?.read_exact(&mut octets)?;
        octets[0] = octets[0] & !GROUP | LOCAL;
        Ok(Self(octets))
    }

    /// The address as it is sent.
    #[must_use]
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }
}

impl FromStr for MacAddress {
    type Err = ParseMacError;

    fn from_str(text: &str) -> Result<Self, ParseMacError> {
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().ok_or(ParseMacError::Form)?;
            // from_str_radix would take a sign and a single digit.
            if part.len() != 2 || !part.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(ParseMacError::Form);
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| ParseMacError::Form)?;
        }
        if parts.next().is_some() {
            return Err(ParseMacError::Form);
        }
        if octets[0] & GROUP != 0 {
            return Err(ParseMacError::Multicast);
        }
        if octets == [0; 6] {
            return Err(ParseMacError::Zero);
        }
        Ok(Self(octets))
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_and_written() {
        let mac: MacAddress = "52:54:00:AB:cd:0f".parse().unwrap();
        assert_eq!(mac.octets(), [0x52, 0x54, 0, 0xab, 0xcd, 0x0f]);
        assert_eq!(mac.to_string(), "52:54:00:ab:cd:0f");
    }

    #[test]
    fn what_is_no_device_address_is_refused() {
        for (text, error) in [
            ("", ParseMacError::Form),
            ("52:54:00:12:34", ParseMacError::Form),
            ("52:54:00:12:34:56:78", ParseMacError::Form),
            ("52-54-00-12-34-56", ParseMacError::Form),
            ("+2:54:00:12:34:56", ParseMacError::Form),
            ("5:54:00:12:34:56", ParseMacError::Form),
            ("01:00:5e:00:00:01", ParseMacError::Multicast),
            ("ff:ff:ff:ff:ff:ff", ParseMacError::Multicast),
            ("00:00:00:00:00:00", ParseMacError::Zero),
        ] {
            assert_eq!(text.parse::<MacAddress>(), Err(error), "{text}");
        }
    }

    #[test]
    fn random_addresses_are_local_and_unicast() {
        for _ in 0..64 {
            let octets = MacAddress::random().unwrap().octets();
            assert_eq!(octets[0] & (GROUP | LOCAL), LOCAL);
        }
    }
}

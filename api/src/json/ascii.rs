//! Writing JSON in ASCII.
//!
//! A client of the peer reads an answer in pieces of 256 bytes and takes each
//! piece for UTF-8, so a character may not lie across two.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

/// Writes a value as JSON in which every character that is not ASCII is
/// escaped.
///
/// # Errors
///
/// `serde_json`'s: a map has a key that is no string, or a type's own
/// `Serialize` failed.
pub fn to_ascii<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, serde_json::Error> {
    let mut bytes = Vec::with_capacity(256);
    value.serialize(&mut Serializer::with_formatter(&mut bytes, Ascii))?;
    Ok(bytes)
}

struct Ascii;

impl Formatter for Ascii {
    fn write_string_fragment<W: Write + ?Sized>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        for part in fragment.split_inclusive(|c: char| !c.is_ascii()) {
            let (ascii, other) = match part.char_indices().next_back() {
                Some((at, last)) if !last.is_ascii() => (&part[..at], Some(last)),
                _ => (part, None),
            };
            writer.write_all(ascii.as_bytes())?;
            if let Some(other) = other {
                for unit in other.encode_utf16(&mut [0; 2]) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn other_characters_are_escaped() {
        let bytes = to_ascii(&["né\"\n", "𝕏é"]).unwrap();
        assert_eq!(
            String::from_utf8(bytes).unwrap(),
            r#"["n\u00e9\"\n","\ud835\udd4f\u00e9"]"#
        );
    }

    proptest! {
        #[test]
        fn what_is_written_is_ascii_and_reads_back(text in any::<String>()) {
            let bytes = to_ascii(&text).unwrap();
            prop_assert!(bytes.is_ascii());
            prop_assert_eq!(serde_json::from_slice::<String>(&bytes).unwrap(), text);
        }
    }
}

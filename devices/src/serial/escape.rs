//! The escape key of a terminal: Ctrl-A.

/// Ctrl-A.
const PREFIX: u8 = 0x01;

/// What `Ctrl-A ?` shows.
pub(super) const HELP: &str = "\r\n\
    Ctrl-A x       end the virtual machine\r\n\
    Ctrl-A Ctrl-A  send Ctrl-A to the guest\r\n\
    Ctrl-A ?       this help\r\n";

/// What the user asked of the machine with the escape key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Escape {
    /// Ctrl-A x: end the machine.
    Quit,
}

/// What becomes of one typed byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Typed {
    /// The guest gets it.
    Pass(u8),
    /// It was part of an escape sequence.
    Taken,
    /// It ends a sequence that shows the help.
    Help,
    /// It ends a sequence that is reported.
    Report(Escape),
}

/// Finds escape sequences in what is typed.
#[derive(Debug, Default)]
pub(super) struct EscapeDecoder {
    armed: bool,
}

impl EscapeDecoder {
    pub(super) fn decode(&mut self, byte: u8) -> Typed {
        if !std::mem::replace(&mut self.armed, false) {
            self.armed = byte == PREFIX;
            return if self.armed {
                Typed::Taken
            } else {
                Typed::Pass(byte)
            };
        }
        match byte {
            PREFIX => Typed::Pass(PREFIX),
            b'x' | b'X' => Typed::Report(Escape::Quit),
            b'?' | b'h' => Typed::Help,
            // An unknown key is most likely a slip: the guest gets neither byte.
            _ => Typed::Taken,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(typed: &[u8]) -> Vec<Typed> {
        let mut decoder = EscapeDecoder::default();
        typed.iter().map(|&byte| decoder.decode(byte)).collect()
    }

    #[test]
    fn sequences_are_found() {
        use Typed::{Help, Pass, Report, Taken};
        assert_eq!(decode(b"x?"), [Pass(b'x'), Pass(b'?')]);
        assert_eq!(decode(b"\x01x"), [Taken, Report(Escape::Quit)]);
        assert_eq!(decode(b"\x01?a"), [Taken, Help, Pass(b'a')]);
        assert_eq!(decode(b"\x01\x01x"), [Taken, Pass(1), Pass(b'x')]);
        assert_eq!(decode(b"\x01qx"), [Taken, Taken, Pass(b'x')]);
    }

    proptest! {
        #[test]
        fn everything_but_the_prefix_passes_unchanged(typed in prop::collection::vec(2u8.., 0..99)) {
            let expected: Vec<_> = typed.iter().map(|&byte| Typed::Pass(byte)).collect();
            prop_assert_eq!(decode(&typed), expected);
        }
    }
}

//! Numbers and byte strings in a frame's body: little endian, no padding.
//!
//! A reader never trusts a length: what is not there is an error.

/// The body ends early, goes on too long, or says what cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("The body of the frame is malformed: {0}")]
pub struct BadBody(pub &'static str);

/// Takes a body apart.
#[derive(Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(body: &'a [u8]) -> Self {
        Self(body)
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], BadBody> {
        let (head, rest) = self
            .0
            .split_at_checked(count)
            .ok_or(BadBody("it ends too early"))?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BadBody> {
        let (head, rest) = self
            .0
            .split_first_chunk()
            .ok_or(BadBody("it ends too early"))?;
        self.0 = rest;
        Ok(*head)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, BadBody> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, BadBody> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, BadBody> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn u128(&mut self) -> Result<u128, BadBody> {
        self.array().map(u128::from_le_bytes)
    }

    pub(crate) fn flag(&mut self) -> Result<bool, BadBody> {
        match self.array()? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(BadBody("a flag is neither 0 nor 1")),
        }
    }

    /// A byte string with its length before it.
    pub(crate) fn string(&mut self) -> Result<&'a [u8], BadBody> {
        let count = self.u32()?;
        self.bytes(usize::try_from(count).unwrap_or(usize::MAX))
    }

    /// Text; what is no UTF-8 shows as U+FFFD.
    pub(crate) fn text(&mut self) -> Result<String, BadBody> {
        self.string()
            .map(|s| String::from_utf8_lossy(s).into_owned())
    }

    /// All that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    pub(crate) fn end(self) -> Result<(), BadBody> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(BadBody("it goes on too long"))
        }
    }
}

/// Puts a body together.
#[derive(Debug, Default)]
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn u16(self, value: u16) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn u32(self, value: u32) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn u64(self, value: u64) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn u128(self, value: u128) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn flag(self, value: bool) -> Self {
        self.bytes(&[u8::from(value)])
    }

    /// A byte string with its length before it. Longer than 4 GiB none is.
    pub(crate) fn string(self, value: &[u8]) -> Self {
        let count = u32::try_from(value.len()).unwrap_or(u32::MAX);
        let value = value.get(..count as usize).unwrap_or(value);
        self.u32(count).bytes(value)
    }
}

//! What a descriptor of statistics holds, and where: read once, trusted in
//! nothing.
//!
//! ```text
//! header | id string | descriptors, each with its name | values, 64 bits each
//! ```

use std::io;
use std::ops::Range;

/// More than any KVM has, and few enough to be read whole.
const MAX_DESCRIPTORS: u32 = 4096;
const MAX_NAME_BYTES: u32 = 256;
const MAX_WORDS: usize = 1 << 16;
/// Beyond this, no unit has a name.
const MAX_EXPONENT: i16 = 30;

const HEADER_BYTES: usize = 24;
const DESCRIPTOR_BYTES: usize = 16;
const WORD_BYTES: usize = 8;

/// What KVM says of its statistics makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// It could not be read.
    #[error("Could not read {what}")]
    Read {
        /// Which part.
        what: &'static str,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// A size beyond reason.
    #[error("KVM says that it has {value} {what}, at most {limit} are reasonable")]
    Excess {
        /// Of what.
        what: &'static str,
        /// How many.
        value: u64,
        /// How many would do.
        limit: u64,
    },
}

/// What a statistic does, of `flags`, bits 0 to 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// It only rises.
    Cumulative,
    /// It rises and falls.
    Instant,
    /// The highest value that there was.
    Peak,
    /// How often values fell into each bucket.
    Histogram(Histogram),
}

/// Where a histogram's buckets lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Histogram {
    /// All as wide as this.
    Linear(u32),
    /// Bucket 0 is for 0, each other one twice as wide as the one before.
    Logarithmic,
}

impl Histogram {
    /// The highest value that falls into bucket `index`; the last bucket takes
    /// all that is higher.
    #[must_use]
    pub fn highest(self, index: u32) -> u64 {
        match self {
            Self::Linear(width) => {
                let end = (u64::from(index) + 1) * u64::from(width);
                end.saturating_sub(1)
            }
            Self::Logarithmic => 1_u64.checked_shl(index).map_or(u64::MAX, |end| end - 1),
        }
    }
}

/// What a value is in, of `flags`, bits 4 to 7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// It counts something.
    None,
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
    /// Cycles of the processor.
    Cycles,
    /// 0 or 1.
    Boolean,
}

/// One statistic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    name: String,
    sort: Sort,
    unit: Unit,
    /// 10 or 2.
    base: u8,
    exponent: i16,
    words: Range<usize>,
}

impl Descriptor {
    /// As KVM calls it: letters, digits and underscores.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it does.
    #[must_use]
    pub fn sort(&self) -> Sort {
        self.sort
    }

    /// What a value is in.
    #[must_use]
    pub fn unit(&self) -> Unit {
        self.unit
    }

    /// Whether a value is a whole number of its unit.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.exponent == 0
    }

    /// A value in its unit, without prefix.
    #[must_use]
    pub fn scaled(&self, value: u64) -> f64 {
        let factor = f64::from(self.base).powi(i32::from(self.exponent).abs());
        // A division by a power of ten rounds once; its reciprocal would be
        // rounded already.
        if self.exponent < 0 {
            value as f64 / factor
        } else {
            value as f64 * factor
        }
    }

    /// Where its values are.
    pub(super) fn words(&self) -> Range<usize> {
        self.words.clone()
    }

    /// `None`: of a kind that a newer kernel has, or nonsense.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let flags = fields.u32()?;
        let exponent = fields.u16()?.cast_signed();
        let size = usize::from(fields.u16()?);
        let offset = usize::try_from(fields.u32()?).ok()?;
        let bucket_size = fields.u32()?;
        let name = fields.0.split(|&byte| byte == 0).next()?;
        let fits = !name.is_empty()
            && name
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
        if !fits
            || size == 0
            || exponent.checked_abs()? > MAX_EXPONENT
            || !offset.is_multiple_of(WORD_BYTES)
        {
            return None;
        }
        let sort = match flags & 0xf {
            0 => Sort::Cumulative,
            1 => Sort::Instant,
            2 => Sort::Peak,
            3 if bucket_size > 0 => Sort::Histogram(Histogram::Linear(bucket_size)),
            4 => Sort::Histogram(Histogram::Logarithmic),
            _ => return None,
        };
        let unit = match flags >> 4 & 0xf {
            0 => Unit::None,
            1 => Unit::Bytes,
            2 => Unit::Seconds,
            3 => Unit::Cycles,
            4 => Unit::Boolean,
            _ => return None,
        };
        let base = match flags >> 8 & 0xf {
            0 => 10,
            1 => 2,
            _ => return None,
        };
        let first = offset / WORD_BYTES;
        Some(Self {
            name: String::from_utf8_lossy(name).into_owned(),
            sort,
            unit,
            base,
            exponent,
            words: first..first + size,
        })
    }
}

/// All statistics of one descriptor. It never changes while the descriptor is
/// open, as the kernel's document says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    descriptors: Vec<Descriptor>,
    data_offset: u64,
    words: usize,
}

impl Layout {
    /// Learns it by `read`, which fills a buffer from an offset.
    ///
    /// # Errors
    /// It cannot be read, or is larger than anything that KVM has. A single
    /// statistic that is not understood is passed over.
    pub fn read(read: impl Fn(&mut [u8], u64) -> io::Result<()>) -> Result<Self, LayoutError> {
        let failed = |what| move |source| LayoutError::Read { what, source };
        let mut header = [0; HEADER_BYTES];
        read(&mut header, 0).map_err(failed("the header"))?;
        let mut fields = Fields(&header);
        let mut field = || fields.u32().unwrap_or(0);
        let [_flags, name_bytes, count, _id_offset, at, data_offset] = [(); 6].map(|()| field());
        bound("bytes in a name", name_bytes, MAX_NAME_BYTES)?;
        bound("statistics", count, MAX_DESCRIPTORS)?;
        let stride = DESCRIPTOR_BYTES + name_bytes as usize;
        let mut bytes = vec![0; stride * count as usize];
        read(&mut bytes, at.into()).map_err(failed("the descriptors"))?;
        let mut descriptors: Vec<_> = bytes
            .chunks_exact(stride)
            .filter_map(Descriptor::parse)
            .collect();
        descriptors.retain(|found| found.words.end <= MAX_WORDS);
        let passed_over = count as usize - descriptors.len();
        if passed_over > 0 {
            tracing::debug!("{passed_over} of KVM's statistics are of a kind not known yet");
        }
        let ends = descriptors.iter().map(|found| found.words.end);
        Ok(Self {
            words: ends.max().unwrap_or(0),
            data_offset: data_offset.into(),
            descriptors,
        })
    }

    /// The statistics, in KVM's order.
    #[must_use]
    pub fn descriptors(&self) -> &[Descriptor] {
        &self.descriptors
    }

    pub(super) fn data_offset(&self) -> u64 {
        self.data_offset
    }

    pub(super) fn data_bytes(&self) -> usize {
        self.words * WORD_BYTES
    }
}

fn bound(what: &'static str, value: u32, limit: u32) -> Result<(), LayoutError> {
    if value <= limit {
        return Ok(());
    }
    Err(LayoutError::Excess {
        what,
        value: value.into(),
        limit: limit.into(),
    })
}

/// Numbers from bytes, in the machine's own order.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_ne_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_ne_bytes)
    }
}

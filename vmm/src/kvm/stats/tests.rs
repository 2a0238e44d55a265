use proptest::prelude::*;

use super::*;

/// What a kernel would show, made by hand; also for the tests of metrics.
pub(crate) struct Shown {
    bytes: Vec<u8>,
}

/// Name, flags, exponent, size, offset, bucket size.
pub(crate) type Entry<'a> = (&'a str, u32, i16, u16, u32, u32);

const NAME_BYTES: usize = 48;

impl Shown {
    pub(crate) fn new(entries: &[Entry<'_>], words: &[u64]) -> Self {
        let count = u32::try_from(entries.len()).unwrap();
        let at = 24 + NAME_BYTES;
        let data = at + entries.len() * (16 + NAME_BYTES);
        let [at, data] = [at, data].map(|offset| u32::try_from(offset).unwrap());
        let mut bytes = Vec::new();
        for field in [0, 48, count, 24, at, data] {
            bytes.extend(field.to_ne_bytes());
        }
        bytes.extend([0; NAME_BYTES]);
        for (name, flags, exponent, size, offset, bucket) in entries {
            bytes.extend(flags.to_ne_bytes());
            bytes.extend(exponent.to_ne_bytes());
            bytes.extend(size.to_ne_bytes());
            bytes.extend(offset.to_ne_bytes());
            bytes.extend(bucket.to_ne_bytes());
            let mut padded = name.as_bytes().to_vec();
            padded.resize(NAME_BYTES, 0);
            bytes.extend(padded);
        }
        for word in words {
            bytes.extend(word.to_ne_bytes());
        }
        Self { bytes }
    }

    fn layout(&self) -> Result<Layout, LayoutError> {
        read(&self.bytes)
    }

    /// As it is read from a descriptor.
    pub(crate) fn reading(&self) -> Reading {
        use std::io::Write;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&self.bytes).unwrap();
        let stats = StatsFd {
            file,
            layout: OnceLock::new(),
        };
        stats.read().unwrap()
    }
}

fn read(bytes: &[u8]) -> Result<Layout, LayoutError> {
    Layout::read(|buffer, at| {
        let at = usize::try_from(at).map_err(io::Error::other)?;
        let end = at.checked_add(buffer.len()).ok_or(io::ErrorKind::Other)?;
        let found = bytes.get(at..end).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(found);
        Ok(())
    })
}

#[test]
fn sorts_units_and_scales_are_what_the_flags_say() {
    let shown = Shown::new(
        &[
            ("exits", 0x000, 0, 1, 0, 0),
            ("wait_ns", 0x020, -9, 1, 8, 0),
            ("wait_hist", 0x024, -9, 4, 16, 0),
            ("depth_hist", 0x003, 0, 2, 48, 10),
            ("blocking", 0x041, 0, 1, 64, 0),
            ("top_kib", 0x112, 10, 1, 72, 0),
            ("cycles", 0x030, 3, 1, 80, 0),
        ],
        &[7, 1_500_000_001, 1, 2, 3, 4, 5, 6, 1, 3, 2],
    );
    let reading = shown.reading();
    let found: Vec<_> = reading
        .iter()
        .map(|(found, values)| (found.name(), found.sort(), found.unit(), values.to_vec()))
        .collect();
    let logarithmic = Sort::Histogram(Histogram::Logarithmic);
    let linear = Sort::Histogram(Histogram::Linear(10));
    assert_eq!(
        found,
        [
            ("exits", Sort::Cumulative, Unit::None, vec![7]),
            (
                "wait_ns",
                Sort::Cumulative,
                Unit::Seconds,
                vec![1_500_000_001]
            ),
            ("wait_hist", logarithmic, Unit::Seconds, vec![1, 2, 3, 4]),
            ("depth_hist", linear, Unit::None, vec![5, 6]),
            ("blocking", Sort::Instant, Unit::Boolean, vec![1]),
            ("top_kib", Sort::Peak, Unit::Bytes, vec![3]),
            ("cycles", Sort::Cumulative, Unit::Cycles, vec![2]),
        ]
    );
    let scaled = |name| {
        let (found, value) = reading.value(name).unwrap();
        found.scaled(value)
    };
    assert_eq!(scaled("wait_ns"), 1.500_000_001);
    assert_eq!(scaled("top_kib"), 3072.0);
    assert_eq!(scaled("cycles"), 2000.0);
    assert!(reading.value("none").is_none());
}

/// Documentation/virt/kvm/api.rst: bucket `n` of a logarithmic histogram counts
/// from 2^(n-1) to below 2^n, of a linear one from `n` to below `n` + 1 widths.
#[test]
fn a_bucket_ends_below_the_next() {
    let highest = |histogram: Histogram| [0, 1, 2, 10].map(|index| histogram.highest(index));
    assert_eq!(highest(Histogram::Logarithmic), [0, 1, 3, 1023]);
    assert_eq!(highest(Histogram::Linear(10)), [9, 19, 29, 109]);
    assert_eq!(Histogram::Logarithmic.highest(200), u64::MAX);
}

#[test]
fn what_is_not_understood_is_passed_over() {
    let shown = Shown::new(
        &[
            ("newer_sort", 0x005, 0, 1, 0, 0),
            ("newer_unit", 0x050, 0, 1, 0, 0),
            ("newer_base", 0x200, 0, 1, 0, 0),
            ("na\u{ef}ve", 0, 0, 1, 0, 0),
            ("a b", 0, 0, 1, 0, 0),
            ("", 0, 0, 1, 0, 0),
            ("nothing", 0, 0, 0, 0, 0),
            ("crooked", 0, 0, 1, 4, 0),
            ("far", 0, 0, 1, u32::MAX - 7, 0),
            ("huge", 0, i16::MIN, 1, 0, 0),
            ("no_width", 0x003, 0, 1, 0, 0),
            ("known", 0, 0, 1, 0, 0),
        ],
        &[3],
    );
    let layout = shown.layout().unwrap();
    let names: Vec<_> = layout.descriptors().iter().map(Descriptor::name).collect();
    assert_eq!(names, ["known"]);
}

#[test]
fn sizes_beyond_reason_are_refused_before_anything_is_allocated() {
    let header = |name_bytes: u32, count: u32| {
        let fields = [0, name_bytes, count, 24, 24, 24];
        fields.map(u32::to_ne_bytes).concat()
    };
    for (bytes, said) in [
        (header(u32::MAX, 1), "4294967295 bytes in a name"),
        (header(48, u32::MAX), "4294967295 statistics"),
        (header(48, 2), "the descriptors"),
        (vec![0; 23], "the header"),
    ] {
        let error = read(&bytes).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_a_layout_or_an_error(
        tail in prop::collection::vec(any::<u8>(), 0..512),
        fields in prop::array::uniform6(0_u32..64),
    ) {
        let mut bytes = fields.map(u32::to_ne_bytes).concat();
        bytes.extend(tail);
        if let Ok(layout) = read(&bytes) {
            let words = vec![1; MAX_TESTED];
            let reading = Reading::new(Arc::new(layout), words);
            for (found, values) in reading.iter() {
                prop_assert!(!values.is_empty());
                prop_assert!(found.scaled(u64::MAX).is_finite());
            }
        }
    }
}

const MAX_TESTED: usize = 1 << 12;

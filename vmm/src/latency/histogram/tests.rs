use proptest::prelude::*;

use super::*;

fn of(values: &[u64]) -> Histogram {
    let mut histogram = Histogram::default();
    for &value in values {
        histogram.record(value);
    }
    histogram
}

/// The nearest rank, by sorting.
fn sorted_percentile(values: &[u64], per_100_000: u32) -> u64 {
    let mut values = values.to_vec();
    values.sort_unstable();
    let rank = (values.len() as u128 * u128::from(per_100_000)).div_ceil(100_000);
    values[usize::try_from(rank).unwrap().max(1) - 1]
}

/// What a host gave, in nanoseconds: 40 wake-ups, most around 3 µs and two that
/// were late. The percentiles were found by sorting.
const RECORDED: [u64; 40] = [
    3012, 2987, 3105, 2876, 3044, 2991, 3320, 2954, 3001, 3077, 2899, 3010, 3168, 2943, 3022, 2960,
    3391, 3007, 2988, 3036, 3059, 2912, 2975, 3130, 2998, 3018, 2935, 3084, 2966, 3049, 41873,
    2983, 3027, 2949, 3003, 3071, 2921, 118_402, 2995, 3016,
];

#[test]
fn a_recorded_series_has_its_known_percentiles() {
    let histogram = of(&RECORDED);
    assert_eq!(histogram.samples(), 40);
    assert_eq!(histogram.min(), Some(2876));
    assert_eq!(histogram.max(), Some(118_402));
    let mean = histogram.mean().unwrap();
    assert!((mean - 6878.925).abs() < 0.005, "{mean}");
    // Buckets from 2048 on are 32 wide, from 32768 on 512.
    for (per_100_000, exact, bucket_end) in [
        (50_000, 3_007, 3_007),
        (90_000, 3_168, 3_199),
        (95_000, 3_391, 3_391),
        (97_500, 41_873, 41_983),
        (99_900, 118_402, 118_402),
    ] {
        assert_eq!(sorted_percentile(&RECORDED, per_100_000), exact);
        assert_eq!(histogram.percentile(per_100_000), Some(bucket_end));
    }
}

#[test]
fn nothing_has_no_percentile() {
    let histogram = Histogram::default();
    assert_eq!(histogram.percentile(50_000), None);
    assert_eq!(histogram.min(), None);
    assert_eq!(histogram.max(), None);
    assert_eq!(histogram.mean(), None);
    assert_eq!(histogram.buckets().count(), 0);
}

#[test]
fn small_values_are_exact() {
    for value in 0..128 {
        let histogram = of(&[value]);
        let bucket = histogram.buckets().next().unwrap();
        assert_eq!((bucket.from, bucket.to), (value, value));
    }
}

#[test]
fn the_ends_of_the_range_are_counted() {
    let histogram = of(&[0, u64::MAX, u64::MAX]);
    assert_eq!(histogram.percentile(0), Some(0));
    assert_eq!(histogram.percentile(100_000), Some(u64::MAX));
    let last = histogram.buckets().last().unwrap();
    assert_eq!((last.to, last.count), (u64::MAX, 2));
}

#[test]
fn buckets_follow_each_other_without_a_gap() {
    for index in 0..BUCKETS {
        let from = lowest(index);
        assert_eq!(super::index(from), index);
        assert_eq!(super::index(lowest(index + 1).wrapping_sub(1)), index);
    }
}

/// Values of all sizes.
fn values() -> impl Strategy<Value = Vec<u64>> {
    let value = (0_u32..64, any::<u64>()).prop_map(|(shift, value)| value >> shift);
    proptest::collection::vec(value, 1..300)
}

proptest! {
    #[test]
    fn percentiles_are_those_of_the_sorted_values(values in values(), per_100_000 in 0_u32..=100_000) {
        let histogram = of(&values);
        let exact = sorted_percentile(&values, per_100_000);
        let found = histogram.percentile(per_100_000).unwrap();
        prop_assert!(found >= exact, "{found} < {exact}");
        prop_assert!(found - exact <= exact / SUB_BUCKETS as u64, "{found} for {exact}");
        prop_assert_eq!(histogram.min(), values.iter().min().copied());
        prop_assert_eq!(histogram.max(), values.iter().max().copied());
        let counted: u64 = histogram.buckets().map(|bucket| bucket.count).sum();
        prop_assert_eq!(counted, values.len() as u64);
    }

    #[test]
    fn percentiles_ascend(values in values()) {
        let histogram = of(&values);
        let all: Vec<_> = (0..=100).map(|p| histogram.percentile(p * 1000)).collect();
        prop_assert!(all.is_sorted(), "{all:?}");
    }
}

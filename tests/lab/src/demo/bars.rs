//! Round-trip times as bars on a terminal.

use std::fmt::Write;

use crate::traffic::Tally;

const WIDTH: u64 = 50;

/// Buckets from the first to the last that counted something: limits in µs, and the count.
fn buckets(tally: &Tally) -> Vec<(u64, u64, u64)> {
    let trips = &tally.round_trips;
    let first = trips.iter().position(|count| *count > 0).unwrap_or(0);
    let last = trips.iter().rposition(|count| *count > 0).unwrap_or(0);
    let bucket = |(index, count): (usize, &u64)| (1_u64 << index, 2_u64 << index, *count);
    trips
        .iter()
        .enumerate()
        .map(bucket)
        .skip(first)
        .take(last - first + 1)
        .collect()
}

fn limits(from: u64, to: u64) -> String {
    let text = |micros: u64| match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..1_000_000 => format!("{} ms", micros / 1_000),
        _ => format!("{} s", micros / 1_000_000),
    };
    format!("{}–{}", text(from), text(to))
}

/// Bars of text, one for each power of two of microseconds.
pub(super) fn bars(tally: &Tally) -> String {
    let buckets = buckets(tally);
    let most = buckets
        .iter()
        .map(|bucket| bucket.2)
        .max()
        .unwrap_or(1)
        .max(1);
    let mut text = String::from("round trips through the guest:\n");
    for (from, to, count) in buckets {
        let length = usize::try_from((count * WIDTH).div_ceil(most)).unwrap_or_default();
        let _ = writeln!(
            text,
            "{:>15}  {:<50} {count}",
            limits(from, to),
            "█".repeat(length)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_shows_only_what_was_counted() {
        let mut tally = Tally::default();
        tally.round_trips[8] = 10;
        tally.round_trips[10] = 1;
        let text = bars(&tally);
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(
            text.contains("256 µs–512 µs") && text.contains("1 ms–2 ms"),
            "{text}"
        );
        assert_eq!(bars(&Tally::default()).lines().count(), 2);
    }
}

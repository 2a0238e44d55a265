//! Columns of text, sizes and times for people.

use std::fmt::Write;
use std::time::Duration;

/// Rows of cells.
#[derive(Debug, Default)]
pub(super) struct Table(Vec<Vec<String>>);

impl Table {
    pub(super) fn row<const N: usize>(&mut self, cells: [&str; N]) {
        self.0.push(cells.iter().map(|cell| plain(cell)).collect());
    }

    /// Each column as wide as its widest cell, two blanks between.
    pub(super) fn text(&self) -> String {
        let columns = self.0.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.0.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.0 {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                // Writing to a string cannot fail.
                let _ = write!(line, "{cell:width$}  ");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// `text` without what a terminal would act on.
pub(super) fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// `4 GiB`, `1.5 MiB`, `300 B`.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let place = usize::try_from((count.ilog2() / 10).min(6)).unwrap_or(1);
    let unit = UNITS.get(place - 1).copied().unwrap_or("B");
    let tenths = (u128::from(count) * 10) >> (10 * place);
    match (tenths / 10, tenths % 10) {
        (whole, 0) => format!("{whole} {unit}"),
        (whole, tenth) => format!("{whole}.{tenth} {unit}"),
    }
}

/// `900 µs`, `12.3 ms`, `4.5 s`.
pub(super) fn micros(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{}.{} ms", us / 1_000, us % 1_000 / 100),
        _ => format!("{}.{} s", us / 1_000_000, us % 1_000_000 / 100_000),
    }
}

/// How many of `amount` a second.
pub(super) fn per_second(amount: u64, time: Duration) -> u64 {
    let us = time.as_micros().max(1);
    u64::try_from(u128::from(amount) * 1_000_000 / us).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_controls_do_nothing() {
        let mut table = Table::default();
        table.row(["a", "long", "x"]);
        table.row(["ab\x1b[2J", "b"]);
        assert_eq!(table.text(), "a       long  x\nab\u{fffd}[2J  b\n");
    }

    #[test]
    fn figures_are_short() {
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (4 << 30, "4 GiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
        for (us, text) in [(7, "7 µs"), (1_250, "1.2 ms"), (61_400_000, "61.4 s")] {
            assert_eq!(micros(us), text);
        }
        assert_eq!(per_second(50, Duration::from_millis(100)), 500);
        assert_eq!(per_second(u64::MAX, Duration::ZERO), u64::MAX);
    }
}

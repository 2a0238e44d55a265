//! Lists and masks in reports.

use std::fmt::Display;

use crate::spec::CpuSet;

/// `one` or `many`, without the number.
pub(super) fn count(number: usize, one: &str, many: &str) -> String {
    if number == 1 { one } else { many }.to_owned()
}

/// The first few of `parts`, and how many more there are.
pub(super) fn some_of<T: Display>(parts: impl IntoIterator<Item = T>) -> String {
    const SHOWN: usize = 4;
    let parts: Vec<_> = parts.into_iter().map(|part| part.to_string()).collect();
    let mut text = parts
        .iter()
        .take(SHOWN)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    if let Some(more @ 1..) = parts.len().checked_sub(SHOWN) {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

/// A set as the kernel's bitmaps are written: 32-bit words in hexadecimal, the
/// highest first.
pub(super) fn mask(cpus: &CpuSet) -> String {
    let highest = cpus.last().map_or(0, |cpu| cpu.0);
    let mut words = vec![0_u32; usize::try_from(highest / 32).unwrap_or(0) + 1];
    for cpu in cpus {
        let word = usize::try_from(cpu.0 / 32).unwrap_or(0);
        if let Some(word) = words.get_mut(word) {
            *word |= 1 << (cpu.0 % 32);
        }
    }
    let mut text = String::new();
    for (place, word) in words.iter().rev().enumerate() {
        text.push_str(&match place {
            0 => format!("{word:x}"),
            _ => format!(",{word:08x}"),
        });
    }
    text
}

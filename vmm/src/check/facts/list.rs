//! CPU lists and masks as the kernel reads and writes them.

use super::tree::{Fact, Unread};
use crate::spec::{CpuSet, HostCpu};

/// The kernel's largest `NR_CPUS` is 8192.
const MAX_CPU: u32 = 8191;

/// Every second one of them has less.
const MAX_LIST_BYTES: usize = 32 << 10;

/// Reads a list as the kernel's own parser does (`bitmap_parselist`): `0-3,8`,
/// `0-31:1/2`, `all`, and `N` for the last CPU. `last` is that CPU.
#[must_use]
pub fn parse_list(text: &str, last: HostCpu) -> Option<CpuSet> {
    let text = text.trim();
    // What a file shows when nothing is set.
    if text.is_empty() || text == "(null)" {
        return Some(CpuSet::new());
    }
    if text.len() > MAX_LIST_BYTES {
        return None;
    }
    let mut cpus = CpuSet::new();
    for part in text.split(',') {
        let (range, group) = match part.split_once(':') {
            Some((range, group)) => (range, Some(group)),
            None => (part, None),
        };
        let number = |text: &str| match text {
            "N" | "n" => Some(last.0),
            text => digits(text),
        };
        let (first, end) = match range.split_once('-') {
            _ if range.eq_ignore_ascii_case("all") => (0, last.0),
            Some((first, end)) => (number(first)?, number(end)?),
            None => (number(range)?, number(range)?),
        };
        if first > end || end > MAX_CPU {
            return None;
        }
        let (used, of) = match group {
            None => (1, 1),
            Some(group) => {
                let (used, of) = group.split_once('/')?;
                (digits(used)?, digits(of)?)
            }
        };
        if of == 0 || used > of {
            return None;
        }
        let members = (first..=end).filter(|cpu| (cpu - first) % of < used);
        cpus.extend(members.map(HostCpu));
    }
    Some(cpus)
}

/// A number without a sign.
fn digits(text: &str) -> Option<u32> {
    let is_number = text.chars().all(|c| c.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

/// Reads a mask in hexadecimal, 32-bit words with commas between, the highest first.
#[must_use]
pub fn parse_mask(text: &str) -> Option<CpuSet> {
    let mut cpus = CpuSet::new();
    for (place, word) in text.trim().split(',').rev().enumerate() {
        if word.len() > 8 || !word.chars().all(|c| c.is_ascii_hexdigit()) {
            return None;
        }
        let word = u32::from_str_radix(word, 16).ok()?;
        let base = u32::try_from(place).ok()?.checked_mul(32)?;
        let bits = (0..32).filter(|bit| word >> bit & 1 == 1);
        cpus.extend(bits.map(|bit| HostCpu(base.saturating_add(bit))));
        if cpus.last().is_some_and(|cpu| cpu.0 > MAX_CPU) {
            return None;
        }
    }
    Some(cpus)
}

/// A list in a file, where no word stands for CPUs.
pub(super) fn understood(path: &str, text: &str) -> Fact<CpuSet> {
    parse_list(text, HostCpu(0)).ok_or_else(|| Unread::odd(path, text, "a CPU list"))
}

//! CPUs of the host and lists of them.

use std::collections::BTreeSet;
use std::fmt;

use thiserror::Error;

/// A logical CPU of the host, by the kernel's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostCpu(pub u32);

impl fmt::Display for HostCpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A set of host CPUs.
pub type CpuSet = BTreeSet<HostCpu>;

/// The largest number that a list is read with: the kernel's largest
/// `NR_CPUS` is 8192.
const MAX_CPU: u32 = 8191;

/// Why a CPU list was not read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{list:?} is not a CPU list as 0-3,8: {part:?} is no number or range up to {MAX_CPU}")]
pub struct ParseCpuListError {
    list: String,
    part: String,
}

/// Reads a list as the kernel writes it, `0-3,8`; an empty list is no CPU.
///
/// # Errors
///
/// [`ParseCpuListError`]: something in it is no number or range, or is above
/// 8191.
pub fn parse_cpu_list(list: &str) -> Result<CpuSet, ParseCpuListError> {
    let mut cpus = CpuSet::new();
    let trimmed = list.trim();
    if trimmed.is_empty() {
        return Ok(cpus);
    }
    for part in trimmed.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        match (first.parse::<u32>(), last.parse::<u32>()) {
            (Ok(first), Ok(last)) if first <= last && last <= MAX_CPU => {
                cpus.extend((first..=last).map(HostCpu));
            }
            _ => {
                return Err(ParseCpuListError {
                    list: trimmed.to_owned(),
                    part: part.to_owned(),
                });
            }
        }
    }
    Ok(cpus)
}

/// Writes a list as the kernel does, `0-3,8`.
#[must_use]
pub fn format_cpu_list(cpus: &CpuSet) -> String {
    ranges(cpus.iter().map(|cpu| cpu.0))
}

/// Ascending numbers as ranges.
pub(super) fn ranges(numbers: impl IntoIterator<Item = u32>) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(number) => *last = number,
            _ => runs.push((number, number)),
        }
    }
    runs.iter()
        .map(|(first, last)| {
            if first == last {
                first.to_string()
            } else {
                format!("{first}-{last}")
            }
        })
        .collect::<Vec<_>>()
        .join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_written_as_the_kernel_does() {
        for (text, canonical) in [
            ("0-3,8\n", "0-3,8"),
            ("0", "0"),
            ("", ""),
            ("\n", ""),
            ("5,1,2", "1-2,5"),
            ("0-1,1-2", "0-2"),
        ] {
            let cpus = parse_cpu_list(text).unwrap();
            assert_eq!(format_cpu_list(&cpus), canonical, "{text:?}");
        }
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for text in [
            "a",
            "1-",
            "-1",
            "3-1",
            "1,,2",
            "0-8192",
            "99999999999",
            "0-31:1/2",
        ] {
            assert!(parse_cpu_list(text).is_err(), "{text:?}");
        }
    }
}

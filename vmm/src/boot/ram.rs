//! Guest RAM as the loaders see it: ranges that a kernel may use.

use std::fmt;
use std::ops::Range;

use godwit_devices::GuestRam;
use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::KernelDefect;
use crate::arch::layout::{HIGH_MEMORY_START, HOLE_START, RamRegion};

/// Guest memory with its regions.
#[derive(Debug)]
pub(super) struct Ram<'a> {
    pub(super) memory: &'a GuestRam,
    pub(super) regions: Vec<RamRegion>,
    /// Ranges from 1 MiB to the hole, neighbours merged: where kernel and initramfs may lie.
    pub(super) low: Ranges,
}

/// Address ranges, sorted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranges(pub(super) Vec<Range<u64>>);

impl fmt::Display for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (index, range) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{:#x}..{:#x}", range.start, range.end)?;
        }
        Ok(())
    }
}

impl<'a> Ram<'a> {
    pub(super) fn new(memory: &'a GuestRam) -> Self {
        let regions: Vec<RamRegion> = memory
            .iter()
            .enumerate()
            .map(|(zone, region)| RamRegion {
                start: region.start_addr(),
                size: region.len(),
                zone,
                offset: 0,
            })
            .collect();
        let mut low: Vec<Range<u64>> = Vec::new();
        for region in &regions {
            let start = region.start.0.max(HIGH_MEMORY_START.0);
            let end = region.end().min(HOLE_START);
            match low.last_mut() {
                Some(last) if last.end == start => last.end = end.max(start),
                _ if start < end => low.push(start..end),
                _ => {}
            }
        }
        Self {
            memory,
            regions,
            low: Ranges(low),
        }
    }

    /// Whether `size` bytes at `start` are RAM that a kernel may use.
    pub(super) fn holds(&self, start: u64, size: u64) -> bool {
        start.checked_add(size).is_some_and(|end| {
            self.low
                .0
                .iter()
                .any(|range| range.start <= start && end <= range.end)
        })
    }

    /// Fails unless `size` bytes at `start` are RAM that a kernel may use.
    pub(super) fn check(
        &self,
        what: &'static str,
        start: u64,
        size: u64,
    ) -> Result<GuestAddress, KernelDefect> {
        if start < HIGH_MEMORY_START.0 {
            return Err(KernelDefect::TooLow { what, start });
        }
        if !self.holds(start, size) {
            return Err(KernelDefect::OutsideRam {
                what,
                start,
                end: start.saturating_add(size),
                ram: self.low.clone(),
            });
        }
        Ok(GuestAddress::new(start))
    }
}

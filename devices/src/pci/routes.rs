//! Which address leads to which base address register.
//!
//! A register is decoded when its function has memory decoding on, it lies whole
//! within one window, and no other decoded register was there before: neither
//! the memory of another function nor a device outside the windows can be
//! covered by a move. What is refused is decoded as soon as it is free.

use std::ops::Range;

/// One base address register of one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub slot: u8,
    pub bar: u8,
}

/// The decoded ranges, sorted, without overlap.
#[derive(Debug, Default)]
pub(super) struct Routes {
    entries: Vec<(Range<u64>, Target)>,
}

/// What changed for one register.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub target: Target,
    pub address: Option<u64>,
}

fn overlap(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}

impl Routes {
    /// The register at `address`, and the offset into it.
    pub fn find(&self, address: u64) -> Option<(Target, u64)> {
        let after = self
            .entries
            .partition_point(|(range, _)| range.start <= address);
        let (range, target) = self.entries.get(after.checked_sub(1)?)?;
        range
            .contains(&address)
            .then(|| (*target, address - range.start))
    }

    /// Decodes the registers in `wanted`, in order of age: those that stay
    /// first, then the others as they come. Answers the changes, what is no
    /// longer decoded first.
    pub fn update(
        &mut self,
        windows: &[Range<u64>],
        wanted: &[(Range<u64>, Target)],
    ) -> Vec<Change> {
        let old = std::mem::take(&mut self.entries);
        let (stay, gone): (Vec<_>, Vec<_>) = old.into_iter().partition(|e| wanted.contains(e));
        let mut changes: Vec<_> = gone
            .into_iter()
            .map(|(_, target)| Change {
                target,
                address: None,
            })
            .collect();
        self.entries = stay;
        for (range, target) in wanted {
            let inside = windows
                .iter()
                .any(|w| w.start <= range.start && range.end <= w.end);
            let free = || !self.entries.iter().any(|(taken, _)| overlap(taken, range));
            if inside && free() {
                let at = self
                    .entries
                    .partition_point(|(taken, _)| taken.start < range.start);
                self.entries.insert(at, (range.clone(), *target));
                changes.push(Change {
                    target: *target,
                    address: Some(range.start),
                });
            }
        }
        changes
    }
}

/// The lowest aligned place for `size` bytes in `window` that is clear of
/// `taken`.
pub(super) fn place(window: &Range<u64>, size: u64, taken: &[Range<u64>]) -> Option<u64> {
    let starts = taken.iter().map(|t| t.end).filter(|e| window.contains(e));
    let fits = |start: &u64| {
        let range = *start..start.saturating_add(size);
        start.checked_add(size).is_some_and(|end| end <= window.end)
            && !taken.iter().any(|t| overlap(t, &range))
    };
    starts
        .chain([window.start])
        .filter_map(|start| start.checked_next_multiple_of(size))
        .filter(fits)
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Target = Target { slot: 1, bar: 0 };
    const B: Target = Target { slot: 2, bar: 0 };

    #[test]
    fn who_came_first_keeps_its_place_until_it_goes() {
        let mut routes = Routes::default();
        let window = [0..0, 0x1000..0x9000];
        routes.update(&window, &[(0x2000..0x3000, B)]);
        assert_eq!(routes.find(0x2fff), Some((B, 0xfff)));
        assert_eq!(routes.find(0x3000), None);
        // A moves onto B, and has to wait though its slot is lower.
        let both = [(0x2000..0x3000, A), (0x2000..0x3000, B)];
        assert_eq!(routes.update(&window, &both), []);
        assert_eq!(routes.find(0x2000), Some((B, 0)));
        let moves = routes.update(&window, &[both[0].clone(), (0x8000..0x9000, B)]);
        let told = moves.iter().map(|c| (c.target, c.address));
        let expected = [(B, None), (A, Some(0x2000)), (B, Some(0x8000))];
        assert!(told.eq(expected), "{moves:?}");
    }

    #[test]
    fn outside_the_windows_nothing_is_decoded() {
        let mut routes = Routes::default();
        let windows = [0x1000..0x2000, 0x2000..0x3000];
        for range in [0..0x1000, 0x1800..0x2800, 0x2800..0x3800, 0x9000..0xa000] {
            assert_eq!(routes.update(&windows, &[(range, A)]), []);
        }
    }

    #[test]
    fn places_are_aligned_and_clear_of_each_other() {
        let window = 0x1800..0x9000;
        assert_eq!(place(&window, 0x1000, &[]), Some(0x2000));
        let taken = [0x2000..0x2010, 0x4000..0x5000];
        assert_eq!(place(&window, 0x1000, &taken), Some(0x3000));
        assert_eq!(place(&window, 0x4000, &taken), None);
        assert_eq!(place(&window, 0x10, &taken), Some(0x1800));
        let top = 0..u64::MAX;
        assert_eq!(place(&top, 1 << 63, &[0..1, 1..2]), None);
    }
}

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn naive(set: &BTreeSet<u64>) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for &page in set {
        match runs.last_mut() {
            Some(run) if run.end == page => run.end += 1,
            _ => runs.push(page..page + 1),
        }
    }
    runs
}

fn of(pages: u64, set: &BTreeSet<u64>) -> Bitmap {
    let mut map = Bitmap::new(pages);
    for &page in set {
        map.add(page);
    }
    map
}

proptest! {
    #[test]
    fn extents_are_the_runs_of_the_set(
        pages in 1_u64..9000,
        ranges in proptest::collection::vec((0_u64..9100, 0_u64..5000), 0..8),
    ) {
        let mut map = Bitmap::new(pages);
        let mut set = BTreeSet::new();
        for (start, count) in ranges {
            map.add_range(start..start + count);
            set.extend((start..start + count).filter(|p| *p < pages));
        }
        prop_assert_eq!(map.count(), set.len() as u64);
        prop_assert_eq!(map.extents().collect::<Vec<_>>(), naive(&set));
        prop_assert_eq!(map.complement().count(), pages - set.len() as u64);
    }

    #[test]
    fn set_operations_are_those_of_sets(
        pages in 1_u64..9000,
        a in proptest::collection::btree_set(prop_oneof![0_u64..200, 0_u64..9000], 0..60),
        b in proptest::collection::btree_set(prop_oneof![0_u64..200, 0_u64..9000], 0..60),
    ) {
        let inside = |s: &BTreeSet<u64>| s.iter().copied().filter(|p| *p < pages).collect::<BTreeSet<_>>();
        let (a, b) = (inside(&a), inside(&b));
        let other = of(pages, &b);
        let mut map = of(pages, &a);
        map.union(&other);
        prop_assert_eq!(&map, &of(pages, &(&a | &b)));
        map.subtract(&other);
        prop_assert_eq!(&map, &of(pages, &(&a - &b)));
        let mut map = of(pages, &a);
        map.intersect(&other);
        prop_assert_eq!(&map, &of(pages, &(&a & &b)));
        prop_assert_eq!(&map.clone(), &map);
        let used: Vec<_> = map.words().iter().enumerate().filter(|(_, w)| **w != 0).map(|(n, _)| n).collect();
        prop_assert_eq!(map.used_words().collect::<Vec<_>>(), used);
        map.complement().extents().for_each(|run| map.add_range(run));
        prop_assert_eq!(map.count(), pages);
        map.empty();
        prop_assert_eq!(&map, &Bitmap::new(pages));
        let mut map = of(pages, &a);
        map.intersect(&other);
        for page in (0..210).chain(a.iter().copied()).chain(b.iter().copied()) {
            prop_assert_eq!(map.contains(page), a.contains(&page) && b.contains(&page));
        }
        for page in &a {
            map.remove(*page);
        }
        prop_assert_eq!(map.count(), 0);
    }
}

#[test]
fn bits_past_the_end_do_not_count() {
    let mut map = Bitmap::new(70);
    map.add_words(&[u64::MAX; 4]);
    assert_eq!(map.count(), 70);
    assert!(!map.add(70));
    map.remove(1000);
    assert!(!map.contains(u64::MAX));
    assert_eq!(map.extents().collect::<Vec<_>>(), vec![0..70]);
}

//! Runs of pages.

use serde::{Deserialize, Serialize};

use super::layout::PAGE_SIZE;

/// A run of pages, by its place in the guest's mapping (all RAM ranges, one behind the other), in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// Where it begins; a multiple of the page size.
    pub offset: u64,
    /// Its length; a multiple of the page size and not 0.
    pub len: u64,
}

impl Extent {
    /// First byte behind it.
    pub fn end(&self) -> u64 {
        self.offset + self.len
    }
}

/// Bytes in all.
pub fn total(extents: &[Extent]) -> u64 {
    extents.iter().map(|extent| extent.len).sum()
}

/// Adds the page at `offset` behind the others, to the last run if it follows it.
pub fn push_page(extents: &mut Vec<Extent>, offset: u64) {
    match extents.last_mut() {
        Some(last) if last.end() == offset => last.len += PAGE_SIZE,
        _ => extents.push(Extent { offset, len: PAGE_SIZE }),
    }
}

/// The pages of both, in order.
pub fn union(left: &[Extent], right: &[Extent]) -> Vec<Extent> {
    let mut all = [left, right].concat();
    all.sort_unstable_by_key(|extent| extent.offset);
    let mut merged: Vec<Extent> = Vec::with_capacity(all.len());
    for extent in all {
        match merged.last_mut() {
            Some(last) if last.end() >= extent.offset => last.len = last.len.max(extent.end() - last.offset),
            _ => merged.push(extent),
        }
    }
    merged
}

/// `extents`, which are in order, as one where the gap between two is narrower than `gap`.
pub fn bridge(extents: &[Extent], gap: u64) -> Vec<Extent> {
    let mut runs: Vec<Extent> = Vec::new();
    for extent in extents {
        match runs.last_mut() {
            Some(last) if extent.offset - last.end() < gap => last.len = extent.end() - last.offset,
            _ => runs.push(*extent),
        }
    }
    runs
}

/// What lies between `extents`, which are in order and apart, within `size` bytes.
pub fn complement(extents: &[Extent], size: u64) -> Vec<Extent> {
    let ends = extents.iter().map(Extent::end);
    let begins = extents.iter().map(|extent| extent.offset).chain([size]);
    let gaps = [0].into_iter().chain(ends).zip(begins);
    gaps.filter(|(from, to)| from < to)
        .map(|(from, to)| Extent {
            offset: from,
            len: to - from,
        })
        .collect()
}

/// At most `count` runs that hold all of `extents`, which are in order, and as little as possible besides: the widest
/// gaps stay.
pub fn coarsen(extents: &[Extent], count: usize) -> Vec<Extent> {
    if extents.len() <= count {
        return extents.to_vec();
    }
    let mut gaps: Vec<(u64, usize)> = extents
        .windows(2)
        .enumerate()
        .map(|(index, pair)| (pair[1].offset - pair[0].end(), index))
        .collect();
    gaps.sort_unstable_by(|left, right| right.cmp(left));
    let mut kept: Vec<usize> = gaps.iter().take(count.max(1) - 1).map(|(_, index)| *index).collect();
    kept.sort_unstable();
    let mut runs = Vec::with_capacity(kept.len() + 1);
    let mut first = 0;
    for last in kept.into_iter().chain([extents.len() - 1]) {
        runs.push(Extent {
            offset: extents[first].offset,
            len: extents[last].end() - extents[first].offset,
        });
        first = last + 1;
    }
    runs
}

/// Whether these are runs of pages, in order and apart, within `size` bytes: for those read from a file.
pub fn are_sound(extents: &[Extent], size: u64) -> bool {
    let mut behind = 0;
    extents.iter().all(|extent| {
        let end = extent.offset.checked_add(extent.len).filter(|end| *end <= size);
        let sound = extent.len > 0
            && extent.offset.is_multiple_of(PAGE_SIZE)
            && extent.len.is_multiple_of(PAGE_SIZE)
            && extent.offset >= behind;
        behind = end.unwrap_or(u64::MAX);
        sound && end.is_some()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn extents(pages: &[(u64, u64)]) -> Vec<Extent> {
        let extent = |(offset, len): &(u64, u64)| Extent {
            offset: offset * PAGE_SIZE,
            len: len * PAGE_SIZE,
        };
        pages.iter().map(extent).collect()
    }

    #[test]
    fn the_widest_gaps_stay() {
        let scattered = extents(&[(0, 1), (2, 1), (100, 2), (103, 1), (500, 1)]);
        assert_eq!(coarsen(&scattered, 3), extents(&[(0, 3), (100, 4), (500, 1)]));
        assert_eq!(coarsen(&scattered, 1), extents(&[(0, 501)]));
        assert_eq!(coarsen(&scattered, 5), scattered);
        assert_eq!(coarsen(&[], 3), []);
    }

    #[test]
    fn narrow_gaps_are_bridged() {
        let scattered = extents(&[(0, 1), (2, 1), (5, 2), (100, 1)]);
        assert_eq!(
            bridge(&scattered, 3 * PAGE_SIZE),
            extents(&[(0, 7), (100, 1)]).as_slice()
        );
        assert_eq!(
            bridge(&scattered, 2 * PAGE_SIZE),
            extents(&[(0, 3), (5, 2), (100, 1)]).as_slice()
        );
        assert_eq!(bridge(&[], 1), []);
    }

    #[test]
    fn a_complement_is_what_lies_between() {
        let size = 10 * PAGE_SIZE;
        let gaps = |pages: &[(u64, u64)]| complement(&extents(pages), size);
        assert_eq!(gaps(&[]), extents(&[(0, 10)]));
        assert_eq!(gaps(&[(0, 2), (5, 1), (9, 1)]), extents(&[(2, 3), (6, 3)]));
        assert_eq!(gaps(&[(0, 10)]), []);
    }

    #[test]
    fn only_ordered_runs_of_whole_pages_within_the_size_are_sound() {
        assert!(are_sound(&extents(&[(0, 1), (1, 1), (4, 2)]), 6 * PAGE_SIZE));
        assert!(!are_sound(&extents(&[(4, 2)]), 5 * PAGE_SIZE));
        assert!(!are_sound(&extents(&[(4, 2), (5, 1)]), 50 * PAGE_SIZE));
        assert!(!are_sound(&extents(&[(4, 0)]), 50 * PAGE_SIZE));
        assert!(!are_sound(
            &[Extent {
                offset: 1,
                len: PAGE_SIZE
            }],
            50 * PAGE_SIZE
        ));
        let beyond = Extent {
            offset: PAGE_SIZE,
            len: u64::MAX - PAGE_SIZE + 1,
        };
        assert!(!are_sound(&[beyond], u64::MAX));
    }

    proptest! {
        #[test]
        fn union_and_coarsening_lose_no_page(
            left in proptest::collection::btree_set(0u64..200, 0..60),
            right in proptest::collection::btree_set(0u64..200, 0..60),
            count in 1usize..10,
        ) {
            let runs = |pages: &std::collections::BTreeSet<u64>| {
                let mut runs = Vec::new();
                pages.iter().for_each(|page| push_page(&mut runs, page * PAGE_SIZE));
                runs
            };
            let both = union(&runs(&left), &runs(&right));
            prop_assert_eq!(&both, &runs(&left.union(&right).copied().collect()));
            let coarse = coarsen(&both, count);
            prop_assert!(coarse.len() <= count);
            prop_assert!(are_sound(&coarse, 200 * PAGE_SIZE));
            prop_assert_eq!(&union(&coarse, &both), &coarse);
        }
    }
}

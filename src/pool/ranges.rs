//! What is taken, as runs of neighbours.

use std::collections::BTreeMap;

/// Subnets as runs of neighbours, so that the next free one is found at once among
/// many: the first of each run, and its last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ranges(BTreeMap<u128, u128>);

impl Ranges {
    /// The last run that holds some of what is between two subnets.
    fn run(&self, first: u128, last: u128) -> Option<(u128, u128)> {
        let (begin, end) = self.0.range(..=last).next_back()?;
        (first <= *end).then_some((*begin, *end))
    }

    /// Whether none of it was there before.
    pub fn insert(&mut self, (first, last): (u128, u128)) -> bool {
        if self.run(first, last).is_some() {
            return false;
        }
        let before = first.checked_sub(1).and_then(|before| self.run(before, before));
        let after = last.checked_add(1).and_then(|after| self.0.remove(&after));
        self.0.insert(before.map_or(first, |(begin, _)| begin), after.unwrap_or(last));
        true
    }

    /// The lowest from `first` on, at a multiple of `size`, where there are so many that are not
    /// there.
    pub fn first_free(&self, first: u128, size: u128) -> Option<u128> {
        let mut at = first.checked_next_multiple_of(size)?;
        while let Some((_, end)) = self.run(at, at.checked_add(size - 1)?) {
            at = end.checked_add(1)?.checked_next_multiple_of(size)?;
        }
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_are_a_set(subnets in proptest::collection::vec(0u128..40, 0..60), from in 0u128..45) {
            let (mut ranges, mut set) = (Ranges::default(), std::collections::BTreeSet::new());
            for subnet in subnets {
                prop_assert_eq!(ranges.insert((subnet, subnet)), set.insert(subnet));
            }
            for size in [1, 2, 4, 8] {
                let is_free = |first: &u128| (*first..first + size).all(|subnet| !set.contains(&subnet));
                let free = (from..).filter(|first| first % size == 0).find(is_free);
                prop_assert_eq!(ranges.first_free(from, size), free);
            }
            // No two runs touch.
            let runs: Vec<_> = ranges.0.into_iter().collect();
            prop_assert!(runs.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0));
        }
    }
}

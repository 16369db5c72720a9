//! Which positions of an epoch are a rank's next batch.
//!
//! All ranks walk one sequence together: a step from position `p` takes `batch_size · world_size` positions, of which rank
//! `r` gets the `r`-th run of `batch_size`. What one step takes thus depends on the product alone, and steps and ranks put
//! together are the epoch's order, whatever batch size and world size were. A run can stop at any position and go on
//! from there with others.

use std::ops::Range;

use crate::error::{Error, ErrorKind, Result};

/// How an epoch is cut into batches, and which of them are this rank's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partition {
    batch_size: usize,
    rank: usize,
    world_size: usize,
    drop_last: bool,
}

/// One batch of one rank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Its positions. Those from the epoch's end on are pads, which repeat the epoch's first samples.
    pub positions: Range<usize>,
    /// Where the next step begins, for all ranks.
    pub next: usize,
}

impl Partition {
    /// Checks and keeps the numbers.
    ///
    /// # Errors
    /// `Invalid` when the batch size is 0 or the rank is not below the world size.
    pub fn new(batch_size: usize, rank: usize, world_size: usize, drop_last: bool) -> Result<Self> {
        let wrong = |name: &str, value: usize, reason: &str| {
            Err(Error::new(ErrorKind::Invalid, "use", format_args!("{name} = {value}")).because(reason))
        };
        if batch_size == 0 {
            return wrong("batch_size", 0, "a batch holds at least one sample");
        }
        if rank >= world_size {
            return wrong("rank", rank, &format!("it must be below world_size, which is {world_size}"));
        }
        Ok(Self { batch_size, rank, world_size, drop_last })
    }

    /// Samples a full batch of this rank holds.
    pub fn batch_size(&self) -> usize {
        self.batch_size
    }

    /// Positions of an epoch that a full step takes, over all ranks.
    pub fn positions_per_step(&self) -> usize {
        self.batch_size.saturating_mul(self.world_size)
    }

    /// Whether an incomplete step at the end of an epoch is left out.
    pub fn drops_last(&self) -> bool {
        self.drop_last
    }

    /// The step that begins at position `from` of an epoch of so many samples; `None` when the epoch is over.
    ///
    /// At the end, what is left is shared evenly: every rank gets the same number, padded where it does not divide.
    pub fn step(&self, samples: usize, from: usize) -> Option<Step> {
        let left = samples.saturating_sub(from);
        let whole = self.batch_size.saturating_mul(self.world_size);
        if left == 0 || left < whole && self.drop_last {
            return None;
        }
        let share = if left < whole { left.div_ceil(self.world_size) } else { self.batch_size };
        let start = from + self.rank * share;
        Some(Step { positions: start..start + share, next: from + left.min(whole) })
    }

    /// How many steps there are from position `from` on: the same on every rank.
    pub fn steps(&self, samples: usize, from: usize) -> usize {
        let left = samples.saturating_sub(from);
        let whole = self.batch_size.saturating_mul(self.world_size);
        left / whole + usize::from(!self.drop_last && !left.is_multiple_of(whole))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Every rank's steps from a position on.
    fn walk(samples: usize, mut from: usize, batch: usize, world: usize, drop_last: bool) -> Vec<Vec<Range<usize>>> {
        let ranks: Vec<_> =
            (0..world).map(|rank| Partition::new(batch, rank, world, drop_last).expect("partition")).collect();
        let mut steps = Vec::new();
        while let Some(step) = ranks[0].step(samples, from) {
            let all: Vec<_> = ranks.iter().map(|rank| rank.step(samples, from).expect("equal steps")).collect();
            assert!(all.iter().all(|other| other.next == step.next));
            steps.push(all.into_iter().map(|step| step.positions).collect());
            from = step.next;
        }
        assert!(ranks.iter().all(|rank| rank.step(samples, from).is_none()));
        steps
    }

    proptest! {
        #[test]
        fn steps_and_ranks_together_are_the_sequence(
            samples in 1..200_usize, start in 0..200_usize, batch in 1..9_usize, world in 1..9_usize, drop_last: bool
        ) {
            let steps = walk(samples, start, batch, world, drop_last);
            let partition = Partition::new(batch, 0, world, drop_last).expect("partition");
            prop_assert_eq!(steps.len(), partition.steps(samples, start));
            let all: Vec<usize> = steps.iter().flatten().cloned().flatten().collect();
            let real: Vec<usize> = all.iter().copied().filter(|&position| position < samples).collect();
            let end = if drop_last { start.max(start + steps.len() * batch * world) } else { samples.max(start) };
            prop_assert_eq!(real, (start..end).collect::<Vec<_>>());
            prop_assert!(all.len() - end.saturating_sub(start) < world, "fewer pads than ranks");
            for ranks in &steps {
                prop_assert!(ranks.iter().all(|positions| positions.len() == ranks[0].len() && !positions.is_empty()));
            }
            if drop_last {
                prop_assert!(samples.saturating_sub(end) < batch * world || start >= samples);
            }
        }

        #[test]
        fn a_step_depends_on_the_product_alone(samples in 1..300_usize, product in prop::sample::select(vec![4, 8, 12, 24])) {
            let shapes = (1..=product).filter(|world| product % world == 0);
            let walks = shapes.map(|world| {
                let steps = walk(samples, 0, product / world, world, false);
                let real = |step: Vec<Range<usize>>| step.into_iter().flatten().filter(|&at| at < samples).collect();
                steps.into_iter().map(real).collect::<Vec<Vec<usize>>>()
            });
            let walks: Vec<_> = walks.collect();
            prop_assert!(walks.windows(2).all(|pair| pair[0] == pair[1]));
        }
    }

    #[test]
    fn numbers_that_cannot_be_meant_are_refused() {
        let message = |batch, rank, world| Partition::new(batch, rank, world, false).expect_err("refused").to_string();
        assert_eq!(message(0, 0, 1), "cannot use `batch_size = 0`: a batch holds at least one sample");
        assert_eq!(message(1, 2, 2), "cannot use `rank = 2`: it must be below world_size, which is 2");
    }
}

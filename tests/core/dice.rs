//! Randomness from a seed, and the loop that names the seed which failed.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// SplitMix64: tiny, and the same numbers for ever.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x7461_6c6c_7967_7561)
    }

    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number in `0..bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.bits() % u64::try_from(bound).unwrap()).unwrap()
    }

    /// A number in `low..=high`.
    pub fn between(&mut self, low: i64, high: i64) -> i64 {
        let span = u64::try_from(high - low + 1).unwrap();
        low + i64::try_from(self.bits() % span).unwrap()
    }

    /// True in `percent` of a hundred cases.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn pick<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())].clone()
    }
}

/// Runs `case` for the seeds 0 to `count` - 1, or for the one in `TALLYGUARD_SEED`.
pub fn for_seeds(count: u64, case: impl Fn(&mut Dice)) {
    let wanted: Option<u64> = std::env::var("TALLYGUARD_SEED").ok().map(|seed| seed.parse().expect("a number"));
    let seeds = wanted.map_or(0..count, |seed| seed..seed + 1);
    for seed in seeds {
        let outcome = catch_unwind(AssertUnwindSafe(|| case(&mut Dice::new(seed))));
        if let Err(panic) = outcome {
            eprintln!("failed with TALLYGUARD_SEED={seed}");
            resume_unwind(panic);
        }
    }
}

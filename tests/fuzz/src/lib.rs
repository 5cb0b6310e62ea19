//! Random inputs for tests: first those of seeds that once found something, then those of a fresh seed, which a failure
//! tells so that it can be repeated.
//!
//! `MILLRACE_SEED` is the fresh seed where one must be repeated; `MILLRACE_CASES` is how many times as many inputs are
//! tried, for a night's run.
#![forbid(unsafe_code)]
use proptest::{
    arbitrary::{Arbitrary, any},
    strategy::Strategy,
    test_runner::{Config, RngSeed, TestCaseError, TestRunner},
};
use std::hash::{BuildHasher, RandomState};

/// Tries `test` with `cases` inputs of each of `seeds`, and of a fresh seed.
///
/// # Panics
/// When an input fails: with the smallest one that was found, and its seed.
pub fn property<S: Strategy>(
    seeds: &[u64],
    cases: u32,
    strategy: &S,
    test: impl Fn(S::Value) -> Result<(), TestCaseError>,
) {
    let often = number("MILLRACE_CASES").and_then(|often| u32::try_from(often).ok()).unwrap_or(1);
    let fresh = number("MILLRACE_SEED").unwrap_or_else(|| RandomState::new().hash_one("seed"));
    for seed in seeds.iter().copied().chain([fresh]) {
        let config = Config {
            cases: cases.saturating_mul(often),
            rng_seed: RngSeed::Fixed(seed),
            failure_persistence: None,
            max_shrink_iters: 4000,
            ..Config::default()
        };
        if let Err(failure) = TestRunner::new(config).run(strategy, &test) {
            panic!("again with MILLRACE_SEED={seed}: {failure}");
        }
    }
}

/// The same with any inputs of a type, for a target that panics where it finds something.
///
/// # Panics
/// When an input fails: with the smallest one that was found, and its seed.
pub fn target<T: Arbitrary>(cases: u32, target: impl Fn(&T)) {
    property(&[1], cases, &any::<T>(), |input| {
        target(&input);
        Ok(())
    });
}

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}={value} is no number")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prop_assert;
    use std::{cell::RefCell, panic::catch_unwind};

    #[test]
    fn a_failure_tells_its_seed_and_the_seed_repeats_it() {
        let inputs = |seed: u64| {
            let seen = RefCell::new(Vec::new());
            property(&[seed], 4, &any::<u64>(), |input| {
                seen.borrow_mut().push(input);
                Ok(())
            });
            let seen = seen.into_inner();
            assert_eq!(seen.len() % 4, 0);
            (seen[..4].to_vec(), seen[4..].to_vec())
        };
        let (one, other) = (inputs(7), inputs(7));
        assert_eq!(one.0, other.0, "a seed gives the same inputs");
        if std::env::var("MILLRACE_SEED").is_err() {
            assert_ne!(one.1, other.1, "the last seed is a fresh one");
        }
        let failed = catch_unwind(|| {
            property(&[7], 100, &any::<u8>(), |input| {
                prop_assert!(input < 20);
                Ok(())
            })
        });
        let told = failed.unwrap_err().downcast::<String>().unwrap();
        assert!(told.contains("MILLRACE_SEED=7") && told.contains("minimal failing input: 20"), "{told}");
    }
}

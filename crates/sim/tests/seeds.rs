//! Seeds without a planted bug: nothing may be found, and a seed is a whole description.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use sim::{Options, Outcome, run};

/// Runs seeds on all cores; gives the outcomes in the order of the seeds.
fn run_all(seeds: std::ops::Range<u64>) -> Vec<Outcome> {
    server::log::set_level(server::log::Level::Fatal);
    let (next, outcomes) = (AtomicU64::new(seeds.start), Mutex::new(Vec::new()));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let outcome = run(seed, Options::default());
                    outcomes.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
    outcomes.sort_by_key(|outcome| outcome.seed);
    outcomes
}

#[test]
fn five_hundred_seeds_find_nothing() {
    let outcomes = run_all(0..500);
    let mut total = sim::Stats::default();
    for outcome in &outcomes {
        total.add(&outcome.stats);
    }
    let findings: Vec<String> = outcomes
        .iter()
        .filter_map(|outcome| {
            let finding = outcome.finding.as_ref()?;
            Some(format!(
                "seed {seed}: {finding}\n  replay: cargo run -p sim -- --seed {seed} --trace",
                seed = outcome.seed
            ))
        })
        .collect();
    assert!(findings.is_empty(), "{}", findings.join("\n"));
    // The seeds must meet what they are there for.
    let met = [
        ("answers", total.answers, 200_000),
        ("crashes", total.crashes, 1000),
        ("snapshots installed", total.snapshots, 200),
        ("membership changes", total.reconfigurations, 150),
        ("elections", total.elections, 800),
        ("watched events", total.watched, 100_000),
        ("expired leases", total.expiries, 500),
        ("compactions", total.compactions, 5000),
    ];
    for (what, count, least) in met {
        assert!(count >= least, "{count} {what}, at least {least} were expected: {total:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let seeds = 7000..7012;
    let (first, second) = (run_all(seeds.clone()), run_all(seeds));
    for (one, other) in first.iter().zip(&second) {
        assert_eq!(one.trace, other.trace, "seed {}", one.seed);
        assert_eq!(one.stats.events, other.stats.events, "seed {}", one.seed);
    }
    assert_ne!(first[0].trace, first[1].trace, "other seeds are other runs");
}

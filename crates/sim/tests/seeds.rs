//! Seeds without a planted bug: nothing may be found, and a seed is a whole description.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use sim::{Options, Outcome, run};

/// Runs seeds on all cores; gives the outcomes in the order of the seeds.
fn run_all(seeds: std::ops::Range<u64>, options: Options) -> Vec<Outcome> {
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
                    let outcome = run(seed, options);
                    outcomes.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
    outcomes.sort_by_key(|outcome| outcome.seed);
    outcomes
}

/// What the outcomes found, with the commands that show it again.
fn findings(outcomes: &[Outcome], flags: &str) -> String {
    let found = outcomes.iter().filter_map(|outcome| Some((outcome.seed, outcome.finding.as_ref()?)));
    found
        .map(|(seed, finding)| {
            format!("seed {seed}: {finding}\n  replay: cargo run -p sim -- --seed {seed}{flags} --trace\n")
        })
        .collect()
}

fn total(outcomes: &[Outcome]) -> sim::Stats {
    let mut total = sim::Stats::default();
    outcomes.iter().for_each(|outcome| total.add(&outcome.stats));
    total
}

#[test]
fn five_hundred_seeds_find_nothing() {
    let outcomes = run_all(0..500, Options::default());
    let found = findings(&outcomes, "");
    assert!(found.is_empty(), "{found}");
    // The seeds must meet what they are there for.
    let total = total(&outcomes);
    let met = [
        ("answers", total.answers, 200_000),
        ("crashes", total.crashes, 1000),
        ("snapshots installed", total.snapshots, 200),
        ("membership changes", total.reconfigurations, 100),
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
fn a_thousand_membership_changes_under_load() {
    let outcomes = run_all(0..160, Options { reconfigure: true, ..Options::default() });
    let found = findings(&outcomes, " --reconfigure");
    assert!(found.is_empty(), "{found}");
    let changes = total(&outcomes).reconfigurations;
    assert!(changes >= 1000, "{changes} membership changes were carried out");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let seeds = 7000..7012;
    let first = run_all(seeds.clone(), Options::default());
    let second = run_all(seeds, Options::default());
    for (one, other) in first.iter().zip(&second) {
        assert_eq!(one.trace, other.trace, "seed {}", one.seed);
        assert_eq!(one.stats.events, other.stats.events, "seed {}", one.seed);
    }
    assert_ne!(first[0].trace, first[1].trace, "other seeds are other runs");
}

//! Planted bugs: each must be found, so that a run without findings means something.

use std::sync::Mutex;

use sim::{Bug, Options, run};

/// Seeds that a bug may take to be found.
const MOST_SEEDS: u64 = 60;

#[test]
fn every_planted_bug_is_found() {
    server::log::set_level(server::log::Level::Fatal);
    // Some bugs are met by an assertion; here that is a finding like others.
    std::panic::set_hook(Box::new(|_| {}));
    let (todo, missed) = (Mutex::new(Bug::ALL.to_vec()), Mutex::new(Vec::new()));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let Some(bug) = todo.lock().unwrap().pop() else { return };
                    let options = Options { bug: Some(bug), ..Options::default() };
                    let found = (0..MOST_SEEDS).find_map(|seed| Some((seed, run(seed, options).finding?)));
                    match found {
                        Some((seed, finding)) => println!("{}: seed {seed}: {finding}", bug.name()),
                        None => missed.lock().unwrap().push(bug),
                    }
                }
            });
        }
    });
    let missed = missed.into_inner().unwrap();
    assert!(missed.is_empty(), "not found within {MOST_SEEDS} seeds: {missed:?}");
}

#[test]
fn names_of_bugs_can_be_typed() {
    for bug in Bug::ALL {
        assert_eq!(Bug::from_name(&bug.name()), Some(bug));
    }
    assert_eq!(Bug::from_name("forget-vote"), Some(Bug::ForgetVote));
}

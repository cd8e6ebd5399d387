//! Cost of an append without syncs, and of a sync with and without prepared space.
//!
//! `cargo run --release -p wal --example append -- <empty directory>`

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use env::real::RealDisk;
use types::raft::{Entry, HardState};
use wal::{Batch, Options, Prepared, Wal};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args().nth(1).ok_or("usage: append <empty directory>")?;
    let dir = Path::new(&dir);
    for batch in [1u64, 100, 1000] {
        let options = Options { no_sync: true, ..Options::default() };
        let mut log = Wal::create(Arc::new(RealDisk), &dir.join(format!("append-{batch}")), b"", options)?;
        let (mut index, mut spent) = (0, Duration::ZERO);
        while index < 200_000 {
            spent += timed_append(&mut log, &mut index, batch)?;
        }
        println!("append, batch {batch:5}: {:6.0} ns per entry", spent.as_nanos() as f64 / index as f64);
    }
    for prepared in [false, true] {
        let mut log =
            Wal::create(Arc::new(RealDisk), &dir.join(format!("sync-{prepared}")), b"", Options::default())?;
        let mut preparer = log.preparer();
        while prepared && preparer.step()? == Prepared::More {}
        let (mut index, mut syncs) = (0, Vec::new());
        while syncs.len() < 2000 {
            timed_append(&mut log, &mut index, 10)?;
            let start = Instant::now();
            log.sync()?;
            syncs.push(start.elapsed());
        }
        syncs.sort();
        println!("sync, prepared {prepared:5}: median {:?}, p99 {:?}", syncs[1000], syncs[1980]);
    }
    Ok(())
}

fn timed_append(log: &mut Wal, index: &mut u64, batch: u64) -> Result<Duration, wal::Error> {
    let entry = |index| Entry { index, term: 1, data: vec![7; 200].into(), ..Entry::default() };
    let entries: Vec<_> = (*index + 1..=*index + batch).map(entry).collect();
    *index += batch;
    let start = Instant::now();
    log.append(&Batch {
        entries: &entries,
        hard_state: Some(HardState { term: 1, vote: 1, commit: *index }),
    })?;
    Ok(start.elapsed())
}

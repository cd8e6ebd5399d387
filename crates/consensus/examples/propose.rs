//! Cost of a proposal in a cluster of one, without a disk: propose, ready, persisted, ready, applied.
//!
//! `cargo run --release -p consensus --example propose`

use std::time::Instant;

use bytes::Bytes;
use consensus::{Config, Consensus, bootstrap};

/// Entries kept behind the applied one, as a server does.
const CATCH_UP_ENTRIES: u64 = 5000;

fn main() {
    let change = Bytes::from_static(&[0x18, 1]);
    let mut raft = Consensus::new(Config::new(1), bootstrap([(1, change)]), 1).expect("a good state");
    drain(&mut raft);
    raft.campaign();
    drain(&mut raft);
    for batch in [1usize, 10, 100, 1000, 1] {
        let rounds = 1_000_000 / batch;
        let mut spent = std::time::Duration::ZERO;
        let mut applied = 0;
        for _ in 0..rounds {
            // Payloads come from outside: not measured.
            let payloads: Vec<_> = (0..batch).map(|_| Bytes::from(vec![7u8; 200])).collect();
            let start = Instant::now();
            raft.propose_batch(payloads).expect("it leads");
            applied += drain(&mut raft);
            spent += start.elapsed();
        }
        assert_eq!(applied, rounds * batch);
        println!("batch {batch:5}: {:7.1} ns per proposal", spent.as_nanos() as f64 / applied as f64);
    }
}

/// Handles all readies; gives the number of entries applied.
fn drain(raft: &mut Consensus) -> usize {
    let mut count = 0;
    while let Some(ready) = raft.ready() {
        if ready.must_sync {
            raft.persisted(ready.number);
        }
        if let Some(last) = ready.committed.last() {
            count += ready.committed.len();
            raft.applied(last.index);
            if last.index > 2 * CATCH_UP_ENTRIES
                && last.index % CATCH_UP_ENTRIES < ready.committed.len() as u64
            {
                raft.compact(last.index - CATCH_UP_ENTRIES);
            }
        }
    }
    count
}

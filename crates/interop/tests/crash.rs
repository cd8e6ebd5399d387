//! SIGKILL at random moments under concurrent writers: nothing acknowledged is lost, nothing is
//! half applied, revisions never go back.
//!
//! `RETCD_CRASH_ROUNDS` sets the number of kills (default 12), `RETCD_CRASH_SEED` the moments.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, ensure};
use bench::load::ops::Draw;
use interop::block_on;
use interop::member::Member;
use interop::number;
use interop::programs::subject;
use interop::writers::{Ledger, read_all};

const WRITERS: usize = 16;
/// The kill comes after this many acknowledged writes at most.
const LONGEST_ROUND_WRITES: u64 = 400;
/// Bound on a round, for a server that stops answering.
const ROUND_PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn nothing_acknowledged_is_lost() -> anyhow::Result<()> {
    let rounds = number("RETCD_CRASH_ROUNDS", 12)?;
    let mut draw = Draw::new(number("RETCD_CRASH_SEED", 1)?);
    // A small snapshot count, so that kills also hit snapshots and purges of the log.
    let dir = tempfile::Builder::new().prefix("retcd-crash-").tempdir()?;
    let mut member = Member::prepare(&subject(), &["--snapshot-count", "500"], dir.path())?;
    member.run()?;
    let mut ledgers: Vec<_> = (0..WRITERS).map(|number| Ledger { number, ..Default::default() }).collect();
    for round in 0..rounds {
        let kill_after = 1 + draw.below(LONGEST_ROUND_WRITES);
        block_on(write_and_kill(&mut member, &mut ledgers, kill_after))
            .with_context(|| format!("round {round}"))?;
        member.run().with_context(|| format!("start after the kill of round {round}"))?;
        let (kvs, revision) = block_on(read_all(&member.authority()))?;
        for ledger in &ledgers {
            ledger.check(&kvs).with_context(|| format!("after the kill of round {round}"))?;
            ensure!(
                revision >= ledger.revision,
                "revision {revision} is below an acknowledged {}",
                ledger.revision
            );
        }
    }
    let total: u64 = ledgers.iter().map(|ledger| ledger.count).sum();
    println!("{rounds} kills, {total} acknowledged writes");
    ensure!(total > rounds, "the writers hardly wrote");
    Ok(())
}

/// Runs all writers and kills the member once `kill_after` writes were acknowledged.
async fn write_and_kill(member: &mut Member, ledgers: &mut [Ledger], kill_after: u64) -> anyhow::Result<()> {
    let authority = member.authority();
    let acknowledged = Rc::new(Cell::new(0));
    let writing = futures_util::future::join_all(
        ledgers.iter_mut().map(|ledger| ledger.write(&authority, acknowledged.clone())),
    );
    let killing = async {
        while acknowledged.get() < kill_after {
            tokio::task::yield_now().await;
        }
        member.kill()
    };
    let both = futures_util::future::join(writing, killing);
    let (_, killed) =
        tokio::time::timeout(ROUND_PATIENCE, both).await.context("the writers wait for ever")?;
    killed
}

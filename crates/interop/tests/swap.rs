//! Data directories move between programs: stopped cleanly or by SIGKILL, back and forth under
//! writes, and snapshot files are restored in both directions.

use std::path::PathBuf;
use std::process::Command;
use std::rc::Rc;
use std::{cell::Cell, time::Duration};

use anyhow::{Context, ensure};
use interop::block_on;
use interop::ctl::Ctl;
use interop::facts::Facts;
use interop::member::Member;
use interop::programs::{Program, ours, real, subject, yardstick};
use interop::utl::Utl;
use interop::writers::{Ledger, read_all};

const SWAPS: usize = 10;
/// Acknowledged writes between two swaps.
const WRITES_PER_SWAP: u64 = 300;

/// Data of every kind: history, tombstones, leases, transactions, big values, a compaction.
fn populate(ctl: &Ctl) -> anyhow::Result<()> {
    for number in 0..60 {
        let (key, value) = (format!("key/{:02}", number % 40), format!("value {number}"));
        ctl.run(&["put", &key, &value])?.success()?;
    }
    ctl.run(&["del", "--prefix", "key/1"])?.success()?;
    ctl.run_with(&["txn"], &[], b"\nput txn/a 1\nput txn/b 2\ndel key/02\nput txn/c 3\n\n\n")?.success()?;
    ctl.run(&["put", "big", &"v".repeat(20_000)])?.success()?;
    ctl.run_with(&["put", "binary"], &[], &[0, 1, 255, 254, 10])?.success()?;
    let granted = ctl.run(&["lease", "grant", "7200"])?.success()?;
    let lease = granted.split(' ').nth(1).context("a grant names its lease")?;
    for key in ["leased/1", "leased/2", "leased/3"] {
        ctl.run(&["put", key, "x", "--lease", lease])?.success()?;
    }
    ctl.run(&["put", "leased/2", "detached"])?.success()?;
    ctl.run(&["compaction", "30", "--physical"])?.success()?;
    ctl.run(&["put", "after", "compaction"])?.success()?;
    ctl.run(&["del", "after"])?.success()?;
    Ok(())
}

fn ctl(member: &Member) -> Ctl {
    Ctl { program: real("3.5", "etcdctl"), endpoint: member.client_url() }
}

fn facts(member: &Member) -> anyhow::Result<Facts> {
    block_on(Facts::collect(&member.authority()))
}

/// Fills a directory with one program and opens it with the other.
fn one_way(from: &Program, to: &Program, clean: bool) -> anyhow::Result<()> {
    let dir = tempfile::Builder::new().prefix("retcd-swap-").tempdir()?;
    let mut member = Member::prepare(from, &["--snapshot-count", "50"], dir.path())?;
    member.run()?;
    populate(&ctl(&member))?;
    let before = facts(&member)?;
    match clean {
        true => drop(member.stop()?),
        false => member.kill()?,
    }
    check_with_tools(&member)?;
    member.use_program(to);
    member.run().context("the other program on the same directory")?;
    before.check_equal(&facts(&member)?)?;
    ctl(&member).run(&["put", "written", "after the swap"])?.success()?;
    Ok(())
}

/// The real tools find nothing wrong with the files.
fn check_with_tools(member: &Member) -> anyhow::Result<()> {
    let etcdutl = real("3.5", "etcdutl");
    let db = member.data_dir().join("member/snap/db");
    let ran = Command::new(etcdutl).args(["snapshot", "status"]).arg(&db).output()?;
    ensure!(ran.status.success(), "etcdutl snapshot status: {}", String::from_utf8_lossy(&ran.stderr));
    Ok(())
}

#[test]
fn real_to_ours_stopped() -> anyhow::Result<()> {
    one_way(&yardstick(), &subject(), true)
}

#[test]
fn real_to_ours_killed() -> anyhow::Result<()> {
    one_way(&yardstick(), &subject(), false)
}

#[test]
fn ours_to_real_stopped() -> anyhow::Result<()> {
    one_way(&subject(), &yardstick(), true)
}

#[test]
fn ours_to_real_killed() -> anyhow::Result<()> {
    one_way(&subject(), &yardstick(), false)
}

/// The same with the newest release, which Debian does not have: put its `etcd` into the cache as
/// version 3.7 and turn the feature on.
#[cfg(feature = "newest")]
#[test]
fn newest_release_both_ways() -> anyhow::Result<()> {
    let newest = Program::plain(real("3.7", "etcd"));
    let ours = match std::env::var_os("RETCD_SUBJECT") {
        Some(_) => newest.clone(),
        None => interop::programs::subject_as("3.7"),
    };
    for clean in [true, false] {
        one_way(&newest, &ours, clean)?;
        one_way(&ours, &newest, clean)?;
    }
    Ok(())
}

/// Ten swaps under writes, alternately by SIGTERM and SIGKILL: nothing acknowledged is lost.
#[test]
fn back_and_forth_under_writes() -> anyhow::Result<()> {
    let programs = [yardstick(), subject()];
    let dir = tempfile::Builder::new().prefix("retcd-swaps-").tempdir()?;
    let mut member = Member::prepare(&programs[0], &["--snapshot-count", "200"], dir.path())?;
    member.run()?;
    let mut ledgers: Vec<_> = (0..8).map(|number| Ledger { number, ..Default::default() }).collect();
    for swap in 0..SWAPS {
        let clean = swap % 4 < 2;
        block_on(write_and_end(&mut member, &mut ledgers, clean)).with_context(|| format!("swap {swap}"))?;
        if !clean {
            // Where the kill fell is known; a start with the same program shows what was left.
            member.run()?;
            let before = facts(&member)?;
            member.kill()?;
            member.use_program(&programs[(swap + 1) % 2]);
            member.run().with_context(|| format!("start after swap {swap}"))?;
            before.check_equal(&facts(&member)?).with_context(|| format!("swap {swap}"))?;
        } else {
            member.use_program(&programs[(swap + 1) % 2]);
            member.run().with_context(|| format!("start after swap {swap}"))?;
        }
        let (kvs, revision) = block_on(read_all(&member.authority()))?;
        for ledger in &ledgers {
            ledger.check(&kvs).with_context(|| format!("after swap {swap}"))?;
            ensure!(
                revision >= ledger.revision,
                "revision {revision} is below an acknowledged {}",
                ledger.revision
            );
        }
    }
    Ok(())
}

async fn write_and_end(member: &mut Member, ledgers: &mut [Ledger], clean: bool) -> anyhow::Result<()> {
    let authority = member.authority();
    let acknowledged = Rc::new(Cell::new(0));
    let writers = ledgers.iter_mut().map(|ledger| ledger.write(&authority, acknowledged.clone()));
    let writing = futures_util::future::join_all(writers);
    let ending = async {
        while acknowledged.get() < WRITES_PER_SWAP {
            tokio::task::yield_now().await;
        }
        match clean {
            true => member.stop_while_busy().await.map(drop),
            false => member.kill(),
        }
    };
    let both = futures_util::future::join(writing, ending);
    let (_, ended) =
        tokio::time::timeout(Duration::from_secs(60), both).await.context("the writers wait for ever")?;
    ended
}

/// A snapshot of one program, restored by a tool and served by the other program.
fn restored(from: &Program, tool: PathBuf, to: &Program) -> anyhow::Result<()> {
    let source = Member::start(from, &[])?;
    populate(&ctl(&source))?;
    let before = facts(&source)?;
    let file = source.dir().join("snapshot.db");
    ctl(&source).run(&["snapshot", "save", &file.display().to_string()])?.success()?;
    let dir = tempfile::Builder::new().prefix("retcd-restore-").tempdir()?;
    let mut target = Member::prepare(to, &[], dir.path())?;
    let cluster = format!("m1=http://{}", target.peer_authority());
    Utl { program: tool }.restore(&file, &target, "m1", &cluster, &[])?;
    target.run().context("the other program on the restored directory")?;
    let after = facts(&target)?;
    ensure!(after.kvs == before.kvs, "keys changed by the restore");
    ensure!(after.revision == before.revision, "revision {} became {}", before.revision, after.revision);
    ensure!(after.hash == before.hash, "HashKV {} became {}", before.hash, after.hash);
    ensure!(after.leases == before.leases, "leases changed by the restore");
    Ok(())
}

#[test]
fn snapshot_of_ours_restored_for_the_real_one() -> anyhow::Result<()> {
    restored(&subject(), ours("etcdutl"), &yardstick())
}

#[test]
fn snapshot_of_the_real_one_restored_for_ours() -> anyhow::Result<()> {
    restored(&yardstick(), ours("etcdutl"), &subject())
}

#[test]
fn snapshot_of_ours_restored_by_the_real_tool_for_ours() -> anyhow::Result<()> {
    restored(&subject(), real("3.5", "etcdutl"), &subject())
}

//! Clusters of several processes: ours alone, and ours together with the real etcd 3.5.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use interop::block_on;
use interop::cluster::{Cluster, LOOK_INTERVAL, PATIENCE, ctl, eventually, status};
use interop::member::Member;
use interop::programs::{subject, yardstick};
use interop::writers::{Ledger, read_all};

/// Kills a member while writers write through the others and through it.
fn kill_under_load(cluster: &mut Cluster, victim: usize) -> anyhow::Result<Vec<Ledger>> {
    let authorities: Vec<String> = cluster.members.iter().map(Member::authority).collect();
    let total = Rc::new(Cell::new(0));
    let mut ledgers: Vec<Ledger> = (0..6).map(|number| Ledger { number, ..Ledger::default() }).collect();
    let member = &mut cluster.members[victim];
    block_on(async {
        let kill = async {
            let deadline = Instant::now() + PATIENCE;
            while total.get() < 400 && Instant::now() < deadline {
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
            member.kill()
        };
        // The writers of the others go on until they have seen a new leader's answers.
        let writers = ledgers.iter_mut().enumerate().map(|(number, ledger)| {
            let (authority, total) = (&authorities[number % authorities.len()], total.clone());
            async move {
                let limit = tokio::time::sleep(Duration::from_secs(8));
                tokio::select! { _ = ledger.write(authority, total) => {}, () = limit => {} }
            }
        });
        let (killed, _) = tokio::join!(kill, futures_util::future::join_all(writers));
        killed
    })?;
    ensure!(total.get() >= 400, "only {} writes were acknowledged", total.get());
    Ok(ledgers)
}

#[test]
fn three_members_serve_anywhere_and_lose_nothing_with_their_leader() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&[&subject(), &subject(), &subject()], &[])?;
    cluster.put_and_get_anywhere("first")?;
    let lease = ctl(&cluster.members[2]).run(&["lease", "grant", "600"])?.success()?;
    let lease = lease.split(' ').nth(1).context("a grant names its lease")?.to_owned();
    for member in &cluster.members {
        ctl(member).run(&["lease", "keep-alive", "--once", &lease])?.success()?;
        let times = ctl(member).run(&["lease", "timetolive", &lease])?.success()?;
        ensure!(times.contains("granted with TTL(600s)"), "{times}");
    }
    let leader = cluster.leader()?;
    let ledgers = kill_under_load(&mut cluster, leader)?;
    let survivor = (leader + 1) % 3;
    eventually("the others go on", || {
        Ok(ctl(&cluster.members[survivor]).run(&["put", "after", "the kill"])?.code == 0)
    })?;
    let (kvs, _) = block_on(read_all(&cluster.members[survivor].authority()))?;
    ledgers.iter().try_for_each(|ledger| ledger.check(&kvs))?;
    cluster.members[leader].run()?;
    cluster.put_and_get_anywhere("second")?;
    cluster.settle()?;
    // Power goes everywhere at once.
    cluster.members.iter_mut().try_for_each(Member::kill)?;
    cluster.members.iter_mut().try_for_each(Member::spawn)?;
    cluster.members.iter_mut().try_for_each(Member::wait_serving)?;
    let (kvs, _) = block_on(read_all(&cluster.members[survivor].authority()))?;
    ledgers.iter().try_for_each(|ledger| ledger.check(&kvs))?;
    cluster.put_and_get_anywhere("third")
}

#[test]
fn a_learner_joins_is_promoted_leads_and_is_removed() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&[&subject()], &[])?;
    ctl(&cluster.members[0]).run(&["put", "before", "the others"])?.success()?;
    let learner = cluster.join(&subject(), &["--learner"], &[])?;
    let first = ctl(&cluster.members[0]);
    eventually("the learner holds the data", || {
        let read = ctl(&cluster.members[learner]).run(&["get", "before", "--consistency=s"])?;
        Ok(read.stdout.contains("the others"))
    })?;
    let refused = ctl(&cluster.members[learner]).run(&["put", "a", "b"])?;
    ensure!(refused.messages().contains("rpc not supported for learner"), "{}", refused.messages());
    let id = format!("{:x}", status(&cluster.members[learner])?.header.context("a header")?.member_id);
    eventually("the learner is promoted", || Ok(first.run(&["member", "promote", &id])?.code == 0))?;
    cluster.members[learner].wait_serving()?;
    cluster.put_and_get_anywhere("two")?;
    cluster.move_leader(learner)?;
    cluster.put_and_get_anywhere("led by the newcomer")?;
    // A leader that is removed hands over, tells, and ends with status 0.
    eventually("the member is removed", || Ok(first.run(&["member", "remove", &id])?.code == 0))?;
    let ended = cluster.members[learner].wait_end(PATIENCE)?;
    ensure!(ended.success(), "a member that was removed ended with {ended}");
    eventually("the other goes on", || Ok(first.run(&["put", "alone", "again"])?.code == 0))
}

#[test]
fn a_member_that_was_away_gets_a_snapshot() -> anyhow::Result<()> {
    let args = ["--snapshot-count", "50", "--experimental-snapshot-catchup-entries", "10"];
    let mut cluster = Cluster::start(&[&subject(), &subject(), &subject()], &args)?;
    away_and_back(&mut cluster, 0)?;
    let leader = cluster.leader()?;
    away_and_back(&mut cluster, leader)
}

fn away_and_back(cluster: &mut Cluster, away: usize) -> anyhow::Result<()> {
    cluster.members[away].stop()?;
    let writer = ctl(&cluster.members[(away + 1) % cluster.members.len()]);
    for number in 0..150 {
        writer.run(&["put", &format!("away/{number}"), &"x".repeat(100)])?.success()?;
    }
    cluster.members[away].run()?;
    cluster.settle()?;
    let log = std::fs::read_to_string(cluster.members[away].log_file())?;
    ensure!(log.contains("applied snapshot"), "the log was enough: nothing was tested");
    Ok(())
}

#[test]
fn ours_and_real_form_a_cluster() -> anyhow::Result<()> {
    let args = ["--snapshot-count", "50", "--experimental-snapshot-catchup-entries", "10"];
    let mut cluster = Cluster::start(&[&yardstick(), &yardstick(), &subject()], &args)?;
    cluster.put_and_get_anywhere("mixed")?;
    cluster.settle()?;
    // Their leader sends us a snapshot, then ours sends one to them.
    cluster.move_leader(0)?;
    away_and_back(&mut cluster, 2)?;
    cluster.move_leader(2)?;
    cluster.put_and_get_anywhere("led by ours")?;
    away_and_back(&mut cluster, 1)?;
    cluster.put_and_get_anywhere("after the snapshots")?;
    cluster.settle()
}

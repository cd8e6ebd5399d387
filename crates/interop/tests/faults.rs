//! Faults of processes, network and disk, on clusters of real processes under load.
//!
//! Whatever happens: every answer is explained by one order of all calls, watchers get everything
//! once, leases last as long as they have to, all members hold the same in the end. Each test adds
//! what has to go on during its faults. `RETCD_FAULT_SEED` (default 1) decides what clients do and
//! when links fail, `RETCD_FLAPS` (default 30) how often.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context, ensure};
use bench::load::ops::Draw;
use bench::wire::{Channel, Method};
use interop::block_on;
use interop::cluster::{Cluster, PATIENCE, ask, eventually, status};
use interop::load::{Load, Plan};
use interop::member::Member;
use interop::number;
use interop::programs::{Program, subject};
use interop::proxy::{Link, Net};
use interop::scripts::{get, put};
use proto::etcdserverpb::{PutResponse, RangeResponse};

/// Arguments of members whose log in memory is short: who was away for long needs a snapshot.
const SHORT_LOG: [&str; 4] = ["--snapshot-count", "100", "--experimental-snapshot-catchup-entries", "20"];
/// Writes that are more than such a log.
const WRITES_BEHIND: u64 = 250;

/// A cluster behind proxies, with traffic on it.
struct Stage {
    cluster: Cluster,
    net: Net,
    load: Load,
}

impl Stage {
    fn set(members: usize, args: &[&str]) -> anyhow::Result<Self> {
        Self::set_with(&subject(), members, args, Plan::default())
    }

    fn set_with(program: &Program, members: usize, args: &[&str], plan: Plan) -> anyhow::Result<Self> {
        let seed = number("RETCD_FAULT_SEED", 1)?;
        let net = Net::start(seed)?;
        let cluster = Cluster::start_behind(&net, &vec![program; members], args)?;
        let load = Load::start(cluster.members.iter().map(Member::authority).collect(), plan, seed)?;
        load.more(50)?;
        Ok(Self { cluster, net, load })
    }

    fn member(&mut self, number: usize) -> &mut Member {
        &mut self.cluster.members[number]
    }

    fn others(&self, one: usize) -> Vec<usize> {
        (0..self.cluster.members.len()).filter(|number| *number != one).collect()
    }

    fn leader(&self) -> anyhow::Result<usize> {
        self.leader_of(&self.others(usize::MAX))
    }

    /// Waits until one of these leads, all of them follow it, and writes go through it.
    fn leader_of(&self, members: &[usize]) -> anyhow::Result<usize> {
        let mut found = None;
        eventually("they have a leader", || {
            let states: Result<Vec<_>, _> =
                members.iter().map(|number| status(&self.cluster.members[*number])).collect();
            let Ok(states) = states else { return Ok(false) };
            let leader = states[0].leader;
            let same = states.iter().all(|state| state.leader == leader);
            let id = |number: usize| states[number].header.map_or(0, |header| header.member_id);
            found = (0..members.len()).find(|number| id(*number) == leader).filter(|_| same && leader != 0);
            Ok(found.is_some())
        })?;
        let leader = members[found.context("a leader")?];
        self.works(&[leader])?;
        Ok(leader)
    }

    /// Waits until writes are acknowledged by each of these.
    fn works(&self, members: &[usize]) -> anyhow::Result<()> {
        members
            .iter()
            .try_for_each(|number| self.load.more_by(&self.cluster.members[*number].authority(), 20))
    }

    /// Waits until a member has had so many snapshots from a leader.
    fn got_snapshots(&self, number: usize, times: usize) -> anyhow::Result<()> {
        eventually("it got a snapshot", || {
            let log = std::fs::read_to_string(self.cluster.members[number].log_file())?;
            Ok(log.matches("applied snapshot").count() >= times)
        })
    }

    /// [`Stage::leader_of`] from inside a runtime.
    fn leader_of_two(&self, members: &[usize]) -> anyhow::Result<usize> {
        std::thread::scope(|scope| {
            scope.spawn(|| self.leader_of(members)).join().ok().context("the thread panicked")?
        })
    }

    fn mark_from_elsewhere(&self, number: usize, value: &str) -> anyhow::Result<()> {
        let member = &self.cluster.members[number];
        let marked = std::thread::scope(|scope| {
            let put =
                scope.spawn(|| ask::<PutResponse>(member, "/etcdserverpb.KV/Put", &put("marker", value)));
            put.join().ok().context("the thread panicked")
        })?;
        marked.map(drop)
    }

    /// Everything is well again; checks what was recorded.
    fn finish(self, what: &str) -> anyhow::Result<()> {
        self.net.heal();
        let Self { cluster, net, load } = self;
        let authorities: Vec<String> = cluster.members.iter().map(Member::authority).collect();
        for authority in &authorities {
            load.more_by(authority, 20)?;
        }
        let report = load.finish(&authorities)?;
        cluster.settle()?;
        drop(net);
        println!("{what}: {:?}, revision {}, {} leases", report.summary, report.revision, report.leases);
        Ok(())
    }
}

#[test]
fn kills() -> anyhow::Result<()> {
    let mut stage = Stage::set(3, &SHORT_LOG)?;
    let leader = stage.leader()?;
    let follower = (leader + 1) % 3;
    for victim in [leader, follower] {
        stage.member(victim).kill()?;
        stage.leader_of(&stage.others(victim))?;
        stage.load.more(WRITES_BEHIND)?;
        stage.member(victim).run()?;
        stage.works(&[victim])?;
        stage.got_snapshots(victim, 1)?;
    }
    // Two of three: nothing goes until one is back.
    let leader = stage.leader()?;
    for victim in stage.others(leader) {
        stage.member(victim).kill()?;
    }
    for victim in stage.others(leader) {
        stage.member(victim).run()?;
    }
    stage.works(&[0, 1, 2])?;
    // Power goes everywhere at once.
    stage.cluster.members.iter_mut().try_for_each(Member::kill)?;
    stage.cluster.members.iter_mut().try_for_each(Member::spawn)?;
    stage.cluster.members.iter_mut().try_for_each(Member::wait_serving)?;
    stage.finish("kills")
}

#[test]
fn five_lose_two() -> anyhow::Result<()> {
    let mut stage = Stage::set(5, &[])?;
    let leader = stage.leader()?;
    let (other, third) = ((leader + 1) % 5, (leader + 2) % 5);
    stage.member(leader).kill()?;
    stage.member(other).kill()?;
    let rest: Vec<usize> = stage.others(leader).into_iter().filter(|number| *number != other).collect();
    stage.leader_of(&rest)?;
    stage.works(&rest)?;
    stage.member(leader).run()?;
    stage.member(other).run()?;
    stage.works(&[leader, other])?;
    // A leader and another one on the wrong side.
    let leader = stage.leader()?;
    let small = [leader, if leader == third { other } else { third }];
    let large: Vec<usize> = (0..5).filter(|number| !small.contains(number)).collect();
    stage.net.split(&small, &large);
    stage.leader_of(&large)?;
    stage.works(&large)?;
    stage.finish("five lose two")
}

/// Asks on a connection that exists already: what it sends waits in the socket of a process that
/// stands still.
async fn marker_through(channel: &Channel, authority: &str) -> anyhow::Result<RangeResponse> {
    let method = Method::new(authority, "/etcdserverpb.KV/Range")?;
    Ok(channel.call(&method, &get("marker")).await?)
}

#[test]
fn a_leader_that_stood_still_serves_nothing_old() -> anyhow::Result<()> {
    let stage = Stage::set(3, &[])?;
    for round in 0..3 {
        let leader = stage.leader()?;
        let (paused, others) = (&stage.cluster.members[leader], stage.others(leader));
        let authority = paused.authority();
        let mark = |member: &Member, value: &str| -> anyhow::Result<PutResponse> {
            ask(member, "/etcdserverpb.KV/Put", &put("marker", value))
        };
        mark(paused, &format!("old {round}"))?;
        block_on(async {
            let channel = Channel::connect(&authority).await?;
            marker_through(&channel, &authority).await?;
            paused.pause()?;
            // This thread has nothing else to do meanwhile; the traffic has its own.
            stage.leader_of_two(&others)?;
            let new = format!("new {round}");
            stage.mark_from_elsewhere(others[0], &new)?;
            let question = marker_through(&channel, &authority);
            let wake = async {
                // The question is in the socket.
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                }
                paused.resume()
            };
            let (answer, woken) = tokio::join!(tokio::time::timeout(PATIENCE, question), wake);
            woken?;
            // It may also refuse.
            if let Ok(answer) = answer.context("no answer")? {
                let held = answer.kvs.first().map(|kv| kv.value.clone()).unwrap_or_default();
                ensure!(held == new.as_bytes(), "it was read as {held:?} after {new:?} was acknowledged");
            }
            anyhow::Ok(())
        })?;
        stage.works(&[0, 1, 2])?;
    }
    // A follower that stands still holds nobody up, and catches up.
    let follower = (stage.leader()? + 1) % 3;
    stage.cluster.members[follower].pause()?;
    stage.works(&stage.others(follower))?;
    stage.cluster.members[follower].resume()?;
    stage.finish("standstill")
}

#[test]
fn partitions() -> anyhow::Result<()> {
    let stage = Stage::set(3, &SHORT_LOG)?;
    let heal = |stage: &Stage| {
        stage.net.heal();
        stage.works(&[0, 1, 2])
    };
    // The leader alone.
    let leader = stage.leader()?;
    let others = stage.others(leader);
    stage.net.split(&[leader], &others);
    let new = stage.leader_of(&others)?;
    let before = stage.net.carried(leader, new);
    stage.works(&others)?;
    ensure!(stage.net.carried(leader, new) == before, "the partition leaks");
    eventually(
        "the leader of nobody steps down",
        || Ok(status(&stage.cluster.members[leader])?.leader == 0),
    )?;
    heal(&stage)?;
    // A follower alone: nobody else notices, and it does not force an election when it is back.
    let leader = stage.leader()?;
    let term = status(&stage.cluster.members[leader])?.raft_term;
    let follower = (leader + 1) % 3;
    stage.net.split(&[follower], &stage.others(follower));
    stage.works(&stage.others(follower))?;
    eventually("the follower has no leader", || Ok(status(&stage.cluster.members[follower])?.leader == 0))?;
    // What is under way to it gets lost, and the log is cut: it needs a snapshot.
    stage.load.more(WRITES_BEHIND)?;
    stage.others(follower).into_iter().for_each(|other| stage.net.cut(other, follower));
    heal(&stage)?;
    stage.got_snapshots(follower, 1)?;
    ensure!(
        status(&stage.cluster.members[stage.leader()?])?.raft_term == term,
        "a follower that came back forced an election"
    );
    // A follower that cannot talk to the leader, though both talk to the third: nothing changes for the
    // majority.
    stage.net.between(leader, follower, Link::BLOCKED);
    stage.works(&stage.others(follower))?;
    heal(&stage)?;
    stage.finish("partitions")
}

#[test]
fn one_way_partitions() -> anyhow::Result<()> {
    let stage = Stage::set(3, &[])?;
    // A leader that is heard and hears nothing, and one that hears and is not heard.
    for is_heard in [true, false] {
        let leader = stage.leader()?;
        let others = stage.others(leader);
        for other in &others {
            let (from, to) = if is_heard { (*other, leader) } else { (leader, *other) };
            stage.net.set(from, to, Link::BLOCKED);
        }
        stage.leader_of(&others).with_context(|| format!("heard: {is_heard}"))?;
        stage.works(&others)?;
        stage.net.heal();
        stage.works(&[0, 1, 2])?;
    }
    // The same for a follower: the others go on.
    for is_heard in [true, false] {
        let leader = stage.leader()?;
        let follower = (leader + 2) % 3;
        for other in stage.others(follower) {
            let (from, to) = if is_heard { (other, follower) } else { (follower, other) };
            stage.net.set(from, to, Link::BLOCKED);
        }
        stage.works(&stage.others(follower)).with_context(|| format!("follower heard: {is_heard}"))?;
        stage.net.heal();
        stage.works(&[0, 1, 2])?;
    }
    stage.finish("one-way partitions")
}

#[test]
fn slow_and_shaky_links() -> anyhow::Result<()> {
    let stage = Stage::set(3, &[])?;
    let term =
        |stage: &Stage| Ok::<_, anyhow::Error>(status(&stage.cluster.members[stage.leader()?])?.raft_term);
    let before = term(&stage)?;
    let far = Link { delay: Duration::from_millis(40), jitter: Duration::from_millis(40), ..Link::GOOD };
    for (one, other) in [(0, 1), (0, 2), (1, 2)] {
        stage.net.between(one, other, far);
    }
    stage.works(&[0, 1, 2])?;
    ensure!(term(&stage)? == before, "delays far below the election timeout caused an election");
    stage.net.heal();
    // One follower behind a thin line: it falls behind, and holds nobody up.
    let leader = stage.leader()?;
    let follower = (leader + 1) % 3;
    let thin = Link { bytes_per_second: 20_000, ..Link::GOOD };
    stage.net.set(leader, follower, thin);
    stage.load.more(600)?;
    stage.net.heal();
    stage.works(&[0, 1, 2])?;
    stage.finish("slow links")
}

#[test]
fn flapping_links() -> anyhow::Result<()> {
    let stage = Stage::set(3, &SHORT_LOG)?;
    let mut draw = Draw::new(number("RETCD_FAULT_SEED", 1)?);
    for flap in 0..number("RETCD_FLAPS", 30)? {
        let from = draw.below(3) as usize;
        let to = (from + 1 + draw.below(2) as usize) % 3;
        match draw.below(4) {
            0 => stage.net.between(from, to, Link::BLOCKED),
            1 => stage.net.set(from, to, Link::BLOCKED),
            2 => stage.net.cut(from, to),
            _ => stage.net.split(&[from], &stage.others(from)),
        }
        // How long a fault lasts, not a wait for something. Some outlast an election timeout.
        let longest = if draw.below(6) == 0 { 2500 } else { 300 };
        std::thread::sleep(Duration::from_millis(20 + draw.below(longest)));
        if draw.below(3) > 0 {
            stage.net.heal();
        }
        if flap % 10 == 9 {
            stage.net.heal();
            stage.load.more(50).with_context(|| format!("after flap {flap}"))?;
        }
    }
    stage.finish("flapping links")
}

/// A program that survives a write behind the limit of file sizes, which then fails with EFBIG: the
/// nearest to a full disk that needs no privileges.
fn deaf_to_limits(program: &Program, dir: &std::path::Path) -> anyhow::Result<Program> {
    let path = dir.join("deaf");
    let target = program.path.display();
    std::fs::write(&path, format!("#!/bin/sh\ntrap '' XFSZ\nexec {target} \"$@\"\n"))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    Ok(Program { path, args: program.args.clone() })
}

#[test]
fn full_disks() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let program = deaf_to_limits(&subject(), dir.path())?;
    let mut stage = Stage::set_with(&program, 3, &[], Plan::default())?;
    for leads in [false, true] {
        let leader = stage.leader()?;
        let victim = if leads { leader } else { (leader + 1) % 3 };
        stage.member(victim).limit_files(Some(1 << 20))?;
        let others = stage.others(victim);
        // The log grows beyond the limit.
        let filler = "x".repeat(64 << 10);
        for _ in 0..20 {
            let member = &stage.cluster.members[others[0]];
            // The leader may be gone in the middle of it.
            let _ = ask::<PutResponse>(member, "/etcdserverpb.KV/Put", &put("filler", &filler));
        }
        let ended = stage.member(victim).wait_end(PATIENCE)?;
        ensure!(!ended.success(), "a member whose log could not be written ended with {ended}");
        let log = stage.cluster.members[victim].log_tail();
        ensure!(log.contains("File too large"), "the log does not say why the member ended:\n{log}");
        stage.leader_of(&others)?;
        stage.works(&others)?;
        // There is room again.
        stage.member(victim).run()?;
        stage.works(&[victim])?;
    }
    stage.finish("full disks")
}

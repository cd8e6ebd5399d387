//! A running cluster moves from etcd to retcd and back, one member at a time, and through releases,
//! while clients put, read and watch.
//!
//! At every stop all members hold the same, agree on the members, know the leases and have no alarm.
//! At the end no acknowledged write is lost, no watcher missed anything, and one order explains
//! what clients saw. Each hop's longest time without an acknowledged write is at most an election.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bench::wire::{Channel, Method, Status};
use interop::block_on;
use interop::cluster::{Cluster, PATIENCE, ctl, entry, eventually, status};
use interop::http;
use interop::member::Member;
use interop::programs::{Program, real, subject_as};
use interop::traffic::{Rates, Seen, Traffic};
use proto::etcdserverpb as pb;

const RATES: Rates = Rates { puts_per_second: 500, watchers: 50 };
/// Followers wait for one to two election timeouts, of a second each.
const ELECTION: Duration = Duration::from_millis(2500);
/// Ours serves soon after its start. (Whose first proposal is lost waits for seven seconds, as etcd may.)
const START: Duration = Duration::from_secs(6);
/// Puts between two hops.
const PUTS_PER_STOP: usize = 500;
/// Puts after which a member that missed them needs a snapshot.
const PUTS_WITHOUT_IT: usize = 2200;
/// Seconds of the lease that nobody renews while the cluster moves.
const IDLE_TTL: i64 = 600;
/// Seconds of the lease that is renewed each second.
const RENEWED_TTL: i64 = 12;

/// Snapshots are taken and sent while members are away for a second.
fn with_snapshots(mut program: Program, catch_up_flag: &str) -> Program {
    let args = ["--snapshot-count", "1000", catch_up_flag, "100"];
    program.args.extend(args.map(str::to_owned));
    program
}

fn theirs(version: &str) -> Program {
    let flag = if version == "3.7" {
        "--snapshot-catchup-entries"
    } else {
        "--experimental-snapshot-catchup-entries"
    };
    with_snapshots(Program::plain(real(version, "etcd")), flag)
}

fn ours(version: &str) -> Program {
    with_snapshots(subject_as(version), "--snapshot-catchup-entries")
}

/// The time without an answer is measured: clusters of other tests would be in it.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A cluster that moves under traffic.
struct Move {
    _turn: MutexGuard<'static, ()>,
    cluster: Cluster,
    traffic: Traffic,
    idle_lease: i64,
    granted: Instant,
    hops: Vec<(String, Duration)>,
}

fn grant(member: &Member, ttl: i64) -> anyhow::Result<i64> {
    let text = ctl(member).run(&["lease", "grant", &ttl.to_string()])?.success()?;
    let id = text.split(' ').nth(1).context("a grant names its lease")?;
    Ok(i64::from_str_radix(id, 16)?)
}

fn member_id(member: &Member) -> anyhow::Result<String> {
    Ok(format!("{:x}", status(member)?.header.context("a header")?.member_id))
}

impl Move {
    fn start(program: &Program) -> anyhow::Result<Self> {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let cluster = Cluster::start(&[program, program, program], &[])?;
        let first = &cluster.members[0];
        let granted = Instant::now();
        let (idle_lease, renewed) = (grant(first, IDLE_TTL)?, grant(first, RENEWED_TTL)?);
        for (key, lease) in [("leased/idle", idle_lease), ("leased/renewed", renewed)] {
            ctl(first).run(&["put", key, "x", "--lease", &format!("{lease:x}")])?.success()?;
        }
        let members = cluster.members.iter().map(Member::authority).collect();
        let traffic = Traffic::start(members, RATES, Some(renewed))?;
        traffic.wait_for_acknowledged(PUTS_PER_STOP)?;
        Ok(Self { _turn: turn, cluster, traffic, idle_lease, granted, hops: Vec::new() })
    }

    fn running(&self) -> impl Iterator<Item = &Member> {
        self.cluster.members.iter().filter(|member| member.pid().is_some())
    }

    /// In place: stops a member and starts another program on its directory.
    fn hop(&mut self, number: usize, to: &Program, what: &str) -> anyhow::Result<()> {
        self.replace(number, to, what, |member| member.stop().map(drop))
    }

    fn replace(
        &mut self,
        number: usize,
        to: &Program,
        what: &str,
        end: impl FnOnce(&mut Member) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let led = self.cluster.leader()? == number;
        let begin = Instant::now();
        let member = &mut self.cluster.members[number];
        end(member)?;
        member.use_program(to);
        let started = Instant::now();
        member.run().with_context(|| format!("{what}: n{number} starts"))?;
        let took = started.elapsed();
        ensure!(took < START || to.path != ours("3.5").path, "{what}: n{number} served after {took:?}");
        self.arrive(format!("{what}, n{number}{}", if led { " (leader)" } else { "" }), begin)
    }

    /// By membership: a learner joins on a new directory, is promoted, and an old member leaves.
    fn exchange(&mut self, old: usize, to: &Program, what: &str) -> anyhow::Result<()> {
        let led = self.cluster.leader()? == old;
        let begin = Instant::now();
        let new = self.cluster.members.len();
        let mut member = Member::prepare(to, &[], &self.cluster.place(new))?;
        let (name, peer_url) = (format!("n{new}"), format!("--peer-urls=http://{}", member.peer_authority()));
        // Those that stay do all the asking, whatever they are: leader or follower, ours or theirs.
        let helper = (0..new).rfind(|number| *number != old && self.cluster.members[*number].pid().is_some());
        let helper = helper.context("another member")?;
        let add = ["member", "add", &name, &peer_url, "--learner"];
        // A change is refused until the members have been connected for five seconds.
        self.ask(helper, "the learner is added", &add)?;
        // Whoever is asked by the newcomer must have heard of it: a linearizable list makes sure.
        for member in self.running() {
            members_without_alarm(&member.authority())?;
        }
        let numbers = (0..new).filter(|number| self.cluster.members[*number].pid().is_some());
        let mut initial: Vec<_> =
            numbers.map(|number| entry(number, &self.cluster.members[number])).collect();
        initial.push(entry(new, &member));
        member.add_args(&["--name", &name, "--initial-cluster", &initial.join(",")]);
        member.add_args(&["--initial-cluster-state", "existing"]);
        member.spawn()?;
        eventually("the learner tells its id", || {
            member.check_alive()?;
            Ok(member_id(&member).is_ok())
        })?;
        let id = member_id(&member)?;
        self.cluster.members.push(member);
        self.ask(helper, "the learner is promoted", &["member", "promote", &id])?;
        self.cluster.members[new].wait_serving()?;
        let old_id = member_id(&self.cluster.members[old])?;
        let stay = |number: &usize| *number != old && self.cluster.members[*number].pid().is_some();
        let authority = |number: usize| self.cluster.members[number].authority();
        self.traffic.set_members((0..=new).filter(stay).map(authority).collect());
        self.ask(helper, "the old member is removed", &["member", "remove", &old_id])?;
        self.cluster.members[old].wait_end(PATIENCE)?;
        self.arrive(format!("{what}, n{old}{} for n{new}", if led { " (leader)" } else { "" }), begin)
    }

    /// Kills a member that does not lead, and lets it come back when the log is not enough any more.
    fn away_and_back(&mut self, number: usize, what: &str) -> anyhow::Result<()> {
        let begin = Instant::now();
        self.cluster.members[number].kill()?;
        self.traffic.wait_for_acknowledged(PUTS_WITHOUT_IT)?;
        self.cluster.members[number].run()?;
        self.arrive(format!("{what}, n{number}"), begin)
    }

    /// How many snapshots of the leader some members took over.
    fn snapshots_applied(&self, numbers: &[usize]) -> anyhow::Result<usize> {
        let count = |number: &usize| {
            let log = std::fs::read_to_string(self.cluster.members[*number].log_file())?;
            Ok(log.matches("applied snapshot").count())
        };
        numbers.iter().map(count).sum()
    }

    fn ask(&self, helper: usize, what: &str, command: &[&str]) -> anyhow::Result<()> {
        let mut last = String::new();
        let asked = eventually(what, || {
            let ran = ctl(&self.cluster.members[helper]).run(command)?;
            last = ran.messages();
            // The answer to an earlier try may have been lost, not its effect.
            Ok(ran.code == 0 || last.contains("can only promote a learner member"))
        });
        asked.with_context(|| format!("n{helper}: {last}"))
    }

    /// Everything that must hold when a member has been moved.
    fn arrive(&mut self, what: String, begin: Instant) -> anyhow::Result<()> {
        self.traffic.wait_for_acknowledged(PUTS_PER_STOP).with_context(|| what.clone())?;
        let gap = self.traffic.longest_gap(begin);
        println!("{what}: {} ms without a put, {} ms in all", gap.as_millis(), begin.elapsed().as_millis());
        self.check().with_context(|| what.clone())?;
        self.hops.push((what, gap));
        Ok(())
    }

    fn check(&self) -> anyhow::Result<()> {
        let revision =
            status(self.running().next().context("a member")?)?.header.context("a header")?.revision;
        let mut seen: Vec<(String, (u32, i64))> = Vec::new();
        for member in self.running() {
            let mut hash = None;
            eventually("the member is there and hashes", || {
                hash = hash_at(&member.authority(), revision)?;
                Ok(hash.is_some())
            })?;
            seen.push((member.authority(), hash.context("a hash")?));
        }
        ensure!(seen.windows(2).all(|pair| pair[0].1 == pair[1].1), "HashKV at {revision}: {seen:?}");
        let mut lists: Vec<_> = Vec::new();
        for member in self.running() {
            let list = members_without_alarm(&member.authority());
            lists.push(list.with_context(|| format!("members by {}", member.authority()))?);
            self.check_idle_lease(member).with_context(|| format!("lease by {}", member.authority()))?;
        }
        ensure!(lists.windows(2).all(|pair| pair[0] == pair[1]), "members differ: {lists:?}");
        Ok(())
    }

    /// A change of the leader may give a lease time, nothing takes it away.
    fn check_idle_lease(&self, member: &Member) -> anyhow::Result<()> {
        let (authority, id) = (member.authority(), self.idle_lease);
        let answer: pb::LeaseTimeToLiveResponse = block_on(async {
            let channel = Channel::connect(&authority).await?;
            let method = Method::new(&authority, "/etcdserverpb.Lease/LeaseTimeToLive")?;
            anyhow::Ok(channel.call(&method, &pb::LeaseTimeToLiveRequest { id, keys: true }).await?)
        })?;
        let elapsed = i64::try_from(self.granted.elapsed().as_secs())?;
        let least = IDLE_TTL - elapsed - 2;
        ensure!(
            answer.granted_ttl == IDLE_TTL && (least..=IDLE_TTL + 3).contains(&answer.ttl),
            "the lease of {IDLE_TTL} s has {} s after {elapsed} s",
            answer.ttl
        );
        ensure!(answer.keys == vec!["leased/idle"], "the lease has the keys {:?}", answer.keys);
        Ok(())
    }

    /// Waits until every member names a cluster version.
    fn wait_for_cluster_version(&self, version: &str) -> anyhow::Result<()> {
        for member in self.running() {
            let mut last = String::new();
            let waited = eventually("the cluster version is there", || {
                let answer = http::request(&member.authority(), "GET", "/version", &[], "")?;
                last = String::from_utf8_lossy(&answer.body).into_owned();
                Ok(last.contains(&format!("\"etcdcluster\":\"{version}\"")))
            });
            waited.with_context(|| format!("{version}: {last}"))?;
        }
        Ok(())
    }

    /// Ends the traffic and checks what it saw.
    fn finish(self) -> anyhow::Result<Seen> {
        self.check()?;
        let renewed = ctl(&self.cluster.members[self.cluster.leader()?]).run(&["get", "leased/renewed"])?;
        ensure!(renewed.success()?.contains("leased/renewed"), "the lease that was renewed is gone");
        let acknowledged = self.traffic.acknowledged();
        let seen = self.traffic.finish()?;
        println!("{acknowledged} puts acknowledged, each watcher saw {} revisions", seen.story.revision());
        for (what, gap) in &self.hops {
            ensure!(*gap <= ELECTION, "{what}: no put was acknowledged for {gap:?}");
        }
        Ok(seen)
    }
}

/// The members as one of them sees them.
fn members_without_alarm(authority: &str) -> anyhow::Result<Vec<pb::Member>> {
    block_on(async {
        let channel = Channel::connect(authority).await?;
        let method = Method::new(authority, "/etcdserverpb.Maintenance/Alarm")?;
        let alarms: pb::AlarmResponse = channel.call(&method, &pb::AlarmRequest::default()).await?;
        ensure!(alarms.alarms.is_empty(), "alarms: {:?}", alarms.alarms);
        let method = Method::new(authority, "/etcdserverpb.Cluster/MemberList")?;
        let request = pb::MemberListRequest { linearizable: true };
        let list: pb::MemberListResponse = channel.call(&method, &request).await?;
        Ok(list.members)
    })
}

/// HashKV of a revision; nothing if the member is not there yet.
fn hash_at(authority: &str, revision: i64) -> anyhow::Result<Option<(u32, i64)>> {
    let answer: Result<pb::HashKvResponse, Status> = block_on(async {
        let channel = Channel::connect(authority).await?;
        let method = Method::new(authority, "/etcdserverpb.Maintenance/HashKV");
        let method = method.map_err(|error| Status { code: 3, message: error.to_string() })?;
        channel.call(&method, &pb::HashKvRequest { revision }).await
    });
    match answer {
        Ok(answer) => Ok(Some((answer.hash, answer.compact_revision))),
        Err(status) if status.message.contains("future revision") => Ok(None),
        Err(status) => Err(status.into()),
    }
}

/// In place: stop, start the other program on the same directory. There and back.
fn in_place(theirs: &Program, ours: &Program) -> anyhow::Result<()> {
    let mut moving = Move::start(theirs)?;
    for (program, what) in [(ours, "to ours"), (theirs, "back to theirs")] {
        for number in 0..3 {
            moving.hop(number, program, what)?;
        }
    }
    moving.finish().map(drop)
}

/// By membership: learners on new directories. There, as the guide says, and back, without moving
/// the leader away first.
fn by_membership(theirs: &Program, ours: &Program) -> anyhow::Result<()> {
    let mut moving = Move::start(theirs)?;
    for number in 0..3 {
        if moving.cluster.leader()? == number {
            moving.cluster.move_leader(if number == 0 { 2 } else { number + 2 })?;
        }
        moving.exchange(number, ours, "to ours")?;
    }
    for number in 3..6 {
        moving.exchange(number, theirs, "back to theirs")?;
    }
    moving.finish().map(drop)
}

/// Members of both kinds are killed, leaders and followers of both kinds, for a moment and for so
/// long that only a snapshot of the other kind helps.
fn killed(theirs: &Program, ours: &Program) -> anyhow::Result<()> {
    let mut moving = Move::start(theirs)?;
    moving.hop(2, ours, "to ours")?;
    for (leader, program) in [(0, theirs), (2, ours)] {
        moving.cluster.move_leader(leader)?;
        moving.away_and_back(2 - leader, "follower of the other kind, away for long")?;
        moving.cluster.move_leader(leader)?;
        moving.replace(leader, program, "leader killed", Member::kill)?;
        moving.replace(1, theirs, "killed", Member::kill)?;
    }
    // At the end: a real leader that has just sent one keeps its log for half a minute.
    for (kind, numbers) in [("theirs", &[0, 1][..]), ("ours", &[2])] {
        ensure!(moving.snapshots_applied(numbers)? > 0, "the log was always enough for {kind}");
    }
    moving.finish().map(drop)
}

#[test]
fn in_place_there_and_back() -> anyhow::Result<()> {
    in_place(&theirs("3.5"), &ours("3.5"))
}

#[test]
fn by_membership_there_and_back() -> anyhow::Result<()> {
    by_membership(&theirs("3.5"), &ours("3.5"))
}

#[test]
fn members_of_both_kinds_are_killed() -> anyhow::Result<()> {
    killed(&theirs("3.5"), &ours("3.5"))
}

/// Takes all members to one program after the other, each with the cluster version that must come.
fn through(stages: &[(Program, &str)]) -> anyhow::Result<()> {
    let mut moving = Move::start(&stages[0].0)?;
    moving.wait_for_cluster_version(stages[0].1)?;
    for (stage, (program, cluster_version)) in stages.iter().enumerate().skip(1) {
        for number in 0..3 {
            moving.hop(number, program, &format!("stage {stage}, to {cluster_version}"))?;
        }
        moving.wait_for_cluster_version(cluster_version)?;
    }
    moving.finish().map(drop)
}

/// The normal upgrade: from etcd 3.5 to ours in its place, then raised release by release.
#[test]
fn raised_from_release_to_release() -> anyhow::Result<()> {
    through(&[
        (theirs("3.5"), "3.5.0"),
        (ours("3.5"), "3.5.0"),
        (ours("3.6"), "3.6.0"),
        (ours("3.7"), "3.7.0"),
    ])
}

/// With the releases that no package has.
#[cfg(feature = "newest")]
mod newest {
    use super::*;

    #[test]
    fn in_place_3_6() -> anyhow::Result<()> {
        in_place(&theirs("3.6"), &ours("3.6"))
    }

    #[test]
    fn in_place_3_7() -> anyhow::Result<()> {
        in_place(&theirs("3.7"), &ours("3.7"))
    }

    #[test]
    fn by_membership_3_6() -> anyhow::Result<()> {
        by_membership(&theirs("3.6"), &ours("3.6"))
    }

    #[test]
    fn by_membership_3_7() -> anyhow::Result<()> {
        by_membership(&theirs("3.7"), &ours("3.7"))
    }

    #[test]
    fn killed_3_6() -> anyhow::Result<()> {
        killed(&theirs("3.6"), &ours("3.6"))
    }

    #[test]
    fn killed_3_7() -> anyhow::Result<()> {
        killed(&theirs("3.7"), &ours("3.7"))
    }

    /// Ours stands in for each release once, in the middle of an upgrade of the real one.
    #[test]
    fn upgraded_with_ours_between() -> anyhow::Result<()> {
        through(&[
            (theirs("3.5"), "3.5.0"),
            (ours("3.5"), "3.5.0"),
            (theirs("3.6"), "3.6.0"),
            (ours("3.6"), "3.6.0"),
            (theirs("3.7"), "3.7.0"),
            (ours("3.7"), "3.7.0"),
            (theirs("3.7"), "3.7.0"),
        ])
    }
}

//! Clusters of several processes: ours alone, and ours together with the real etcd 3.5.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bench::wire::{Channel, Method};
use interop::block_on;
use interop::ctl::Ctl;
use interop::member::Member;
use interop::programs::{Program, real, subject, yardstick};
use interop::writers::{Ledger, read_all};
use proto::etcdserverpb::{HashKvRequest, HashKvResponse, StatusRequest, StatusResponse};
use tempfile::TempDir;

/// How long a state may take to come.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

struct Cluster {
    members: Vec<Member>,
    dir: TempDir,
    initial: String,
}

impl Cluster {
    fn start(programs: &[&Program], args: &[&str]) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("retcd-cluster-").tempdir()?;
        let place = |number: usize| dir.path().join(format!("n{number}"));
        let prepared = programs.iter().enumerate();
        let mut members = prepared
            .map(|(number, program)| Member::prepare(program, args, &place(number)))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let entries: Vec<String> =
            members.iter().enumerate().map(|(number, member)| entry(number, member)).collect();
        let initial = entries.join(",");
        for (number, member) in members.iter_mut().enumerate() {
            member.add_args(&["--name", &format!("n{number}"), "--initial-cluster", &initial]);
            member.spawn()?;
        }
        for member in &mut members {
            member.wait_serving()?;
        }
        Ok(Self { members, dir, initial })
    }

    /// Adds a member with etcdctl and starts it; `kind` is nothing or `--learner`.
    fn join(&mut self, program: &Program, kind: &[&str], args: &[&str]) -> anyhow::Result<usize> {
        let number = self.members.len();
        let mut member = Member::prepare(program, args, &self.dir.path().join(format!("n{number}")))?;
        let peer_url = format!("--peer-urls=http://{}", member.peer_authority());
        let name = format!("n{number}");
        let command = [&["member", "add", &name, &peer_url], kind].concat();
        // A change is refused until the members have been connected for five seconds.
        eventually("the member is added", || Ok(ctl(&self.members[0]).run(&command)?.code == 0))?;
        self.initial = format!("{},{}", self.initial, entry(number, &member));
        member.add_args(&["--name", &name, "--initial-cluster", &self.initial]);
        member.add_args(&["--initial-cluster-state", "existing"]);
        member.spawn()?;
        self.members.push(member);
        Ok(number)
    }

    fn leader(&self) -> anyhow::Result<usize> {
        let mut found = None;
        eventually("a leader is known", || {
            for (number, member) in
                self.members.iter().enumerate().filter(|(_, member)| member.pid().is_some())
            {
                let Ok(status) = status(member) else { continue };
                if status.leader != 0 && status.header.is_some_and(|header| header.member_id == status.leader)
                {
                    found = Some(number);
                }
            }
            Ok(found.is_some())
        })?;
        found.context("a leader")
    }

    /// Waits until every running member has applied the same and holds the same.
    fn settle(&self) -> anyhow::Result<()> {
        eventually("all members hold the same", || {
            let running = self.members.iter().filter(|member| member.pid().is_some());
            let hashes: Result<Vec<_>, _> = running.map(hash).collect();
            Ok(hashes.is_ok_and(|hashes| hashes.windows(2).all(|pair| pair[0] == pair[1])))
        })
    }

    fn move_leader(&self, to: usize) -> anyhow::Result<()> {
        let id = status(&self.members[to])?.header.context("a header")?.member_id;
        let from = self.leader()?;
        if from != to {
            ctl(&self.members[from]).run(&["move-leader", &format!("{id:x}")])?.success()?;
        }
        eventually("the leader moved", || Ok(self.leader()? == to))
    }
}

fn entry(number: usize, member: &Member) -> String {
    format!("n{number}=http://{}", member.peer_authority())
}

fn ctl(member: &Member) -> Ctl {
    Ctl { program: real("3.5", "etcdctl"), endpoint: member.client_url() }
}

fn eventually(what: &str, mut done: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !done()? {
        if Instant::now() > deadline {
            bail!("it did not happen in {PATIENCE:?}: {what}");
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
    Ok(())
}

fn status(member: &Member) -> anyhow::Result<StatusResponse> {
    let authority = member.authority();
    block_on(async {
        let channel = Channel::connect(&authority).await?;
        let method = Method::new(&authority, "/etcdserverpb.Maintenance/Status")?;
        Ok(channel.call(&method, &StatusRequest::default()).await?)
    })
}

/// Revision and hash of the whole history.
fn hash(member: &Member) -> anyhow::Result<(i64, u32, i64)> {
    let authority = member.authority();
    block_on(async {
        let channel = Channel::connect(&authority).await?;
        let method = Method::new(&authority, "/etcdserverpb.Maintenance/HashKV")?;
        let answer: HashKvResponse = channel.call(&method, &HashKvRequest::default()).await?;
        Ok((answer.header.map_or(0, |header| header.revision), answer.hash, answer.compact_revision))
    })
}

fn put_and_get_anywhere(cluster: &Cluster, round: &str) -> anyhow::Result<()> {
    for (number, member) in cluster.members.iter().enumerate() {
        let (key, value) = (format!("{round}/{number}"), format!("through {number}"));
        ctl(member).run(&["put", &key, &value])?.success()?;
        for reader in &cluster.members {
            let read = ctl(reader).run(&["get", "--print-value-only", &key])?.success()?;
            ensure!(read.trim_end() == value, "{round}: {read:?} instead of {value:?}");
        }
    }
    Ok(())
}

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
    put_and_get_anywhere(&cluster, "first")?;
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
    put_and_get_anywhere(&cluster, "second")?;
    cluster.settle()?;
    // Power goes everywhere at once.
    cluster.members.iter_mut().try_for_each(Member::kill)?;
    cluster.members.iter_mut().try_for_each(Member::spawn)?;
    cluster.members.iter_mut().try_for_each(Member::wait_serving)?;
    let (kvs, _) = block_on(read_all(&cluster.members[survivor].authority()))?;
    ledgers.iter().try_for_each(|ledger| ledger.check(&kvs))?;
    put_and_get_anywhere(&cluster, "third")
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
    put_and_get_anywhere(&cluster, "two")?;
    cluster.move_leader(learner)?;
    put_and_get_anywhere(&cluster, "led by the newcomer")?;
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
    put_and_get_anywhere(&cluster, "mixed")?;
    cluster.settle()?;
    // Their leader sends us a snapshot, then ours sends one to them.
    cluster.move_leader(0)?;
    away_and_back(&mut cluster, 2)?;
    cluster.move_leader(2)?;
    put_and_get_anywhere(&cluster, "led by ours")?;
    away_and_back(&mut cluster, 1)?;
    put_and_get_anywhere(&cluster, "after the snapshots")?;
    cluster.settle()
}

//! A cluster of several processes, of our programs and the real ones in any mixture.
//!
//! Every wait is for a state, with [`PATIENCE`] as its bound. `RETCD_KEEP` set to anything keeps
//! directories and logs.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bench::wire::{Channel, Method};
use prost::Message;
use proto::etcdserverpb::{HashKvRequest, HashKvResponse, StatusRequest, StatusResponse};
use tempfile::TempDir;

use crate::block_on;
use crate::ctl::Ctl;
use crate::member::Member;
use crate::programs::{Program, real};
use crate::proxy::Net;

/// How long a state may take to come.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// How often is looked whether it has come.
pub const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Members named `n0`, `n1`, ... Killed on drop.
pub struct Cluster {
    /// The members, in the order of their names, whether they run or not.
    pub members: Vec<Member>,
    dir: TempDir,
    initial: String,
}

impl Cluster {
    /// Starts one member per program, each with `args`, and waits until all serve.
    pub fn start(programs: &[&Program], args: &[&str]) -> anyhow::Result<Self> {
        Self::start_with(programs, args, |_, _| Ok(()))
    }

    /// The same with the members behind proxies.
    pub fn start_behind(net: &Net, programs: &[&Program], args: &[&str]) -> anyhow::Result<Self> {
        Self::start_with(programs, args, |number, member| member.go_behind(net, number))
    }

    /// The same, with `prepare` called on each member before its first start.
    pub fn start_with(
        programs: &[&Program],
        args: &[&str],
        prepare: impl Fn(usize, &mut Member) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        Self::start_from(programs, args, prepare, |_, _, _| Ok(()))
    }

    /// The same, with `fill` called on each member when all are prepared and `--initial-cluster` is
    /// known: for data directories that exist before the first start.
    pub fn start_from(
        programs: &[&Program],
        args: &[&str],
        prepare: impl Fn(usize, &mut Member) -> anyhow::Result<()>,
        fill: impl Fn(usize, &Member, &str) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        let mut dir = tempfile::Builder::new().prefix("retcd-cluster-").tempdir()?;
        dir.disable_cleanup(std::env::var_os("RETCD_KEEP").is_some());
        let place = |number: usize| dir.path().join(format!("n{number}"));
        let prepared = programs.iter().enumerate();
        let mut members = prepared
            .map(|(number, program)| Member::prepare(program, args, &place(number)))
            .collect::<anyhow::Result<Vec<_>>>()?;
        for (number, member) in members.iter_mut().enumerate() {
            prepare(number, member)?;
        }
        let entries: Vec<String> =
            members.iter().enumerate().map(|(number, member)| entry(number, member)).collect();
        let initial = entries.join(",");
        for (number, member) in members.iter_mut().enumerate() {
            fill(number, member, &initial)?;
            member.add_args(&["--name", &format!("n{number}"), "--initial-cluster", &initial]);
            member.spawn()?;
        }
        for member in &mut members {
            member.wait_serving()?;
        }
        Ok(Self { members, dir, initial })
    }

    /// Adds a member with etcdctl and starts it; `kind` is nothing or `--learner`.
    pub fn join(&mut self, program: &Program, kind: &[&str], args: &[&str]) -> anyhow::Result<usize> {
        let number = self.members.len();
        let mut member = Member::prepare(program, args, &self.place(number))?;
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

    /// The number of the running member that leads.
    pub fn leader(&self) -> anyhow::Result<usize> {
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
    pub fn settle(&self) -> anyhow::Result<()> {
        eventually("all members hold the same", || {
            let running = self.members.iter().filter(|member| member.pid().is_some());
            let hashes: Result<Vec<_>, _> = running.map(hash).collect();
            Ok(hashes.is_ok_and(|hashes| hashes.windows(2).all(|pair| pair[0] == pair[1])))
        })
    }

    /// Has the leader hand over to member `to`.
    pub fn move_leader(&self, to: usize) -> anyhow::Result<()> {
        let id = status(&self.members[to])?.header.context("a header")?.member_id;
        let from = self.leader()?;
        if from != to {
            ctl(&self.members[from]).run(&["move-leader", &format!("{id:x}")])?.success()?;
        }
        eventually("the leader moved", || Ok(self.leader()? == to))
    }

    /// The `--initial-cluster` of all members so far.
    pub fn initial(&self) -> &str {
        &self.initial
    }

    /// The place for a member `number` that is made by hand.
    pub fn place(&self, number: usize) -> PathBuf {
        self.dir.path().join(format!("n{number}"))
    }

    /// Puts through each member and reads each put through every member; `round` keeps the keys apart.
    pub fn put_and_get_anywhere(&self, round: &str) -> anyhow::Result<()> {
        for (number, member) in self.members.iter().enumerate() {
            let (key, value) = (format!("{round}/{number}"), format!("through {number}"));
            ctl(member).run(&["put", &key, &value])?.success()?;
            for reader in &self.members {
                let read = ctl(reader).run(&["get", "--print-value-only", &key])?.success()?;
                ensure!(read.trim_end() == value, "{round}: {read:?} instead of {value:?}");
            }
        }
        Ok(())
    }
}

/// What `--initial-cluster` says of a member.
pub fn entry(number: usize, member: &Member) -> String {
    format!("n{number}=http://{}", member.peer_authority())
}

/// The real etcdctl 3.5, at work on one member.
pub fn ctl(member: &Member) -> Ctl {
    Ctl { program: real("3.5", "etcdctl"), endpoint: member.client_url() }
}

/// Asks again and again until something is so.
pub fn eventually(what: &str, mut done: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !done()? {
        if Instant::now() > deadline {
            bail!("it did not happen in {PATIENCE:?}: {what}");
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
    Ok(())
}

/// What a member says of itself.
pub fn status(member: &Member) -> anyhow::Result<StatusResponse> {
    ask(member, "/etcdserverpb.Maintenance/Status", &StatusRequest::default())
}

/// Revision and hash of the whole history.
pub fn hash(member: &Member) -> anyhow::Result<(i64, u32, i64)> {
    let answer: HashKvResponse = ask(member, "/etcdserverpb.Maintenance/HashKV", &HashKvRequest::default())?;
    Ok((answer.header.map_or(0, |header| header.revision), answer.hash, answer.compact_revision))
}

/// One call to a member, which has [`PATIENCE`] to answer: it may be stopped.
pub fn ask<R: Message + Default>(member: &Member, path: &str, request: &impl Message) -> anyhow::Result<R> {
    let authority = member.authority();
    block_on(async {
        let call = async {
            let channel = Channel::connect(&authority).await?;
            Ok(channel.call(&Method::new(&authority, path)?, request).await?)
        };
        tokio::time::timeout(PATIENCE, call).await.context("no answer")?
    })
}

//! Random changes of the membership under load, faults of members among them: there is always a
//! quorum that works, or a refusal that says why.
//!
//! `RETCD_CHANGES` is the number of changes (default 8), `RETCD_CHANGES_SEED` decides which.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bench::load::ops::Draw;
use bench::wire::Status;
use interop::cluster::{Cluster, PATIENCE, ask, entry, eventually, status};
use interop::http;
use interop::load::{Load, Plan};
use interop::member::Member;
use interop::number;
use interop::programs::{Program, subject};
use interop::proxy::Net;
use proto::etcdserverpb::{
    MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse, MemberPromoteRequest,
    MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse, MemberUpdateRequest,
    MemberUpdateResponse,
};

/// Most members, learners included.
const MOST: usize = 5;
/// Refusals that mean "not now".
const NOT_NOW: [&str; 3] = [
    "etcdserver: unhealthy cluster",
    "etcdserver: re-configuration failed due to not enough started members",
    "etcdserver: can only promote a learner member which is in sync with leader",
];

const MEMBER_LIST: &str = "/etcdserverpb.Cluster/MemberList";
const AS_KNOWN_THERE: MemberListRequest = MemberListRequest { linearizable: false };
const LINEARIZABLE: MemberListRequest = MemberListRequest { linearizable: true };

/// A cluster that changes.
struct Scene {
    program: Program,
    cluster: Cluster,
    net: Net,
    load: Load,
    /// Numbers of the members that belong to the cluster, and whether they vote.
    present: Vec<(usize, bool)>,
    draw: Draw,
    log: Vec<String>,
}

impl Scene {
    fn pick(&mut self, from: &[usize]) -> usize {
        from[self.draw.below(from.len() as u64) as usize]
    }

    fn voters(&self) -> Vec<usize> {
        self.present.iter().filter(|(_, votes)| *votes).map(|(number, _)| *number).collect()
    }

    fn learner(&self) -> Option<usize> {
        self.present.iter().find(|(_, votes)| !*votes).map(|(number, _)| *number)
    }

    fn member(&self, number: usize) -> &Member {
        &self.cluster.members[number]
    }

    fn id(&self, number: usize) -> anyhow::Result<u64> {
        Ok(status(self.member(number))?.header.context("a header")?.member_id)
    }

    /// Asks for a change, through any voter, until it is not refused for now.
    fn change<R: prost::Message + Default>(
        &mut self,
        method: &str,
        request: &impl prost::Message,
    ) -> anyhow::Result<R> {
        let deadline = Instant::now() + PATIENCE;
        let voters = self.voters();
        loop {
            let through = self.pick(&voters);
            let path = format!("/etcdserverpb.Cluster/{method}");
            let error = match ask(self.member(through), &path, request) {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let refused = error
                .downcast_ref::<Status>()
                .is_some_and(|status| NOT_NOW.iter().any(|reason| status.message == *reason));
            ensure!(refused, "{method} through n{through}: {error:#}");
            ensure!(Instant::now() < deadline, "{method} is refused for too long: {error:#}");
            // Refused changes are cheap, but each is a line in the log.
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn add(&mut self, is_learner: bool) -> anyhow::Result<()> {
        let number = self.cluster.members.len();
        let mut member = Member::prepare(&self.program, &[], &self.cluster.place(number))?;
        member.go_behind(&self.net, number)?;
        let peer_urls = vec![format!("http://{}", member.peer_authority())];
        let answer: MemberAddResponse =
            self.change("MemberAdd", &MemberAddRequest { peer_ur_ls: peer_urls, is_learner })?;
        // A newcomer may ask any of them for the list, and ends if it is not on it.
        let id = answer.member.as_ref().context("the new member")?.id;
        for (other, _) in &self.present {
            eventually("the newcomer is known to everybody", || {
                let list: MemberListResponse = ask(self.member(*other), MEMBER_LIST, &AS_KNOWN_THERE)?;
                Ok(list.members.iter().any(|listed| listed.id == id))
            })?;
        }
        // The others as the cluster has them now: their URLs may have changed.
        let others = answer.members.iter().filter(|member| member.id != id);
        let named =
            others.flat_map(|member| member.peer_ur_ls.iter().map(|url| format!("{}={url}", member.name)));
        let initial = named.chain([entry(number, &member)]).collect::<Vec<_>>().join(",");
        let name = format!("n{number}");
        member.add_args(&["--name", &name, "--initial-cluster", &initial]);
        member.add_args(&["--initial-cluster-state", "existing"]);
        member.spawn()?;
        // A newcomer compares its list with the cluster's at its first start: until it has said its
        // name, nothing else may change. (It says so in the log, and ends; a learner serves no reads that
        // would show that it runs.)
        let through = self.voters()[0];
        eventually("the newcomer has started", || {
            member.check_alive()?;
            let list: MemberListResponse = ask(self.member(through), MEMBER_LIST, &LINEARIZABLE)?;
            Ok(list.members.iter().any(|listed| listed.id == id && !listed.name.is_empty()))
        })?;
        self.cluster.members.push(member);
        self.present.push((number, !is_learner));
        Ok(())
    }

    fn promote(&mut self, number: usize) -> anyhow::Result<()> {
        let id = self.learner_id(number)?;
        let _: MemberPromoteResponse = self.change("MemberPromote", &MemberPromoteRequest { id })?;
        self.present.iter_mut().filter(|(at, _)| *at == number).for_each(|(_, votes)| *votes = true);
        Ok(())
    }

    /// A learner may not serve its own status yet.
    fn learner_id(&self, number: usize) -> anyhow::Result<u64> {
        let voter = self.voters()[0];
        let list: MemberListResponse = ask(self.member(voter), MEMBER_LIST, &LINEARIZABLE)?;
        let learner = list.members.iter().find(|member| member.is_learner);
        Ok(learner.with_context(|| format!("n{number} is not listed as a learner"))?.id)
    }

    fn remove(&mut self, number: usize) -> anyhow::Result<()> {
        let votes = self.voters().contains(&number);
        let id = if votes { self.id(number)? } else { self.learner_id(number)? };
        let answer: anyhow::Result<MemberRemoveResponse> =
            self.change("MemberRemove", &MemberRemoveRequest { id });
        if let Err(error) = answer {
            // The member that was asked may have been the one, and gone with the answer.
            let text = format!("{error:#}");
            let lost = ["server stopped", "timed out", "transport"].iter().any(|part| text.contains(part));
            ensure!(lost, "{text}");
        }
        self.present.retain(|(at, _)| *at != number);
        let ended = self.cluster.members[number].wait_end(PATIENCE)?;
        ensure!(ended.success(), "a member that was removed ended with {ended}");
        Ok(())
    }

    /// The member gets another address, and the old one is closed.
    fn update(&mut self, number: usize) -> anyhow::Result<()> {
        let id = self.id(number)?;
        let (old, behind) = self.member(number).proxy_ports().context("a proxy")?;
        let new = self.net.stand_before(number, behind)?;
        let request = MemberUpdateRequest { id, peer_ur_ls: vec![format!("http://127.0.0.1:{new}")] };
        let _: MemberUpdateResponse = self.change("MemberUpdate", &request)?;
        self.net.close(old);
        for (other, _) in self.present.clone() {
            self.net.cut(other, number);
        }
        Ok(())
    }

    /// One of three is down: a fourth, which might not come up, could cost the quorum, and is refused.
    fn dare(&mut self, down: usize) -> anyhow::Result<()> {
        let id = self.id(down)?;
        self.cluster.members[down].kill()?;
        let up = self.voters().into_iter().find(|number| *number != down).context("somebody else")?;
        eventually("the others see it, and somebody leads", || {
            let metrics = http::request(&self.member(up).authority(), "GET", "/metrics", &[], "")?.body;
            let metrics = String::from_utf8_lossy(&metrics);
            let gone = metrics.lines().any(|line| {
                let gauge = line.starts_with("etcd_network_active_peers{");
                gauge && line.contains(&format!("Remote=\"{id:x}\"")) && line.ends_with(" 0")
            });
            let leader = status(self.member(up))?.leader;
            Ok(gone && leader != 0 && leader != id)
        })?;
        let request =
            MemberAddRequest { peer_ur_ls: vec!["http://127.0.0.1:1".to_owned()], is_learner: false };
        let answer: anyhow::Result<MemberAddResponse> =
            ask(self.member(up), "/etcdserverpb.Cluster/MemberAdd", &request);
        match answer {
            Ok(_) => bail!("a voter was added while a member was down"),
            Err(error) => ensure!(error.to_string().contains(NOT_NOW[0]), "{error:#}"),
        }
        self.cluster.members[down].run()
    }

    fn step(&mut self) -> anyhow::Result<()> {
        let voters = self.voters();
        let any: Vec<usize> = self.present.iter().map(|(number, _)| *number).collect();
        let (some, new) = (self.pick(&voters), self.cluster.members.len());
        let (what, number) = match (self.draw.below(8), self.learner()) {
            (0 | 1, Some(learner)) => ("promote", learner),
            (0, None) if any.len() < MOST => ("add a learner", new),
            (1 | 2, None) if any.len() < MOST => ("add a voter", new),
            (0..=3, _) if voters.len() > 2 => ("remove", self.pick(&any)),
            (4, _) if voters.len() > 1 => ("remove the leader", self.cluster_leader()?),
            (5, _) => ("update", some),
            (6, _) if voters.len() == 3 => ("dare", some),
            _ => ("restart", some),
        };
        self.log.push(format!("{what} {number} of {:?}", self.present));
        match what {
            "promote" => self.promote(number)?,
            "add a learner" => self.add(true)?,
            "add a voter" => self.add(false)?,
            "remove" | "remove the leader" => self.remove(number)?,
            "update" => self.update(number)?,
            "dare" => self.dare(number)?,
            _ => {
                self.cluster.members[number].kill()?;
                self.cluster.members[number].run()?;
            }
        }
        // Whatever it was: all voters serve writes.
        let voters: Vec<String> =
            self.voters().iter().map(|number| self.member(*number).authority()).collect();
        self.load.use_members(voters.clone());
        voters.iter().try_for_each(|voter| self.load.more_by(voter, 10))
    }

    fn cluster_leader(&self) -> anyhow::Result<usize> {
        let voters = self.voters();
        let mut found = None;
        eventually("somebody leads", || {
            let state = status(self.member(voters[0]))?;
            for number in &voters {
                if self.id(*number)? == state.leader {
                    found = Some(*number);
                }
            }
            Ok(found.is_some())
        })?;
        found.context("a leader")
    }
}

#[test]
fn a_quorum_always_works() -> anyhow::Result<()> {
    let (changes, seed) = (number("RETCD_CHANGES", 8)?, number("RETCD_CHANGES_SEED", 1)?);
    let (program, net) = (subject(), Net::start(seed)?);
    let cluster = Cluster::start_behind(&net, &[&program; 3], &[])?;
    let authorities = cluster.members.iter().map(Member::authority).collect();
    let load = Load::start(authorities, Plan { holders: 1, ..Plan::default() }, seed)?;
    let present = (0..3).map(|number| (number, true)).collect();
    let mut scene = Scene { program, cluster, net, load, present, draw: Draw::new(seed), log: Vec::new() };
    for change in 0..changes {
        if let Err(error) = scene.step() {
            return Err(error.context(format!("change {change} of:\n{}", scene.log.join("\n"))));
        }
    }
    // A learner would not say what it holds.
    if let Some(learner) = scene.learner() {
        scene.promote(learner).context("the learner that is left")?;
        scene.cluster.members[learner].wait_serving()?;
    }
    let left: Vec<String> = scene.voters().iter().map(|number| scene.member(*number).authority()).collect();
    let report = scene.load.finish(&left)?;
    scene.cluster.settle()?;
    println!(
        "{changes} changes, {:?}, revision {}:\n{}",
        report.summary,
        report.revision,
        scene.log.join("\n")
    );
    Ok(())
}

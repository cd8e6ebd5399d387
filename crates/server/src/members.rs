//! What a member does about the others: changes of the membership, leadership, leases of the
//! leader.
//!
//! **Source**: etcd `server/etcdserver/{server,v3_server}.go`.

use std::sync::atomic::Ordering::Acquire;
use std::time::Duration;

use api::error::Error;
use api::member::LeaseTimes;
use lease::RenewOutcome;
use membership::{ConfChange, Link, ReconfigError};
use peer::{LeaseError, PromoteError};
use prost::Message;
use proto::etcdserverpb::{InternalRaftRequest, LeaseCheckpoint, LeaseCheckpointRequest};
use tokio::sync::oneshot;
use tokio::time::Instant;
use types::{LeaseId, MemberId};

use crate::driver::Input;
use crate::lanes;
use crate::log;
use crate::node::Node;

/// How often something that another member or thread brings about is looked at.
const POLL: Duration = Duration::from_millis(50);
/// Share of the leader's log that a learner must have before it may vote.
const READY_PERCENT: u64 = 90;

impl Node {
    /// Puts a change of the membership through the log and waits until it is applied here.
    ///
    /// # Errors
    /// It would cost the quorum, does not hold, or got no answer.
    pub async fn change_members(&self, change: ConfChange) -> Result<(), Error> {
        self.check_quorum(&change)?;
        let id = lanes::next_id();
        let payload = change.encode(id.0).encode_to_vec().into();
        let answer = self.submit(id, Input::ProposeConfChange(payload)).await?;
        answer.result.map_err(Error::from)?;
        Ok(())
    }

    /// `--strict-reconfig-check`.
    fn check_quorum(&self, change: &ConfChange) -> Result<(), Error> {
        if !self.parts().strict_reconfig_check {
            return Ok(());
        }
        let (own, transport) = (self.id(), &self.parts().transport);
        let link = |id: MemberId| if id == own { Link::Lasting } else { transport.link(id) };
        let cluster = self.shared().cluster();
        let verdict = match change {
            ConfChange::Add(member) => cluster.may_add(member.is_learner, link),
            ConfChange::Remove(id) => cluster.may_remove(*id, link),
            ConfChange::Promote(_) => cluster.may_promote(),
            ConfChange::UpdatePeerUrls(_) => Ok(()),
        };
        verdict.map_err(|error| {
            log::warn!("rejecting a change of the membership",
                "local-member-id" => own, "requested-member" => change.member_id(), "error" => error.to_string());
            match error {
                ReconfigError::NotEnoughStarted => Error::MemberNotEnoughStarted,
                ReconfigError::Unhealthy => Error::Unhealthy,
            }
        })
    }

    /// Promotes a learner, on this member or on the leader.
    ///
    /// # Errors
    /// As the leader says, or nobody leads in time.
    pub async fn promote(&self, id: MemberId, token: Option<&str>) -> Result<(), Error> {
        let deadline = Instant::now() + self.request_timeout();
        loop {
            match self.promote_as_leader(id).await {
                Err(Error::NotLeader) => {}
                decided => return decided,
            }
            let urls = self.leader_urls();
            let left = deadline.saturating_duration_since(Instant::now());
            let asked = self.parts().client.promote(&urls, id, token, left).await;
            match asked {
                Ok(_) => return self.see_promoted(id, deadline).await,
                Err(PromoteError::NotFound) => return Err(Error::MemberNotFound),
                Err(PromoteError::NotLearner) => return Err(Error::MemberNotLearner),
                Err(PromoteError::NotReady) => return Err(Error::LearnerNotReady),
                Err(PromoteError::Timeout | PromoteError::Other(_)) if Instant::now() < deadline => {
                    tokio::time::sleep(POLL).await;
                }
                Err(_) => return Err(Error::Timeout),
            }
        }
    }

    /// The answer names the members: they are those that the leader has by now.
    async fn see_promoted(&self, id: MemberId, deadline: Instant) -> Result<(), Error> {
        while self.shared().cluster().member(id).is_some_and(|member| member.is_learner) {
            if Instant::now() >= deadline {
                return Err(Error::Timeout);
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Promotes a learner if this member leads.
    ///
    /// # Errors
    /// It does not, or the learner may not vote yet.
    pub async fn promote_as_leader(&self, id: MemberId) -> Result<(), Error> {
        let promoted = self.try_to_promote(id).await;
        match &promoted {
            Ok(()) => self.metrics().learner_promote_successes.inc(),
            Err(Error::NotLeader) => {}
            Err(error) => self.metrics().learner_promote_failures.with([&error.to_string()]).inc(),
        }
        promoted
    }

    async fn try_to_promote(&self, id: MemberId) -> Result<(), Error> {
        let status = self.raft_status().await?;
        if status.soft_state.leader != self.id().0 {
            return Err(Error::NotLeader);
        }
        let matched =
            |id: MemberId| status.progress.iter().find(|peer| peer.id == id.0).map(|peer| peer.matched);
        let learner = matched(id).ok_or(Error::MemberNotFound)?;
        let own = matched(self.id()).unwrap_or(status.commit);
        if u128::from(learner) * 100 < u128::from(own) * u128::from(READY_PERCENT) {
            log::error!("rejecting promote learner: learner is not ready",
                "learner-id" => id, "learner-match" => learner, "leader-match" => own);
            return Err(Error::LearnerNotReady);
        }
        self.change_members(ConfChange::Promote(id)).await
    }

    /// A look inside consensus.
    async fn raft_status(&self) -> Result<consensus::Status, Error> {
        let (answer, answered) = oneshot::channel();
        self.parts().to_raft.send(Input::Status(answer)).map_err(|_| Error::Stopped)?;
        answered.await.map_err(|_| Error::Stopped)
    }

    /// Peer URLs of the leader; none if nobody else leads.
    fn leader_urls(&self) -> Vec<String> {
        let cluster = self.shared().cluster();
        let leader = Some(self.progress().leader()).filter(|leader| *leader != self.id());
        leader
            .and_then(|leader| cluster.member(leader))
            .map(|leader| leader.peer_urls.clone())
            .unwrap_or_default()
    }

    /// Hands leadership over and waits until it is there.
    ///
    /// # Errors
    /// It did not get there in time.
    pub async fn hand_leadership_to(&self, to: MemberId) -> Result<(), Error> {
        log::info!("leadership transfer starting", "local-member-id" => self.id(),
            "current-leader-member-id" => self.progress().leader(), "transferee-member-id" => to);
        self.parts().to_raft.send(Input::TransferLeader(to)).map_err(|_| Error::Stopped)?;
        let deadline = Instant::now() + self.request_timeout();
        while self.progress().leader() != to {
            if Instant::now() >= deadline {
                let text = "etcdserver: request timed out, leader transfer took too long";
                return Err(Error::Other(text.to_owned()));
            }
            tokio::time::sleep(POLL).await;
        }
        log::info!("leadership transfer finished", "local-member-id" => self.id(),
            "old-leader-member-id" => self.id(), "new-leader-member-id" => to);
        Ok(())
    }

    /// Before a stop: a leader hands over to the voter that has been reachable for longest, so that
    /// nobody has to wait for an election.
    pub async fn leave_leadership(&self) {
        let fields = [
            ("local-member-id", self.id().into()),
            ("current-leader-member-id", self.progress().leader().into()),
        ];
        if !self.progress().is_leader() {
            return log::info("skipped leadership transfer; local server is not leader", &fields);
        }
        let cluster = self.shared().cluster();
        let others: Vec<MemberId> =
            cluster.voters().map(|voter| voter.id).filter(|id| *id != self.id()).collect();
        if others.is_empty() {
            return log::info("skipped leadership transfer for single voting member cluster", &fields);
        }
        let transport = &self.parts().transport;
        let active = others.into_iter().filter_map(|id| transport.active_since(id).map(|since| (since, id)));
        let Some((_, heir)) = active.min() else {
            return log::warn(
                "leadership transfer failed",
                &[("error", Error::Unhealthy.to_string().into())],
            );
        };
        if let Err(error) = self.hand_leadership_to(heir).await {
            log::warn!("leadership transfer failed", "local-member-id" => self.id(), "error" => error.to_string());
        }
    }

    /// Renews a lease, wherever the leader is. 0 if there is no such lease.
    ///
    /// # Errors
    /// Nobody leads in time, or the leader does not answer.
    pub async fn renew_anywhere(&self, id: LeaseId) -> Result<i64, Error> {
        let deadline = Instant::now() + self.request_timeout();
        loop {
            if self.progress().is_leader()
                && let Some(ttl) = self.renew_as_leader(id).await?
            {
                return Ok(ttl);
            }
            let urls = self.leader_urls();
            if !urls.is_empty() {
                let left = deadline.saturating_duration_since(Instant::now());
                match self.parts().client.renew_lease(&urls, id, left).await {
                    Ok(ttl) => return Ok(ttl),
                    Err(LeaseError::NotFound) => return Ok(0),
                    // A leader that was busy for a second may not be in the next.
                    Err(LeaseError::Timeout | LeaseError::NotPrimary | LeaseError::Other(_)) => {}
                }
            }
            if Instant::now() >= deadline {
                return Err(if self.progress().leader().0 == 0 { Error::NoLeader } else { Error::Timeout });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Renews a lease if this member leads; `None` if it does not (any more).
    ///
    /// # Errors
    /// The lease is over and was not revoked in time, or whether this member leads was not
    /// confirmed in time.
    pub async fn renew_as_leader(&self, id: LeaseId) -> Result<Option<i64>, Error> {
        let deadline = Instant::now() + self.request_timeout();
        // A leader that was deposed and does not know it yet must not renew anything.
        self.read_index().await?;
        loop {
            let outcome = self.shared().lessor.lock().renew(id, self.clock().now());
            match outcome {
                RenewOutcome::Renewed(ttl_seconds) => {
                    self.metrics().lease_renewed.inc();
                    return Ok(Some(ttl_seconds));
                }
                RenewOutcome::NotFound => return Ok(Some(0)),
                RenewOutcome::NotPrimary if !self.progress().is_leader() => return Ok(None),
                RenewOutcome::ClearCheckpointFirst => {
                    let checkpoints = vec![LeaseCheckpoint { id: id.0, remaining_ttl: 0 }];
                    let request = InternalRaftRequest {
                        lease_checkpoint: Some(Box::new(LeaseCheckpointRequest { checkpoints })),
                        ..Default::default()
                    };
                    self.propose_leading(self.progress().primary_term.load(Acquire), request).await?;
                }
                // Revoked soon, or primary soon: look again.
                RenewOutcome::ExpiredPending | RenewOutcome::NotPrimary => {
                    if Instant::now() >= deadline {
                        return Err(Error::Timeout);
                    }
                    tokio::time::sleep(POLL).await;
                }
            }
        }
    }

    /// What the leader, wherever it is, knows about a lease.
    ///
    /// # Errors
    /// Nobody leads in time, or the leader does not answer.
    pub async fn lease_times_anywhere(&self, id: LeaseId, keys: bool) -> Result<Option<LeaseTimes>, Error> {
        let deadline = Instant::now() + self.request_timeout();
        loop {
            if self.progress().is_leader() {
                return self.lease_times_as_leader(id, keys).await;
            }
            let urls = self.leader_urls();
            if !urls.is_empty() {
                let left = deadline.saturating_duration_since(Instant::now());
                match self.parts().client.lease_times(&urls, id, keys, left).await {
                    Ok(times) => {
                        return Ok(Some(LeaseTimes {
                            granted_seconds: times.granted_seconds,
                            remaining_seconds: times.remaining_seconds,
                            keys: times.keys,
                        }));
                    }
                    Err(LeaseError::NotFound) => return Ok(None),
                    Err(LeaseError::Timeout | LeaseError::NotPrimary | LeaseError::Other(_)) => {}
                }
            }
            if Instant::now() >= deadline {
                return Err(if self.progress().leader().0 == 0 { Error::NoLeader } else { Error::Timeout });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// What this member, which leads, knows about a lease.
    ///
    /// # Errors
    /// That it leads was not confirmed in time.
    pub async fn lease_times_as_leader(&self, id: LeaseId, keys: bool) -> Result<Option<LeaseTimes>, Error> {
        self.read_index().await?;
        let lessor = self.shared().lessor.lock();
        let Some(times) = lessor.time_to_live(id, self.clock().now()) else { return Ok(None) };
        Ok(Some(LeaseTimes {
            granted_seconds: times.granted_seconds,
            remaining_seconds: times.remaining_seconds.unwrap_or(times.granted_seconds),
            keys: if keys { lessor.keys(id).unwrap_or_default() } else { Vec::new() },
        }))
    }
}

//! What a member has to do of its own accord: publish its attributes, settle the cluster version,
//! move the storage version, let leases expire, raise alarms.
//!
//! Runs as tasks on the first worker, because each duty is a proposal that waits for its answer.
//! What each duty decides is a plain function or a state machine of the layers below; this file
//! only says when.
//!
//! **Source**: etcd `server/etcdserver/server.go`: the monitors and `revokeExpiredLeases`.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use apply::{ApplyError, Reply};
use proto::{etcdserverpb as pb, membershippb};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{MissedTickBehavior, interval};
use types::{LeaseId, MemberId, Version};

use crate::compactor::{Compactor, Retention};
use crate::driver::Input;
use crate::fatal::Fatal;
use crate::lanes::Answer;
use crate::log::{self, Field};
use crate::node::{Error, Node};
use crate::peers::REMOVED;
use crate::versions::{
    VERSION_INTERVAL, follow_cluster_version, log_cluster_version, settle_cluster_version,
};

/// How often the primary looks for expired leases and due checkpoints.
pub(crate) const LEASE_INTERVAL: Duration = Duration::from_millis(500);
/// Lease revocations under way at once.
const REVOKES_IN_FLIGHT: usize = 16;

/// How often a member that starts looks for connections to others, and how many times.
const HEAD_START_INTERVAL: Duration = Duration::from_millis(50);
const HEAD_START_LOOKS: u32 = 100;

/// How long a member that was removed goes on, so that it can answer who removed it.
const REMOVED_DELAY: Duration = Duration::from_secs(1);

/// How often open file descriptors are counted.
pub(crate) const DESCRIPTOR_INTERVAL: Duration = Duration::from_secs(10 * 60);

/// How often a member in the recovery mode says so.
const RECOVERY_INTERVAL: Duration = Duration::from_secs(10 * 60);

/// Something the apply thread wants done.
#[derive(Debug)]
pub enum Duty {
    /// The quota was passed: raise the alarm, then give this answer.
    RaiseNoSpace {
        /// The answer that waits for the alarm.
        answer: Option<Answer>,
    },
    /// The cluster version is set.
    ClusterVersionSet {
        /// The version before.
        previous: Option<Version>,
        /// The version now.
        current: Version,
    },
    /// A member published its name and client URLs.
    AttributesPublished {
        /// That member.
        member: MemberId,
    },
    /// A snapshot took the place of everything.
    StateReplaced,
    /// This member leads and has applied all earlier terms.
    BecameLeader,
    /// This member was removed from the cluster.
    Removed,
}

/// Serves the duties until the process ends.
pub async fn run(
    node: Node,
    mut duties: UnboundedReceiver<Duty>,
    published: tokio::sync::watch::Sender<bool>,
    fatal: Fatal,
) {
    let node = Rc::new(node);
    let settling = Rc::new(tokio::sync::Semaphore::new(1));
    let moving = Arc::new(tokio::sync::Semaphore::new(1));
    let mut leaving = false;
    tokio::task::spawn_local(expire_leases(node.clone()));
    tokio::task::spawn_local(watch_descriptors(node.clone()));
    tokio::task::spawn_local(publish(node.clone(), published.subscribe()));
    tokio::task::spawn_local(warn_of_recovery(node.clone()));
    let mut version_check = interval(VERSION_INTERVAL);
    version_check.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let duty = tokio::select! {
            duty = duties.recv() => match duty {
                Some(duty) => duty,
                None => return,
            },
            _ = version_check.tick() => {
                tokio::task::spawn_local(settle_cluster_version(node.clone(), settling.clone()));
                follow_cluster_version(&node, &moving);
                continue;
            }
        };
        match duty {
            Duty::BecameLeader => {
                tokio::task::spawn_local(settle_cluster_version(node.clone(), settling.clone()));
            }
            Duty::Removed => {
                if !std::mem::replace(&mut leaving, true) {
                    tokio::task::spawn_local(leave(fatal.clone()));
                }
            }
            Duty::ClusterVersionSet { previous, current } => {
                node.metrics().agree_on_cluster_version(current);
                log_cluster_version(&node, previous, current);
                follow_cluster_version(&node, &moving);
            }
            Duty::AttributesPublished { member } => {
                if member == node.id() {
                    published.send_replace(true);
                }
            }
            Duty::StateReplaced => {
                // The entry that waits to be applied here may be in the snapshot already.
                let cluster = node.shared().cluster();
                if cluster.member(node.id()).is_some_and(|own| own.attributes == *node.attributes()) {
                    published.send_replace(true);
                }
                follow_cluster_version(&node, &moving);
            }
            Duty::RaiseNoSpace { answer } => {
                tokio::task::spawn_local(raise_no_space(node.clone(), answer));
            }
        }
    }
}

/// The end of a member that was removed. For a while it goes on: it answers who removed it, and what
/// the others need from it (that the removal is committed, a vote) still leaves. If it led it cannot
/// hand over: the others take nothing from it once they have applied the removal, and nobody
/// campaigns before that.
async fn leave(fatal: Fatal) {
    tokio::time::sleep(REMOVED_DELAY).await;
    fatal.stop(REMOVED.to_owned());
}

/// `--initial-election-tick-advance`: a member that has just started need not wait for a leader's word as
/// long as one that lost it. When it is connected to some of the others, most of its first election timeout
/// counts as over; what is left is enough for a leader's heartbeat to arrive.
pub async fn advance_first_election(node: Node, wanted: bool, election_ticks: u32) {
    let ticks: Field<'static> = ("election-ticks", election_ticks.into());
    if node.shared().cluster().members().len() <= 1 {
        // A single voter campaigns at once.
        return;
    }
    if !wanted {
        return log::info("skipping initial election tick advance", &[ticks]);
    }
    log::info("starting initial election tick advance", &[ticks]);
    for _ in 0..HEAD_START_LOOKS {
        tokio::time::sleep(HEAD_START_INTERVAL).await;
        let active = node.parts().transport.active_peers();
        if active > 1 {
            let forward = election_ticks.saturating_sub(2);
            log::info!(
                "initialized peer connections; fast-forwarding election ticks",
                "local-member-id" => node.id(),
                "forward-ticks" => forward,
                "election-ticks" => election_ticks,
                "active-remote-members" => active
            );
            // A closed queue means that the member stops.
            let _ = node.parts().to_raft.send(Input::Advance(forward));
            return;
        }
    }
}

/// Compacts the history as the compactor says.
pub async fn compact(node: Node, retention: Retention) {
    let store = node.parts().store.clone();
    let mut compactor = Compactor::new(retention, node.clock().now(), store.current_revision());
    // The mode, and what every record about a compaction says of it.
    let (mode, kept): (&str, Field<'static>) = match retention {
        Retention::Period(period) => ("periodic", ("compact-period", period.into())),
        Retention::Revisions(count) => ("revision", ("revision-compaction-retention", count.into())),
    };
    loop {
        tokio::time::sleep(compactor.interval()).await;
        let leads = node.progress().is_leader();
        if let Some(revision) = compactor.due(node.clock().now(), store.current_revision(), leads) {
            let target: Field<'static> = ("revision", revision.into());
            log::info(&format!("starting auto {mode} compaction"), &[target.clone(), kept.clone()]);
            let start = node.clock().now();
            let compaction = pb::CompactionRequest { revision, physical: false };
            let request =
                pb::InternalRaftRequest { compaction: Some(compaction.into()), ..Default::default() };
            match node.propose_internal(request).await {
                Ok(_) | Err(Error::Apply(ApplyError::Compacted)) => {
                    let now = node.clock().now();
                    let took = ("took", now.saturating_sub(start).into());
                    log::info(&format!("completed auto {mode} compaction"), &[target, kept.clone(), took]);
                    compactor.done(now, revision);
                }
                Err(error) => {
                    let retry = ("retry-interval", compactor.interval().into());
                    let error = ("error", error.to_string().into());
                    log::warn(
                        &format!("failed auto {mode} compaction"),
                        &[target, kept.clone(), retry, error],
                    );
                }
            }
        }
        compactor.note(store.current_revision());
    }
}

/// Warns of file descriptors that run out, at start and every 10 minutes.
async fn watch_descriptors(node: Rc<Node>) {
    let mut tick = interval(DESCRIPTOR_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if let Some((used, limit)) = node.metrics().refresh_descriptors() {
            log::warn!("80% of file descriptors are used", "used" => used, "limit" => limit);
        }
    }
}

/// Proposes the own name and client URLs until they are applied.
async fn publish(node: Rc<Node>, mut published: tokio::sync::watch::Receiver<bool>) {
    let attributes = node.attributes();
    let (name, client_urls) = (attributes.name.clone(), attributes.client_urls.clone());
    let request = pb::InternalRaftRequest {
        cluster_member_attr_set: Some(Box::new(membershippb::ClusterMemberAttrSetRequest {
            member_id: node.id().0,
            member_attributes: Some(membershippb::Attributes { name, client_urls }),
        })),
        ..Default::default()
    };
    while !*published.borrow_and_update() {
        let answered = tokio::select! {
            answered = node.propose_internal(request.clone()) => answered.map(drop),
            done = published.wait_for(|done| *done) => match done {
                Ok(_) => Ok(()),
                Err(_) => return,
            },
        };
        match answered {
            Ok(()) => {
                log::info!(
                    "published local member to cluster through raft",
                    "local-member-id" => node.id(),
                    "local-member-attributes" => format!(
                        "{{Name:{} ClientURLs:[{}]}}", attributes.name, attributes.client_urls.join(" ")
                    ),
                    "cluster-id" => node.cluster_id(),
                    "publish-timeout" => node.request_timeout()
                );
                // The apply thread's word counts: it may come before or after the answer.
                if published.wait_for(|done| *done).await.is_err() {
                    return;
                }
            }
            Err(error) => log::warn!(
                "failed to publish local member to cluster through raft",
                "local-member-id" => node.id(),
                "publish-timeout" => node.request_timeout(),
                "error" => error.to_string()
            ),
        }
    }
}

/// Raises NOSPACE for this member, then gives the answer that waited.
async fn raise_no_space(node: Rc<Node>, answer: Option<Answer>) {
    if !node.shared().alarms().is_active(pb::AlarmType::Nospace) {
        let quota = node.quota().reported_bytes();
        log::warn!("message exceeded backend quota; raising alarm",
            "quota-size-bytes" => quota,
            "quota-size" => crate::size::text(quota.unsigned_abs()),
            "error" => "etcdserver: no space");
        let alarm = pb::AlarmRequest {
            action: pb::alarm_request::AlarmAction::Activate as i32,
            member_id: node.id().0,
            alarm: pb::AlarmType::Nospace as i32,
        };
        let request = pb::InternalRaftRequest { alarm: Some(Box::new(alarm)), ..Default::default() };
        if let Err(error) = node.propose_internal(request).await {
            log::warn!("failed to raise the NOSPACE alarm", "error" => error.to_string());
        }
    }
    if let Some(answer) = answer {
        node.lanes().answer(answer);
    }
}

/// Warns of the recovery mode at start, and every 10 minutes while it opens something.
async fn warn_of_recovery(node: Rc<Node>) {
    if !node.parts().api.auth_recovery {
        return;
    }
    let mut tick = interval(RECOVERY_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut at_start = true;
    loop {
        tick.tick().await;
        if std::mem::take(&mut at_start) || node.shared().auth().is_enabled() {
            log::warn!(
                "auth token provider is empty: recovery mode; local callers without credentials may change \
                 users, roles and the auth switch"
            );
        }
    }
}

/// Revokes leases that are over, while this member is primary.
async fn expire_leases(node: Rc<Node>) {
    let mut tick = interval(LEASE_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let slots = Arc::new(tokio::sync::Semaphore::new(REVOKES_IN_FLIGHT));
    loop {
        tick.tick().await;
        let now = node.clock().now();
        let (expired, checkpoints, term) = {
            let mut lessor = node.shared().lessor.lock();
            if !lessor.is_primary() {
                continue;
            }
            let term = node.progress().primary_term.load(std::sync::atomic::Ordering::Acquire);
            (lessor.expired(now, lease::REVOKES_PER_ROUND), lessor.due_checkpoints(now, 1000), term)
        };
        for id in expired {
            let Ok(slot) = slots.clone().acquire_owned().await else { return };
            let node = node.clone();
            tokio::task::spawn_local(async move {
                revoke(&node, term, id).await;
                drop(slot);
            });
        }
        if !checkpoints.is_empty() {
            let checkpoint =
                |(id, remaining): (LeaseId, i64)| pb::LeaseCheckpoint { id: id.0, remaining_ttl: remaining };
            let checkpoints = checkpoints.into_iter().map(checkpoint).collect();
            let request = pb::InternalRaftRequest {
                lease_checkpoint: Some(Box::new(pb::LeaseCheckpointRequest { checkpoints })),
                ..Default::default()
            };
            if let Err(error) = node.propose_leading(term, request).await {
                log::warn!("failed to checkpoint leases", "error" => error.to_string());
            }
        }
    }
}

/// The member's own request, in the name of root while auth is on: the keys of the lease may be
/// anybody's.
fn as_root(node: &Node) -> Option<pb::RequestHeader> {
    let auth = node.shared().auth();
    let header =
        || pb::RequestHeader { id: 0, username: auth::ROOT.to_owned(), auth_revision: auth.revision() };
    auth.is_enabled().then(header)
}

async fn revoke(node: &Node, term: u64, id: LeaseId) {
    let request = pb::InternalRaftRequest {
        lease_revoke: Some(pb::LeaseRevokeRequest { id: id.0 }),
        header: as_root(node),
        ..Default::default()
    };
    match node.propose_leading(term, request).await {
        Ok(Reply::LeaseRevoke(_)) => node.metrics().lease_expired(),
        // Gone already, or refused for a moment: it is handed out again if it still exists.
        Ok(_) => {}
        Err(error) => log::warn!(
            "failed to revoke lease", "lease-id" => id.to_string(), "error" => error.to_string()
        ),
    }
}

//! The apply thread: owns the state machine, publishes results, events and read views.

use std::sync::Arc;
use std::sync::atomic::Ordering::Release;
use std::time::Duration;

use apply::{Applied, Applier, FollowUp, Reply, RequestKind};
use env::Clock;
use member::Leadership;
use mvcc::RevisionEvents;
use mvcc::watch::Hub;
use proto::raftpb::ConfChange;
use types::{Entry, LogPosition, MemberId, Snapshot};

use super::Input;
use super::store_threads::{BackendSignal, CompactionWork};
use crate::duties::Duty;
use crate::fatal::Fatal;
use crate::lanes::{Answer, Answers};
use crate::log;
use crate::mailbox::{Receiver, Sender};
use crate::metrics::Metrics;
use crate::progress::Progress;

/// Entries applied before their answers are delivered: bounds how long the first one waits for
/// the last.
const ENTRIES_PER_DELIVERY: usize = 256;

/// An entry that takes longer than this is slow.
const SLOW_APPLY: Duration = Duration::from_millis(100);

/// Least time between two disk snapshots.
const SNAPSHOT_INTERVAL: Duration = Duration::from_secs(2);

/// Work for the apply thread.
#[derive(Debug)]
pub enum ApplyWork {
    /// Committed entries, in order.
    Entries(Vec<Entry>),
    /// Leadership changed: leases start or stop their clocks.
    Leadership(Leadership),
    /// Finish what was queued before and stop.
    Stop,
}

/// What the apply thread works with.
pub struct ApplyThread {
    /// The state machine.
    pub applier: Applier,
    /// Id of the member.
    pub member_id: MemberId,
    /// State beside the key space.
    pub shared: Arc<apply::Shared>,
    /// Work.
    pub work: Receiver<ApplyWork>,
    /// To report progress.
    pub to_raft: Sender<Input>,
    /// To answer requests.
    pub answers: Answers,
    /// To publish events.
    pub hub: Hub,
    /// To say that there is something to commit.
    pub backend: BackendSignal,
    /// To start compactions.
    pub compactions: Sender<CompactionWork>,
    /// To ask for disk snapshots.
    pub snapshots: Sender<Snapshot>,
    /// To tell what only async code can do.
    pub duties: tokio::sync::mpsc::UnboundedSender<Duty>,
    /// Shared numbers.
    pub progress: Arc<Progress>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Time for leases.
    pub clock: Arc<dyn Clock>,
    /// Added to the TTL of each lease when this member becomes leader.
    pub lease_extension: Duration,
    /// Applied entries between two disk snapshots.
    pub snapshot_count: u64,
    /// Records looked at per compaction batch.
    pub compaction_batch_limit: usize,
    /// Index of the last disk snapshot.
    pub last_snapshot: u64,
    /// No disk snapshot before this time.
    pub next_snapshot: Duration,
    /// Leadership as last told.
    pub leadership: Leadership,
    /// Where to report the end of everything.
    pub fatal: Fatal,
}

impl ApplyThread {
    /// Runs until told to stop, or until an entry cannot be applied.
    pub fn run(mut self) {
        while let Some(work) = self.work.recv() {
            match work {
                ApplyWork::Entries(entries) => {
                    for part in entries.chunks(ENTRIES_PER_DELIVERY) {
                        if let Err(error) = self.apply(part) {
                            return self.fatal.stop(error.to_string());
                        }
                    }
                }
                ApplyWork::Leadership(leadership) => self.lead(leadership),
                ApplyWork::Stop => return,
            }
        }
    }

    fn apply(&mut self, entries: &[Entry]) -> Result<(), apply::FatalApplyError> {
        let now = self.clock.now();
        let mut tally = Tally::default();
        let mut events: Vec<Arc<RevisionEvents>> = Vec::new();
        for entry in entries {
            let applied = self.applier.apply(entry, now)?;
            tally.add(&applied, &self.metrics);
            self.finish(applied, &mut events);
        }
        if let Some(last) = entries.last() {
            self.progress.applied_term.store(last.term, Release);
            self.progress.applied.store(last.index, Release);
        }
        if !events.is_empty() {
            self.hub.publish(events);
        }
        self.answers.flush();
        self.backend.pending();
        let took = self.clock.now().saturating_sub(now);
        self.metrics.applied(entries.len(), took);
        let mean = took / u32::try_from(entries.len().max(1)).unwrap_or(u32::MAX);
        tally.observe(mean, &self.metrics);
        if mean > SLOW_APPLY {
            self.metrics.slow_apply.add(entries.len() as u64);
        }
        if let Some(last) = entries.last() {
            // A leader's raft thread needs to hear this at some time, but waits for nothing. It ends
            // before this one; what it does not hear needs no answer.
            let applied = Input::Applied(last.index);
            let _ = match self.leadership.is_leader {
                true => self.to_raft.send_without_waking(applied),
                false => self.to_raft.send(applied),
            };
            self.snapshot_if_due(LogPosition { index: last.index, term: last.term });
        }
        Ok(())
    }

    fn finish(&mut self, applied: Applied, events: &mut Vec<Arc<RevisionEvents>>) {
        events.extend(applied.events);
        match applied.follow_up {
            None => {}
            Some(FollowUp::Compact(job)) => {
                let job = job.with_batch(self.compaction_batch_limit);
                let _ = self.compactions.send(CompactionWork { job });
            }
            Some(FollowUp::RaiseNoSpace) => {
                // The answer waits until the alarm is committed.
                let answer = applied.request.map(|id| Answer { id, result: applied.result });
                let _ = self.duties.send(Duty::RaiseNoSpace { answer });
                return;
            }
            Some(FollowUp::ClusterVersionSet { previous, current }) => {
                let _ = self.duties.send(Duty::ClusterVersionSet { previous, current });
            }
            Some(FollowUp::AttributesPublished { member }) => {
                let _ = self.duties.send(Duty::AttributesPublished { member });
            }
            Some(FollowUp::FirstCommitInTerm { term }) => self.first_commit(term),
            Some(FollowUp::ConfChange { change }) => {
                self.log_conf_change(&change);
                let _ = self.to_raft.send(Input::ConfChangeApplied(change));
            }
        }
        if let Some(id) = applied.request {
            self.answers.push(Answer { id, result: applied.result });
        }
    }

    fn log_conf_change(&self, change: &ConfChange) {
        let cluster = self.shared.cluster();
        let Some(member) = cluster.member(MemberId(change.node_id.unwrap_or_default())) else { return };
        log::info!(
            "added member",
            "cluster-id" => cluster.id(),
            "local-member-id" => self.member_id,
            "added-peer-id" => member.id,
            "added-peer-peer-urls" => &member.peer_urls,
            "added-peer-is-learner" => member.is_learner
        );
    }

    /// The first entry of a term is applied. If this member leads that term, everything that was
    /// ever acknowledged is applied here, and its leases count from now.
    fn first_commit(&mut self, term: u64) {
        if self.leadership.is_leader && self.leadership.term == term {
            self.shared.lessor.lock().promote(self.clock.now(), self.lease_extension);
            self.progress.set_caught_up();
            let _ = self.duties.send(Duty::BecameLeader);
        }
    }

    fn lead(&mut self, leadership: Leadership) {
        if self.leadership.is_leader && !leadership.is_leader {
            self.shared.lessor.lock().demote();
        }
        self.leadership = leadership;
    }

    fn snapshot_if_due(&mut self, position: LogPosition) {
        if position.index.saturating_sub(self.last_snapshot) <= self.snapshot_count {
            return;
        }
        // Many more entries a second than upstream would make for many snapshots a second, each
        // with its syncs; what one saves is only the replay of so many entries.
        let now = self.clock.now();
        if now < self.next_snapshot {
            return;
        }
        self.next_snapshot = now + SNAPSHOT_INTERVAL;
        self.last_snapshot = position.index;
        let cluster = self.shared.cluster();
        let conf_state = apply::members::conf_state(&cluster);
        log::info!("triggering snapshot", "local-member-applied-index" => position.index);
        let _ = self.snapshots.send(Snapshot { position, conf_state, data: cluster.to_v2_store().into() });
    }
}

/// Requests of a batch by kind and outcome. Neighbours of the same kind count as one line, so that
/// a batch of puts is two additions however long it is.
#[derive(Default)]
struct Tally {
    lines: Vec<(RequestKind, bool, u64)>,
}

impl Tally {
    fn add(&mut self, applied: &Applied, metrics: &Metrics) {
        let Some(kind) = applied.kind else { return };
        match &applied.result {
            Ok(Reply::LeaseGrant(granted)) => metrics.lease_granted(granted.ttl),
            Ok(Reply::LeaseRevoke(_)) => metrics.lease_revoked.inc(),
            _ => {}
        }
        let success = applied.result.is_ok();
        match self.lines.last_mut() {
            Some((last, outcome, times)) if *last == kind && *outcome == success => *times += 1,
            _ => self.lines.push((kind, success, 1)),
        }
    }

    fn observe(self, mean: Duration, metrics: &Metrics) {
        for (kind, success, times) in self.lines {
            metrics.applied_operations(kind, success, mean, times);
        }
    }
}

//! Apply, snapshots, compaction and leases of a node.

use std::collections::VecDeque;
use std::io::Read;
use std::rc::Rc;

use apply::{Applied, FollowUp};
use bytes::Bytes;
use env::Random;
use member::{Input, Leadership};
use mvcc::RevisionEvents;
use prost::Message;
use proto::{etcdserverpb as pb, raftpb};
use std::sync::Arc;
use types::{Entry, EntryKind, LogPosition, MemberId, Snapshot};

use super::{Action, Node, Running, Stop, TICK};
use crate::bugs::Bug;
use crate::context::{Context, Packet};
use crate::profile::{MS, SECOND};
use crate::random::Draw;

/// Work for apply.
#[derive(Debug)]
pub(super) enum Work {
    Entries(VecDeque<Entry>),
    Leadership(Leadership),
    /// A received snapshot whose log record is on disk.
    Install(Snapshot),
    /// A snapshot message that has no content yet.
    SendSnapshot(Box<raftpb::Message>),
}

impl Node {
    pub(super) fn wake_apply(&self, running: &mut Running, ctx: &mut Context) {
        if !std::mem::replace(&mut running.applying, true) {
            let delay = ctx.draw(ctx.profile.apply_latency);
            self.after(ctx, delay, Action::Apply);
        }
    }

    pub(super) fn apply_next(&mut self, running: &mut Running, ctx: &mut Context) -> Result<(), Stop> {
        running.applying = false;
        match running.work.pop_front() {
            None => return Ok(()),
            Some(Work::Entries(mut entries)) => {
                let count = ctx.random.between(1, 64).min(entries.len() as u64) as usize;
                let rest = entries.split_off(count);
                if !rest.is_empty() {
                    running.work.push_front(Work::Entries(rest));
                }
                self.apply_entries(running, ctx, entries.into())?;
            }
            Some(Work::Leadership(leadership)) => {
                if running.primary_of.is_leader && !leadership.is_leader {
                    running.shared.lessor.lock().demote();
                }
                running.primary_of = leadership;
            }
            Some(Work::Install(snapshot)) => self.install(running, ctx, &snapshot)?,
            Some(Work::SendSnapshot(message)) => self.send_snapshot(running, ctx, *message)?,
        }
        if !running.work.is_empty() {
            self.wake_apply(running, ctx);
        }
        Ok(())
    }

    fn apply_entries(
        &mut self,
        running: &mut Running,
        ctx: &mut Context,
        mut entries: Vec<Entry>,
    ) -> Result<(), Stop> {
        if ctx.has(Bug::ReorderApply) {
            reorder(ctx, &mut entries);
        }
        let now = self.clock(ctx);
        let mut events: Vec<Arc<RevisionEvents>> = Vec::new();
        let mut inputs = Vec::new();
        for entry in &entries {
            let held = running.applier.position().index;
            let applied = running.applier.apply(entry, now)?;
            let replayed = entry.index <= held;
            let (ok, revision) = (applied.result.is_ok(), running.store.current_revision());
            ctx.note("apply", &[self.slot as u64, entry.index, entry.term, revision as u64], || {
                format!(
                    "{} {}/{} {:?} -> revision {revision}",
                    self.name, entry.index, entry.term, applied.kind
                )
            });
            let of_entry = applied.events.as_deref();
            let when = (ctx.now, running.leadership.term);
            let verdict = ctx.oracle.applied(entry, ok, revision, of_entry, replayed, when);
            ctx.judge(verdict);
            events.extend(applied.events.clone());
            self.follow_up(running, ctx, applied, &mut inputs);
        }
        let Some(last) = entries.last() else { return Ok(()) };
        running.applied = last.index;
        if !events.is_empty() {
            running.hub.publish(events);
            self.wake_watch(running, ctx);
        }
        inputs.push(Input::Applied(last.index));
        let delay = ctx.draw((1, 100));
        self.tell_raft(running, ctx, delay, inputs);
        self.answer_reads(running, ctx)?;
        self.snapshot_if_due(running, ctx, LogPosition { index: last.index, term: last.term });
        Ok(())
    }

    fn follow_up(
        &mut self,
        running: &mut Running,
        ctx: &mut Context,
        applied: Applied,
        inputs: &mut Vec<Input>,
    ) {
        match applied.follow_up {
            None
            | Some(
                FollowUp::RaiseNoSpace
                | FollowUp::ClusterVersionSet { .. }
                | FollowUp::AttributesPublished { .. },
            ) => {}
            Some(FollowUp::Compact(job)) => {
                if ctx.oracle.last_applied() == running.applier.position().index {
                    ctx.stats.compactions += 1;
                }
                if running.compactions.is_empty() {
                    let pause = ctx.profile.compaction_pause;
                    self.after(ctx, pause, Action::Compact);
                }
                running.compactions.push_back(job.with_batch(ctx.profile.compaction_batch));
            }
            Some(FollowUp::FirstCommitInTerm { term }) => {
                if running.primary_of.is_leader && running.primary_of.term == term {
                    let extension =
                        std::time::Duration::from_micros(TICK * u64::from(ctx.profile.election_ticks));
                    running.shared.lessor.lock().promote(self.clock(ctx), extension);
                }
            }
            Some(FollowUp::ConfChange { change }) => {
                let refused = change.node_id() == 0;
                ctx.note("conf", &[self.slot as u64, change.node_id()], || {
                    format!("{} {change:?}", self.name)
                });
                if refused || running.primary_of.is_leader || !ctx.has(Bug::ForgetConfChange) {
                    inputs.push(Input::ConfChangeApplied(change));
                }
            }
        }
        if let Some(id) = applied.request {
            self.answer_proposal(running, ctx, id, applied.result);
        }
    }

    fn snapshot_if_due(&mut self, running: &mut Running, ctx: &mut Context, position: LogPosition) {
        if position.index.saturating_sub(running.last_snapshot) <= ctx.profile.snapshot_count {
            return;
        }
        running.last_snapshot = position.index;
        let snapshot = describe(running, position);
        let delay = ctx.draw((100, 20 * MS));
        self.after(ctx, delay, Action::Snapshot(snapshot));
    }

    fn install(&mut self, running: &mut Running, ctx: &mut Context, snapshot: &Snapshot) -> Result<(), Stop> {
        let index = snapshot.position.index;
        let received = Self::snap_dir().join(wal::snap::db_file_name(index));
        let installed = running.applier.install(&received, snapshot)?;
        if ctx.has(Bug::ForgetLeasesOnInstall) {
            running.shared.lessor.lock().restore([], []);
        }
        ctx.stats.snapshots += 1;
        ctx.note("install", &[self.slot as u64, index], || format!("{} snapshot {index}", self.name));
        wal::snap::remove_db_files_below(&self.disk, &Self::snap_dir(), index)?;
        running.compactions.clear();
        running.compactions.extend(installed.resume_compaction);
        if !running.compactions.is_empty() {
            let pause = ctx.profile.compaction_pause;
            self.after(ctx, pause, Action::Compact);
        }
        running.hub.resync();
        self.wake_watch(running, ctx);
        running.applied = index;
        running.last_snapshot = index;
        let delay = ctx.draw((1, 100));
        self.tell_raft(running, ctx, delay, vec![Input::Applied(index)]);
        self.answer_reads(running, ctx)
    }

    /// Fills a snapshot message with the state as it is now, which may be newer than what raft
    /// asked for.
    fn send_snapshot(
        &mut self,
        running: &mut Running,
        ctx: &mut Context,
        mut message: raftpb::Message,
    ) -> Result<(), Stop> {
        let mut image = running.backend.snapshot()?;
        let position = image.position();
        let mut db = Vec::with_capacity(image.size() as usize);
        image.read_to_end(&mut db)?;
        let snapshot = describe(running, position);
        let ahead = u64::from(ctx.has(Bug::SnapshotIndexAhead));
        message.snapshot = Some(raftpb::Snapshot {
            data: Some(snapshot.data),
            metadata: Some(raftpb::SnapshotMetadata {
                conf_state: Some(raftpb::ConfState {
                    voters: snapshot.conf_state.voters,
                    learners: snapshot.conf_state.learners,
                    voters_outgoing: Vec::new(),
                    learners_next: Vec::new(),
                    auto_leave: Some(false),
                }),
                index: Some(position.index + ahead),
                term: Some(position.term),
            }),
        });
        let peer = MemberId(message.to());
        let packet = Packet { bytes: message.encode_to_vec().into(), db: Some(Rc::new(db)) };
        let sent = ctx.slots.get(&peer.0).copied().is_some_and(|to| ctx.send(self.slot, to, packet, true));
        let delay = if sent { 50 * MS } else { SECOND };
        let report = Input::SnapshotReport { to: peer, delivered: sent };
        self.after(ctx, delay, Action::Inputs(vec![report]));
        Ok(())
    }

    pub(super) fn compact_next(&mut self, running: &mut Running, ctx: &mut Context) -> Result<(), Stop> {
        let Some(job) = running.compactions.front_mut() else { return Ok(()) };
        let step = running.store.compaction_step(job)?;
        if step.commit {
            running.backend.commit()?;
        }
        if step.finished {
            running.compactions.pop_front();
        }
        if !running.compactions.is_empty() {
            let pause = ctx.profile.compaction_pause;
            self.after(ctx, pause, Action::Compact);
        }
        Ok(())
    }

    /// What the primary does about leases twice a second.
    pub(super) fn look_after_leases(&mut self, running: &mut Running, ctx: &mut Context) -> Result<(), Stop> {
        let mut now = self.clock(ctx);
        if ctx.has(Bug::LeaseExpiresEarly) {
            now += std::time::Duration::from_millis(1500);
        }
        let (expired, checkpoints) = {
            let mut lessor = running.shared.lessor.lock();
            (lessor.expired(now, lease::REVOKES_PER_ROUND), lessor.due_checkpoints(now, 1000))
        };
        let mut payloads = Vec::new();
        for lease in expired {
            let id = running.serving.next_id();
            ctx.note("expired", &[self.slot as u64, lease.0 as u64], || format!("{} {lease}", self.name));
            ctx.stats.expiries += 1;
            ctx.oracle.expiries.insert(id);
            let lease_revoke = Some(pb::LeaseRevokeRequest { id: lease.0 });
            payloads.push(encode(id, pb::InternalRaftRequest { lease_revoke, ..Default::default() }));
        }
        if !checkpoints.is_empty() {
            let id = running.serving.next_id();
            let checkpoints = checkpoints
                .into_iter()
                .map(|(lease, left)| pb::LeaseCheckpoint { id: lease.0, remaining_ttl: left })
                .collect();
            let lease_checkpoint = Some(pb::LeaseCheckpointRequest { checkpoints }.into());
            payloads.push(encode(id, pb::InternalRaftRequest { lease_checkpoint, ..Default::default() }));
        }
        if payloads.is_empty() {
            return Ok(());
        }
        let input = Input::ProposeLeading { term: running.primary_of.term, payloads };
        self.input(running, ctx, input)
    }
}

/// The raft snapshot of a member's state at what it applied last.
fn describe(running: &Running, position: LogPosition) -> Snapshot {
    let cluster = running.shared.cluster();
    let conf_state = apply::members::conf_state(&cluster);
    Snapshot { position, conf_state, data: cluster.to_v2_store().into() }
}

/// A request as it stands in the log.
pub(super) fn encode(id: u64, mut request: pb::InternalRaftRequest) -> Bytes {
    request.header = Some(pb::RequestHeader { id, ..Default::default() });
    request.encode_to_vec().into()
}

fn reorder(ctx: &mut Context, entries: &mut [Entry]) {
    let plain = |entry: &Entry| entry.kind == EntryKind::Normal && !entry.data.is_empty();
    if entries.len() < 2 || !ctx.random.percent(10) {
        return;
    }
    let at = ctx.random.below(entries.len() as u64 - 1) as usize;
    if plain(&entries[at]) && plain(&entries[at + 1]) {
        let data = std::mem::take(&mut entries[at].data);
        entries[at].data = std::mem::replace(&mut entries[at + 1].data, data);
    }
}

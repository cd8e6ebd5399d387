//! A node: a member on a simulated disk, driven in one loop.
//!
//! What the server does with threads is done here with events: the log writes when work comes and
//! syncs later, apply works off its queue, the backend commits now and then, snapshots are taken
//! and installed, all at times that the seed draws. A crash drops everything but the disk.

mod apply;
mod log;
mod serve;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ::apply::{Applier, Shared};
use backend::Backend;
use bytes::Bytes;
use env::sim::{SimDisk, Survival};
use env::{Clock, Disk, Random};
use member::{Effect, Input, Leadership, Member};
use membership::InitialCluster;
use mvcc::watch::{Hub, HubWorker, Stream};
use mvcc::{CompactionJob, Store};
use prost::Message;
use proto::raftpb;
use server::bootstrap::{self, Existing};
use types::{CompatVersion, MemberId, Snapshot};
use wal::Wal;

use crate::bugs::Bug;
use crate::context::{Context, Event, Packet};
use crate::profile::{MS, SECOND};
use crate::random::Draw;

pub(crate) use serve::{Answer, Body, Request};

/// Length of a raft tick.
pub(crate) const TICK: u64 = 100 * MS;

/// What happens on a node.
#[derive(Debug)]
pub(crate) enum Action {
    Tick,
    /// The log's sync returned.
    LogDone,
    /// Apply takes up its next work.
    Apply,
    /// The raft loop hears these.
    Inputs(Vec<Input>),
    /// The backend commits.
    Commit,
    /// A disk snapshot is taken.
    Snapshot(Snapshot),
    /// The next step of a compaction.
    Compact,
    /// The hub's worker steps.
    Watch,
    /// The primary looks for leases that are over.
    Leases,
    /// Old files are removed.
    Purge,
    /// Space for the log is prepared.
    Prepare,
    /// The backend is written anew.
    Defragment,
    /// Power goes, and comes back after so long.
    PowerCut(u64),
}

/// A place where a member runs. See the module documentation.
pub(crate) struct Node {
    pub(crate) slot: usize,
    pub(crate) name: String,
    pub(crate) url: String,
    pub(crate) disk: SimDisk,
    pub(crate) epoch: u64,
    initial_cluster: String,
    existing: Option<Existing>,
    /// How far the node's clock is ahead.
    pub(crate) clock_ahead: u64,
    /// Nothing happens before this time.
    pub(crate) paused_until: u64,
    /// Until this time each sync takes so much longer.
    pub(crate) slow_disk: (u64, u64),
    /// A fault of the disk was planned: the member may stop because of it.
    pub(crate) disk_fault: bool,
    pub(crate) running: Option<Box<Running>>,
    /// Who runs here, once started.
    pub(crate) member_id: Option<MemberId>,
    /// Removed from the cluster.
    pub(crate) gone: bool,
    /// What a planted bug wants to know.
    applied_before: u64,
}

/// A member that runs.
pub(crate) struct Running {
    pub(crate) id: MemberId,
    pub(crate) member: Member,
    pub(crate) applier: Applier,
    pub(crate) backend: Backend,
    pub(crate) store: Arc<Store>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) hub: Hub,
    pub(crate) leadership: Leadership,
    worker: HubWorker,
    watch_queued: bool,
    preparer: wal::Preparer,
    wal: Wal,
    log: log::Log,
    work: VecDeque<apply::Work>,
    applying: bool,
    /// Leadership as apply was told.
    primary_of: Leadership,
    pub(crate) applied: u64,
    last_snapshot: u64,
    pub(crate) compactions: VecDeque<CompactionJob>,
    serving: serve::Serving,
    ticks: u64,
    /// When the raft loop hears what was sent to it last.
    heard_at: u64,
}

/// Why a node stops.
pub(crate) type Stop = Box<dyn std::error::Error>;

struct FixedClock(Duration);

impl Clock for FixedClock {
    fn now(&self) -> Duration {
        self.0
    }
    fn unix(&self) -> Duration {
        Duration::from_secs(1_700_000_000) + self.0
    }
}

impl Node {
    pub(crate) fn new(slot: usize, initial_cluster: String, existing: Option<Existing>) -> Self {
        Self {
            slot,
            name: name(slot),
            url: url(slot),
            disk: SimDisk::new(),
            epoch: 0,
            initial_cluster,
            existing,
            clock_ahead: 0,
            paused_until: 0,
            slow_disk: (0, 0),
            disk_fault: false,
            running: None,
            member_id: None,
            gone: false,
            applied_before: 0,
        }
    }

    /// The node's monotonic time.
    pub(crate) fn clock(&self, ctx: &Context) -> Duration {
        Duration::from_micros(ctx.now + self.clock_ahead)
    }

    /// Lets the raft loop hear inputs in the order in which they were sent, as a queue between
    /// threads does.
    fn tell_raft(&self, running: &mut Running, ctx: &mut Context, delay: u64, inputs: Vec<Input>) {
        running.heard_at = running.heard_at.max(ctx.now + delay);
        let wait = running.heard_at - ctx.now;
        self.after(ctx, wait, Action::Inputs(inputs));
    }

    pub(crate) fn after(&self, ctx: &mut Context, delay: u64, action: Action) {
        ctx.after(delay, Event::Node { slot: self.slot, epoch: self.epoch, action });
    }

    fn snap_dir() -> PathBuf {
        PathBuf::from("data/member/snap")
    }

    fn wal_dir() -> PathBuf {
        PathBuf::from("data/member/wal")
    }

    fn options(&self, ctx: &mut Context) -> bootstrap::Options {
        let profile = &ctx.profile;
        bootstrap::Options {
            name: self.name.clone(),
            data_dir: PathBuf::from("data"),
            wal_dir: None,
            initial_cluster: self.initial_cluster.clone(),
            initial_cluster_token: "sim".to_owned(),
            advertise_peer_urls: vec![self.url.clone()],
            compat: CompatVersion::V3_7,
            quota: ::apply::Quota::Off,
            heartbeat: Duration::from_micros(TICK),
            election_ticks: profile.election_ticks,
            pre_vote: profile.pre_vote,
            catch_up_entries: profile.catch_up_entries,
            max_learners: 2,
            backend_batch_limit: 10_000,
            compaction_batch_limit: profile.compaction_batch,
            checkpoint_interval: profile.checkpoints.then_some(Duration::from_secs(1)),
            force_new_cluster: false,
            no_sync: ctx.bug == Some(Bug::NoSync),
            lock_memory: false,
            defragment_from_bytes: None,
            wal_segment_bytes: profile.segment_bytes,
            seed: ctx.random.next_u64(),
            tokens: Default::default(),
            bcrypt_cost: 4,
        }
    }

    /// Starts the member from what is on the disk.
    pub(crate) fn start(&mut self, ctx: &mut Context) {
        if self.gone || self.running.is_some() {
            return;
        }
        if let Err(reason) = self.try_start(ctx) {
            if !self.disk_fault {
                return ctx.fail(format!("{} cannot start: {reason}", self.name));
            }
            self.crash(ctx, Survival::Everything);
            ctx.after(SECOND, Event::Start(self.slot));
        }
    }

    fn try_start(&mut self, ctx: &mut Context) -> Result<(), Stop> {
        self.plant_index(ctx)?;
        let options = self.options(ctx);
        let clock: Arc<dyn env::Clock> = Arc::new(FixedClock(self.clock(ctx)));
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let existing = match &self.existing {
            Some(existing) if !wal::exists(&*disk, &options.wal_dir())? => {
                let initial = InitialCluster::parse(&self.initial_cluster)?;
                let members = initial.match_existing(&existing.members, membership::same_text)?;
                Some(Existing { cluster_id: existing.cluster_id, members })
            }
            _ => None,
        };
        let parts = bootstrap::bootstrap(disk, &clock, &options, existing.as_ref(), Arc::new(|| {}))?;
        let faults = parts.backend.check();
        if !faults.is_empty() {
            return Err(format!("the database is damaged: {faults:?}").into());
        }
        let watch = mvcc::watch::Options {
            queue_responses: ctx.profile.watch_queue,
            seed: options.seed,
            ..Default::default()
        };
        let (hub, worker) = Hub::new(parts.store.clone(), watch);
        let (snapshot, applied) = (parts.snapshot_index, parts.applied);
        let (id, revision) = (parts.member_id, parts.store.current_revision());
        ctx.slots.insert(id.0, self.slot);
        self.member_id = Some(id);
        ctx.note("start", &[self.slot as u64, applied, revision as u64], || {
            let progress = parts.member.progress();
            format!("{} as {:x} from snapshot {snapshot}, {progress:?}, revision {revision}", self.name, id.0)
        });
        let mut running = Running {
            id,
            member: parts.member,
            applier: parts.applier,
            backend: parts.backend,
            store: parts.store,
            shared: parts.shared,
            hub,
            leadership: Leadership::default(),
            worker,
            watch_queued: false,
            preparer: parts.wal.preparer(),
            wal: parts.wal,
            log: log::Log::default(),
            work: VecDeque::new(),
            applying: false,
            primary_of: Leadership::default(),
            applied,
            last_snapshot: snapshot,
            compactions: parts.resume_compaction.into_iter().collect(),
            serving: serve::Serving::new(id, self.slot, self.epoch),
            ticks: 0,
            heard_at: 0,
        };
        let first_tick = ctx.random.below(TICK);
        self.after(ctx, first_tick, Action::Tick);
        let first_commit = ctx.random.below(ctx.profile.commit_interval);
        self.after(ctx, first_commit, Action::Commit);
        self.after(ctx, 500 * MS, Action::Leases);
        self.after(ctx, 3 * SECOND, Action::Purge);
        if ctx.profile.prepares_log {
            self.after(ctx, MS, Action::Prepare);
        }
        if !running.compactions.is_empty() {
            self.after(ctx, ctx.profile.compaction_pause, Action::Compact);
        }
        let result = self.drive(&mut running, ctx);
        self.running = Some(Box::new(running));
        result
    }

    /// Power goes: what was not synced survives as `survival` says.
    pub(crate) fn crash(&mut self, ctx: &mut Context, survival: Survival) {
        ctx.stats.crashes += 1;
        ctx.note("crash", &[self.slot as u64], || format!("{} {survival:?}", self.name));
        self.epoch += 1;
        self.applied_before = self.running.take().map_or(0, |running| running.applied);
        self.disk = self.disk.crash(survival);
        self.disk_fault = false;
        self.paused_until = 0;
    }

    /// Whether the node has been made for a member that was added, and not started yet.
    pub(crate) fn never_started(&self) -> bool {
        self.initial_cluster.is_empty()
    }

    /// Prepares the first start of a member that was added.
    pub(crate) fn join(&mut self, initial_cluster: String, existing: Existing) {
        self.initial_cluster = initial_cluster;
        self.existing = Some(existing);
    }

    /// Stops for good: the member was removed.
    pub(crate) fn retire(&mut self, ctx: &mut Context) {
        ctx.note("retire", &[self.slot as u64], || self.name.clone());
        self.epoch += 1;
        self.running = None;
        self.gone = true;
    }

    /// Does what happens on the node.
    pub(crate) fn act(&mut self, ctx: &mut Context, action: Action) {
        if let Action::PowerCut(rest) = action {
            if self.running.is_some() && ctx.in_trouble() {
                let survival = Survival::Random(ctx.random.next_u64());
                self.crash(ctx, survival);
                ctx.after(rest, Event::Start(self.slot));
            }
            return;
        }
        self.with(ctx, |node, running, ctx| node.try_act(running, ctx, action));
    }

    /// Runs a part of the member; an error stops it, as it stops the process.
    fn with(
        &mut self,
        ctx: &mut Context,
        run: impl FnOnce(&mut Self, &mut Running, &mut Context) -> Result<(), Stop>,
    ) {
        let Some(mut running) = self.running.take() else { return };
        let result = run(self, &mut running, ctx);
        self.running = Some(running);
        let Err(reason) = result else { return };
        if !self.disk_fault {
            return ctx.fail(format!("{} stopped: {reason}", self.name));
        }
        ctx.note("stop", &[self.slot as u64], || format!("{}: {reason}", self.name));
        let survival = Survival::Random(ctx.random.next_u64());
        self.crash(ctx, survival);
        let delay = ctx.random.between(50 * MS, 3 * SECOND);
        ctx.after(delay, Event::Start(self.slot));
    }

    fn try_act(&mut self, running: &mut Running, ctx: &mut Context, action: Action) -> Result<(), Stop> {
        match action {
            Action::Tick => {
                running.ticks += 1;
                self.after(ctx, TICK, Action::Tick);
                self.input(running, ctx, Input::Tick)?;
                if running.ticks.is_multiple_of(5) {
                    self.ask_again(running, ctx)?;
                }
                Ok(())
            }
            Action::LogDone => self.log_done(running, ctx),
            Action::Apply => self.apply_next(running, ctx),
            Action::Inputs(inputs) => {
                for input in inputs {
                    running.member.handle(input)?;
                }
                self.drive(running, ctx)
            }
            Action::Commit => {
                let interval = ctx.profile.commit_interval;
                self.after(ctx, interval, Action::Commit);
                let stats = running.backend.commit()?;
                if stats.committed {
                    let index = running.backend.stored_consistent_position().index;
                    ctx.note("commit", &[self.slot as u64, index], || format!("{} index {index}", self.name));
                }
                Ok(())
            }
            Action::Snapshot(snapshot) => {
                running.backend.commit()?;
                running.log.queue.push_back(log::Work::Snapshot(snapshot));
                self.log_next(running, ctx)
            }
            Action::Compact => self.compact_next(running, ctx),
            Action::Watch => {
                running.watch_queued = false;
                let step = running.worker.step(self.clock(ctx));
                if let Some(error) = step.error {
                    return Err(error.into());
                }
                if step.busy {
                    self.wake_watch(running, ctx);
                }
                Ok(())
            }
            Action::Leases => {
                self.after(ctx, 500 * MS, Action::Leases);
                self.look_after_leases(running, ctx)
            }
            Action::Purge => {
                self.after(ctx, 3 * SECOND, Action::Purge);
                wal::purge(&self.disk, &Self::wal_dir(), ".wal", 2)?;
                wal::purge(&self.disk, &Self::snap_dir(), ".snap", 2)?;
                Ok(())
            }
            Action::Prepare => {
                let pause = ctx.random.between(10 * MS, 400 * MS);
                self.after(ctx, pause, Action::Prepare);
                running.preparer.step()?;
                Ok(())
            }
            Action::Defragment => {
                running.backend.defragment()?;
                Ok(())
            }
            // The caller takes the power away.
            Action::PowerCut(_) => Ok(()),
        }
    }

    fn wake_watch(&self, running: &mut Running, ctx: &mut Context) {
        if !std::mem::replace(&mut running.watch_queued, true) {
            let delay = ctx.draw((20, 2 * MS));
            self.after(ctx, delay, Action::Watch);
        }
    }

    /// A packet from another node.
    pub(crate) fn receive(&mut self, ctx: &mut Context, from: usize, packet: Packet) {
        self.with(ctx, |node, running, ctx| node.try_receive(running, ctx, from, packet));
    }

    fn try_receive(
        &mut self,
        running: &mut Running,
        ctx: &mut Context,
        from: usize,
        packet: Packet,
    ) -> Result<(), Stop> {
        let message = raftpb::Message::decode(packet.bytes)?;
        // The transport refuses members that were removed, and messages for somebody else.
        let sender = MemberId(message.from());
        if running.shared.cluster().is_removed(sender) || message.to() != running.id.0 {
            return Ok(());
        }
        if let Some(db) = packet.db {
            let index = message.snapshot.as_ref().and_then(|s| s.metadata.as_ref()).map_or(0, |m| m.index());
            wal::snap::save_db(&self.disk, &Self::snap_dir(), index, &mut db.as_slice())?;
            ctx.note("received", &[self.slot as u64, index], || {
                format!("{} snapshot {index} from n{from}", self.name)
            });
        }
        self.input(running, ctx, Input::Message(Box::new(message)))
    }

    /// Gives one input to the member and does what comes of it.
    fn input(&mut self, running: &mut Running, ctx: &mut Context, input: Input) -> Result<(), Stop> {
        running.member.handle(input)?;
        self.drive(running, ctx)
    }

    fn drive(&mut self, running: &mut Running, ctx: &mut Context) -> Result<(), Stop> {
        for effect in running.member.effects() {
            match effect {
                Effect::Persist(persist) => self.persist(running, ctx, persist)?,
                Effect::Send(messages) => {
                    for message in messages {
                        self.send(running, ctx, message);
                    }
                }
                Effect::Apply(entries) => {
                    running.work.push_back(apply::Work::Entries(entries.into()));
                    self.wake_apply(running, ctx);
                }
                Effect::ReadReady(read) => self.read_ready(running, ctx, read)?,
                Effect::Leadership(leadership) => self.lead(running, ctx, leadership),
                Effect::Dropped(consensus::StepError::LostEntries { commit, last, .. }) => {
                    ctx.fail(format!("{} has {last}, its leader knows it to have {commit}", self.name));
                }
                Effect::Dropped(error) => {
                    ctx.note("dropped", &[self.slot as u64], || format!("{}: {error}", self.name));
                }
            }
        }
        Ok(())
    }

    fn lead(&mut self, running: &mut Running, ctx: &mut Context, leadership: Leadership) {
        ctx.note("lead", &[self.slot as u64, leadership.term, leadership.leader.0], || {
            format!("{} term {} leader {:x}", self.name, leadership.term, leadership.leader.0)
        });
        if leadership.is_leader && !running.leadership.is_leader {
            ctx.stats.elections += 1;
            let member = &running.member;
            let term_of = |index| member.position_of(index).map(|position| position.term);
            let (id, last) = (running.id.0, member.progress().log.1);
            let verdict = ctx.oracle.leads(id, leadership.term, last, term_of);
            ctx.judge(verdict);
        }
        running.leadership = leadership;
        running.work.push_back(apply::Work::Leadership(leadership));
        self.wake_apply(running, ctx);
    }

    fn send(&mut self, running: &mut Running, ctx: &mut Context, message: raftpb::Message) {
        use raftpb::MessageType as Kind;
        let kind = message.r#type();
        let (id, term) = (running.id.0, message.term());
        let vote = match kind {
            Kind::MsgVote => Some(id),
            Kind::MsgVoteResp if !message.reject() => Some(message.to()),
            _ => None,
        };
        if let Some(candidate) = vote {
            let verdict = ctx.oracle.votes(id, term, candidate);
            ctx.judge(verdict);
            if ctx.in_trouble() && ctx.random.percent(ctx.profile.cuts_after_votes) {
                let (delay, rest) = (ctx.random.between(1, 5 * MS), ctx.random.between(MS, 50 * MS));
                self.after(ctx, delay, Action::PowerCut(rest));
            }
        }
        if kind == Kind::MsgSnap {
            // The content is taken where it is applied.
            running.work.push_back(apply::Work::SendSnapshot(Box::new(message)));
            return self.wake_apply(running, ctx);
        }
        if ctx.has(Bug::CommitByMinority) && kind == Kind::MsgApp && ctx.random.percent(3) {
            self.forge_answer(ctx, &message);
        }
        let Some(to) = ctx.slots.get(&message.to()).copied() else { return };
        // A stream does not repeat what it carries; a proposal repeated would be a second request.
        let may_double = kind != Kind::MsgProp;
        let bytes = Bytes::from(message.encode_to_vec());
        if !ctx.send(self.slot, to, Packet { bytes, db: None }, may_double) && ctx.random.percent(20) {
            let peer = MemberId(message.to());
            self.after(ctx, 2 * MS, Action::Inputs(vec![Input::PeerUnreachable(peer)]));
        }
    }

    fn forge_answer(&self, ctx: &mut Context, message: &raftpb::Message) {
        let Some(last) = message.entries.last() else { return };
        let answer = raftpb::Message {
            r#type: Some(raftpb::MessageType::MsgAppResp.into()),
            from: message.to,
            to: message.from,
            term: message.term,
            index: last.index,
            ..Default::default()
        };
        self.after(ctx, MS, Action::Inputs(vec![Input::Message(Box::new(answer))]));
    }

    /// Begins a watch stream for a client.
    pub(crate) fn stream(&mut self, ctx: &mut Context) -> Option<Stream> {
        let running = self.running.as_mut()?;
        let stream = running.hub.stream(|| {});
        let mut running = self.running.take()?;
        self.wake_watch(&mut running, ctx);
        self.running = Some(running);
        Some(stream)
    }

    /// Lets the hub hear what a client did to its stream.
    pub(crate) fn poke_watch(&mut self, ctx: &mut Context) {
        if let Some(mut running) = self.running.take() {
            self.wake_watch(&mut running, ctx);
            self.running = Some(running);
        }
    }

    /// Plants the bugs that put a wrong consistent index on the disk.
    fn plant_index(&self, ctx: &mut Context) -> Result<(), Stop> {
        let path = Self::snap_dir().join("db");
        if self.applied_before == 0 || !self.disk.exists(&path)? {
            return Ok(());
        }
        let index = match ctx.bug {
            Some(Bug::ApplyTwiceAfterCrash) => {
                let stored = self.stored_index(&path)?;
                stored.saturating_sub(ctx.random.between(1, 3))
            }
            Some(Bug::IndexBeforeData) => self.applied_before.max(self.stored_index(&path)?),
            _ => return Ok(()),
        };
        let db = bolt::Db::open(Arc::new(self.disk.clone()), &path, bolt::Options::default())?;
        let mut tx = db.write()?;
        tx.create_bucket_if_missing(b"meta")?.put(b"consistent_index", &index.to_be_bytes())?;
        tx.commit()?;
        Ok(())
    }

    fn stored_index(&self, path: &Path) -> Result<u64, Stop> {
        let backend = Backend::open(Arc::new(self.disk.clone()), path, backend::Options::default())?;
        Ok(backend.stored_consistent_position().index)
    }
}

/// Name of the node in a slot.
pub(crate) fn name(slot: usize) -> String {
    format!("n{slot}")
}

/// Peer URL of the node in a slot.
pub(crate) fn url(slot: usize) -> String {
    format!("http://n{slot}:2380")
}

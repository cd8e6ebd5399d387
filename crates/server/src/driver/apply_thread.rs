//! The apply thread: owns the state machine, publishes results, events and read views.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Release;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use apply::{Applied, Applier, FollowUp, Reply, RequestKind};
use env::{Clock, Disk};
use member::Leadership;
use mvcc::RevisionEvents;
use mvcc::watch::Hub;
use peer::Transport;
use proto::etcdserverpb::{AlarmMember, AlarmType};
use proto::raftpb::ConfChange;
use types::{Entry, LogPosition, MemberId, Snapshot, Version};

use super::Input;
use super::store_threads::{BackendSignal, CompactionWork};
use crate::bootstrap;
use crate::duties::Duty;
use crate::fatal::Fatal;
use crate::lanes::{Answer, Answers};
use crate::log;
use crate::mailbox::{Receiver, Sender};
use crate::metrics::Metrics;
use crate::observe::slow::AppliedEntry;
use crate::progress::Progress;
use crate::reads::Reads;

/// Entries applied before their answers are delivered: bounds how long the first one waits for
/// the last.
const ENTRIES_PER_DELIVERY: usize = 256;

/// Time between two disk snapshots if they are due all the time.
const SNAPSHOT_INTERVAL: Duration = Duration::from_secs(2);
/// How much of that time may be taken in advance: a few snapshots in a row are taken as they are due.
const SNAPSHOT_ADVANCE: Duration = SNAPSHOT_INTERVAL.saturating_mul(16);

/// Work for the apply thread.
pub enum ApplyWork {
    /// Committed entries, in order.
    Entries(Vec<Entry>),
    /// Leadership changed: leases start or stop their clocks.
    Leadership(Leadership),
    /// A snapshot of the leader is saved and in the log: its database takes the place of ours.
    Install(Snapshot),
    /// Answers with an image of the backend as it is now, and what it is an image of.
    OpenSnapshot(SyncSender<Result<Image, backend::Error>>),
    /// Finish what was queued before and stop.
    Stop,
}

/// The database and what it holds.
pub struct Image {
    /// Position and members of the content.
    pub snapshot: Snapshot,
    /// The content.
    pub content: backend::Snapshot,
}

/// What the apply thread works with.
pub struct ApplyThread {
    /// The state machine.
    pub applier: Applier,
    /// Id of the member.
    pub member_id: MemberId,
    /// The version of this server.
    pub server_version: Version,
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
    /// Entries that take longer are told.
    pub slow_apply: Duration,
    /// Applied entries between two disk snapshots.
    pub snapshot_count: u64,
    /// Records looked at per compaction batch.
    pub compaction_batch_limit: usize,
    /// Index of the last disk snapshot.
    pub last_snapshot: u64,
    /// A disk snapshot is to be taken after this batch, however few entries there are.
    pub snapshot_wanted: bool,
    /// No disk snapshot before this time.
    pub next_snapshot: Duration,
    /// The alarms that were last seen, to tell which are new.
    pub alarms: Vec<AlarmMember>,
    /// Leadership as last told.
    pub leadership: Leadership,
    /// The peers.
    pub transport: Transport,
    /// The peers that the transport knows, with their URLs.
    pub peers: BTreeMap<MemberId, Vec<String>>,
    /// Reads that wait for an index.
    pub reads: Arc<Reads>,
    /// The disk, for received snapshots.
    pub disk: Arc<dyn Disk>,
    /// Where they are.
    pub snap_dir: PathBuf,
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
                ApplyWork::Install(snapshot) => {
                    self.metrics.snapshot_apply_in_progress.set(1);
                    let installed = self.install(&snapshot);
                    self.metrics.snapshot_apply_in_progress.set(0);
                    if let Err(error) = installed {
                        return self.fatal.stop(error.to_string());
                    }
                }
                ApplyWork::OpenSnapshot(answer) => {
                    // Who asked may have left.
                    let _ = answer.send(self.open_snapshot());
                }
                ApplyWork::Stop => return,
            }
        }
    }

    fn apply(&mut self, entries: &[Entry]) -> Result<(), apply::FatalApplyError> {
        let now = self.clock.now();
        let mut tally = Tally::default();
        let mut events: Vec<Arc<RevisionEvents>> = Vec::new();
        let mut begun = now;
        for entry in entries {
            let applied = self.applier.apply(entry, now)?;
            tally.add(&applied, &self.metrics);
            let times = (begun, self.clock.now());
            begun = times.1;
            // What follows an entry is seldom more than handing its answer over, and then costs the next
            // entry nothing.
            let mut is_long = applied.follow_up.is_some() || applied.note.is_some();
            if applied.kind.is_some() {
                let took = times.1.saturating_sub(times.0);
                let outcome = AppliedEntry { data: &entry.data, result: &applied.result, took };
                if outcome.is_notable(self.slow_apply) {
                    outcome.report(self.slow_apply, &self.metrics);
                    is_long = true;
                }
            }
            if applied.kind == Some(RequestKind::Alarm) {
                self.log_alarms();
                is_long = true;
            }
            self.finish(applied, times, &mut events);
            if is_long {
                begun = self.clock.now();
            }
        }
        if let Some(last) = entries.last() {
            self.progress.applied_term.store(last.term, Release);
            self.progress.applied.store(last.index, Release);
            self.reads.applied(last.index);
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

    fn finish(
        &mut self,
        applied: Applied,
        times: (Duration, Duration),
        events: &mut Vec<Arc<RevisionEvents>>,
    ) {
        events.extend(applied.events);
        if let Some(note) = &applied.note {
            log_note(note);
        }
        match applied.follow_up {
            None => {}
            Some(FollowUp::Compact(job)) => {
                let job = job.with_batch(self.compaction_batch_limit);
                let _ = self.compactions.send(CompactionWork { job });
            }
            Some(FollowUp::RaiseNoSpace) => {
                // The answer waits until the alarm is committed.
                let answer = applied.request.map(|id| Answer { id, result: applied.result, applied: times });
                let _ = self.duties.send(Duty::RaiseNoSpace { answer });
                return;
            }
            Some(FollowUp::ClusterVersionSet { previous, current }) => {
                self.check_version(current);
                if let Some(previous) = previous.filter(|previous| current < *previous) {
                    log::info!("Cluster version downgrade detected, forcing snapshot",
                        "prev-cluster-version" => previous.to_string(),
                        "new-cluster-version" => current.to_string());
                    self.snapshot_wanted = true;
                }
                let _ = self.duties.send(Duty::ClusterVersionSet { previous, current });
            }
            Some(FollowUp::AttributesPublished { member }) => {
                let _ = self.duties.send(Duty::AttributesPublished { member });
            }
            Some(FollowUp::FirstCommitInTerm { term }) => self.first_commit(term),
            Some(FollowUp::ConfChange { change }) => {
                self.log_conf_change(&change);
                self.follow_members();
                let _ = self.to_raft.send(Input::ConfChangeApplied(change));
            }
        }
        if let Some(id) = applied.request {
            self.answers.push(Answer { id, result: applied.result, applied: times });
        }
    }

    fn log_alarms(&mut self) {
        let now = self.shared.alarms().list(AlarmType::None as i32);
        let before = std::mem::replace(&mut self.alarms, now);
        let tell = |text: &str, alarms: &[AlarmMember], known: &[AlarmMember]| {
            for alarm in alarms.iter().filter(|alarm| !known.contains(alarm)) {
                let kind = AlarmType::try_from(alarm.alarm).map_or("", |kind| kind.as_str_name());
                log::warn(text, &[("alarm", kind.into()), ("from", MemberId(alarm.member_id).into())]);
            }
        };
        tell("alarm raised", &self.alarms, &before);
        tell("alarm disarmed", &before, &self.alarms);
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
        if self.leadership.term == term && self.leadership.leader.0 != 0 {
            self.progress.settle_lost_leader(self.lease_extension);
        }
        if self.leadership.is_leader && self.leadership.term == term {
            let mut lessor = self.shared.lessor.lock();
            lessor.promote(self.clock.now(), self.lease_extension);
            self.progress.primary_term.store(term, Release);
            drop(lessor);
            self.progress.set_caught_up();
            let _ = self.duties.send(Duty::BecameLeader);
        }
    }

    /// A server older than the cluster would not understand all that is in the log.
    fn check_version(&self, cluster: Version) {
        let server = self.server_version;
        if membership::is_server_too_old(server, Some(cluster)) {
            self.fatal.stop(bootstrap::Error::ServerTooOld { server, cluster }.to_string());
        }
    }

    fn lead(&mut self, leadership: Leadership) {
        if self.leadership.is_leader && !leadership.is_leader {
            self.shared.lessor.lock().demote();
            // The raft thread did so already, perhaps before `first_commit` said the opposite.
            self.progress.leads_and_caught_up.store(false, Release);
        }
        self.leadership = leadership;
    }

    /// Lets the transport know whom to talk to. At the start before the raft thread says anything to
    /// anybody: what is sent to a member that the transport does not know is lost.
    pub fn follow_members(&mut self) {
        let cluster = self.shared.cluster();
        let own = cluster.member(self.member_id);
        self.progress.is_learner.store(own.is_some_and(|member| member.is_learner), Release);
        let gone: Vec<MemberId> =
            self.peers.keys().copied().filter(|id| cluster.member(*id).is_none()).collect();
        for id in gone {
            self.peers.remove(&id);
            self.transport.remove_peer(id);
        }
        for member in cluster.members().filter(|member| member.id != self.member_id) {
            let known = self.peers.get(&member.id);
            if known == Some(&member.peer_urls) {
                continue;
            }
            let told = match known {
                Some(_) => self.transport.update_peer(member.id, &member.peer_urls),
                None => self.transport.add_peer(member.id, &member.peer_urls),
            };
            match told {
                Ok(()) => drop(self.peers.insert(member.id, member.peer_urls.clone())),
                Err(error) => log::warn!(
                    "a member has peer URLs that cannot be used",
                    "remote-peer-id" => member.id, "error" => error.to_string()
                ),
            }
        }
        if cluster.is_removed(self.member_id) {
            let _ = self.duties.send(Duty::Removed);
        }
    }

    /// Takes the leader's state in place of the own.
    fn install(&mut self, snapshot: &Snapshot) -> Result<(), InstallError> {
        let LogPosition { index, term } = snapshot.position;
        log::info!("applying snapshot", "incoming-leader-snapshot-index" => index);
        let received = self.snap_dir.join(wal::snap::db_file_name(index));
        let installed = self.applier.install(&received, snapshot)?;
        if installed.lost_leases > 0 {
            log::warn!("keys name leases that do not exist; they stay without a lease", "count" => installed.lost_leases);
        }
        wal::snap::remove_db_files_below(&*self.disk, &self.snap_dir, index)?;
        if let Some(job) = installed.resume_compaction {
            let _ =
                self.compactions.send(CompactionWork { job: job.with_batch(self.compaction_batch_limit) });
        }
        self.follow_members();
        self.alarms = self.shared.alarms().list(AlarmType::None as i32);
        if let Some(version) = self.shared.cluster().version() {
            self.check_version(version);
            self.metrics.agree_on_cluster_version(version);
        }
        let _ = self.duties.send(Duty::StateReplaced);
        self.last_snapshot = index;
        self.progress.applied_term.store(term, Release);
        self.progress.applied.store(index, Release);
        self.reads.applied(index);
        self.hub.resync();
        let _ = self.to_raft.send(Input::Applied(index));
        log::info!("applied snapshot", "incoming-leader-snapshot-index" => index);
        Ok(())
    }

    /// The state as it is now: every entry applied so far is in the image.
    fn open_snapshot(&self) -> Result<Image, backend::Error> {
        let content = self.backend.snapshot()?;
        Ok(Image { snapshot: self.describe(content.position()), content })
    }

    fn describe(&self, position: LogPosition) -> Snapshot {
        let cluster = self.shared.cluster();
        let conf_state = apply::members::conf_state(&cluster);
        Snapshot { position, conf_state, data: cluster.to_v2_store().into() }
    }

    fn snapshot_if_due(&mut self, position: LogPosition) {
        let is_wanted = std::mem::take(&mut self.snapshot_wanted);
        let is_due = position.index.saturating_sub(self.last_snapshot) > self.snapshot_count;
        if !is_wanted && !is_due {
            return;
        }
        // Many more entries a second than upstream would make for many snapshots a second, each
        // with its syncs; what one saves is only the replay of so many entries.
        let now = self.clock.now();
        if !is_wanted && now + SNAPSHOT_ADVANCE <= self.next_snapshot {
            return;
        }
        self.next_snapshot = self.next_snapshot.max(now) + SNAPSHOT_INTERVAL;
        self.last_snapshot = position.index;
        log::info!("triggering snapshot", "local-member-applied-index" => position.index);
        let _ = self.snapshots.send(self.describe(position));
    }
}

/// A change of users or roles.
fn log_note(note: &auth::Note) {
    let fields: Vec<log::Field<'_>> = note
        .fields
        .iter()
        .map(|(name, values)| match &values[..] {
            [value] if !name.ends_with("roles") => (*name, value.as_str().into()),
            values => (*name, values.into()),
        })
        .collect();
    log::info(note.message, &fields);
}

/// Why a received snapshot was not installed.
#[derive(Debug, thiserror::Error)]
enum InstallError {
    #[error("received snapshot: {0}")]
    Restore(#[from] apply::restore::RestoreError),
    #[error("received snapshot: {0}")]
    Files(#[from] wal::snap::Error),
    #[error("received snapshot: {0}")]
    Backend(#[from] backend::Error),
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

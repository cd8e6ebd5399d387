//! The state machine around `raft::RawNode`.
//!
//! Invariants
//! - The store holds an entry before the crate is told that it was taken (`advance_append_async`).
//! - An election starts only on a log that is persisted to its end and with no snapshot waiting:
//!   the crate relies on it when it becomes leader.
//! - After each input the election timeout is ours: the crate draws its own at each change of term
//!   or role, and both are compared.
//!
//! Owned by one thread; nothing here blocks.

use std::collections::VecDeque;

use bytes::Bytes;
use env::{Random, SeededRandom};
use proto::raftpb;
use raft::eraftpb::{self, MessageType};
use raft::{RawNode, SnapshotStatus, StateRole};
use types::LogPosition;
use types::raft::{ConfState, Entry, EntryKind, HardState};

use crate::check::{Receiver, StepError, check};
use crate::convert::{
    conf_change_to_crate, conf_state_from_crate, entry_from_crate, entry_to_crate, hard_state_from_crate,
    message_from_crate, message_to_crate, role_from_crate, snapshot_from_crate,
};
use crate::log_lines::{Level, LogLine, logger};
use crate::ready::{PeerProgress, ProgressState, ReadState, Ready, Role, SoftState, Status};
use crate::store::Store;

/// Read requests that wait for the first commit of a term; more are dropped and asked again.
const MAX_HELD_READS: usize = 4096;

/// How this member takes part.
#[derive(Clone)]
pub struct Config {
    /// Id of this member; not 0.
    pub id: u64,
    /// Ticks without a leader until an election; the actual number is drawn from n..2n.
    pub election_ticks: usize,
    /// Ticks between heartbeats.
    pub heartbeat_ticks: usize,
    /// Ask whether an election could be won before starting it.
    pub pre_vote: bool,
    /// A leader that hears from no quorum steps down.
    pub check_quorum: bool,
    /// Payload bytes per message, about; one entry always fits.
    pub max_size_per_msg: u64,
    /// Messages on the way to one peer.
    pub max_inflight: usize,
    /// The last applied entry; entries behind it are handed out as committed. Clamped to what the
    /// log has. The configuration of the log state must be the one at this entry.
    pub applied: u64,
    /// Takes the crate's log lines.
    pub log: Option<LogLine>,
    /// The least level that `log` gets.
    pub log_level: Level,
}

impl Config {
    /// etcd's defaults.
    pub fn new(id: u64) -> Self {
        Self {
            id,
            election_ticks: 10,
            heartbeat_ticks: 1,
            pre_vote: true,
            check_quorum: true,
            max_size_per_msg: 1 << 20,
            max_inflight: 512,
            applied: 0,
            log: None,
            log_level: Level::Info,
        }
    }
}

/// The persisted state to start from; [`Default`] for a member that joins a cluster.
#[derive(Clone, Debug, Default)]
pub struct LogState {
    /// Entries behind the snapshot, without holes.
    pub entries: Vec<Entry>,
    /// Term, vote and commit.
    pub hard_state: HardState,
    /// The configuration at `Config::applied`, or at the snapshot if that is later.
    pub conf_state: ConfState,
    /// Where the log starts.
    pub snapshot: LogPosition,
}

/// A state that cannot be started from, or a change that cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The entries do not follow the snapshot and each other.
    #[error("raft: entry {index} follows entry {last}: the log has a hole")]
    Hole {
        /// Index of the entry.
        index: u64,
        /// Index before it.
        last: u64,
    },
    /// The hard state says that entries are committed which the log does not have.
    #[error(
        "raft: commit index {commit} lies behind the last entry {last}: the log is damaged or was truncated"
    )]
    CommitBehindLog {
        /// The commit index.
        commit: u64,
        /// The last entry.
        last: u64,
    },
    /// Refused by the crate.
    #[error("raft: {0}")]
    Raft(#[from] raft::Error),
}

/// Why a proposal was not taken. It may be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Nobody leads.
    #[error("etcdserver: no leader")]
    NoLeader,
    /// Leadership is being handed over.
    #[error("raft: proposal dropped while leadership is handed over")]
    Transferring,
    /// This member leads but was removed from the cluster.
    #[error("raft: proposal dropped, this member was removed")]
    Removed,
}

/// One member's share of consensus.
pub struct Consensus {
    raw: RawNode<Store>,
    random: SeededRandom,
    election_ticks: usize,
    max_size_per_msg: u64,
    /// Term and role that the current election timeout was drawn for.
    timeout_of: (u64, StateRole),
    /// Numbers of the readies that must be synced and are not yet reported, ascending.
    in_flight: VecDeque<u64>,
    last_ready: u64,
    /// The highest index reported as applied; the crate learns it as far as it is persisted.
    applied: u64,
    held_reads: Vec<eraftpb::Message>,
    /// Set on a leader that was removed, until somebody else leads.
    leaving: Option<Leaving>,
}

/// The removal of a leader, not carried out in the crate yet.
///
/// The crate aborts when a leader has no place in its tables. And the others can go on only if they
/// hear that the removal is committed: as long as they do not, they need this member's vote. So it
/// leads on in the old configuration, hands over, and the removal is carried out when it follows.
/// Every majority of the old configuration meets every one of the new: nothing can go wrong as long
/// as no other change begins here.
struct Leaving {
    change: eraftpb::ConfChange,
    ticks: usize,
}

impl Consensus {
    /// Starts from persisted state. Equal arguments and inputs give equal outputs.
    pub fn new(config: Config, state: LogState, seed: u64) -> Result<Self, Error> {
        let mut last = state.snapshot.index;
        for entry in &state.entries {
            if entry.index != last + 1 {
                return Err(Error::Hole { index: entry.index, last });
            }
            last = entry.index;
        }
        // A commit index alone is not synced: it may lag behind the snapshot.
        let mut hard_state = state.hard_state;
        if hard_state != HardState::default() || state.snapshot.index > 0 {
            hard_state.commit = hard_state.commit.max(state.snapshot.index);
            hard_state.term = hard_state.term.max(state.snapshot.term);
        }
        if hard_state.commit > last {
            return Err(Error::CommitBehindLog { commit: hard_state.commit, last });
        }
        let applied = config.applied.clamp(state.snapshot.index, hard_state.commit);
        let mut store = Store::new(state.snapshot, state.entries, hard_state, state.conf_state.sorted());
        store.set_applied(applied);
        let crate_config = raft::Config {
            id: config.id,
            election_tick: config.election_ticks,
            heartbeat_tick: config.heartbeat_ticks,
            applied,
            max_size_per_msg: config.max_size_per_msg,
            max_inflight_msgs: config.max_inflight,
            check_quorum: config.check_quorum,
            pre_vote: config.pre_vote,
            read_only_option: raft::ReadOnlyOption::Safe,
            ..raft::Config::default()
        };
        let logger = logger(config.id, config.log_level, config.log);
        let raw = RawNode::new(&crate_config, store, &logger)?;
        let mut consensus = Self {
            timeout_of: (raw.raft.term, raw.raft.state),
            raw,
            random: SeededRandom::new(seed),
            election_ticks: config.election_ticks,
            max_size_per_msg: config.max_size_per_msg,
            in_flight: VecDeque::new(),
            last_ready: 0,
            applied,
            held_reads: Vec::new(),
            leaving: None,
        };
        consensus.draw_timeout();
        Ok(consensus)
    }

    /// One tick of the clock has passed.
    pub fn tick(&mut self) {
        let raft = &self.raw.raft;
        let would_campaign = raft.state != StateRole::Leader
            && raft.election_elapsed + 1 >= raft.randomized_election_timeout();
        if !(would_campaign && self.is_unsettled()) {
            self.raw.tick();
            self.after_input();
        }
        self.hand_over();
    }

    /// A message from a peer.
    pub fn step(&mut self, message: raftpb::Message) -> Result<(), StepError> {
        let mut message = message_to_crate(message)?;
        let (term, last, leads) = (self.raw.raft.term, self.last_index(), self.is_leader());
        check(&message, Receiver { term, last, leads })?;
        if message.msg_type == MessageType::MsgAppendResponse && !self.guard_rejection(&mut message) {
            return Ok(());
        }
        match message.msg_type {
            // Forwarded requests are local to whoever handles them; a term would make the crate
            // abort when it forwards them on.
            MessageType::MsgPropose | MessageType::MsgReadIndex => message.term = 0,
            MessageType::MsgTransferLeader if !self.is_leader() => return Ok(()),
            MessageType::MsgTimeoutNow if self.is_unsettled() => return Ok(()),
            _ => {}
        }
        if message.msg_type == MessageType::MsgReadIndex && self.must_hold_reads() {
            self.hold_read(message);
            return Ok(());
        }
        let result = match message.msg_type {
            MessageType::MsgPropose => self.step_proposal(message),
            MessageType::MsgReadIndex => self.step_read(message),
            _ => self.raw.step(message),
        };
        self.after_input();
        result.map_err(|error| match error {
            raft::Error::StepPeerNotFound => StepError::UnknownPeer,
            raft::Error::StepLocalMsg => StepError::Local,
            raft::Error::ProposalDropped => StepError::ProposalDropped,
            other => StepError::Other(other.to_string()),
        })
    }

    /// Keeps `matched < next` where the crate's own handling of a rejection would not; `false` if
    /// the rejection tells nothing.
    fn guard_rejection(&self, message: &mut eraftpb::Message) -> bool {
        let raft = &self.raw.raft;
        let Some(progress) = raft.prs().get(message.from).filter(|_| self.is_leader()) else { return true };
        if !message.reject || message.term != raft.term || progress.state != raft::ProgressState::Probe {
            return true;
        }
        let mut hint = message.reject_hint;
        if message.log_term > 0 {
            hint = raft.raft_log.find_conflict_by_term(hint, message.log_term).0;
        }
        if hint < progress.matched {
            (message.reject_hint, message.log_term) = (progress.matched, 0);
        }
        message.index > progress.matched
    }

    /// Proposes a payload. It is in the log only when it comes back as committed.
    pub fn propose(&mut self, data: Bytes) -> Result<(), ProposeError> {
        self.propose_entries(vec![proposal(EntryKind::Normal, data)])
    }

    /// Proposes many payloads in order, in few messages. All are taken or none.
    pub fn propose_batch(&mut self, payloads: impl IntoIterator<Item = Bytes>) -> Result<(), ProposeError> {
        let payloads = payloads.into_iter();
        let mut entries = Vec::with_capacity(payloads.size_hint().0);
        let mut size = 0;
        for data in payloads {
            // Each message makes one append to each follower: keep it within an append's size.
            if size + data.len() as u64 > self.max_size_per_msg && !entries.is_empty() {
                self.propose_entries(std::mem::take(&mut entries))?;
                size = 0;
            }
            size += data.len() as u64;
            entries.push(proposal(EntryKind::Normal, data));
        }
        if entries.is_empty() { Ok(()) } else { self.propose_entries(entries) }
    }

    /// Proposes a configuration change, an encoded `raftpb.ConfChange`. While another one is
    /// pending it becomes an empty entry.
    pub fn propose_conf_change(&mut self, change: Bytes) -> Result<(), ProposeError> {
        self.propose_entries(vec![proposal(EntryKind::ConfChange, change)])
    }

    fn propose_entries(&mut self, entries: Vec<eraftpb::Entry>) -> Result<(), ProposeError> {
        let message = eraftpb::Message {
            msg_type: MessageType::MsgPropose,
            from: self.raw.raft.id,
            entries: entries.into(),
            ..Default::default()
        };
        let result = self.step_proposal(message);
        self.after_input();
        let raft = &self.raw.raft;
        result.map_err(|_| match raft.state {
            StateRole::Leader if raft.lead_transferee.is_some() => ProposeError::Transferring,
            StateRole::Leader => ProposeError::Removed,
            _ => ProposeError::NoLeader,
        })
    }

    /// Steps a proposal, hiding the payloads of configuration changes from the crate.
    ///
    /// A leader of the crate parses them, and drops upstream's "add learner" because its own enum
    /// of change types has no such number. All it wants to know is that there is one change, so
    /// it gets a stand-in; the payload is put in place where the entry went: the unstable log and
    /// the messages made from it.
    fn step_proposal(&mut self, mut message: eraftpb::Message) -> raft::Result<()> {
        let is_change = |entry: &eraftpb::Entry| entry.entry_type == eraftpb::EntryType::EntryConfChange;
        if self.leaving.is_some() && message.entries.iter().any(is_change) {
            return Err(raft::Error::ProposalDropped);
        }
        let mut changes = Vec::new();
        if self.is_leader() {
            for (entry, index) in message.mut_entries().iter_mut().zip(self.last_index() + 1..) {
                if entry.entry_type == eraftpb::EntryType::EntryConfChange {
                    changes.push((index, std::mem::replace(&mut entry.data, stand_in_change())));
                }
            }
        }
        self.raw.step(message)?;
        let raft = &mut self.raw.raft;
        for (index, data) in changes {
            let put = |entry: &mut eraftpb::Entry| {
                // Refused while another change is pending, it has become an empty normal entry.
                if entry.index == index && entry.entry_type == eraftpb::EntryType::EntryConfChange {
                    entry.data = data.clone();
                }
            };
            raft.r
                .raft_log
                .unstable
                .entries
                .iter_mut()
                .rev()
                .take_while(|entry| entry.index >= index)
                .for_each(put);
            raft.msgs.iter_mut().flat_map(|message| message.entries.iter_mut()).for_each(put);
        }
        Ok(())
    }

    /// Asks for an index from which a read is linearizable; the answer comes as a [`ReadState`]
    /// with the same `ctx`, or never, if leadership changes: then ask again. `false` if nobody
    /// leads.
    pub fn read_index(&mut self, ctx: u64) -> bool {
        if self.raw.raft.leader_id == 0 {
            return false;
        }
        let entry = proposal(EntryKind::Normal, Bytes::copy_from_slice(&ctx.to_be_bytes()));
        let message = eraftpb::Message {
            msg_type: MessageType::MsgReadIndex,
            entries: vec![entry].into(),
            ..Default::default()
        };
        if self.must_hold_reads() {
            self.hold_read(message);
        } else {
            let _ = self.step_read(message);
            self.after_input();
        }
        true
    }

    /// Steps a request for a read point. A follower that makes a quorum together with this leader
    /// confirms it by asking, and needs no round of heartbeats.
    ///
    /// That is so because a leader of a later term needs the vote of one of the two. The follower
    /// was not in a later term when it asked, or this member could not have been its leader; and
    /// this member is not in one now. So when the follower asked, nobody could have committed
    /// what this leader does not know.
    fn step_read(&mut self, message: eraftpb::Message) -> raft::Result<()> {
        if !(self.is_leader() && self.is_quorum_with(message.from)) {
            return self.raw.raft.step(message);
        }
        let raft = &mut self.raw.raft;
        let answer = eraftpb::Message {
            msg_type: MessageType::MsgReadIndexResp,
            from: raft.id,
            to: message.from,
            term: raft.term,
            index: raft.raft_log.committed,
            entries: message.entries,
            ..Default::default()
        };
        raft.msgs.push(answer);
        Ok(())
    }

    /// Whether this voter and that other one are a majority.
    fn is_quorum_with(&self, other: u64) -> bool {
        let voters = &self.conf_state().voters;
        let own = self.raw.raft.id;
        (2..=3).contains(&voters.len()) && other != own && voters.contains(&own) && voters.contains(&other)
    }

    /// A leader without a commit in its term does not know yet what is committed.
    fn must_hold_reads(&self) -> bool {
        self.is_leader() && !self.raw.raft.commit_to_current_term()
    }

    fn hold_read(&mut self, message: eraftpb::Message) {
        if self.held_reads.len() < MAX_HELD_READS {
            self.held_reads.push(message);
        }
    }

    /// Starts an election now, if this member has a vote.
    pub fn campaign(&mut self) {
        if self.raw.raft.promotable() && !self.is_unsettled() {
            // Fails only by being dropped.
            let _ = self.raw.campaign();
            self.after_input();
        }
    }

    /// On a leader: hands leadership to `to`, once that has the whole log.
    pub fn transfer_leader(&mut self, to: u64) {
        if self.is_leader() {
            self.raw.transfer_leader(to);
            self.after_input();
        }
    }

    /// Messages to a peer do not get through.
    pub fn report_unreachable(&mut self, id: u64) {
        self.raw.report_unreachable(id);
        self.after_input();
    }

    /// A snapshot was delivered to a peer, or was not.
    pub fn report_snapshot(&mut self, id: u64, delivered: bool) {
        let status = if delivered { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.raw.report_snapshot(id, status);
        self.after_input();
    }

    /// What came out of the inputs so far, if anything.
    pub fn ready(&mut self) -> Option<Ready> {
        if !self.raw.has_ready() {
            return None;
        }
        let mut taken = self.raw.ready();
        let number = taken.number();
        let entries: Vec<_> = taken.take_entries().into_iter().map(entry_from_crate).collect();
        let snapshot =
            Some(taken.snapshot()).filter(|snapshot| !snapshot.is_empty()).map(snapshot_from_crate);
        let mut ready = Ready {
            number,
            hard_state: taken.hs().map(hard_state_from_crate),
            must_sync: taken.must_sync(),
            messages: convert_messages(taken.take_messages()),
            messages_after_persist: convert_messages(taken.take_persisted_messages()),
            committed: taken.take_committed_entries().into_iter().map(entry_from_crate).collect(),
            read_states: taken.take_read_states().into_iter().filter_map(read_state).collect(),
            soft_state: taken
                .ss()
                .map(|state| SoftState { leader: state.leader_id, role: role_from_crate(state.raft_state) }),
            snapshot,
            entries,
        };
        let store = self.raw.mut_store();
        if let Some(snapshot) = &ready.snapshot {
            store.restore(snapshot);
            self.applied = self.applied.max(snapshot.position.index);
        }
        store.append(&ready.entries);
        self.raw.advance_append_async(taken);
        self.last_ready = number;
        if ready.must_sync {
            self.in_flight.push_back(number);
        } else if self.in_flight.is_empty() {
            self.raw.on_persist_ready(number);
            ready.messages.append(&mut ready.messages_after_persist);
        }
        Some(ready)
    }

    /// All readies up to `number` are persisted. Call before sending their
    /// `messages_after_persist`.
    pub fn persisted(&mut self, number: u64) {
        assert!(number <= self.last_ready, "ready {number} was never handed out");
        while self.in_flight.pop_front_if(|waiting| *waiting <= number).is_some() {}
        self.raw.on_persist_ready(number);
        self.advance_applied();
        self.after_input();
    }

    /// The state machine has applied all entries up to `index`.
    pub fn applied(&mut self, index: u64) {
        self.applied = self.applied.max(index);
        self.advance_applied();
        self.after_input();
    }

    /// Tells the crate what is applied, as far as it may know: a restored snapshot counts as
    /// applied before its persistence is reported.
    fn advance_applied(&mut self) {
        let log = &self.raw.raft.raft_log;
        let reachable = self.applied.min(log.committed).min(log.persisted);
        if reachable > log.applied {
            self.raw.advance_apply_to(reachable);
            self.raw.mut_store().set_applied(reachable);
        }
    }

    /// Carries out a committed configuration change; gives the configuration from now on. An
    /// update of URLs, or a rejected change (`node_id` 0), changes nothing.
    pub fn apply_conf_change(&mut self, change: &raftpb::ConfChange) -> Result<ConfState, Error> {
        let Some(change) = conf_change_to_crate(change) else {
            return Ok(self.raw.store().conf_state.clone());
        };
        let id = self.raw.raft.id;
        let own_removal = change.change_type == eraftpb::ConfChangeType::RemoveNode && change.node_id == id;
        let others = self.conf_state().voters.iter().any(|voter| *voter != id);
        if own_removal && others && self.is_leader() {
            let conf_state = &mut self.raw.mut_store().conf_state;
            conf_state.voters.retain(|voter| *voter != id);
            self.leaving = Some(Leaving { change, ticks: 0 });
        } else {
            let conf_state = conf_state_from_crate(&self.raw.apply_conf_change(&change)?);
            self.raw.mut_store().conf_state = conf_state;
            self.after_input();
        }
        Ok(self.raw.store().conf_state.clone())
    }

    /// A leader that was removed hands over. It has told the others what is committed with the
    /// heartbeat of the first tick: who knows of the removal and has not applied it yet may not
    /// campaign.
    fn hand_over(&mut self) {
        let id = self.raw.raft.id;
        let Some(leaving) = &mut self.leaving else { return };
        leaving.ticks += 1;
        if leaving.ticks < 2 || !(leaving.ticks - 2).is_multiple_of(self.election_ticks) {
            return;
        }
        let voters = &self.raw.store().conf_state.voters;
        let peers = self.raw.raft.prs().iter().filter(|(peer, _)| **peer != id && voters.contains(peer));
        let heir = peers.max_by_key(|(peer, progress)| (progress.matched, **peer)).map(|(peer, _)| *peer);
        if let Some(heir) = heir {
            self.transfer_leader(heir);
        }
    }

    /// Forgets the entries up to `index`, at most the applied ones. Followers behind it need a
    /// snapshot.
    pub fn compact(&mut self, index: u64) {
        self.raw.mut_store().compact(index);
    }

    /// Index of the first entry that is still held.
    pub fn first_index(&self) -> u64 {
        self.raw.raft.raft_log.first_index()
    }

    /// Index of the last entry.
    pub fn last_index(&self) -> u64 {
        self.raw.raft.raft_log.last_index()
    }

    /// Term of an entry, if it is still held or the last one forgotten.
    pub fn term(&self, index: u64) -> Option<u64> {
        let log = &self.raw.raft.raft_log;
        let held = log.first_index() - 1..=log.last_index();
        if held.contains(&index) { log.term(index).ok() } else { None }
    }

    /// An entry that was handed out, if it is still held.
    pub fn entry(&self, index: u64) -> Option<&Entry> {
        self.raw.store().get(index)
    }

    /// The configuration at the applied entry.
    pub fn conf_state(&self) -> &ConfState {
        &self.raw.store().conf_state
    }

    /// Whether this member leads.
    pub fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    /// Whether a leader has committed an entry of its own term: until then it does not know what
    /// is committed.
    pub fn has_commit_in_term(&self) -> bool {
        self.raw.raft.commit_to_current_term()
    }

    /// Leader and role.
    pub fn soft_state(&self) -> SoftState {
        let raft = &self.raw.raft;
        SoftState { leader: raft.leader_id, role: role_from_crate(raft.state) }
    }

    /// The hard state as it would be persisted now.
    pub fn hard_state(&self) -> HardState {
        hard_state_from_crate(&self.raw.raft.hard_state())
    }

    /// A look inside.
    pub fn status(&self) -> Status {
        let raft = &self.raw.raft;
        let soft_state = self.soft_state();
        let mut progress = Vec::new();
        if soft_state.role == Role::Leader {
            let learners = raft.prs().conf().learners();
            progress.extend(raft.prs().iter().map(|(id, peer)| PeerProgress {
                id: *id,
                matched: peer.matched,
                next: peer.next_idx,
                state: match peer.state {
                    raft::ProgressState::Probe => ProgressState::Probe,
                    raft::ProgressState::Replicate => ProgressState::Replicate,
                    raft::ProgressState::Snapshot => ProgressState::Snapshot,
                },
                learner: learners.contains(id),
                recent_active: peer.recent_active,
            }));
            progress.sort_by_key(|peer| peer.id);
        }
        Status {
            id: raft.id,
            term: raft.term,
            vote: raft.vote,
            commit: raft.raft_log.committed,
            applied: raft.raft_log.applied,
            soft_state,
            transferee: raft.lead_transferee.unwrap_or(0),
            progress,
        }
    }

    /// Whether this member leads and waits for a peer to receive a snapshot.
    pub fn sends_snapshot(&self) -> bool {
        let waits = |state| state == raft::ProgressState::Snapshot;
        self.is_leader() && self.raw.raft.prs().iter().any(|(_, peer)| waits(peer.state))
    }

    /// Whether the log, or a snapshot in its place, is not persisted to its end: no time for an
    /// election.
    fn is_unsettled(&self) -> bool {
        let log = &self.raw.raft.raft_log;
        log.persisted != log.last_index()
    }

    /// Brings timeouts and held reads in line with what the input changed.
    #[inline]
    fn after_input(&mut self) {
        let now = (self.raw.raft.term, self.raw.raft.state);
        if now != self.timeout_of {
            // Asking for pre-votes changes neither term nor timeout.
            let same_timeout = now.0 == self.timeout_of.0 && now.1 == StateRole::PreCandidate;
            self.timeout_of = now;
            if !same_timeout {
                self.draw_timeout();
            }
        }
        if !self.is_leader()
            && let Some(Leaving { change, .. }) = self.leaving.take()
        {
            // Fails only for changes that are none of single members.
            let _ = self.raw.apply_conf_change(&change);
        }
        if !self.held_reads.is_empty() && !self.must_hold_reads() {
            let held = std::mem::take(&mut self.held_reads);
            if self.is_leader() {
                for message in held {
                    let _ = self.step_read(message);
                }
            }
        }
    }

    fn draw_timeout(&mut self) {
        let ticks = self.election_ticks as u64 + self.random.below(self.election_ticks as u64);
        self.raw.raft.set_randomized_election_timeout(ticks as usize);
    }
}

fn proposal(kind: EntryKind, data: Bytes) -> eraftpb::Entry {
    entry_to_crate(Entry { kind, data, ..Entry::default() })
}

/// `ConfChange { node_id: 1 }`, in the crate's encoding.
fn stand_in_change() -> Bytes {
    Bytes::from_static(&[0x18, 1])
}

fn convert_messages(messages: Vec<eraftpb::Message>) -> Vec<raftpb::Message> {
    messages.into_iter().map(message_from_crate).collect()
}

/// Ours have eight bytes; anything else is not ours.
fn read_state(state: raft::ReadState) -> Option<ReadState> {
    let ctx = u64::from_be_bytes(state.request_ctx.try_into().ok()?);
    Some(ReadState { ctx, index: state.index })
}

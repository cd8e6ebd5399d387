//! One member of the cluster as a state machine without I/O.
//!
//! [`Member::handle`] takes an [`Input`] (a tick, a peer's message, proposals, "these entries are
//! on disk", "applied up to here", …) and [`Member::effects`] hands out what has to be done about
//! it ([`Effect`]: write, send, apply, answer). It reads no clock, draws no random number, opens
//! nothing, locks nothing. The server drives it with threads; a simulator drives the same code
//! with one seeded loop.
//!
//! Invariants:
//! - effects come out in the order in which they must *start*; `Send` of a leader may overtake
//!   the write it belongs to, messages that promise something wait for it;
//! - an entry is handed out for applying only after consensus knows it committed, once, in order;
//! - the log in memory is cut only behind what is applied.
//!
//! ```text
//!            Propose ┐                      ┌▶ Persist ──(disk)──▶ Input::Persisted
//!   Input::  Message ├─▶ consensus ─ready─▶ ┼▶ Send
//!            Tick    ┘                      ├▶ Apply ──(state machine)──▶ Input::Applied
//!                                           ├▶ ReadReady, Leadership
//! ```
//!
//! **Source**: etcd `server/etcdserver/raft.go`, as far as behaviour can be seen.

mod log_window;
mod proposals;

use std::collections::VecDeque;

use consensus::{Consensus, Ready, Role};
use types::{ConfState, Entry, HardState, LogPosition, MemberId};

pub use consensus::{Config, LogState, ReadState};
pub use log_window::LogWindow;
use proposals::Proposals;

/// What happens to a member.
#[derive(Debug)]
pub enum Input {
    /// One tick of the heartbeat interval passed.
    Tick,
    /// Payloads of normal entries to put into the log.
    Propose(Vec<bytes::Bytes>),
    /// Payloads to put into the log if this member leads this term, and to forget otherwise: what a
    /// leader decided of its own accord (a lease is over) must not reach the next leader, which may
    /// know better.
    ProposeLeading {
        /// The term in which it was decided.
        term: u64,
        /// The payloads.
        payloads: Vec<bytes::Bytes>,
    },
    /// An encoded `raftpb.ConfChange` to put into the log.
    ProposeConfChange(bytes::Bytes),
    /// A message of a peer.
    Message(Box<proto::raftpb::Message>),
    /// The effect `Persist` with this number, and all before it, are on disk.
    Persisted(u64),
    /// The state machine applied everything up to this index.
    Applied(u64),
    /// The state machine decided about the conf change at this index; node id 0 = refused.
    ConfChangeApplied(proto::raftpb::ConfChange),
    /// Asks for a linearizable read point; the answer is a `ReadReady` with the same context.
    ReadIndex(u64),
    /// Starts an election now.
    Campaign,
    /// Hands leadership to another voter.
    TransferLeader(MemberId),
    /// Messages to a peer do not get through.
    PeerUnreachable(MemberId),
    /// A snapshot was delivered to a peer, or was not.
    SnapshotReport {
        /// The peer.
        to: MemberId,
        /// Whether it has it.
        delivered: bool,
    },
}

/// What has to be done.
#[derive(Debug)]
pub enum Effect {
    /// Write to the log; answer with [`Input::Persisted`].
    Persist(Persist),
    /// Send to peers.
    Send(Vec<proto::raftpb::Message>),
    /// Apply these committed entries, in order; answer with [`Input::Applied`].
    Apply(Vec<Entry>),
    /// The read that was asked for with this context sees everything up to `index`.
    ReadReady(ReadState),
    /// Leader, role or term changed.
    Leadership(Leadership),
    /// A peer's message did not fit and was dropped.
    Dropped(consensus::StepError),
}

/// A write to the log.
#[derive(Debug, Default)]
pub struct Persist {
    /// Number to report in [`Input::Persisted`].
    pub number: u64,
    /// Entries to append, possibly overwriting a tail.
    pub entries: Vec<Entry>,
    /// The hard state, if it changed.
    pub hard_state: Option<HardState>,
    /// The snapshot from the leader that replaces the log, if there is one.
    pub snapshot: Option<types::Snapshot>,
}

/// Who leads, as this member sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The term.
    pub term: u64,
    /// The leader; 0 = none known.
    pub leader: MemberId,
    /// Whether it is this member.
    pub is_leader: bool,
}

/// Numbers that the rest of the server reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Highest index known to be committed.
    pub commit: u64,
    /// Highest index applied.
    pub applied: u64,
    /// Entries in memory: first and last index.
    pub log: (u64, u64),
}

/// See the crate documentation.
pub struct Member {
    consensus: Consensus,
    id: MemberId,
    proposals: Proposals,
    window: LogWindow,
    leadership: Leadership,
    applied: u64,
    /// Messages that promise what is not on disk yet, by the number of the write they wait for.
    promises: VecDeque<(u64, Vec<proto::raftpb::Message>)>,
    /// Number of the last write that was handed out.
    last_write: u64,
    effects: Vec<Effect>,
}

impl Member {
    /// A member that continues from a stored log. `seed` decides its election timeouts.
    ///
    /// # Errors
    /// The stored state contradicts itself.
    pub fn new(
        config: Config,
        log: LogState,
        seed: u64,
        window: LogWindow,
    ) -> Result<Self, consensus::Error> {
        let (id, applied) = (MemberId(config.id), config.applied);
        let mut window = window;
        window.appended(&log.entries);
        let consensus = Consensus::new(config, log, seed)?;
        let mut member = Self {
            consensus,
            id,
            proposals: Proposals::default(),
            window,
            leadership: Leadership::default(),
            applied,
            promises: VecDeque::new(),
            last_write: 0,
            effects: Vec::new(),
        };
        member.note_leadership();
        Ok(member)
    }

    /// Takes one input. Call [`Member::effects`] after one or several.
    ///
    /// # Errors
    /// Consensus met a configuration change that only a bug or a corrupt log explains: the member
    /// must stop.
    pub fn handle(&mut self, input: Input) -> Result<(), consensus::Error> {
        match input {
            Input::Tick => {
                self.consensus.tick();
                self.proposals.tick();
            }
            Input::Propose(payloads) => self.proposals.push(payloads),
            Input::ProposeLeading { term, payloads } => {
                if self.consensus.is_leader() && self.consensus.hard_state().term == term {
                    // Refused during a hand-over: as if it had been lost.
                    let _ = self.consensus.propose_batch(payloads);
                }
            }
            Input::ProposeConfChange(change) => self.proposals.push_conf_change(change),
            Input::Message(message) => {
                // What a peer sends cannot stop this member: a message that does not fit is dropped.
                if let Err(error) = self.consensus.step(*message) {
                    self.effects.push(Effect::Dropped(error));
                }
            }
            Input::Persisted(number) => self.persisted(number),
            Input::Applied(index) => {
                self.applied = index;
                self.consensus.applied(index);
            }
            Input::ConfChangeApplied(change) => {
                self.consensus.apply_conf_change(&change)?;
            }
            Input::ReadIndex(context) => {
                // Without a leader there is no answer: who asked asks again.
                self.consensus.read_index(context);
            }
            Input::Campaign => self.consensus.campaign(),
            Input::TransferLeader(to) => self.consensus.transfer_leader(to.0),
            Input::PeerUnreachable(peer) => self.consensus.report_unreachable(peer.0),
            Input::SnapshotReport { to, delivered } => self.consensus.report_snapshot(to.0, delivered),
        }
        self.settle();
        Ok(())
    }

    /// Brings the member to a known shape after an input: a sole voter leads as soon as all that is
    /// known to be committed is applied, proposals are in consensus if anybody leads, the log in
    /// memory is not longer than it should be.
    fn settle(&mut self) {
        let leader = self.consensus.soft_state().leader;
        if leader == 0 {
            self.lead_if_alone();
        }
        if leader != 0 || self.consensus.soft_state().leader != 0 {
            self.proposals.submit(&mut self.consensus);
        }
        self.proposals.bound();
        self.trim();
    }

    /// A sole voter has nobody to wait for: an election timeout would only delay its start.
    fn lead_if_alone(&mut self) {
        let alone = self.consensus.conf_state().voters == [self.id.0];
        if alone && self.applied >= self.consensus.hard_state().commit {
            self.consensus.campaign();
        }
    }

    /// What has to be done now, in order.
    pub fn effects(&mut self) -> Vec<Effect> {
        while let Some(ready) = self.consensus.ready() {
            self.take(ready);
        }
        self.note_leadership();
        std::mem::take(&mut self.effects)
    }

    fn persisted(&mut self, number: u64) {
        self.consensus.persisted(number);
        while self.promises.front().is_some_and(|(waiting, _)| *waiting <= number) {
            let messages = self.promises.pop_front().map(|(_, messages)| messages);
            self.effects.extend(messages.map(Effect::Send));
        }
    }

    fn take(&mut self, ready: Ready) {
        if !ready.messages.is_empty() {
            self.effects.push(Effect::Send(ready.messages));
        }
        self.effects.extend(ready.read_states.into_iter().map(Effect::ReadReady));
        if ready.snapshot.is_some() {
            self.window.clear();
        }
        self.window.appended(&ready.entries);
        if !ready.entries.is_empty() || ready.hard_state.is_some() || ready.snapshot.is_some() {
            self.last_write = ready.number;
            self.effects.push(Effect::Persist(Persist {
                number: ready.number,
                entries: ready.entries,
                hard_state: ready.hard_state,
                snapshot: ready.snapshot,
            }));
        }
        if !ready.messages_after_persist.is_empty() {
            // Without a write of its own it waits for the one before: nobody will report its number.
            self.promises.push_back((self.last_write, ready.messages_after_persist));
        }
        if !ready.committed.is_empty() {
            self.effects.push(Effect::Apply(ready.committed));
        }
    }

    fn note_leadership(&mut self) {
        let state = self.consensus.soft_state();
        let now = Leadership {
            term: self.consensus.hard_state().term,
            leader: MemberId(state.leader),
            is_leader: state.role == Role::Leader,
        };
        if now != self.leadership {
            self.leadership = now;
            self.effects.push(Effect::Leadership(now));
        }
    }

    fn trim(&mut self) {
        if let Some(index) = self.window.cut(self.applied, || self.consensus.sends_snapshot()) {
            self.consensus.compact(index);
        }
    }

    /// Id of this member.
    pub fn id(&self) -> MemberId {
        self.id
    }

    /// Where it stands.
    pub fn progress(&self) -> Progress {
        let log = (self.consensus.first_index(), self.consensus.last_index());
        Progress { commit: self.consensus.hard_state().commit, applied: self.applied, log }
    }

    /// Who leads.
    pub fn leadership(&self) -> Leadership {
        self.leadership
    }

    /// The configuration of raft.
    pub fn conf_state(&self) -> ConfState {
        self.consensus.conf_state().clone()
    }

    /// Everybody else whom the configuration names, voter or learner.
    pub fn peers(&self) -> impl Iterator<Item = MemberId> {
        let conf = self.consensus.conf_state();
        let all =
            conf.voters.iter().chain(&conf.learners).chain(&conf.voters_outgoing).chain(&conf.learners_next);
        all.map(|member| MemberId(*member)).filter(|member| *member != self.id)
    }

    /// Whether the configuration names anybody else.
    pub fn has_peers(&self) -> bool {
        self.peers().next().is_some()
    }

    /// A look inside consensus: what a leader knows of its peers, among others.
    pub fn status(&self) -> consensus::Status {
        self.consensus.status()
    }

    /// Term of the entry at `index`, if it is in memory.
    pub fn position_of(&self, index: u64) -> Option<LogPosition> {
        self.consensus.term(index).map(|term| LogPosition { index, term })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sole voter that leads, everything so far on disk and applied.
    fn leader() -> Member {
        let log = LogState {
            hard_state: HardState { term: 1, vote: 1, commit: 0 },
            conf_state: ConfState::new(vec![1], Vec::new()),
            ..LogState::default()
        };
        let mut member = Member::new(Config::new(1), log, 7, LogWindow::new(100, 10, 1 << 20)).unwrap();
        member.handle(Input::Tick).unwrap();
        settle(&mut member);
        assert!(member.leadership().is_leader);
        member
    }

    /// Does what the member asks for; returns the payloads it applied.
    fn settle(member: &mut Member) -> Vec<bytes::Bytes> {
        let mut payloads = Vec::new();
        loop {
            let effects = member.effects();
            if effects.is_empty() {
                return payloads;
            }
            for effect in effects {
                match effect {
                    Effect::Persist(persist) => member.handle(Input::Persisted(persist.number)).unwrap(),
                    Effect::Apply(entries) => {
                        let last = entries.last().unwrap().index;
                        payloads.extend(entries.into_iter().map(|entry| entry.data));
                        member.handle(Input::Applied(last)).unwrap();
                    }
                    _ => {}
                }
            }
        }
    }

    /// A follower forwarded a proposal while an entry before it was on its way to the disk. The message
    /// waited for a write of its own that never came: until the next entry, or for ever on an idle
    /// cluster.
    #[test]
    fn a_proposal_is_forwarded_when_the_write_before_it_is_done() {
        use proto::raftpb::{Entry, Message, MessageType};
        let log = LogState {
            hard_state: HardState { term: 1, vote: 0, commit: 0 },
            conf_state: ConfState::new(vec![1, 2], Vec::new()),
            ..LogState::default()
        };
        let mut member = Member::new(Config::new(1), log, 7, LogWindow::new(100, 10, 1 << 20)).unwrap();
        let append = Message {
            r#type: Some(MessageType::MsgApp as i32),
            from: Some(2),
            to: Some(1),
            term: Some(1),
            index: Some(0),
            log_term: Some(0),
            commit: Some(0),
            entries: vec![Entry { term: Some(1), index: Some(1), ..Entry::default() }],
            ..Message::default()
        };
        member.handle(Input::Message(append.into())).unwrap();
        let writes = |effects: &[Effect]| {
            effects.iter().find_map(|effect| match effect {
                Effect::Persist(persist) => Some(persist.number),
                _ => None,
            })
        };
        let number = writes(&member.effects()).expect("the entry is written");
        member.handle(Input::Propose(vec!["forwarded".into()])).unwrap();
        assert_eq!(writes(&member.effects()), None, "the proposal of a follower is not written");
        member.handle(Input::Persisted(number)).unwrap();
        let sent = member.effects().into_iter().filter_map(|effect| match effect {
            Effect::Send(messages) => Some(messages),
            _ => None,
        });
        let kinds: Vec<_> = sent.flatten().map(|message| message.r#type()).collect();
        assert!(kinds.contains(&MessageType::MsgAppResp), "{kinds:?}");
        assert!(kinds.contains(&MessageType::MsgProp), "{kinds:?}");
    }

    #[test]
    fn a_decision_of_an_older_term_is_forgotten() {
        let mut member = leader();
        let term = member.leadership().term;
        let decide = |term| Input::ProposeLeading { term, payloads: vec!["revoke".into()] };
        member.handle(decide(term - 1)).unwrap();
        assert!(settle(&mut member).is_empty());
        member.handle(decide(term)).unwrap();
        assert_eq!(settle(&mut member), ["revoke"]);
    }
}

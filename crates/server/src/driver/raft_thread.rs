//! The raft thread: owns the member core, feeds it and routes its effects.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Release;
use std::time::{Duration, Instant};

use member::{Effect, Member, Persist};
use parking_lot::Mutex;

use super::Input;
use super::apply_thread::ApplyWork;
use super::log_thread::{LogWork, LogWriter};
use crate::fatal::Fatal;
use crate::log;
use crate::mailbox::{Nothing, Receiver, Sender};
use crate::metrics::Metrics;
use crate::peers::Inbox;
use crate::progress::Progress;
use crate::reads::Reads;

/// After this time without an answer a read point is asked for again.
pub(crate) const READ_INDEX_RETRY: Duration = Duration::from_millis(500);

/// Inputs taken before effects are looked at: bounds the time between two looks.
const INPUTS_PER_ROUND: usize = 1024;

/// What the raft thread works with.
pub struct RaftThread {
    /// The core.
    pub member: Member,
    /// Everything that happens to it.
    pub inputs: Receiver<Input>,
    /// To the log thread.
    pub to_log: Sender<LogWork>,
    /// The log, to write it on this thread as long as the member has no peers.
    pub log: Arc<Mutex<LogWriter>>,
    /// The last write that was handed to the log thread, and the last one that it reported.
    pub handed_over: Option<u64>,
    /// To the apply thread.
    pub to_apply: Sender<ApplyWork>,
    /// To the peers.
    pub transport: peer::Transport,
    /// How many of the peers' messages wait.
    pub inbox: Arc<Inbox>,
    /// Reads that wait for their read point.
    pub reads: Arc<Reads>,
    /// Shared numbers.
    pub progress: Arc<Progress>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Length of a tick.
    pub heartbeat: Duration,
    /// Where to report the end of everything.
    pub fatal: Fatal,
}

impl RaftThread {
    /// Runs until told to stop, or until the member cannot go on.
    pub fn run(mut self) {
        if let Err(error) = self.run_inner() {
            self.fatal.stop(error.to_string());
        }
    }

    fn run_inner(&mut self) -> Result<(), RaftError> {
        let mut next_tick = Instant::now() + self.heartbeat;
        let mut next_read_retry = Instant::now() + READ_INDEX_RETRY;
        let mut last_tick = Instant::now();
        self.note_voters();
        self.route()?;
        loop {
            let mut taken = 0;
            let mut input = match self.inputs.recv_until(next_tick) {
                Ok(input) => Some(input),
                Err(Nothing::Timeout) => None,
                Err(Nothing::Closed) => return Ok(()),
            };
            while let Some(next) = input {
                if !self.take(next)? {
                    return self.route();
                }
                taken += 1;
                input = if taken < INPUTS_PER_ROUND { self.inputs.try_recv() } else { None };
            }
            let now = Instant::now();
            if now >= next_tick {
                self.member.handle(member::Input::Tick)?;
                self.note_lateness(now.duration_since(last_tick));
                last_tick = now;
                // Lateness does not add up: an election timeout of n ticks takes n ticks. But a stalled
                // thread does not catch up on ticks: time that nobody saw is no reason for an election.
                next_tick += self.heartbeat;
                if next_tick <= now {
                    next_tick = now + self.heartbeat;
                }
                if now >= next_read_retry {
                    next_read_retry = now + READ_INDEX_RETRY;
                    if let Some(round) = self.reads.count_slow() {
                        log::warn!("waiting for ReadIndex response took too long, retrying",
                            "sent-request-id" => round, "retry-timeout" => READ_INDEX_RETRY);
                    }
                    self.ask_for_reads()?;
                }
            }
            self.route()?;
        }
    }

    /// Gives one input to the core. Returns whether to go on.
    fn take(&mut self, input: Input) -> Result<bool, consensus::Error> {
        let input = match input {
            Input::Propose(proposals) => {
                member::Input::Propose(proposals.into_iter().map(|proposal| proposal.payload).collect())
            }
            Input::ProposeConfChange(change) => member::Input::ProposeConfChange(change),
            Input::ProposeLeading { term, payload } => {
                member::Input::ProposeLeading { term, payloads: vec![payload] }
            }
            Input::Message(message) => {
                self.inbox.taken();
                member::Input::Message(message)
            }
            Input::ReadIndex(round) => member::Input::ReadIndex(round),
            Input::TransferLeader(to) => member::Input::TransferLeader(to),
            Input::PeerUnreachable(peer) => member::Input::PeerUnreachable(peer),
            Input::SnapshotReport { to, delivered } => member::Input::SnapshotReport { to, delivered },
            Input::Status(answer) => {
                // Who asked may have left.
                let _ = answer.send(self.member.status());
                return Ok(true);
            }
            Input::Persisted(number) => {
                if self.handed_over == Some(number) {
                    self.handed_over = None;
                }
                member::Input::Persisted(number)
            }
            Input::Applied(index) => member::Input::Applied(index),
            Input::ConfChangeApplied(change) => {
                // Others may lead as soon as they are known here.
                self.progress.sole_voter.store(false, Release);
                self.member.handle(member::Input::ConfChangeApplied(change))?;
                self.note_voters();
                return Ok(true);
            }
            Input::Advance(ticks) => {
                // Whoever leads already counts its ticks for other things.
                let ticks = if self.progress.is_leader() { 0 } else { ticks };
                for _ in 0..ticks {
                    self.member.handle(member::Input::Tick)?;
                }
                return Ok(true);
            }
            Input::Campaign => member::Input::Campaign,
            Input::Stop => return Ok(false),
        };
        self.member.handle(input)?;
        Ok(true)
    }

    /// Hands out what the core wants done, until it wants nothing more.
    fn route(&mut self) -> Result<(), RaftError> {
        loop {
            let effects = self.member.effects();
            if effects.is_empty() {
                break;
            }
            for effect in effects {
                // A closed queue means that its thread ended: the member is stopping.
                match effect {
                    Effect::Persist(persist) => self.persist(persist)?,
                    Effect::Apply(entries) => drop(self.to_apply.send(ApplyWork::Entries(entries))),
                    Effect::Leadership(leadership) => {
                        self.progress.set_leadership(leadership);
                        let _ = self.to_apply.send(ApplyWork::Leadership(leadership));
                        if leadership.leader.0 != 0 {
                            self.ask_for_reads()?;
                        }
                    }
                    Effect::Send(messages) => self.transport.send(messages),
                    Effect::ReadReady(read) => {
                        if let Some(round) = self.reads.answered(read, &self.progress) {
                            self.member.handle(member::Input::ReadIndex(round))?;
                        }
                    }
                    Effect::Dropped(error) => {
                        log::warn!("dropped a raft message of a peer", "error" => error.to_string());
                    }
                }
            }
        }
        self.progress.commit.store(self.member.progress().commit, Release);
        Ok(())
    }

    /// A leader's heartbeats leave with its ticks: one that comes late costs all peers a heartbeat.
    fn note_lateness(&self, since_last: Duration) {
        let expected = 2 * self.heartbeat;
        if since_last <= expected || !self.progress.is_leader() {
            return;
        }
        // A configuration on its way to another one names who stays twice.
        for peer in self.member.peers().collect::<BTreeSet<_>>() {
            self.metrics.heartbeat_send_failures.inc();
            log::warn!(
                "leader failed to send out heartbeat on time; took too long, leader is overloaded likely from slow disk",
                "to" => peer,
                "heartbeat-interval" => self.heartbeat,
                "expected-duration" => expected,
                "exceeded-duration" => since_last - expected
            );
        }
    }

    /// Asks for the read point that has no answer yet.
    fn ask_for_reads(&mut self) -> Result<(), consensus::Error> {
        match self.reads.unanswered() {
            Some(round) => self.member.handle(member::Input::ReadIndex(round)),
            None => Ok(()),
        }
    }

    fn note_voters(&self) {
        let alone = self.member.conf_state().voters == [self.member.id().0];
        self.progress.sole_voter.store(alone, Release);
    }

    /// Writes here if that keeps nobody waiting, else hands over to the log thread. Writes are
    /// never out of order: this thread writes only when the log thread has written all it got.
    fn persist(&mut self, persist: Persist) -> Result<(), RaftError> {
        let number = persist.number;
        let received = persist.snapshot.is_some();
        if received {
            self.note_voters();
        }
        if self.handed_over.is_none() && !received && !self.member.has_peers() {
            self.log.lock().persist(&persist)?;
            self.member.handle(member::Input::Persisted(number))?;
        } else {
            self.handed_over = Some(number);
            let _ = self.to_log.send(LogWork::Persist(persist));
        }
        Ok(())
    }
}

/// Why the raft thread ends.
#[derive(Debug, thiserror::Error)]
enum RaftError {
    #[error("raft: {0}")]
    Consensus(#[from] consensus::Error),
    #[error(transparent)]
    Wal(#[from] wal::Error),
}

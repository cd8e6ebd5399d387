//! The raft thread: owns the member core, feeds it and routes its effects.

use std::sync::Arc;
use std::sync::atomic::Ordering::Release;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use member::{Effect, Member};

use super::Input;
use super::apply_thread::ApplyWork;
use super::log_thread::LogWork;
use crate::fatal::Fatal;
use crate::progress::Progress;

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
    /// To the apply thread.
    pub to_apply: Sender<ApplyWork>,
    /// Shared numbers.
    pub progress: Arc<Progress>,
    /// Length of a tick.
    pub heartbeat: Duration,
    /// Where to report the end of everything.
    pub fatal: Fatal,
}

impl RaftThread {
    /// Runs until told to stop, or until the member cannot go on.
    pub fn run(mut self) {
        if let Err(error) = self.run_inner() {
            self.fatal.stop(format!("raft: {error}"));
        }
    }

    fn run_inner(&mut self) -> Result<(), consensus::Error> {
        let mut next_tick = Instant::now() + self.heartbeat;
        self.route();
        loop {
            let mut taken = 0;
            let mut input = match self.inputs.recv_deadline(next_tick) {
                Ok(input) => Some(input),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            };
            while let Some(next) = input {
                if !self.take(next)? {
                    self.route();
                    return Ok(());
                }
                taken += 1;
                input = if taken < INPUTS_PER_ROUND { self.inputs.try_recv().ok() } else { None };
            }
            let now = Instant::now();
            if now >= next_tick {
                self.member.handle(member::Input::Tick)?;
                // A stalled thread does not catch up on ticks: time that nobody saw is no reason
                // for an election.
                next_tick = now + self.heartbeat;
            }
            self.route();
        }
    }

    /// Gives one input to the core. Returns whether to go on.
    fn take(&mut self, input: Input) -> Result<bool, consensus::Error> {
        let input = match input {
            Input::Propose(proposals) => {
                member::Input::Propose(proposals.into_iter().map(|proposal| proposal.payload).collect())
            }
            Input::ProposeConfChange(change) => member::Input::ProposeConfChange(change),
            Input::Message(message) => member::Input::Message(message),
            Input::Persisted(number) => member::Input::Persisted(number),
            Input::Applied(index) => member::Input::Applied(index),
            Input::ConfChangeApplied(change) => member::Input::ConfChangeApplied(change),
            Input::Campaign => member::Input::Campaign,
            Input::Stop => return Ok(false),
        };
        self.member.handle(input)?;
        Ok(true)
    }

    fn route(&mut self) {
        for effect in self.member.effects() {
            // A closed queue means that its thread ended: the member is stopping.
            match effect {
                Effect::Persist(persist) => drop(self.to_log.send(LogWork::Persist(persist))),
                Effect::Apply(entries) => drop(self.to_apply.send(ApplyWork::Entries(entries))),
                Effect::Leadership(leadership) => {
                    self.progress.set_leadership(leadership);
                    let _ = self.to_apply.send(ApplyWork::Leadership(leadership));
                }
                // One member has no peers, and reads locally: see `Node::read_index`.
                Effect::Send(_) | Effect::ReadReady(_) | Effect::Dropped(_) => {}
            }
        }
        self.progress.commit.store(self.member.progress().commit, Release);
    }
}

//! The log of a node: what the log thread does, with the sync apart from the write.

use std::collections::VecDeque;

use member::{Input, Persist};
use types::{Entry, HardState, Snapshot};
use wal::{Batch, WalSnapshot};

use super::{Action, Node, Running, Stop};
use crate::bugs::Bug;
use crate::context::Context;
use crate::node::apply;

/// Work for the log.
#[derive(Debug)]
pub(super) enum Work {
    /// With the entries and the term before each, as far as known.
    Persist(Persist, Vec<(Entry, u64)>),
    /// A disk snapshot of this member.
    Snapshot(Snapshot),
}

/// What is under way.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) queue: VecDeque<Work>,
    round: Option<Round>,
    /// Index of the newest snapshot in the log.
    newest_snapshot: u64,
    /// What a planted bug has not written yet.
    held: Option<Entry>,
}

#[derive(Debug, Default)]
struct Round {
    number: Option<u64>,
    received: Option<Snapshot>,
    release: Option<u64>,
    /// What is in the log for good when the sync returns.
    logged: Vec<(Entry, u64)>,
}

impl Node {
    pub(super) fn persist(
        &mut self,
        running: &mut Running,
        ctx: &mut Context,
        persist: Persist,
    ) -> Result<(), Stop> {
        let mut logged = Vec::new();
        if let Some(first) = persist.entries.first() {
            let mut previous = match &persist.snapshot {
                Some(snapshot) if snapshot.position.index + 1 == first.index => Some(snapshot.position.term),
                _ => running.member.position_of(first.index - 1).map(|position| position.term),
            };
            for entry in &persist.entries {
                logged.extend(previous.map(|previous| (entry.clone(), previous)));
                previous = Some(entry.term);
            }
        }
        running.log.queue.push_back(Work::Persist(persist, logged));
        self.log_next(running, ctx)
    }

    /// Starts the next write, if none is under way.
    pub(super) fn log_next(&mut self, running: &mut Running, ctx: &mut Context) -> Result<(), Stop> {
        while running.log.round.is_none() {
            let Some(work) = running.log.queue.pop_front() else { return Ok(()) };
            let round = match work {
                Work::Snapshot(snapshot) => {
                    self.save_snapshot(running, &snapshot)?;
                    Round { release: Some(snapshot.position.index), ..Round::default() }
                }
                Work::Persist(first, logged) => {
                    let (round, needs_sync) = self.write(running, ctx, first, logged)?;
                    if !needs_sync {
                        self.report(running, ctx, round);
                        continue;
                    }
                    round
                }
            };
            running.log.round = Some(round);
            let mut latency = ctx.draw(ctx.profile.sync_latency);
            if ctx.now < self.slow_disk.0 {
                latency += self.slow_disk.1;
            }
            self.after(ctx, latency, Action::LogDone);
        }
        Ok(())
    }

    /// Appends a write and those that queued behind it. Returns whether it must be synced.
    fn write(
        &mut self,
        running: &mut Running,
        ctx: &mut Context,
        first: Persist,
        mut logged: Vec<(Entry, u64)>,
    ) -> Result<(Round, bool), Stop> {
        let mut persist = first;
        while let Some(Work::Persist(more, _)) = running.log.queue.front() {
            if more.snapshot.is_some() {
                break;
            }
            let Some(Work::Persist(more, more_logged)) = running.log.queue.pop_front() else { break };
            logged.extend(more_logged);
            persist.number = more.number;
            persist.entries.extend(more.entries);
            persist.hard_state = more.hard_state.or(persist.hard_state);
        }
        let received = persist.snapshot.take();
        if let Some(snapshot) = received.as_ref().filter(|_| !ctx.has(Bug::SnapshotWithoutLogRecord)) {
            self.save_snapshot(running, snapshot)?;
        }
        let mut hard_state = persist.hard_state;
        if ctx.has(Bug::ForgetVote) {
            hard_state = hard_state.map(|state| HardState { vote: 0, ..state });
        }
        if ctx.has(Bug::LoseLastLogRecord) {
            hold_back(&mut running.log.held, &mut persist.entries);
        }
        let appended = running.wal.append(&Batch { entries: &persist.entries, hard_state })?;
        ctx.note("append", &[self.slot as u64, persist.number, appended.bytes], || {
            format!("{} #{} {:?} {hard_state:?}", self.name, persist.number, persist.entries)
        });
        let release = received.as_ref().map(|snapshot| snapshot.position.index);
        let needs_sync = appended.needs_sync || received.is_some();
        let round = Round { number: Some(persist.number), received, release, logged };
        if ctx.has(Bug::AckBeforeSync) && needs_sync && round.received.is_none() {
            self.report(running, ctx, round);
            return Ok((Round::default(), true));
        }
        Ok((round, needs_sync))
    }

    fn save_snapshot(&mut self, running: &mut Running, snapshot: &Snapshot) -> Result<(), Stop> {
        if snapshot.position.index <= running.log.newest_snapshot {
            return Ok(());
        }
        running.log.newest_snapshot = snapshot.position.index;
        wal::snap::save(&self.disk, &Self::snap_dir(), snapshot)?;
        let (position, conf_state) = (snapshot.position, Some(snapshot.conf_state.clone()));
        running.wal.save_snapshot(&WalSnapshot { position, conf_state })?;
        Ok(())
    }

    pub(super) fn log_done(&mut self, running: &mut Running, ctx: &mut Context) -> Result<(), Stop> {
        let Some(round) = running.log.round.take() else { return Ok(()) };
        running.wal.sync()?;
        for (entry, previous) in &round.logged {
            let verdict = ctx.oracle.logged(entry, *previous);
            ctx.judge(verdict);
        }
        if let Some(index) = round.release {
            running.wal.release_to(index);
        }
        self.report(running, ctx, round);
        self.log_next(running, ctx)
    }

    /// Says what is on disk: to apply, that a snapshot can be installed; to raft, the number.
    fn report(&mut self, running: &mut Running, ctx: &mut Context, round: Round) {
        if let Some(snapshot) = round.received {
            running.work.push_back(apply::Work::Install(snapshot));
            self.wake_apply(running, ctx);
        }
        if let Some(number) = round.number {
            let delay = ctx.draw((1, 50));
            self.tell_raft(running, ctx, delay, vec![Input::Persisted(number)]);
        }
    }
}

/// Keeps the last entry back until the next write.
fn hold_back(held: &mut Option<Entry>, entries: &mut Vec<Entry>) {
    let last = entries.pop();
    if let Some(late) = held.take() {
        let next = entries.first().or(last.as_ref());
        if next.is_none_or(|next| next.index == late.index + 1) {
            entries.insert(0, late);
        }
    }
    *held = last;
}

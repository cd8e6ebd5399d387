//! Read points, shared by all that ask while one is under way.
//!
//! A linearizable read needs an index that the leader vouches for, and that index applied here.
//! One round serves everybody who asked before it began; who comes later joins the next round,
//! which begins when this one is answered. A round without an answer (no leader, a lost message)
//! is asked for again by the raft thread.
//!
//! The reads of one turn of a worker join as one ([`share_turn`]): waking a thread costs a system
//! call, so each thread is woken once per round, not once per read.
//!
//! ```text
//!  worker ── join ──▶ joining ── round begins ──▶ round ── ReadReady ──▶ confirmed ── applied ──▶ done
//! ```

use std::cell::RefCell;
use std::sync::atomic::Ordering::{Acquire, SeqCst};
use std::sync::atomic::{AtomicBool, fence};

use member::ReadState;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use types::MemberId;

use crate::progress::Progress;

type Waiters = Vec<oneshot::Sender<()>>;

/// Why a read has no read point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unconfirmed {
    /// Nobody leads, or the leader did not answer in time.
    Timeout,
    /// The member stops.
    Stopped,
}

/// Reads that wait for the same outcome on one thread.
type Turn = Vec<oneshot::Sender<Result<(), Unconfirmed>>>;

thread_local! {
    /// The reads that this thread began and has not asked for yet.
    static TURN: RefCell<Turn> = const { RefCell::new(Vec::new()) };
}

/// Waits for a read point together with all reads that begin in the same turn of this thread's
/// runtime. The first one's `ask` is called for all, after the last one has begun.
///
/// # Panics
/// Outside of a `LocalSet`.
pub async fn share_turn<A>(ask: impl FnOnce() -> A + 'static) -> Result<(), Unconfirmed>
where
    A: Future<Output = Result<(), Unconfirmed>>,
{
    let (sender, receiver) = oneshot::channel();
    let is_first = TURN.with_borrow_mut(|turn| {
        turn.push(sender);
        turn.len() == 1
    });
    if is_first {
        tokio::task::spawn_local(async move {
            // Behind everything that is ready now, and what it brings up.
            tokio::task::yield_now().await;
            let turn = TURN.take();
            let outcome = ask().await;
            for waiter in turn {
                // Who gave up has left.
                let _ = waiter.send(outcome);
            }
        });
    }
    receiver.await.unwrap_or(Err(Unconfirmed::Stopped))
}

/// All reads that wait for their read point. See the module documentation.
pub struct Reads {
    state: Mutex<State>,
    /// Whether somebody waits for the apply thread: saves it the lock.
    waits_for_apply: AtomicBool,
}

struct State {
    last_context: u64,
    joining: Waiters,
    round: Option<(u64, Waiters)>,
    confirmed: Vec<(u64, Waiters)>,
    /// The round that waited for its answer when it was looked last.
    waited: Option<u64>,
    /// Rounds that waited too long, each time that was seen.
    slow: u64,
}

impl State {
    fn begin(&mut self) -> Option<u64> {
        if self.round.is_some() || self.joining.is_empty() {
            return None;
        }
        self.last_context += 1;
        self.round = Some((self.last_context, std::mem::take(&mut self.joining)));
        Some(self.last_context)
    }
}

impl Reads {
    /// Reads of a member that started at this wall-clock time. The leader knows rounds by their
    /// number alone, so no two members, and no two lives of one, may use the same.
    pub fn new(member: MemberId, started_unix_ms: u64) -> Self {
        let last_context = (member.0 & 0xffff) << 48 | (started_unix_ms & 0xff_ffff_ffff) << 8;
        let state = State {
            last_context,
            joining: Vec::new(),
            round: None,
            confirmed: Vec::new(),
            waited: None,
            slow: 0,
        };
        Self { state: Mutex::new(state), waits_for_apply: AtomicBool::new(false) }
    }

    /// Joins the next round. The receiver hears when the read may go on; the number, if there is
    /// one, is the round that begins now: the caller asks the raft thread for it.
    pub fn join(&self) -> (oneshot::Receiver<()>, Option<u64>) {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.state.lock();
        state.joining.push(sender);
        (receiver, state.begin())
    }

    /// The leader answered. Returns the round that begins now, to be asked for.
    pub fn answered(&self, read: ReadState, progress: &Progress) -> Option<u64> {
        let mut state = self.state.lock();
        if state.round.as_ref().is_none_or(|(context, _)| *context != read.ctx) {
            return None;
        }
        let waiters = state.round.take().map(|(_, waiters)| waiters).unwrap_or_default();
        state.confirmed.push((read.index, waiters));
        self.waits_for_apply.store(true, SeqCst);
        // The apply thread either sees the flag, or its index is seen here.
        fence(SeqCst);
        self.release(&mut state, progress.applied.load(Acquire));
        state.begin()
    }

    /// The receiver hears when the entry of this index is applied.
    pub fn wait_applied(&self, index: u64, progress: &Progress) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.state.lock();
        state.confirmed.push((index, vec![sender]));
        self.waits_for_apply.store(true, SeqCst);
        fence(SeqCst);
        self.release(&mut state, progress.applied.load(Acquire));
        receiver
    }

    /// Called each retry interval: a round that had no answer the last time and has none now is slow. Returns it.
    pub fn count_slow(&self) -> Option<u64> {
        let mut state = self.state.lock();
        let waits = state.round.as_ref().map(|(context, _)| *context);
        let slow = waits.filter(|_| waits == state.waited);
        state.slow += u64::from(slow.is_some());
        state.waited = waits;
        slow
    }

    /// How often a round was slow.
    pub fn slow(&self) -> u64 {
        self.state.lock().slow
    }

    /// The round without an answer, if there is one that somebody still waits for.
    pub fn unanswered(&self) -> Option<u64> {
        let mut state = self.state.lock();
        state.joining.retain(|waiter| !waiter.is_closed());
        if let Some((_, waiters)) = &mut state.round {
            waiters.retain(|waiter| !waiter.is_closed());
            if waiters.is_empty() {
                state.round = None;
            }
        }
        match &state.round {
            Some((context, _)) => Some(*context),
            None => state.begin(),
        }
    }

    /// Everything up to `index` is applied, and that can be read. Called by the apply thread after
    /// it published the index.
    pub fn applied(&self, index: u64) {
        fence(SeqCst);
        if self.waits_for_apply.load(SeqCst) {
            self.release(&mut self.state.lock(), index);
        }
    }

    fn release(&self, state: &mut State, applied: u64) {
        state.confirmed.retain_mut(|(index, waiters)| {
            // A reader that left waits for nothing.
            waiters.retain(|waiter| !waiter.is_closed());
            let waits = *index > applied && !waiters.is_empty();
            if !waits {
                // Who gave up has left.
                for waiter in waiters.drain(..) {
                    let _ = waiter.send(());
                }
            }
            waits
        });
        self.waits_for_apply.store(!state.confirmed.is_empty(), SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;
    use std::sync::atomic::Ordering::Release;

    use super::*;

    #[test]
    fn a_round_serves_those_who_came_before_it_began() {
        let (reads, progress) = (Reads::new(MemberId(7), 1), Progress::default());
        let (mut first, begun) = reads.join();
        let (mut second, joins) = reads.join();
        let context = begun.unwrap();
        assert_eq!((joins, reads.unanswered()), (None, Some(context)));

        progress.applied.store(9, Release);
        assert_eq!(reads.answered(ReadState { ctx: context + 5, index: 9 }, &progress), None);
        let next = reads.answered(ReadState { ctx: context, index: 10 }, &progress);
        assert_eq!(next, Some(context + 1));
        assert!(first.try_recv().is_err(), "entry 10 is not applied");
        reads.applied(10);
        assert_eq!((first.try_recv(), second.try_recv().is_err()), (Ok(()), true));

        assert_eq!(reads.answered(ReadState { ctx: context + 1, index: 10 }, &progress), None);
        assert!(second.try_recv().is_err(), "the shared index counts, not what apply said before");
        progress.applied.store(10, Release);
        reads.applied(10);
        assert_eq!(second.try_recv(), Ok(()));
    }

    #[test]
    fn reads_of_a_turn_ask_once_and_later_ones_again() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let asked = Rc::new(Cell::new(0));
            let began = Rc::new(Cell::new(0));
            let read = || {
                let (asked, began_so_far) = (asked.clone(), began.clone());
                began.set(began.get() + 1);
                share_turn(move || async move {
                    asked.set(asked.get() + 1);
                    assert_eq!(began_so_far.get() % 3, 0, "asked before the last one began");
                    Err(Unconfirmed::Timeout)
                })
            };
            for round in 1..=2 {
                let outcomes = futures_util::future::join3(read(), read(), read()).await;
                assert_eq!(outcomes, (Err(Unconfirmed::Timeout), outcomes.0, outcomes.0));
                assert_eq!(asked.get(), round);
            }
        });
    }

    #[test]
    fn a_round_that_nobody_waits_for_is_forgotten() {
        let reads = Reads::new(MemberId(7), 1);
        let (receiver, begun) = reads.join();
        assert!(begun.is_some());
        drop(receiver);
        assert_eq!(reads.unanswered(), None);
        assert!(reads.join().1.is_some());
    }
}

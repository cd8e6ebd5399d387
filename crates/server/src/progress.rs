//! Numbers that one thread writes and all others read.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};

use std::time::{Duration, Instant};

use member::Leadership;
use parking_lot::Mutex;
use types::MemberId;

/// Where the member stands. Each field has one writer.
#[derive(Debug)]
pub struct Progress {
    /// Highest committed index. Written by the raft thread.
    pub commit: AtomicU64,
    /// Highest applied index. Written by the apply thread, after its effects can be read.
    pub applied: AtomicU64,
    /// Term of the last applied entry. Written by the apply thread.
    pub applied_term: AtomicU64,
    term: AtomicU64,
    leader: AtomicU64,
    is_leader: AtomicBool,
    /// The leader applied its first entry: all of earlier terms is applied too.
    pub leads_and_caught_up: AtomicBool,
    leader_changes: AtomicU64,
    /// This member is the only voter: what it acknowledged is all there is. Written by the raft
    /// thread.
    pub sole_voter: AtomicBool,
    /// This member has no vote. Written by the apply thread.
    pub is_learner: AtomicBool,
    /// The term in which this member became primary of the leases. Written by the apply thread.
    pub primary_term: AtomicU64,
    changes: Mutex<Changes>,
}

/// When leaders came and went, as this member saw it.
#[derive(Clone, Copy, Debug, Default)]
struct Changes {
    /// A leader was known for the last time before the present one (or none) took over.
    lost: Option<Instant>,
    /// The last leader became known.
    elected: Option<Instant>,
    /// What was proposed before the first time has no answer to come after the second.
    settled: Option<(Instant, Instant)>,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            commit: AtomicU64::new(0),
            applied: AtomicU64::new(0),
            applied_term: AtomicU64::new(0),
            term: AtomicU64::new(0),
            leader: AtomicU64::new(0),
            is_leader: AtomicBool::new(false),
            leads_and_caught_up: AtomicBool::new(false),
            leader_changes: AtomicU64::new(0),
            sole_voter: AtomicBool::new(false),
            is_learner: AtomicBool::new(false),
            primary_term: AtomicU64::new(0),
            changes: Mutex::default(),
        }
    }
}

impl Progress {
    /// Says that this member leads and has applied all earlier terms. Called by the apply thread.
    pub fn set_caught_up(&self) {
        self.leads_and_caught_up.store(true, Release);
    }

    /// Whether a linearizable read needs nobody else.
    pub fn reads_locally(&self) -> bool {
        self.leads_and_caught_up.load(Acquire) && self.sole_voter.load(Acquire)
    }

    /// Takes over what the core says about leadership. Called by the raft thread.
    pub fn set_leadership(&self, leadership: Leadership) {
        if !leadership.is_leader {
            self.leads_and_caught_up.store(false, Release);
        }
        let (before, now) = (self.leader.swap(leadership.leader.0, Relaxed), leadership.leader.0);
        if before != now {
            let mut changes = self.changes.lock();
            if before != 0 {
                changes.lost = Some(Instant::now());
            }
            if now != 0 {
                changes.elected = Some(Instant::now());
                self.leader_changes.fetch_add(1, Relaxed);
            }
        }
        self.term.store(leadership.term, Relaxed);
        self.is_leader.store(leadership.is_leader, Release);
    }

    /// The first entry of a new leader is applied: what the leader before it had taken into the log
    /// has its answer by now. What it had not is lost, or comes within `grace` if the old leader
    /// lives and hands it on. Called by the apply thread.
    pub fn settle_lost_leader(&self, grace: Duration) {
        let mut changes = self.changes.lock();
        if let Some(lost) = changes.lost {
            changes.settled = Some((lost, Instant::now() + grace));
        }
    }

    /// Requests that began before this time went to a leader that is gone, and their answers will
    /// not come any more.
    pub fn lost_before(&self, now: Instant) -> Option<Instant> {
        let (lost, settled) = self.changes.lock().settled?;
        (now >= settled).then_some(lost)
    }

    /// Whether the time between the last two leaders falls into the life of a request that began
    /// at `start`, if elections take so long at most.
    pub fn leader_failed_after(&self, start: Instant, election: Duration) -> bool {
        let elected = self.changes.lock().elected;
        elected.is_some_and(|elected| start < elected && elected - start < election)
    }

    /// Whether there was a leader to take a request that began at `start`, though it is gone now.
    pub fn lost_leader_after(&self, start: Instant) -> bool {
        self.changes.lock().lost.is_some_and(|lost| start < lost)
    }

    /// The leader; 0 = none known.
    pub fn leader(&self) -> MemberId {
        MemberId(self.leader.load(Relaxed))
    }

    /// The current term.
    pub fn term(&self) -> u64 {
        self.term.load(Relaxed)
    }

    /// Whether this member leads.
    pub fn is_leader(&self) -> bool {
        self.is_leader.load(Acquire)
    }

    /// How often a leader was seen that was not the one before.
    pub fn leader_changes(&self) -> u64 {
        self.leader_changes.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn led_by(leader: u64, term: u64) -> Leadership {
        Leadership { term, leader: MemberId(leader), is_leader: false }
    }

    #[test]
    fn what_went_to_a_lost_leader_is_given_up_when_its_successor_commits() {
        let (progress, start) = (Progress::default(), Instant::now());
        let grace = Duration::from_secs(1);
        progress.set_leadership(led_by(1, 2));
        progress.settle_lost_leader(grace);
        let later = Instant::now() + grace;
        assert_eq!(progress.lost_before(later), None, "the first leader replaced nobody");
        progress.set_leadership(led_by(0, 2));
        progress.set_leadership(led_by(2, 3));
        assert_eq!(progress.lost_before(Instant::now() + grace), None, "nothing is committed yet");
        progress.settle_lost_leader(grace);
        assert_eq!(progress.lost_before(Instant::now()), None, "it may still come");
        let lost = progress.lost_before(Instant::now() + grace).unwrap();
        assert!(start <= lost && lost <= Instant::now());
        assert!(progress.lost_leader_after(start) && !progress.lost_leader_after(Instant::now()));
        assert!(progress.leader_failed_after(start, grace));
        assert!(!progress.leader_failed_after(Instant::now(), grace), "it began after the election");
        assert!(!progress.leader_failed_after(start, Duration::ZERO), "it began long before");
    }
}

//! Numbers that one thread writes and all others read.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};

use member::Leadership;
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
        if self.leader.swap(leadership.leader.0, Relaxed) != leadership.leader.0 && leadership.leader.0 != 0 {
            self.leader_changes.fetch_add(1, Relaxed);
        }
        self.term.store(leadership.term, Relaxed);
        self.is_leader.store(leadership.is_leader, Release);
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

//! What consensus hands out.

use proto::raftpb;
use types::raft::{Entry, HardState, Snapshot};

/// Work that came out of the inputs since the last one.
///
/// Rules for the driver
/// - Persist `snapshot`, then `entries`, then `hard_state`, in the order of the readies, syncing
///   if `must_sync`; then call [`crate::Consensus::persisted`], and only after that call send
///   `messages_after_persist`. Several readies may be in flight. One that needs no sync and has no
///   such messages need not be reported; reporting it does no harm.
/// - Send `messages` at once, whatever is in flight.
/// - Apply `committed` in order, and report [`crate::Consensus::applied`]. They are durable on a
///   quorum and here.
#[derive(Debug, Default)]
pub struct Ready {
    /// Numbers rise by one.
    pub number: u64,
    /// A snapshot from the leader that replaces the log.
    pub snapshot: Option<Snapshot>,
    /// Entries to append; the first may overwrite older ones.
    pub entries: Vec<Entry>,
    /// The hard state, if it changed.
    pub hard_state: Option<HardState>,
    /// Whether this has to be synced. `false` with a hard state means that only the commit index
    /// changed: it is written, not synced.
    pub must_sync: bool,
    /// Messages to send now.
    pub messages: Vec<raftpb::Message>,
    /// Messages to send when this ready and all before are persisted.
    pub messages_after_persist: Vec<raftpb::Message>,
    /// Entries to apply.
    pub committed: Vec<Entry>,
    /// Answered read requests.
    pub read_states: Vec<ReadState>,
    /// Leader and role, if they changed.
    pub soft_state: Option<SoftState>,
}

/// A read request is linearizable once `index` is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadState {
    /// What the request was made with.
    pub ctx: u64,
    /// What must be applied before it is served.
    pub index: u64,
}

/// The part a member plays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Takes the leader's entries.
    #[default]
    Follower,
    /// Asks whether it could win.
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Appends and replicates.
    Leader,
}

/// Who leads, and what this member is. Not persisted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SoftState {
    /// The leader's id; 0 if there is none.
    pub leader: u64,
    /// The part of this member.
    pub role: Role,
}

/// How far a leader got with a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgressState {
    /// One message per heartbeat until the peer's position is known.
    Probe,
    /// Entries are sent ahead of answers.
    Replicate,
    /// A snapshot is under way.
    Snapshot,
}

/// A leader's view of a member, itself included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerProgress {
    /// The member.
    pub id: u64,
    /// The last entry it is known to have; `matched < next`.
    pub matched: u64,
    /// The next entry to send.
    pub next: u64,
    /// How entries are sent.
    pub state: ProgressState,
    /// Whether it has no vote.
    pub learner: bool,
    /// Whether it was heard of within the last election timeout.
    pub recent_active: bool,
}

/// A look inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// This member.
    pub id: u64,
    /// Current term.
    pub term: u64,
    /// Whom it voted for.
    pub vote: u64,
    /// Highest committed index.
    pub commit: u64,
    /// Highest applied index that was reported.
    pub applied: u64,
    /// Leader and role.
    pub soft_state: SoftState,
    /// Whom leadership is being handed to; 0 if nobody.
    pub transferee: u64,
    /// On a leader, all members ascending by id; empty elsewhere.
    pub progress: Vec<PeerProgress>,
}

//! The raft log as plain data: entries, hard state, configuration.
//!
//! These are what the log engine stores and consensus hands out. Their protobuf form (upstream's
//! `raftpb`) and the conversions live with the crates that read and write bytes.

use std::fmt;

use bytes::Bytes;

use crate::LogPosition;

/// What an entry carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntryKind {
    /// A request for the state machine; empty data is a no-op (each new leader appends one).
    #[default]
    Normal,
    /// A membership change, `raftpb.ConfChange`.
    ConfChange,
    /// A membership change in joint-consensus form, `raftpb.ConfChangeV2`. etcd never writes one.
    ConfChangeV2,
}

/// One entry of the raft log.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// Place in the log, from 1.
    pub index: u64,
    /// Term of the leader that appended it.
    pub term: u64,
    /// How to read `data`.
    pub kind: EntryKind,
    /// The payload, unchanged from the proposal.
    pub data: Bytes,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} {:?} ", self.index, self.term, self.kind)?;
        match self.data.len() {
            0..=64 => write!(f, "{:?}", self.data),
            len => write!(f, "{len} bytes"),
        }
    }
}

/// What a member must remember over a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The term it is in.
    pub term: u64,
    /// Whom it voted for in that term; 0 means nobody.
    pub vote: u64,
    /// The highest index it knows to be committed.
    pub commit: u64,
}

impl HardState {
    /// Whether nothing is known yet; such a state is never written.
    pub const fn is_empty(&self) -> bool {
        self.term == 0 && self.vote == 0 && self.commit == 0
    }
}

/// Who votes and who learns. The lists are kept ascending: they are written to disk and compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfState {
    /// Ids of the voting members.
    pub voters: Vec<u64>,
    /// Ids of the members that receive the log without a vote.
    pub learners: Vec<u64>,
    /// Voters of the outgoing half of a joint configuration; empty with etcd.
    pub voters_outgoing: Vec<u64>,
    /// Voters that become learners when a joint configuration is left; empty with etcd.
    pub learners_next: Vec<u64>,
    /// Whether a joint configuration is left by itself; `false` with etcd.
    pub auto_leave: bool,
}

impl ConfState {
    /// A simple configuration; sorts the lists.
    pub fn new(mut voters: Vec<u64>, mut learners: Vec<u64>) -> Self {
        voters.sort_unstable();
        learners.sort_unstable();
        Self { voters, learners, ..Self::default() }
    }

    /// The same configuration with every list ascending.
    pub fn sorted(mut self) -> Self {
        for list in [&mut self.voters, &mut self.learners, &mut self.voters_outgoing, &mut self.learners_next]
        {
            list.sort_unstable();
        }
        self
    }

    /// Whether `id` takes part, as voter or learner.
    pub fn contains(&self, id: u64) -> bool {
        [&self.voters, &self.learners, &self.voters_outgoing].iter().any(|list| list.contains(&id))
    }
}

/// A raft snapshot: the state up to `position` is elsewhere (the backend), this says what it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The last entry that it covers; index 0 means "no snapshot".
    pub position: LogPosition,
    /// The configuration at that entry.
    pub conf_state: ConfState,
    /// Upstream's v2 store as JSON: what etcd 3.5 and 3.6 read the members from.
    pub data: Bytes,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_sorted_and_searched() {
        let state = ConfState::new(vec![3, 1, 2], vec![9, 8]);
        assert_eq!((&state.voters[..], &state.learners[..]), (&[1, 2, 3][..], &[8, 9][..]));
        assert!(state.contains(9) && !state.contains(4));
        assert_eq!(ConfState { voters: vec![2, 1], ..state.clone() }.sorted().voters, [1, 2]);
    }

    #[test]
    fn long_payloads_are_not_printed() {
        let entry = Entry { index: 3, term: 2, data: vec![0; 1000].into(), ..Entry::default() };
        assert_eq!(format!("{entry:?}"), "3/2 Normal 1000 bytes");
    }
}

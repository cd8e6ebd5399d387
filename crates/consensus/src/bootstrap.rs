//! The first state of a new cluster.
//!
//! Every member of a new cluster makes the same log: for each member, ascending by id, one
//! configuration change of term 1, all of them committed. The first election is at term 2.
//!
//! **Source**: etcd raft `bootstrap.go`.

use bytes::Bytes;
use types::LogPosition;
use types::raft::{ConfState, Entry, EntryKind, HardState};

use crate::LogState;

/// The log of a new cluster of these members: id and encoded `raftpb.ConfChange` each.
///
/// The caller writes entries and hard state to its log before it starts on them.
pub fn bootstrap(members: impl IntoIterator<Item = (u64, Bytes)>) -> LogState {
    let mut members: Vec<_> = members.into_iter().collect();
    members.sort_by_key(|(id, _)| *id);
    let entries: Vec<_> = members
        .iter()
        .zip(1..)
        .map(|((_, change), index)| Entry {
            index,
            term: 1,
            kind: EntryKind::ConfChange,
            data: change.clone(),
        })
        .collect();
    LogState {
        hard_state: HardState { term: 1, vote: 0, commit: entries.len() as u64 },
        conf_state: ConfState::new(members.iter().map(|(id, _)| *id).collect(), Vec::new()),
        snapshot: LogPosition::default(),
        entries,
    }
}

//! Starting over as a cluster of one, with the data at hand (`--force-new-cluster`).
//!
//! What was not committed is dropped: no quorum will ever say what became of it. What was is kept,
//! and behind it come, committed at once, the conf changes that leave nobody but this member: it is
//! added or promoted first if it has no vote, since a configuration without voters is none, then
//! the others are removed, ascending by id. They are applied like all others, so the stored
//! membership follows.
//!
//! **Source**: etcd `server/etcdserver/bootstrap.go`, `server/storage/util.go`.

use std::collections::BTreeSet;

use membership::{ConfChange, Member};
use prost::Message;
use proto::raftpb;
use types::{ConfState, Entry, EntryKind, HardState, MemberId};

use crate::log;

/// The peer URL of a member that nobody knows a URL of.
const UNKNOWN_PEER_URL: &str = "http://localhost:2380";

/// Who has a vote and who has none, as far as it is known.
#[derive(Debug, Default, PartialEq, Eq)]
struct Known {
    voters: BTreeSet<u64>,
    learners: BTreeSet<u64>,
}

impl Known {
    /// A configuration and the changes behind it.
    fn after(start: &ConfState, changes: &[Entry]) -> Result<Self, prost::DecodeError> {
        let mut known = Self {
            voters: start.voters.iter().copied().collect(),
            learners: start.learners.iter().copied().collect(),
        };
        for entry in changes.iter().filter(|entry| entry.kind == EntryKind::ConfChange) {
            let change = raftpb::ConfChange::decode(entry.data.clone())?;
            let id = change.node_id();
            match change.r#type() {
                raftpb::ConfChangeType::ConfChangeAddNode => {
                    known.learners.remove(&id);
                    known.voters.insert(id);
                }
                raftpb::ConfChangeType::ConfChangeAddLearnerNode => {
                    known.learners.insert(id);
                }
                raftpb::ConfChangeType::ConfChangeRemoveNode => {
                    known.voters.remove(&id);
                    known.learners.remove(&id);
                }
                raftpb::ConfChangeType::ConfChangeUpdateNode => {}
            }
        }
        Ok(known)
    }

    /// The changes that leave only `own`.
    fn changes_to(&self, own: MemberId) -> Vec<ConfChange> {
        let mut changes = Vec::new();
        if self.learners.contains(&own.0) {
            changes.push(ConfChange::Promote(own));
        } else if !self.voters.contains(&own.0) {
            changes.push(ConfChange::Add(Member::new(own, vec![UNKNOWN_PEER_URL.to_owned()])));
        }
        let others: BTreeSet<u64> =
            self.voters.union(&self.learners).copied().filter(|id| *id != own.0).collect();
        changes.extend(others.into_iter().map(|id| ConfChange::Remove(MemberId(id))));
        changes
    }
}

/// Cuts `entries` behind what is committed and adds what leaves only `own`, all of it committed
/// in `hard_state`. Returns the entries that have to be written to the log.
///
/// `conf_state` is the configuration at index `conf_index`; changes behind it are among the
/// entries.
///
/// # Errors
/// A conf change in the log cannot be read.
pub fn start_over(
    own: MemberId,
    entries: &mut Vec<Entry>,
    hard_state: &mut HardState,
    conf_state: &ConfState,
    conf_index: u64,
) -> Result<Vec<Entry>, prost::DecodeError> {
    let committed = entries.partition_point(|entry| entry.index <= hard_state.commit);
    if let Some(first) = entries.get(committed) {
        log::info!("discarding uncommitted WAL entries",
            "entry-index" => first.index, "commit-index-from-wal" => hard_state.commit,
            "number-of-discarded-entries" => (entries.len() - committed) as u64);
        entries.truncate(committed);
    }
    let behind = entries.partition_point(|entry| entry.index <= conf_index);
    let changes = Known::after(conf_state, &entries[behind..])?.changes_to(own);
    let numbered = changes.iter().zip(hard_state.commit + 1..);
    let added: Vec<Entry> = numbered
        .map(|(change, index)| Entry {
            index,
            term: hard_state.term,
            kind: EntryKind::ConfChange,
            data: change.encode(0).encode_to_vec().into(),
        })
        .collect();
    entries.extend(added.iter().cloned());
    hard_state.commit += added.len() as u64;
    Ok(added)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, change: Option<ConfChange>) -> Entry {
        let (kind, data) = match change {
            Some(change) => (EntryKind::ConfChange, change.encode(0).encode_to_vec().into()),
            None => (EntryKind::Normal, "x".into()),
        };
        Entry { index, term: 3, kind, data }
    }

    fn member(id: u64) -> Member {
        Member::new(MemberId(id), vec![format!("http://h:{id}")])
    }

    fn changes(entries: &[Entry]) -> Vec<(u64, u64, ConfChange)> {
        let decode = |entry: &Entry| {
            let change = raftpb::ConfChange::decode(entry.data.clone()).unwrap();
            (entry.index, entry.term, ConfChange::decode(&change).unwrap())
        };
        entries.iter().map(decode).collect()
    }

    #[test]
    fn the_others_leave_and_the_tail_is_dropped() {
        let learner = Member { is_learner: true, ..member(9) };
        let mut entries = vec![
            entry(5, Some(ConfChange::Remove(MemberId(3)))),
            entry(6, Some(ConfChange::Add(learner))),
            entry(7, None),
            entry(8, Some(ConfChange::Remove(MemberId(1)))),
        ];
        let mut hard_state = HardState { term: 4, vote: 2, commit: 7 };
        let conf = ConfState::new(vec![1, 2, 3, 4], Vec::new());
        // What lies at or below index 4 is in the configuration already.
        let added = start_over(MemberId(2), &mut entries, &mut hard_state, &conf, 4).unwrap();
        let expected: Vec<_> =
            [(8, 1), (9, 4), (10, 9)].map(|(index, id)| (index, 4, ConfChange::Remove(MemberId(id)))).into();
        assert_eq!(changes(&added), expected);
        assert_eq!(entries.iter().map(|entry| entry.index).collect::<Vec<_>>(), [5, 6, 7, 8, 9, 10]);
        assert_eq!(hard_state, HardState { term: 4, vote: 2, commit: 10 });
    }

    #[test]
    fn who_has_no_vote_gets_one_first() {
        let start = |conf: ConfState, own: u64| {
            let mut hard_state = HardState { term: 2, vote: 0, commit: 1 };
            changes(&start_over(MemberId(own), &mut Vec::new(), &mut hard_state, &conf, 1).unwrap())
        };
        let remove = |index| (index, 2, ConfChange::Remove(MemberId(1)));
        let conf = || ConfState::new(vec![1], vec![2]);
        assert_eq!(start(conf(), 2), [(2, 2, ConfChange::Promote(MemberId(2))), remove(3)]);
        let added = Member::new(MemberId(7), vec![UNKNOWN_PEER_URL.to_owned()]);
        assert_eq!(
            start(ConfState::new(vec![1], Vec::new()), 7),
            [(2, 2, ConfChange::Add(added)), remove(3)]
        );
        assert_eq!(start(ConfState::new(vec![5], Vec::new()), 5), []);
    }
}

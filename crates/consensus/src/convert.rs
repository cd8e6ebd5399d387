//! Between our types, upstream's `raftpb` and the crate's `eraftpb`.
//!
//! Field numbers agree, meanings do not always: `ConfChangeType` differs, fields 13 and 14 of a
//! message mean other things on both sides, and the crate adds fields 15 and 16. So every message
//! is built field by field. Payloads are shared, never copied.

use bytes::Bytes;
use proto::raftpb;
use protobuf::ProtobufEnum;
use raft::eraftpb;
use types::LogPosition;
use types::raft::{ConfState, Entry, EntryKind, HardState, Snapshot};

use crate::check::StepError;
use crate::ready::Role;

pub(crate) fn entry_to_crate(entry: Entry) -> eraftpb::Entry {
    eraftpb::Entry {
        entry_type: match entry.kind {
            EntryKind::Normal => eraftpb::EntryType::EntryNormal,
            EntryKind::ConfChange => eraftpb::EntryType::EntryConfChange,
            EntryKind::ConfChangeV2 => eraftpb::EntryType::EntryConfChangeV2,
        },
        term: entry.term,
        index: entry.index,
        data: entry.data,
        ..Default::default()
    }
}

pub(crate) fn entry_from_crate(entry: eraftpb::Entry) -> Entry {
    let kind = match entry.entry_type {
        eraftpb::EntryType::EntryNormal => EntryKind::Normal,
        eraftpb::EntryType::EntryConfChange => EntryKind::ConfChange,
        eraftpb::EntryType::EntryConfChangeV2 => EntryKind::ConfChangeV2,
    };
    Entry { index: entry.index, term: entry.term, kind, data: entry.data }
}

pub(crate) fn hard_state_to_crate(state: &HardState) -> eraftpb::HardState {
    eraftpb::HardState { term: state.term, vote: state.vote, commit: state.commit, ..Default::default() }
}

pub(crate) fn hard_state_from_crate(state: &eraftpb::HardState) -> HardState {
    HardState { term: state.term, vote: state.vote, commit: state.commit }
}

pub(crate) fn conf_state_to_crate(state: &ConfState) -> eraftpb::ConfState {
    eraftpb::ConfState {
        voters: state.voters.clone(),
        learners: state.learners.clone(),
        voters_outgoing: state.voters_outgoing.clone(),
        learners_next: state.learners_next.clone(),
        auto_leave: state.auto_leave,
        ..Default::default()
    }
}

/// The crate's sets have no order: ours are ascending.
pub(crate) fn conf_state_from_crate(state: &eraftpb::ConfState) -> ConfState {
    let converted = ConfState {
        voters: state.voters.clone(),
        learners: state.learners.clone(),
        voters_outgoing: state.voters_outgoing.clone(),
        learners_next: state.learners_next.clone(),
        auto_leave: state.auto_leave,
    };
    converted.sorted()
}

pub(crate) fn snapshot_to_crate(snapshot: &Snapshot) -> eraftpb::Snapshot {
    let metadata = eraftpb::SnapshotMetadata {
        conf_state: Some(conf_state_to_crate(&snapshot.conf_state)).into(),
        index: snapshot.position.index,
        term: snapshot.position.term,
        ..Default::default()
    };
    eraftpb::Snapshot { data: snapshot.data.clone(), metadata: Some(metadata).into(), ..Default::default() }
}

pub(crate) fn snapshot_from_crate(snapshot: &eraftpb::Snapshot) -> Snapshot {
    let metadata = snapshot.get_metadata();
    Snapshot {
        position: LogPosition { index: metadata.index, term: metadata.term },
        conf_state: conf_state_from_crate(metadata.get_conf_state()),
        data: snapshot.data.clone(),
    }
}

pub(crate) fn role_from_crate(role: raft::StateRole) -> Role {
    match role {
        raft::StateRole::Follower => Role::Follower,
        raft::StateRole::PreCandidate => Role::PreCandidate,
        raft::StateRole::Candidate => Role::Candidate,
        raft::StateRole::Leader => Role::Leader,
    }
}

/// The part of a configuration change that the crate needs. `None` is a change that leaves the
/// configuration alone: an update of URLs, or one that was rejected (`node_id` 0).
pub(crate) fn conf_change_to_crate(change: &raftpb::ConfChange) -> Option<eraftpb::ConfChange> {
    use eraftpb::ConfChangeType as Crate;
    use raftpb::ConfChangeType as Upstream;
    let change_type = match change.r#type() {
        Upstream::ConfChangeAddNode => Crate::AddNode,
        Upstream::ConfChangeRemoveNode => Crate::RemoveNode,
        Upstream::ConfChangeAddLearnerNode => Crate::AddLearnerNode,
        Upstream::ConfChangeUpdateNode => return None,
    };
    if change.node_id() == 0 {
        return None;
    }
    Some(eraftpb::ConfChange { change_type, node_id: change.node_id(), ..Default::default() })
}

/// A message from a peer, with the fields that both sides understand.
pub(crate) fn message_to_crate(message: raftpb::Message) -> Result<eraftpb::Message, StepError> {
    let number = message.r#type.unwrap_or_default();
    let kind = eraftpb::MessageType::from_i32(number).ok_or(StepError::UnknownType { number })?;
    // Go 3.5 sends an empty snapshot with every message: only this type has one.
    let snapshot = (kind == eraftpb::MessageType::MsgSnapshot)
        .then(|| snapshot_from_wire(message.snapshot.unwrap_or_default()));
    let mut entries = Vec::with_capacity(message.entries.len());
    for entry in message.entries {
        entries.push(entry_from_wire(entry)?);
    }
    Ok(eraftpb::Message {
        msg_type: kind,
        to: message.to.unwrap_or_default(),
        from: message.from.unwrap_or_default(),
        term: message.term.unwrap_or_default(),
        log_term: message.log_term.unwrap_or_default(),
        index: message.index.unwrap_or_default(),
        entries: entries.into(),
        commit: message.commit.unwrap_or_default(),
        snapshot: snapshot.into(),
        reject: message.reject.unwrap_or_default(),
        reject_hint: message.reject_hint.unwrap_or_default(),
        context: message.context.unwrap_or_default(),
        ..Default::default()
    })
}

fn entry_from_wire(entry: raftpb::Entry) -> Result<eraftpb::Entry, StepError> {
    let number = entry.r#type.unwrap_or_default();
    Ok(eraftpb::Entry {
        entry_type: eraftpb::EntryType::from_i32(number).ok_or(StepError::UnknownEntryType { number })?,
        term: entry.term.unwrap_or_default(),
        index: entry.index.unwrap_or_default(),
        data: entry.data.unwrap_or_default(),
        ..Default::default()
    })
}

fn snapshot_from_wire(snapshot: raftpb::Snapshot) -> eraftpb::Snapshot {
    let metadata = snapshot.metadata.unwrap_or_default();
    let conf_state = metadata.conf_state.unwrap_or_default();
    snapshot_to_crate(&Snapshot {
        position: LogPosition {
            index: metadata.index.unwrap_or_default(),
            term: metadata.term.unwrap_or_default(),
        },
        conf_state: ConfState {
            voters: conf_state.voters,
            learners: conf_state.learners,
            voters_outgoing: conf_state.voters_outgoing,
            learners_next: conf_state.learners_next,
            auto_leave: conf_state.auto_leave.unwrap_or_default(),
        },
        data: snapshot.data.unwrap_or_default(),
    })
}

/// A message to a peer: all scalars set, as upstream's 3.5 and 3.6 do; nothing in fields 13 to 16.
pub(crate) fn message_from_crate(mut message: eraftpb::Message) -> raftpb::Message {
    use eraftpb::MessageType as Kind;
    let kind = message.msg_type;
    let entries: Vec<eraftpb::Entry> = message.take_entries().into();
    // The crate tells its own kind the commit index in votes; upstream sends 0 there.
    let votes = [
        Kind::MsgRequestVote,
        Kind::MsgRequestPreVote,
        Kind::MsgRequestVoteResponse,
        Kind::MsgRequestPreVoteResponse,
    ];
    let commit = if votes.contains(&kind) { 0 } else { message.commit };
    let context = Some(message.take_context()).filter(|context| !context.is_empty());
    raftpb::Message {
        r#type: Some(kind.value()),
        to: Some(message.to),
        from: Some(message.from),
        term: Some(message.term),
        log_term: Some(message.log_term),
        index: Some(message.index),
        entries: entries.into_iter().map(entry_to_wire).collect(),
        commit: Some(commit),
        snapshot: (kind == Kind::MsgSnapshot).then(|| snapshot_to_wire(message.take_snapshot())),
        reject: Some(message.reject),
        reject_hint: Some(message.reject_hint),
        context,
        vote: None,
        responses: Vec::new(),
    }
}

fn entry_to_wire(entry: eraftpb::Entry) -> raftpb::Entry {
    raftpb::Entry {
        r#type: Some(entry.entry_type.value()),
        term: Some(entry.term),
        index: Some(entry.index),
        data: Some(entry.data).filter(|data: &Bytes| !data.is_empty()),
    }
}

/// Metadata and configuration are always there: etcd 3.7 relies on it.
fn snapshot_to_wire(snapshot: eraftpb::Snapshot) -> raftpb::Snapshot {
    let Snapshot { position, conf_state, data } = snapshot_from_crate(&snapshot);
    raftpb::Snapshot {
        data: Some(data),
        metadata: Some(raftpb::SnapshotMetadata {
            conf_state: Some(raftpb::ConfState {
                voters: conf_state.voters,
                learners: conf_state.learners,
                voters_outgoing: conf_state.voters_outgoing,
                learners_next: conf_state.learners_next,
                auto_leave: Some(conf_state.auto_leave),
            }),
            index: Some(position.index),
            term: Some(position.term),
        }),
    }
}

//! Messages from peers: decoding them, and a member that takes them.
//!
//! ```text
//! start:u8, messages...     start: what the member is: 0 without a state, 1 follower, 2 candidate,
//!                           3 leader of three, 4 leader of itself
//!                           each message: raftpb.Message as string
//! ```
//!
//! Promises: a message that decodes is encoded and decoded to itself; the member takes it or refuses
//! it and goes on.

use bytes::Bytes;
use consensus::{Config, Consensus, LogState, bootstrap};
use prost::Message as _;
use proto::raftpb::{self, MessageType};
use types::raft::EntryKind;

use crate::Seed;
use crate::input::{Input, Output};

/// Messages that one input brings.
const MOST_MESSAGES: usize = 16;

/// Runs one input.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut member = start(input.u8());
    for _ in 0..MOST_MESSAGES {
        if input.is_empty() {
            break;
        }
        let bytes = input.string();
        let Ok(message) = raftpb::Message::decode(bytes) else { continue };
        let again = raftpb::Message::decode(&message.encode_to_vec()[..]);
        assert_eq!(again.as_ref(), Ok(&message));
        let _ = member.step(message);
        settle(&mut member);
        member.tick();
        member.read_index(1);
        let _ = member.propose(Bytes::from_static(b"payload"));
        settle(&mut member);
    }
}

/// Does what a member does with its readies; gives the messages that it would send.
fn settle(member: &mut Consensus) -> Vec<raftpb::Message> {
    let mut messages = Vec::new();
    while let Some(ready) = member.ready() {
        messages.extend(ready.messages);
        messages.extend(ready.messages_after_persist);
        member.persisted(ready.number);
        for entry in ready.committed {
            if entry.kind == EntryKind::ConfChange
                && let Ok(change) = raftpb::ConfChange::decode(entry.data)
            {
                // One that cannot be applied stops a member; here it is only passed over.
                let _ = member.apply_conf_change(&change);
            }
            member.applied(entry.index);
        }
    }
    messages
}

fn start(kind: u8) -> Consensus {
    let voters: u64 = match kind % 5 {
        0 => 0,
        4 => 1,
        _ => 3,
    };
    let change = |id| raftpb::ConfChange {
        id: Some(0),
        r#type: Some(raftpb::ConfChangeType::ConfChangeAddNode.into()),
        node_id: Some(id),
        context: Some(Bytes::from_static(b"{}")),
    };
    let state = match voters {
        0 => LogState::default(),
        _ => bootstrap((1..=voters).map(|id| (id, change(id).encode_to_vec().into()))),
    };
    let mut member = Consensus::new(Config::new(1), state, 1).expect("the first state of a cluster");
    settle(&mut member);
    if kind % 5 >= 2 {
        member.campaign();
        answer(&mut member, kind.is_multiple_of(5) || kind % 5 == 3);
    }
    member
}

/// Grants what a candidate asks for, once or until it leads.
fn answer(member: &mut Consensus, elect: bool) {
    let mut sent = settle(member);
    while let Some(request) = sent.pop() {
        let kind = match request.r#type() {
            MessageType::MsgPreVote => MessageType::MsgPreVoteResp,
            MessageType::MsgVote if elect => MessageType::MsgVoteResp,
            _ => continue,
        };
        let granted = raftpb::Message {
            r#type: Some(kind.into()),
            from: request.to,
            to: Some(1),
            term: request.term,
            ..Default::default()
        };
        let _ = member.step(granted);
        sent.extend(settle(member));
    }
}

/// What peers send each kind of member.
pub fn seeds() -> Vec<Seed> {
    let message = |kind: MessageType, term: u64| raftpb::Message {
        r#type: Some(kind.into()),
        from: Some(2),
        to: Some(1),
        term: Some(term),
        ..Default::default()
    };
    let entry = |index, term| raftpb::Entry {
        r#type: Some(0),
        index: Some(index),
        term: Some(term),
        data: Some(Bytes::from_static(b"\x10\x03\x18\x05")),
    };
    let append = raftpb::Message {
        index: Some(3),
        log_term: Some(1),
        commit: Some(4),
        entries: vec![entry(4, 2), entry(5, 2)],
        ..message(MessageType::MsgApp, 2)
    };
    let heartbeat = raftpb::Message { commit: Some(3), ..message(MessageType::MsgHeartbeat, 2) };
    let vote = raftpb::Message { index: Some(9), log_term: Some(2), ..message(MessageType::MsgVote, 3) };
    let acknowledge = raftpb::Message { index: Some(4), ..message(MessageType::MsgAppResp, 2) };
    let reject = raftpb::Message {
        index: Some(3),
        reject: Some(true),
        reject_hint: Some(2),
        log_term: Some(1),
        ..message(MessageType::MsgAppResp, 2)
    };
    let read = raftpb::Message { entries: vec![entry(0, 0)], ..message(MessageType::MsgReadIndex, 0) };
    let propose = raftpb::Message { entries: vec![entry(0, 0)], ..message(MessageType::MsgProp, 0) };
    let conf_state = raftpb::ConfState { voters: vec![1, 2], learners: vec![3], ..Default::default() };
    let metadata = raftpb::SnapshotMetadata { conf_state: Some(conf_state), index: Some(20), term: Some(2) };
    let snapshot = raftpb::Message {
        snapshot: Some(raftpb::Snapshot { data: Some(Bytes::from_static(b"{}")), metadata: Some(metadata) }),
        ..message(MessageType::MsgSnap, 2)
    };
    let join = |start: u8, messages: &[&raftpb::Message]| {
        let all = messages
            .iter()
            .fold(Output::default().u8(start), |output, message| output.string(&message.encode_to_vec()));
        all.0
    };
    vec![
        ("empty", join(0, &[&snapshot, &append])),
        ("follower", join(1, &[&append, &heartbeat, &vote, &snapshot])),
        ("candidate", join(2, &[&message(MessageType::MsgVoteResp, 2), &acknowledge])),
        ("leader", join(3, &[&acknowledge, &reject, &read, &propose, &vote])),
        ("transfer", join(3, &[&message(MessageType::MsgTransferLeader, 2), &acknowledge])),
        ("alone", join(4, &[&propose, &read, &message(MessageType::MsgTimeoutNow, 2)])),
    ]
}

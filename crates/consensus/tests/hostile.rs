//! Messages that no sound peer sends: refused or harmless, never a panic.

mod support;

use bytes::Bytes;
use consensus::{ProgressState, StepError};
use proptest::prelude::*;
use prost::Message as _;
use proto::raftpb::{self, MessageType};
use support::{Cluster, Node, empty_node};

fn message(kind: MessageType, from: u64, term: u64) -> raftpb::Message {
    raftpb::Message {
        r#type: Some(kind.into()),
        from: Some(from),
        to: Some(1),
        term: Some(term),
        ..Default::default()
    }
}

fn entry(index: u64, term: u64) -> raftpb::Entry {
    raftpb::Entry {
        index: Some(index),
        term: Some(term),
        data: Some(Bytes::from_static(b"x")),
        r#type: Some(0),
    }
}

/// A follower at term 2 or later with a few entries.
fn follower() -> (Node, u64) {
    let mut cluster = Cluster::new(&[1, 2, 3], 9);
    let leader = cluster.elect();
    cluster.propose(leader, "a");
    let id = leader % 3 + 1;
    (cluster.nodes.remove(&id).unwrap(), leader)
}

#[test]
fn malformed_messages_are_refused() {
    let (mut node, leader) = follower();
    let (term, last) = (node.raft.status().term, node.raft.last_index());
    let refuse = |node: &mut Node, message: raftpb::Message, text: &str| {
        let error = node.raft.step(message).unwrap_err().to_string();
        assert!(error.contains(text), "{error:?} says nothing of {text:?}");
    };
    let base = |kind| message(kind, leader, term);
    refuse(&mut node, message(MessageType::MsgApp, leader, 0), "no term");
    refuse(&mut node, message(MessageType::MsgApp, 0, term), "no sender");
    for kind in
        [MessageType::MsgHup, MessageType::MsgBeat, MessageType::MsgUnreachable, MessageType::MsgSnapStatus]
    {
        refuse(&mut node, base(kind), "cannot step raft local message");
    }
    refuse(&mut node, base(MessageType::MsgStorageAppend), "message type 19");
    refuse(&mut node, base(MessageType::MsgProp), "no entries");
    refuse(&mut node, base(MessageType::MsgReadIndex), "not exactly one context");
    refuse(&mut node, base(MessageType::MsgReadIndexResp), "not exactly one context");
    refuse(
        &mut node,
        raftpb::Message { index: Some(1000), ..base(MessageType::MsgApp) },
        "no term of the entry",
    );
    let entries = vec![entry(last + 1, term), entry(last + 3, term)];
    let append = raftpb::Message { index: Some(last), log_term: Some(term), ..base(MessageType::MsgApp) };
    refuse(&mut node, raftpb::Message { entries, ..append.clone() }, "a hole");
    let entries = vec![entry(last + 1, term + 1)];
    refuse(&mut node, raftpb::Message { entries, ..append.clone() }, "out of order");
    let joint = raftpb::Entry { r#type: Some(2), ..entry(last + 1, term) };
    refuse(
        &mut node,
        raftpb::Message { entries: vec![joint], ..append.clone() },
        "joint configuration change",
    );
    let unknown = raftpb::Entry { r#type: Some(3), ..entry(last + 1, term) };
    refuse(&mut node, raftpb::Message { entries: vec![unknown], ..append }, "unknown entry type 3");
    refuse(&mut node, base(MessageType::MsgSnap), "a snapshot of nothing");
    let lost = raftpb::Message { commit: Some(last + 1), ..base(MessageType::MsgHeartbeat) };
    assert_eq!(
        node.raft.step(lost).unwrap_err(),
        StepError::LostEntries { from: leader, commit: last + 1, last }
    );
    assert_eq!(node.raft.last_index(), last, "nothing was taken");
}

#[test]
fn snapshots_with_impossible_configurations_are_refused() {
    let (mut node, leader) = follower();
    let term = node.raft.status().term;
    let snapshot = |voters: &[u64], learners: &[u64], outgoing: &[u64]| raftpb::Message {
        snapshot: Some(raftpb::Snapshot {
            data: None,
            metadata: Some(raftpb::SnapshotMetadata {
                conf_state: Some(raftpb::ConfState {
                    voters: voters.to_vec(),
                    learners: learners.to_vec(),
                    voters_outgoing: outgoing.to_vec(),
                    ..Default::default()
                }),
                index: Some(100),
                term: Some(term),
            }),
        }),
        ..message(MessageType::MsgSnap, leader, term)
    };
    // One that says it will leave a joint configuration by itself, without being in one.
    let mut leaving = snapshot(&[1], &[3], &[]);
    let metadata = leaving.snapshot.as_mut().and_then(|snapshot| snapshot.metadata.as_mut()).unwrap();
    metadata.conf_state.as_mut().unwrap().auto_leave = Some(true);
    for bad in [
        leaving,
        snapshot(&[], &[1], &[]),
        snapshot(&[1, 1], &[], &[]),
        snapshot(&[1, 2], &[2], &[]),
        snapshot(&[0, 1], &[], &[]),
        snapshot(&[1], &[], &[2]),
    ] {
        let error = node.raft.step(bad).unwrap_err();
        assert!(matches!(error, StepError::Malformed { kind: 7, .. }), "{error}");
    }
}

/// A heartbeat's context confirms reads: whatever it is, it goes back unchanged.
#[test]
fn the_context_of_a_heartbeat_is_echoed() {
    for context in [&b"x"[..], &[0, 1, 2, 3, 4, 5, 6, 255], &[7; 40]] {
        let (mut node, leader) = follower();
        let term = node.raft.status().term;
        let beat = raftpb::Message {
            context: Some(Bytes::copy_from_slice(context)),
            ..message(MessageType::MsgHeartbeat, leader, term)
        };
        node.raft.step(beat).unwrap();
        let answers = node.turn().unwrap();
        assert_eq!(answers[0].r#type(), MessageType::MsgHeartbeatResp);
        assert_eq!(answers[0].context(), context);
    }
}

/// Fields 13 and 14 mean other things to upstream; 15 and 16 are unknown to it.
#[test]
fn messages_carry_only_upstreams_fields() {
    let mut cluster = Cluster::new(&[1, 2, 3], 4);
    cluster.keep = Some(|_| true);
    for _ in 0..25 {
        cluster.tick(1);
    }
    assert!(cluster.kept.iter().any(|message| message.r#type() == MessageType::MsgPreVote));
    for message in &cluster.kept {
        assert_eq!((message.vote, message.responses.len(), message.commit()), (None, 0, 0), "{message:?}");
        let bytes = message.encode_to_vec();
        assert_eq!(bytes[0], 8, "the type leads, zero or not");
        assert!(message.reject.is_some() && message.log_term.is_some());
    }
}

/// A rejection that comes late, or from a member that lost its log, must not make the leader send
/// from before what is known to match (the crate's own handling would).
#[test]
fn a_stray_rejection_keeps_matched_below_next() {
    let mut cluster = Cluster::new(&[1, 2, 3], 9);
    let leader = cluster.elect();
    let peer = leader % 3 + 1;
    cluster.propose(leader, "a");
    let term = cluster.node(leader).raft.status().term;
    let progress = |cluster: &mut Cluster| {
        let status = cluster.node(leader).raft.status();
        let peer = *status.progress.iter().find(|progress| progress.id == peer).unwrap();
        assert!(peer.matched < peer.next, "{peer:?}");
        peer
    };
    let reject = |index, hint, hint_term| raftpb::Message {
        to: Some(leader),
        index: Some(index),
        reject: Some(true),
        reject_hint: Some(hint),
        log_term: Some(hint_term),
        ..message(MessageType::MsgAppResp, peer, term)
    };
    // At the matched entry itself.
    let matched = progress(&mut cluster).matched;
    cluster.node(leader).raft.report_unreachable(peer);
    cluster.node(leader).raft.step(reject(matched, 1, 1)).unwrap();
    assert_eq!(progress(&mut cluster).matched, matched);

    // Behind it, while a snapshot is probed.
    cluster.settle();
    cluster.cut_off.insert(peer);
    for _ in 0..20 {
        cluster.propose(leader, "b");
    }
    cluster.node(leader).raft.compact(u64::MAX);
    cluster.node(leader).raft.report_unreachable(peer);
    cluster.keep = Some(|message| message.r#type() == MessageType::MsgSnap);
    cluster.cut_off.clear();
    cluster.tick(3);
    assert_eq!(progress(&mut cluster).state, ProgressState::Snapshot);
    cluster.node(leader).raft.report_snapshot(peer, true);
    let probing = progress(&mut cluster);
    assert!(probing.state == ProgressState::Probe && probing.next > probing.matched + 1);
    for (hint, hint_term) in [(1, 0), (probing.next - 1, 1)] {
        cluster.node(leader).raft.step(reject(probing.next - 1, hint, hint_term)).unwrap();
        progress(&mut cluster);
    }
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0u64..8, 1 => 8u64..200, 1 => (u64::MAX - 2)..=u64::MAX]
}

prop_compose! {
    fn any_message()(
        kind in 0i32..25,
        numbers in prop::array::uniform7(number()),
        entries in prop::collection::vec((number(), number(), 0i32..4, prop::bool::ANY), 0..4),
        in_order in prop::bool::ANY,
        reject in prop::bool::ANY,
        context in prop::option::of(prop::collection::vec(any::<u8>(), 0..9)),
        conf in (prop::collection::vec(0u64..5, 0..4), prop::collection::vec(0u64..5, 0..2)),
    ) -> raftpb::Message {
        let [from, term, log_term, index, commit, reject_hint, snapshot_index] = numbers;
        let entries = entries.into_iter().zip(1..).map(|((at, of, kind, empty), place)| raftpb::Entry {
            r#type: Some(if in_order { kind % 2 } else { kind }),
            term: Some(if in_order { term } else { of }),
            index: Some(if in_order { index.wrapping_add(place) } else { at }),
            data: Some(if empty { Bytes::new() } else { Bytes::from_static(b"\x10\x03\x18\x05") }),
        });
        raftpb::Message {
            r#type: Some(kind),
            to: Some(1),
            from: Some(from),
            term: Some(term),
            log_term: Some(log_term),
            index: Some(index),
            entries: entries.collect(),
            commit: Some(commit),
            snapshot: Some(raftpb::Snapshot {
                data: None,
                metadata: Some(raftpb::SnapshotMetadata {
                    conf_state: Some(raftpb::ConfState { voters: conf.0, learners: conf.1, ..Default::default() }),
                    index: Some(snapshot_index),
                    term: Some(term),
                }),
            }),
            reject: Some(reject),
            reject_hint: Some(reject_hint),
            context: context.map(Bytes::from),
            vote: Some(3),
            responses: Vec::new(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn no_message_makes_a_member_panic(start in 0u8..4, messages in prop::collection::vec(any_message(), 1..12)) {
        let mut node = match start {
            0 => empty_node(1),
            1 => follower().0,
            2 => {
                let mut cluster = Cluster::new(&[1, 2, 3], 9);
                let leader = cluster.elect();
                cluster.propose(leader, "a");
                cluster.nodes.remove(&leader).unwrap()
            }
            _ => {
                let mut cluster = Cluster::new(&[1], 9);
                cluster.elect();
                cluster.nodes.remove(&1).unwrap()
            }
        };
        for message in messages {
            let _ = node.raft.step(message);
            while let Some(ready) = node.raft.ready() {
                node.raft.persisted(ready.number);
                if let Some(last) = ready.committed.last() {
                    node.raft.applied(last.index);
                }
            }
            node.raft.tick();
            node.raft.read_index(1);
            let _ = node.raft.propose(Bytes::from_static(b"y"));
        }
    }
}

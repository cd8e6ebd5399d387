//! Life of single members and small clusters.

mod support;

use bytes::Bytes;
use consensus::{Config, Consensus, Error, LogState, ProposeError, Ready, Role, bootstrap};
use proto::raftpb::ConfChangeType::*;
use proto::raftpb::{self, MessageType};
use support::{Cluster, Node, add, at, change, conf, empty_node};
use types::raft::{Entry, EntryKind, HardState};

#[test]
fn the_first_state_of_a_cluster_is_upstreams() {
    let state = bootstrap([add(9), add(3)]);
    assert_eq!(state.hard_state, HardState { term: 1, vote: 0, commit: 2 });
    assert_eq!(state.conf_state, conf(&[3, 9], &[]));
    let summary: Vec<_> = state.entries.iter().map(|entry| (entry.index, entry.term, entry.kind)).collect();
    assert_eq!(summary, [(1, 1, EntryKind::ConfChange), (2, 1, EntryKind::ConfChange)]);
    assert_eq!(state.entries[0].data, add(3).1, "ascending by id");
}

#[test]
fn a_single_member_commits_only_what_it_persisted() {
    let mut node = Node::new(1, bootstrap([add(1)]), 7);
    node.auto_sync = false;
    assert_eq!(node.raft.propose(Bytes::from("early")), Err(ProposeError::NoLeader));
    while node.turn().is_some() {}
    assert_eq!(node.applied.len(), 1, "the entry of the new cluster is committed already");
    node.raft.campaign();
    while node.turn().is_some() {}
    assert!(node.raft.is_leader());
    assert_eq!(node.raft.status().commit, 1, "its empty entry is not persisted");
    node.sync();
    node.raft.propose_batch(["a", "b"].map(Bytes::from)).unwrap();
    while node.turn().is_some() {}
    assert_eq!(node.applied.len(), 2);
    // A second ready goes out while the first is being synced.
    node.raft.propose(Bytes::from("c")).unwrap();
    while node.turn().is_some() {}
    assert_eq!(node.unsynced.len(), 2);
    assert!(node.applied_data().is_empty());
    let (first, _) = node.unsynced.pop_front().unwrap();
    node.raft.persisted(first);
    while node.turn().is_some() {}
    assert_eq!(node.applied_data(), ["a", "b"], "only what the first sync covered");
    node.sync();
    while node.turn().is_some() {}
    assert_eq!(node.applied_data(), ["a", "b", "c"]);
    assert_eq!(node.disk.hard_state, HardState { term: 2, vote: 1, commit: 5 });
}

#[test]
fn a_commit_index_alone_needs_no_sync() {
    let mut node = Node::new(1, bootstrap([add(1)]), 7);
    node.raft.campaign();
    assert_eq!(node.raft.soft_state().role, Role::Follower, "no election with unapplied changes");
    while node.turn().is_some() {}
    node.raft.campaign();
    while node.turn().is_some() {}
    node.raft.propose(Bytes::from("x")).unwrap();
    let ready = node.raft.ready().unwrap();
    assert!(ready.must_sync && ready.committed.is_empty());
    node.raft.persisted(ready.number);
    let Ready { must_sync, hard_state, committed, .. } = node.raft.ready().unwrap();
    assert_eq!((must_sync, hard_state.unwrap().commit, committed.len()), (false, 3, 1));
}

#[test]
fn a_restart_goes_on_where_the_disk_is() {
    let mut cluster = Cluster::new(&[1], 3);
    cluster.elect();
    for number in 0..10 {
        cluster.propose(1, &number.to_string());
    }
    let (term, last) = (cluster.node(1).raft.status().term, cluster.node(1).raft.last_index());
    cluster.restart(1, 99);
    cluster.settle();
    let node = cluster.node(1);
    assert_eq!(node.applied_data().len(), 10, "everything committed is handed out again");
    assert_eq!(node.raft.last_index(), last);
    cluster.elect();
    assert_eq!(cluster.node(1).raft.status().term, term + 1);

    // From a snapshot, with a commit index that was not synced.
    let mut disk = cluster.node(1).disk.clone();
    disk.entries.drain(..8);
    disk.snapshot = at(8, 2);
    disk.hard_state.commit = 3;
    let mut config = Config::new(1);
    config.applied = 5;
    let raft = Consensus::new(config, disk, 1).unwrap();
    assert_eq!((raft.status().commit, raft.status().applied, raft.first_index()), (8, 8, 9));
    assert_eq!((raft.term(8), raft.term(7)), (Some(2), None));
}

#[test]
fn an_impossible_log_is_refused() {
    let start = |entries: Vec<Entry>, commit| {
        let hard_state = HardState { term: 1, vote: 0, commit };
        let conf_state = conf(&[1], &[]);
        Consensus::new(Config::new(1), LogState { entries, hard_state, conf_state, snapshot: at(0, 0) }, 0)
            .err()
    };
    let entry = |index| Entry { index, term: 1, ..Entry::default() };
    assert!(start(vec![entry(1), entry(2)], 2).is_none());
    assert!(matches!(start(vec![entry(1), entry(3)], 1), Some(Error::Hole { index: 3, last: 1 })));
    assert!(matches!(start(vec![entry(1)], 2), Some(Error::CommitBehindLog { commit: 2, last: 1 })));
}

#[test]
fn three_members_elect_replicate_and_lose_their_leader() {
    let mut cluster = Cluster::new(&[1, 2, 3], 42);
    let leader = cluster.elect();
    cluster.propose(leader, "a");
    let follower = leader % 3 + 1;
    cluster.propose(follower, "forwarded");
    for id in 1..=3 {
        assert_eq!(cluster.node(id).applied_data(), ["a", "forwarded"], "member {id}");
    }
    // The old leader is cut off: it cannot commit, and steps down once it notices.
    cluster.cut_off.insert(leader);
    cluster.node(leader).raft.propose(Bytes::from("lost")).unwrap();
    cluster.settle();
    let next = cluster.elect();
    assert_ne!(next, leader);
    cluster.propose(next, "b");
    cluster.tick(20);
    assert_ne!(cluster.role(leader), Role::Leader, "a leader without a quorum steps down");
    // Back again, its tail is overwritten, in memory and on disk.
    cluster.cut_off.clear();
    cluster.tick(5);
    for id in 1..=3 {
        assert_eq!(cluster.node(id).applied_data(), ["a", "forwarded", "b"], "member {id}");
    }
    let last = cluster.node(next).disk.entries.clone();
    assert_eq!(cluster.node(leader).disk.entries, last);
}

#[test]
fn a_leader_sends_entries_before_its_own_sync() {
    let mut cluster = Cluster::new(&[1, 2, 3], 5);
    let leader = cluster.elect();
    cluster.node(leader).auto_sync = false;
    cluster.propose(leader, "fast");
    let follower = leader % 3 + 1;
    assert_eq!(cluster.node(follower).disk.entries.last().unwrap().data, "fast");
    assert!(!cluster.node(leader).unsynced.is_empty());
    assert_eq!(cluster.node(follower).applied_data(), ["fast"], "the followers are a quorum");
    assert!(cluster.node(leader).applied_data().is_empty(), "but the leader must have it itself");
    let messages = cluster.node(leader).sync();
    cluster.send(messages);
    cluster.settle();
    assert_eq!(cluster.node(leader).applied_data(), ["fast"]);
}

#[test]
fn a_follower_answers_only_after_its_sync() {
    let mut cluster = Cluster::new(&[1, 2, 3], 5);
    let leader = cluster.elect();
    let (first, second) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    cluster.cut_off.insert(second);
    cluster.node(first).auto_sync = false;
    cluster.propose(leader, "slow");
    assert!(cluster.node(leader).applied_data().is_empty());
    let messages = cluster.node(first).sync();
    cluster.send(messages);
    cluster.settle();
    assert_eq!(cluster.node(leader).applied_data(), ["slow"]);
}

#[test]
fn leadership_moves_on_request() {
    let mut cluster = Cluster::new(&[1, 2, 3], 8);
    let leader = cluster.elect();
    let next = leader % 3 + 1;
    cluster.node(leader).raft.transfer_leader(next);
    assert_eq!(cluster.node(leader).raft.status().transferee, next);
    assert_eq!(cluster.node(leader).raft.propose(Bytes::from("x")), Err(ProposeError::Transferring));
    cluster.settle();
    assert_eq!((cluster.role(next), cluster.role(leader)), (Role::Leader, Role::Follower));
    // Only a leader hands over: elsewhere the request has no effect, not even an abort.
    let request = proto::raftpb::Message {
        r#type: Some(MessageType::MsgTransferLeader.into()),
        from: Some(leader),
        to: Some(leader),
        term: Some(9),
        ..Default::default()
    };
    cluster.node(leader).raft.step(request).unwrap();
    cluster.settle();
    assert_eq!(cluster.role(next), Role::Leader);
}

#[test]
fn members_are_added_promoted_updated_and_removed() {
    let mut cluster = Cluster::new(&[1, 2], 11);
    let leader = cluster.elect();
    cluster.change(leader, ConfChangeAddLearnerNode, 3);
    assert_eq!(*cluster.node(leader).raft.conf_state(), conf(&[1, 2], &[3]));
    cluster.nodes.insert(3, empty_node(3));
    cluster.tick(3);
    assert_eq!(*cluster.node(3).raft.conf_state(), conf(&[1, 2], &[3]), "the joiner replayed the log");
    let status = cluster.node(leader).raft.status();
    assert!(
        status.progress[2].learner && status.progress[2].matched == cluster.node(leader).raft.last_index()
    );
    cluster.node(3).raft.campaign();
    cluster.settle();
    assert_eq!(cluster.role(3), Role::Follower, "a learner does not campaign");

    cluster.change(leader, ConfChangeAddNode, 3);
    assert_eq!(*cluster.node(3).raft.conf_state(), conf(&[1, 2, 3], &[]));
    // An update of URLs is no change of the configuration (and no learner either).
    cluster.change(leader, ConfChangeUpdateNode, 3);
    assert_eq!(*cluster.node(3).raft.conf_state(), conf(&[1, 2, 3], &[]));
    // It does not block the next change.
    let other = 3 - leader;
    cluster.change(leader, ConfChangeRemoveNode, other);
    assert_eq!(*cluster.node(leader).raft.conf_state(), conf(&[leader, 3], &[]));
    cluster.nodes.remove(&other);
    cluster.propose(leader, "still here");
    assert_eq!(cluster.node(3).applied_data(), ["still here"]);
    // A rejected change has node id 0.
    let state = cluster.node(3).raft.apply_conf_change(&change(ConfChangeRemoveNode, 0)).unwrap();
    assert_eq!(state, conf(&[leader, 3], &[]));
}

/// The crate left a removed leader in office without a place in its own tables, and aborted at the
/// next answer of a follower (seed 28 of the simulator). One that stops at once leaves a second
/// member behind that cannot lead alone, not knowing that it may (seed 1655).
#[test]
fn a_removed_leader_hands_over() {
    let mut cluster = Cluster::new(&[1, 2, 3], 8);
    let leader = cluster.elect();
    cluster.propose(leader, "before");
    cluster.change(leader, ConfChangeRemoveNode, leader);
    let rest: Vec<u64> = [1, 2, 3].into_iter().filter(|id| *id != leader).collect();
    assert_eq!(*cluster.node(leader).raft.conf_state(), conf(&rest, &[]));
    assert_eq!(cluster.role(leader), Role::Leader, "it leads until it has handed over");
    let more = Bytes::from(prost::Message::encode_to_vec(&change(ConfChangeRemoveNode, rest[0])));
    assert!(cluster.node(leader).raft.propose_conf_change(more).is_err());
    cluster.propose(leader, "meanwhile");
    cluster.tick(3);
    assert_eq!(cluster.role(leader), Role::Follower);
    let heirs = rest.iter().filter(|id| cluster.role(**id) == Role::Leader).count();
    assert_eq!(heirs, 1, "another one leads without waiting for an election timeout");
    cluster.nodes.remove(&leader);
    let heir = cluster.elect();
    cluster.propose(heir, "after");
    for id in rest.clone() {
        assert_eq!(*cluster.node(id).raft.conf_state(), conf(&rest, &[]));
        assert_eq!(cluster.node(id).applied_data(), ["before", "meanwhile", "after"]);
    }
}

#[test]
fn a_second_change_while_one_is_pending_becomes_empty() {
    let mut cluster = Cluster::new(&[1], 1);
    cluster.elect();
    let data = |id| Bytes::from(prost::Message::encode_to_vec(&change(ConfChangeAddLearnerNode, id)));
    cluster.node(1).raft.propose_conf_change(data(2)).unwrap();
    cluster.node(1).raft.propose_conf_change(data(3)).unwrap();
    cluster.settle();
    let kinds: Vec<_> =
        cluster.node(1).applied.iter().map(|entry| (entry.kind, entry.data.is_empty())).collect();
    assert_eq!(kinds[2..], [(EntryKind::ConfChange, false), (EntryKind::Normal, true)]);
    assert_eq!(*cluster.node(1).raft.conf_state(), conf(&[1], &[2]));
}

#[test]
fn a_member_far_behind_gets_a_snapshot() {
    let mut cluster = Cluster::new(&[1, 2, 3], 21);
    let leader = cluster.elect();
    let behind = leader % 3 + 1;
    cluster.cut_off.insert(behind);
    for number in 0..20 {
        cluster.propose(leader, &number.to_string());
    }
    let applied = cluster.node(leader).raft.status().applied;
    cluster.node(leader).raft.compact(u64::MAX);
    assert_eq!(cluster.node(leader).raft.first_index(), applied + 1, "compaction stops at what is applied");
    cluster.keep = Some(|message| message.r#type() == MessageType::MsgSnap);
    cluster.cut_off.clear();
    cluster.tick(20);
    let snapshot = cluster.kept.pop().expect("a snapshot was sent");
    let metadata = snapshot.snapshot.as_ref().unwrap().metadata.as_ref().unwrap();
    assert_eq!(metadata.index(), cluster.node(leader).raft.status().applied);
    assert_eq!(metadata.conf_state.as_ref().unwrap().voters, [1, 2, 3]);

    // The receiver holds still until it has the snapshot on disk.
    cluster.keep = None;
    cluster.node(behind).auto_sync = false;
    cluster.node(behind).raft.step(snapshot).unwrap();
    cluster.settle();
    let term = cluster.node(behind).raft.status().term;
    for _ in 0..100 {
        cluster.node(behind).raft.tick();
    }
    cluster.node(behind).raft.campaign();
    assert_eq!((cluster.role(behind), cluster.node(behind).raft.status().term), (Role::Follower, term));
    let messages = cluster.node(behind).sync();
    cluster.node(behind).auto_sync = true;
    cluster.node(leader).raft.report_snapshot(behind, true);
    cluster.send(messages);
    cluster.settle();
    cluster.propose(leader, "after");
    cluster.tick(3);
    let node = cluster.node(behind);
    assert_eq!(node.snapshots.len(), 1);
    assert_eq!(node.applied_data(), ["after"]);
    assert_eq!(node.disk.snapshot.index + node.disk.entries.len() as u64, node.raft.last_index());
    assert_eq!(*node.raft.conf_state(), conf(&[1, 2, 3], &[]));
}

#[test]
fn reads_are_answered_once_the_term_has_a_commit() {
    let mut node = Node::new(1, bootstrap([add(1)]), 2);
    node.auto_sync = false;
    assert!(!node.raft.read_index(1), "nobody leads");
    while node.turn().is_some() {}
    node.raft.campaign();
    while node.turn().is_some() {}
    assert!(node.raft.read_index(10));
    while node.turn().is_some() {}
    assert!(node.reads.is_empty(), "nothing of this term is committed");
    node.sync();
    while node.turn().is_some() {}
    assert_eq!((node.reads[0].ctx, node.reads[0].index), (10, 2));
    node.raft.read_index(11);
    while node.turn().is_some() {}
    assert_eq!((node.reads[1].ctx, node.reads[1].index), (11, 2), "at once from now on");
}

#[test]
fn reads_are_confirmed_by_a_quorum_and_forwarded_by_followers() {
    let mut cluster = Cluster::new(&[1, 2, 3], 17);
    let leader = cluster.elect();
    cluster.propose(leader, "a");
    let follower = leader % 3 + 1;
    assert!(cluster.node(leader).raft.read_index(1 << 60));
    assert!(cluster.node(follower).raft.read_index(7));
    cluster.settle();
    let commit = cluster.node(leader).raft.status().commit;
    let answer = |node: &Node| node.reads.iter().map(|read| (read.ctx, read.index)).collect::<Vec<_>>();
    assert_eq!(answer(cluster.node(leader)), [(1 << 60, commit)]);
    assert_eq!(answer(cluster.node(follower)), [(7, commit)]);
    cluster.cut_off.insert(leader);
    cluster.node(leader).raft.read_index(3);
    cluster.settle();
    assert_eq!(cluster.node(leader).reads.len(), 1, "without a quorum there is no answer");
}

#[test]
fn a_follower_that_asks_is_the_quorum_of_three() {
    let answers_without = |members: &[u64]| {
        let mut cluster = Cluster::new(members, 17);
        let leader = cluster.elect();
        cluster.propose(leader, "a");
        let follower = *members.iter().find(|id| **id != leader).unwrap();
        cluster.cut_off.extend(members.iter().filter(|id| ![leader, follower].contains(id)));
        cluster.keep = Some(|message| message.r#type() == MessageType::MsgHeartbeat);
        cluster.node(follower).raft.read_index(7);
        cluster.settle();
        cluster.node(follower).reads.len()
    };
    assert_eq!(answers_without(&[1, 2]), 1);
    assert_eq!(answers_without(&[1, 2, 3]), 1);
    assert_eq!(answers_without(&[1, 2, 3, 4]), 0, "two of four are no quorum");
}

#[test]
fn a_learner_that_asks_is_no_quorum() {
    let mut cluster = Cluster::new(&[1, 2], 17);
    let leader = cluster.elect();
    cluster.propose(leader, "a");
    let learner = 9;
    let context = raftpb::Entry { data: Some(7u64.to_be_bytes().to_vec().into()), ..Default::default() };
    let mut ask = raftpb::Message {
        from: Some(learner),
        to: Some(leader),
        entries: vec![context],
        ..Default::default()
    };
    ask.set_type(MessageType::MsgReadIndex);
    cluster.keep = Some(|message| message.r#type() == MessageType::MsgHeartbeat);
    cluster.node(leader).raft.step(ask).unwrap();
    cluster.settle();
    assert!(cluster.trace.iter().all(|line| !line.contains("ReadIndexResp")), "{:?}", cluster.trace);
    assert!(!cluster.kept.is_empty(), "the leader asks its voters");
}

#[test]
fn a_follower_read_waits_at_a_new_leader() {
    let mut cluster = Cluster::new(&[1, 2, 3], 17);
    let old = cluster.elect();
    let next = old % 3 + 1;
    // The new leader wins, but nobody acknowledges its first entry yet.
    cluster.keep = Some(|message| message.r#type() == MessageType::MsgAppResp);
    cluster.node(old).raft.transfer_leader(next);
    cluster.settle();
    assert_eq!(cluster.role(next), Role::Leader);
    assert!(!cluster.node(next).raft.has_commit_in_term());
    assert!(cluster.node(old).raft.read_index(5));
    cluster.settle();
    assert!(cluster.node(old).reads.is_empty());
    cluster.keep = None;
    let kept = std::mem::take(&mut cluster.kept);
    cluster.send(kept);
    cluster.settle();
    assert_eq!(cluster.node(old).reads.len(), 1, "the held request was answered");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let run = |seed| {
        let mut cluster = Cluster::new(&[1, 2, 3], seed);
        let leader = cluster.elect();
        cluster.propose(leader, "a");
        cluster.cut_off.insert(leader);
        cluster.elect();
        cluster.cut_off.clear();
        cluster.tick(40);
        cluster.trace
    };
    assert_eq!(run(1), run(1));
    let different = (2..12).filter(|seed| run(*seed) != run(1)).count();
    assert!(different > 5, "the seed has an effect");
}

#[test]
fn election_timeouts_spread_over_the_range() {
    let waits = |seed| {
        let mut raft = Consensus::new(Config::new(1), bootstrap([add(1), add(2)]), seed).unwrap();
        while raft.ready().is_some() {}
        raft.applied(2);
        (1..).find(|_| {
            raft.tick();
            raft.soft_state().role == Role::PreCandidate
        })
    };
    let seen: std::collections::BTreeSet<_> = (0..200).map(|seed| waits(seed).unwrap()).collect();
    assert_eq!(seen, (10..20).collect());
}

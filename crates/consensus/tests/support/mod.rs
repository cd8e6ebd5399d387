//! A cluster in memory: nodes, their "disks", and a network that delivers in order, or not.
#![allow(dead_code)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use consensus::{Config, Consensus, LogState, ReadState, Ready, Role, StepError, bootstrap};
use prost::Message as _;
use proto::raftpb;
use types::LogPosition;
use types::raft::{ConfState, Entry, EntryKind, Snapshot};

pub struct Node {
    pub raft: Consensus,
    /// What a restart finds: entries, hard state, snapshot.
    pub disk: LogState,
    /// Readies whose sync is not done: number and messages that wait for it.
    pub unsynced: VecDeque<(u64, Vec<raftpb::Message>)>,
    pub auto_sync: bool,
    pub applied: Vec<Entry>,
    pub reads: Vec<ReadState>,
    pub snapshots: Vec<Snapshot>,
}

pub struct Cluster {
    pub nodes: BTreeMap<u64, Node>,
    pub network: VecDeque<raftpb::Message>,
    pub cut_off: BTreeSet<u64>,
    pub trace: Vec<String>,
    pub kept: Vec<raftpb::Message>,
    /// Keep messages of these types out of the network, in `kept`.
    pub keep: Option<fn(&raftpb::Message) -> bool>,
}

pub fn change(kind: raftpb::ConfChangeType, node_id: u64) -> raftpb::ConfChange {
    raftpb::ConfChange {
        id: Some(0),
        r#type: Some(kind.into()),
        node_id: Some(node_id),
        context: Some(Bytes::from_static(b"{}")),
    }
}

pub fn add(id: u64) -> (u64, Bytes) {
    (id, change(raftpb::ConfChangeType::ConfChangeAddNode, id).encode_to_vec().into())
}

impl Node {
    pub fn new(id: u64, disk: LogState, seed: u64) -> Node {
        let raft = Consensus::new(Config::new(id), disk.clone(), seed).unwrap();
        Node {
            raft,
            disk,
            unsynced: VecDeque::new(),
            auto_sync: true,
            applied: Vec::new(),
            reads: Vec::new(),
            snapshots: Vec::new(),
        }
    }

    /// Handles one ready; gives the messages that may go.
    pub fn turn(&mut self) -> Option<Vec<raftpb::Message>> {
        let Ready {
            number,
            snapshot,
            entries,
            hard_state,
            must_sync,
            mut messages,
            messages_after_persist,
            committed,
            read_states,
            soft_state: _,
        } = self.raft.ready()?;
        if let Some(snapshot) = snapshot {
            self.disk.snapshot = snapshot.position;
            self.disk.conf_state = snapshot.conf_state.clone();
            self.disk.entries.clear();
            self.applied.clear();
            self.snapshots.push(snapshot);
        }
        if let Some(first) = entries.first() {
            let place = (first.index - self.disk.snapshot.index - 1) as usize;
            assert!(place <= self.disk.entries.len(), "a hole in what is persisted");
            self.disk.entries.truncate(place);
            self.disk.entries.extend(entries);
        }
        if let Some(state) = hard_state {
            self.disk.hard_state = state;
        }
        if must_sync || !messages_after_persist.is_empty() {
            self.unsynced.push_back((number, messages_after_persist));
        }
        for entry in committed {
            let index = entry.index;
            if entry.kind == EntryKind::ConfChange {
                let change = raftpb::ConfChange::decode(entry.data.clone()).unwrap();
                self.raft.apply_conf_change(&change).unwrap();
            }
            self.applied.push(entry);
            self.raft.applied(index);
        }
        self.reads.extend(read_states);
        if self.auto_sync {
            messages.extend(self.sync());
        }
        Some(messages)
    }

    pub fn sync(&mut self) -> Vec<raftpb::Message> {
        let mut released = Vec::new();
        while let Some((number, messages)) = self.unsynced.pop_front() {
            self.raft.persisted(number);
            released.extend(messages);
        }
        released
    }

    pub fn applied_data(&self) -> Vec<String> {
        let normal =
            self.applied.iter().filter(|entry| entry.kind == EntryKind::Normal && !entry.data.is_empty());
        normal.map(|entry| String::from_utf8(entry.data.to_vec()).unwrap()).collect()
    }
}

impl Cluster {
    pub fn new(ids: &[u64], seed: u64) -> Cluster {
        let nodes = ids.iter().map(|id| {
            let disk = bootstrap(ids.iter().map(|id| add(*id)));
            (*id, Node::new(*id, disk, seed ^ *id))
        });
        let mut cluster = Cluster {
            nodes: nodes.collect(),
            network: VecDeque::new(),
            cut_off: BTreeSet::new(),
            trace: Vec::new(),
            kept: Vec::new(),
            keep: None,
        };
        cluster.settle();
        cluster
    }

    pub fn node(&mut self, id: u64) -> &mut Node {
        self.nodes.get_mut(&id).unwrap()
    }

    pub fn send(&mut self, messages: Vec<raftpb::Message>) {
        for message in messages {
            let (from, to) = (message.from(), message.to());
            self.trace.push(format!(
                "{from}->{to} {:?} term {} index {} entries {} commit {} reject {}",
                message.r#type(),
                message.term(),
                message.index(),
                message.entries.len(),
                message.commit(),
                message.reject()
            ));
            if self.keep.is_some_and(|keep| keep(&message)) {
                self.kept.push(message);
            } else if !self.cut_off.contains(&from) && !self.cut_off.contains(&to) {
                // Through bytes, as on the wire.
                let bytes = message.encode_to_vec();
                self.network.push_back(raftpb::Message::decode(&bytes[..]).unwrap());
            }
        }
    }

    /// Runs until nobody has anything to do.
    pub fn settle(&mut self) {
        loop {
            let mut idle = true;
            let ids: Vec<_> = self.nodes.keys().copied().collect();
            for id in ids {
                while let Some(messages) = self.node(id).turn() {
                    idle = false;
                    self.send(messages);
                }
            }
            while let Some(message) = self.network.pop_front() {
                idle = false;
                if let Some(node) = self.nodes.get_mut(&message.to()) {
                    match node.raft.step(message) {
                        // A member that was just removed still answers.
                        Ok(()) | Err(StepError::UnknownPeer) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            }
            if idle {
                return;
            }
        }
    }

    pub fn tick(&mut self, count: usize) {
        for _ in 0..count {
            let ids: Vec<_> = self.nodes.keys().copied().collect();
            for id in ids {
                self.node(id).raft.tick();
            }
            self.settle();
        }
    }

    /// Ticks until somebody leads.
    pub fn elect(&mut self) -> u64 {
        for _ in 0..200 {
            self.tick(1);
            let cut_off = self.cut_off.clone();
            let leads =
                |(id, node): (&u64, &Node)| (node.raft.is_leader() && !cut_off.contains(id)).then_some(*id);
            if let Some(leader) = self.nodes.iter().find_map(leads) {
                return leader;
            }
        }
        panic!("nobody was elected");
    }

    pub fn propose(&mut self, id: u64, data: &str) {
        self.node(id).raft.propose(Bytes::copy_from_slice(data.as_bytes())).unwrap();
        self.settle();
    }

    pub fn change(&mut self, leader: u64, kind: raftpb::ConfChangeType, id: u64) {
        let data = change(kind, id).encode_to_vec();
        self.node(leader).raft.propose_conf_change(data.into()).unwrap();
        self.settle();
    }

    pub fn restart(&mut self, id: u64, seed: u64) {
        let node = self.nodes.remove(&id).unwrap();
        self.nodes.insert(id, Node::new(id, node.disk, seed));
    }

    pub fn role(&self, id: u64) -> Role {
        self.nodes[&id].raft.soft_state().role
    }
}

pub fn empty_node(id: u64) -> Node {
    Node::new(id, LogState::default(), id)
}

pub fn conf(voters: &[u64], learners: &[u64]) -> ConfState {
    ConfState::new(voters.to_vec(), learners.to_vec())
}

pub fn at(index: u64, term: u64) -> LogPosition {
    LogPosition { index, term }
}

//! Clusters under random schedules: lost, doubled and reordered messages, slow syncs, crashes that
//! lose what was not synced, snapshots, changes of membership.
//!
//! Checked all the time: members agree on every committed entry, nothing committed is ever lost,
//! reads see all that was committed when they were asked for. At the end the faults stop and the
//! cluster must agree and go on.

mod support;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use consensus::{Config, Consensus, LogState, StepError, bootstrap};
use env::{Random, SeededRandom};
use prost::Message as _;
use proto::raftpb;
use proto::raftpb::ConfChangeType;
use support::{add, change};
use types::raft::{ConfState, Entry, EntryKind, HardState, Snapshot};

/// What a ready asks to write, waiting for its sync.
struct Write {
    number: u64,
    must_sync: bool,
    snapshot: Option<Snapshot>,
    entries: Vec<Entry>,
    hard_state: Option<HardState>,
    messages: Vec<raftpb::Message>,
}

struct Node {
    raft: Consensus,
    durable: LogState,
    writes: VecDeque<Write>,
    to_apply: VecDeque<Entry>,
    applied: u64,
    /// ctx and the highest commit anywhere when it was asked.
    reads: BTreeMap<u64, u64>,
}

struct World {
    random: SeededRandom,
    nodes: BTreeMap<u64, Node>,
    network: Vec<raftpb::Message>,
    committed: BTreeMap<u64, (u64, Bytes)>,
    next_value: u64,
    calm: bool,
    reads_answered: usize,
    snapshots_taken: usize,
    crashes: usize,
    changes: usize,
}

impl Write {
    fn put(self, disk: &mut LogState) {
        if let Some(snapshot) = self.snapshot {
            *disk = LogState {
                entries: Vec::new(),
                hard_state: disk.hard_state,
                conf_state: snapshot.conf_state,
                snapshot: snapshot.position,
            };
        }
        if let Some(first) = self.entries.first() {
            // A compaction may have gone past the first ones meanwhile.
            let skip = (disk.snapshot.index + 1).saturating_sub(first.index) as usize;
            let kept = first.index.saturating_sub(disk.snapshot.index + 1) as usize;
            assert!(kept <= disk.entries.len(), "a hole in the log on disk");
            disk.entries.truncate(kept);
            disk.entries.extend(self.entries.into_iter().skip(skip));
        }
        disk.hard_state = self.hard_state.unwrap_or(disk.hard_state);
    }
}

impl World {
    fn new(seed: u64, members: u64) -> World {
        let mut world = World {
            random: SeededRandom::new(seed),
            nodes: BTreeMap::new(),
            network: Vec::new(),
            committed: BTreeMap::new(),
            next_value: 0,
            calm: false,
            reads_answered: 0,
            snapshots_taken: 0,
            crashes: 0,
            changes: 0,
        };
        for id in 1..=members {
            world.start(id, bootstrap((1..=members).map(add)));
        }
        world
    }

    fn start(&mut self, id: u64, durable: LogState) {
        let mut config = Config::new(id);
        config.max_inflight = 4;
        config.max_size_per_msg = 64;
        let raft = Consensus::new(config, durable.clone(), self.random.next_u64()).unwrap();
        let applied = durable.snapshot.index;
        let (writes, to_apply, reads) = Default::default();
        self.nodes.insert(id, Node { raft, durable, writes, to_apply, applied, reads });
    }

    fn pick(&mut self) -> u64 {
        let place = self.random.below(self.nodes.len() as u64) as usize;
        *self.nodes.keys().nth(place).unwrap()
    }

    fn send(&mut self, messages: Vec<raftpb::Message>) {
        for message in messages {
            if self.calm || self.random.below(10) > 0 {
                self.network.push(message.clone());
            } else if message.r#type() == raftpb::MessageType::MsgSnap {
                // The transport always says what became of a snapshot.
                let sender = self.nodes.get_mut(&message.from()).unwrap();
                sender.raft.report_snapshot(message.to(), false);
            }
            if !self.calm && self.random.below(20) == 0 {
                self.network.push(message);
            }
        }
    }

    fn deliver(&mut self) {
        if self.network.is_empty() {
            return;
        }
        let near = self.random.below(3) > 0 || self.calm;
        let place = if near { 0 } else { self.random.below(self.network.len() as u64) as usize };
        let message = self.network.remove(place);
        let (to, from, kind) = (message.to(), message.from(), message.r#type());
        let Some(node) = self.nodes.get_mut(&to) else { return };
        match node.raft.step(message) {
            Ok(()) | Err(StepError::UnknownPeer | StepError::ProposalDropped) => {}
            Err(error) => panic!("{error}"),
        }
        if kind == raftpb::MessageType::MsgSnap
            && let Some(sender) = self.nodes.get_mut(&from)
        {
            sender.raft.report_snapshot(to, true);
        }
    }

    fn ready(&mut self, id: u64) -> bool {
        let node = self.nodes.get_mut(&id).unwrap();
        let Some(ready) = node.raft.ready() else { return false };
        for read in &ready.read_states {
            if let Some(floor) = node.reads.remove(&read.ctx) {
                assert!(read.index >= floor, "a read at {} misses what was committed at {floor}", read.index);
                self.reads_answered += 1;
            }
        }
        if let Some(snapshot) = &ready.snapshot {
            assert!(snapshot.position.index > node.applied);
            node.to_apply.clear();
        }
        for entry in &ready.committed {
            let known = self.committed.entry(entry.index).or_insert((entry.term, entry.data.clone()));
            assert_eq!(*known, (entry.term, entry.data.clone()), "members disagree at {}", entry.index);
        }
        node.to_apply.extend(ready.committed);
        node.writes.push_back(Write {
            number: ready.number,
            must_sync: ready.must_sync,
            snapshot: ready.snapshot,
            entries: ready.entries,
            hard_state: ready.hard_state,
            messages: ready.messages_after_persist,
        });
        self.send(ready.messages);
        true
    }

    /// Syncs the oldest writes of a member, up to and including one that needs it.
    fn sync(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).unwrap();
        let mut released = Vec::new();
        while let Some(mut write) = node.writes.pop_front() {
            let (number, must_sync) = (write.number, write.must_sync);
            let snapshot = write.snapshot.as_ref().map(|snapshot| snapshot.position.index);
            let messages = std::mem::take(&mut write.messages);
            write.put(&mut node.durable);
            if let Some(index) = snapshot {
                // The backend took the snapshot's place.
                node.applied = node.applied.max(index);
            }
            if must_sync || !messages.is_empty() {
                node.raft.persisted(number);
                released.extend(messages);
            }
            if must_sync {
                break;
            }
        }
        self.send(released);
    }

    fn apply(&mut self, id: u64, count: u64) {
        let node = self.nodes.get_mut(&id).unwrap();
        for _ in 0..count {
            let Some(entry) = node.to_apply.pop_front() else { break };
            assert_eq!(entry.index, node.applied + 1, "committed entries come in order");
            if entry.kind == EntryKind::ConfChange {
                let change = raftpb::ConfChange::decode(entry.data).unwrap();
                node.raft.apply_conf_change(&change).unwrap();
            }
            node.applied = entry.index;
            node.raft.applied(entry.index);
        }
    }

    /// Takes a snapshot of the applied state, durable at once, and drops the log before it.
    fn compact(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).unwrap();
        let waiting = node.writes.iter().any(|write| write.snapshot.is_some());
        let (index, durable) = (node.applied, &mut node.durable);
        let last_durable = durable.snapshot.index + durable.entries.len() as u64;
        if waiting || index <= durable.snapshot.index || index > last_durable {
            return;
        }
        // A snapshot that was received but not handed out yet hides the log.
        let Some(term) = node.raft.term(index) else { return };
        durable.entries.drain(..(index - durable.snapshot.index) as usize);
        durable.snapshot = types::LogPosition { index, term };
        durable.conf_state = node.raft.conf_state().clone();
        node.raft.compact(index);
        self.snapshots_taken += 1;
    }

    fn crash(&mut self, id: u64) {
        let mut node = self.nodes.remove(&id).unwrap();
        // Some unsynced writes may be there; never one without those before.
        let kept = self.random.below(node.writes.len() as u64 + 1);
        for write in node.writes.drain(..).take(kept as usize) {
            write.put(&mut node.durable);
        }
        self.start(id, node.durable);
        self.crashes += 1;
    }

    fn propose(&mut self, id: u64) {
        self.next_value += 1;
        let value = self.next_value;
        let count = 1 + self.random.below(4);
        let payloads = (0..count).map(|part| Bytes::from(format!("value {value}.{part}")));
        let _ = self.nodes.get_mut(&id).unwrap().raft.propose_batch(payloads);
    }

    fn change(&mut self, id: u64) {
        let members = self.nodes.len() as u64;
        let target = 1 + self.random.below(members);
        let node = self.nodes.get_mut(&id).unwrap();
        // Never below two voters, and nobody for good: a learner comes back as a voter.
        let voters = node.raft.conf_state().voters.len();
        let kind = match self.random.below(3) {
            0 if voters > 2 => ConfChangeType::ConfChangeAddLearnerNode,
            1 => ConfChangeType::ConfChangeUpdateNode,
            _ => ConfChangeType::ConfChangeAddNode,
        };
        self.changes += 1;
        let _ = node.raft.propose_conf_change(change(kind, target).encode_to_vec().into());
    }

    fn read(&mut self, id: u64, ctx: u64) {
        let floor = self.committed.keys().next_back().copied().unwrap_or(0);
        let node = self.nodes.get_mut(&id).unwrap();
        if node.raft.read_index(ctx) {
            node.reads.insert(ctx, floor);
        }
    }

    fn step(&mut self, number: u64) {
        let id = self.pick();
        match self.random.below(100) {
            0..=14 => self.nodes.get_mut(&id).unwrap().raft.tick(),
            15..=49 => self.deliver(),
            50..=69 => drop(self.ready(id)),
            70..=79 => self.sync(id),
            80..=85 => {
                let count = 1 + self.random.below(5);
                self.apply(id, count);
            }
            86..=91 => self.propose(id),
            92..=94 => self.read(id, number),
            95 => self.compact(id),
            96 if self.random.below(4) == 0 => self.crash(id),
            97 => {
                let to = self.pick();
                self.nodes.get_mut(&id).unwrap().raft.transfer_leader(to);
            }
            98 => self.change(id),
            _ => {
                let to = self.pick();
                self.nodes.get_mut(&id).unwrap().raft.report_unreachable(to);
            }
        }
    }

    /// Without faults, everybody gets everything and a new value is committed everywhere.
    fn recover(&mut self) {
        self.calm = true;
        let members: Vec<_> = self.nodes.keys().copied().collect();
        let mut proposed = None;
        for _ in 0..400 {
            for id in &members {
                self.nodes.get_mut(id).unwrap().raft.tick();
            }
            loop {
                let mut idle = self.network.is_empty();
                while !self.network.is_empty() {
                    self.deliver();
                }
                for id in &members {
                    while self.ready(*id) {
                        idle = false;
                    }
                    while !self.nodes[id].writes.is_empty() {
                        self.sync(*id);
                    }
                    self.apply(*id, u64::MAX);
                }
                if idle && members.iter().all(|id| self.nodes[id].to_apply.is_empty()) {
                    break;
                }
            }
            let leader = members.iter().find(|id| self.nodes[id].raft.is_leader());
            if let (Some(leader), None) = (leader, &proposed) {
                let node = self.nodes.get_mut(leader).unwrap();
                if node.raft.propose(Bytes::from_static(b"the end")).is_ok() {
                    proposed = Some(node.raft.last_index());
                }
            }
            if proposed.is_some_and(|index| members.iter().all(|id| self.nodes[id].applied >= index)) {
                assert!(self.committed.values().any(|(_, data)| data == "the end"));
                return;
            }
        }
        let states: Vec<_> = self.nodes.values().map(|node| node.raft.status()).collect();
        panic!("no progress after the faults stopped: {states:#?}");
    }
}

fn run(seed: u64, members: u64, steps: u64) -> World {
    let mut world = World::new(seed, members);
    for number in 0..steps {
        world.step(number + 1);
    }
    world.recover();
    let conf: Vec<ConfState> = world.nodes.values().map(|node| node.raft.conf_state().clone()).collect();
    assert!(conf.windows(2).all(|pair| pair[0] == pair[1]), "members agree on who they are: {conf:?}");
    world
}

#[test]
fn members_never_disagree_and_recover() {
    let mut totals = [0; 5];
    for seed in 0..60 {
        let result = std::panic::catch_unwind(|| {
            let world = run(seed, 3 + seed % 2 * 2, 3000);
            [world.committed.len(), world.reads_answered, world.snapshots_taken, world.crashes, world.changes]
        });
        let counts = result.unwrap_or_else(|_| panic!("seed {seed} failed, see above"));
        totals.iter_mut().zip(counts).for_each(|(total, count)| *total += count);
    }
    // The schedule is not idle.
    assert!(totals.iter().all(|total| *total > 100), "{totals:?}");
}

#[test]
fn a_single_member_survives_crashes() {
    for seed in 0..20 {
        let world = run(seed, 1, 1500);
        assert!(world.committed.len() > 20, "seed {seed}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let trace = |seed| {
        let world = run(seed, 3, 2000);
        (
            world.committed,
            world.reads_answered,
            world.nodes.values().map(|node| node.raft.status()).collect::<Vec<_>>(),
        )
    };
    assert_eq!(trace(5), trace(5));
    assert_ne!(trace(5).0, trace(6).0);
}

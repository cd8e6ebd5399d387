//! The store against a list of (revision, key, value), with compactions half done, commits, crashes
//! and restarts in between.
#![allow(missing_docs)]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use backend::WriteSet;
use env::sim::{SimDisk, Survival};
use mvcc::{CompactionJob, EventKind, RangeQuery, ReadError, Restored, SortOrder, SortTarget, Store};
use proptest::prelude::*;
use types::{KeyRange, LeaseId, LogPosition, RecordKey, Revision};

use common::{Value, everything, open, read_all};

/// One record; `None` is a tombstone.
#[derive(Clone, Debug)]
struct Record {
    revision: Revision,
    key: Vec<u8>,
    put: Option<(Vec<u8>, i64)>,
}

/// All that ever happened; never compacted.
#[derive(Clone, Debug)]
struct Model {
    records: Vec<Record>,
    current: i64,
    compacted: i64,
}

impl Model {
    fn new() -> Self {
        Self { records: Vec::new(), current: 1, compacted: -1 }
    }

    fn at(&self, revision: i64) -> BTreeMap<Vec<u8>, Value> {
        let mut keys: BTreeMap<Vec<u8>, Value> = BTreeMap::new();
        for record in self.records.iter().filter(|record| record.revision.main <= revision) {
            let Some((value, lease)) = &record.put else {
                keys.remove(&record.key);
                continue;
            };
            let main = record.revision.main;
            let (create_revision, version) =
                keys.get(&record.key).map_or((main, 1), |old| (old.create_revision, old.version + 1));
            let (value, lease) = (value.clone(), *lease);
            keys.insert(
                record.key.clone(),
                Value { value, create_revision, mod_revision: main, version, lease },
            );
        }
        keys
    }

    /// Upstream's rule in its own words: the newest put at or below `at`, unless the key is dead by
    /// then or dies exactly there.
    fn kept(&self, at: i64) -> BTreeSet<Revision> {
        let mut newest: BTreeMap<&[u8], (Revision, bool)> = BTreeMap::new();
        let mut dies_at: BTreeSet<&[u8]> = BTreeSet::new();
        for record in self.records.iter().filter(|record| record.revision.main <= at) {
            newest.insert(&record.key, (record.revision, record.put.is_some()));
            if record.put.is_none() && record.revision.main == at {
                dies_at.insert(&record.key);
            }
        }
        let kept = newest.iter().filter(|(key, (_, put))| *put && !dies_at.contains(*key));
        kept.map(|(_, (revision, _))| *revision).collect()
    }

    /// HashKV from first principles; `None` where it depends on how far a compaction has come.
    fn hash(&self, at: i64) -> Option<u32> {
        let kept = self.kept(at);
        if kept.is_empty() && self.compacted > 0 {
            return None;
        }
        let mut fed = b"key".to_vec();
        for record in self.records.iter().filter(|record| record.revision.main <= at) {
            let Record { revision, key, put } = record;
            if revision.main <= self.compacted && !kept.contains(revision) {
                continue;
            }
            if put.is_none() && revision.main == self.compacted {
                continue;
            }
            fed.extend_from_slice(&RecordKey { revision: *revision, tombstone: put.is_none() }.encode());
            let kv = match put {
                None => proto::mvccpb::KeyValue { key: key.clone().into(), ..Default::default() },
                Some((value, lease)) => {
                    // Version and creation as of this record, sub-revisions included.
                    let until = self.records.iter().take_while(|other| other.revision <= *revision);
                    let own: Vec<&Record> = until.filter(|other| other.key == *key).collect();
                    let life = own.iter().rposition(|other| other.put.is_none()).map_or(0, |dead| dead + 1);
                    proto::mvccpb::KeyValue {
                        key: key.clone().into(),
                        create_revision: own[life].revision.main,
                        mod_revision: revision.main,
                        version: (own.len() - life) as i64,
                        value: value.clone().into(),
                        lease: *lease,
                    }
                }
            };
            fed.extend_from_slice(&prost::Message::encode_to_vec(&kv));
        }
        Some(crc32c(&fed))
    }
}

/// Bit by bit, so that it shares nothing with the crate in use.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    })
}

#[derive(Clone, Debug)]
enum Change {
    Put(u8, u8, u8),
    Delete(u8, u8),
}

#[derive(Clone, Debug)]
enum Operation {
    Txn(Vec<Change>, bool),
    Compact(prop::sample::Index),
    Step(usize),
    Commit,
    Check(prop::sample::Index),
    Restart,
    Crash(u64),
}

fn operation() -> impl Strategy<Value = Operation> {
    let change = prop_oneof![
        4 => (0u8..24, any::<u8>(), 0u8..4).prop_map(|(key, value, lease)| Change::Put(key, value, lease)),
        1 => (0u8..24, 1u8..6).prop_map(|(key, count)| Change::Delete(key, count)),
    ];
    prop_oneof![
        12 => (prop::collection::vec(change, 0..5), prop::bool::weighted(0.9))
            .prop_map(|(changes, commit)| Operation::Txn(changes, commit)),
        2 => any::<prop::sample::Index>().prop_map(Operation::Compact),
        4 => (1usize..4).prop_map(Operation::Step),
        3 => Just(Operation::Commit),
        4 => any::<prop::sample::Index>().prop_map(Operation::Check),
        1 => Just(Operation::Restart),
        1 => any::<u64>().prop_map(Operation::Crash),
    ]
}

fn key_of(number: u8) -> Vec<u8> {
    format!("key/{number:02}").into_bytes()
}

struct Machine {
    disk: SimDisk,
    store: Store,
    jobs: Vec<CompactionJob>,
    model: Model,
    /// The model as of the last commit of the backend: what a crash leaves.
    durable: Model,
    index: u64,
}

impl Machine {
    fn new() -> Self {
        let disk = SimDisk::new();
        let (store, restored) = open(&disk);
        assert!(restored.attachments.is_empty() && restored.resume_compaction.is_none());
        Self { disk, store, jobs: Vec::new(), model: Model::new(), durable: Model::new(), index: 0 }
    }

    fn txn(&mut self, changes: &[Change], commit: bool) {
        let mut model = self.model.clone();
        let main = model.current + 1;
        let mut expected_events = Vec::new();
        let mut txn = self.store.write();
        for change in changes {
            let sub = expected_events.len() as i64;
            let seen = model.at(main);
            match change {
                Change::Put(key, value, lease) => {
                    let (key, value, lease) =
                        (key_of(*key), vec![*value; usize::from(*value)], i64::from(*lease));
                    let put = txn.put(key.clone().into(), value.clone().into(), LeaseId(lease)).unwrap();
                    let old = seen.get(&key);
                    assert_eq!(put.previous_lease.0, old.map_or(0, |old| old.lease));
                    assert_eq!((put.created, put.revision), (old.is_none(), main));
                    expected_events.push((EventKind::Put, key.clone()));
                    model.records.push(Record {
                        revision: Revision::new(main, sub),
                        key,
                        put: Some((value, lease)),
                    });
                }
                Change::Delete(from, count) => {
                    let range = KeyRange::Span(key_of(*from).into(), key_of(from + count).into());
                    let deleted = txn.delete_range(&range).unwrap();
                    let expected: Vec<_> = seen.iter().filter(|(key, _)| range.contains(key)).collect();
                    assert_eq!(deleted.len(), expected.len());
                    for ((deleted, (key, old)), sub) in deleted.iter().zip(expected).zip(sub..) {
                        assert_eq!((&deleted.key[..], deleted.lease.0), (&key[..], old.lease));
                        expected_events.push((EventKind::Delete, key.clone()));
                        model.records.push(Record {
                            revision: Revision::new(main, sub),
                            key: key.clone(),
                            put: None,
                        });
                    }
                }
            }
            let inside = txn.range(&RangeQuery::new(everything())).unwrap();
            assert_eq!(inside.count as usize, model.at(main).len());
            assert_eq!(inside.revision, txn.revision());
            // Others do not see it yet.
            assert_eq!(self.store.current_revision(), self.model.current);
        }
        let before = read_all(&self.store, 0);
        assert_eq!(before, self.model.at(self.model.current));
        if !commit {
            drop(txn);
            return assert_eq!(read_all(&self.store, 0), before);
        }
        self.index += 1;
        let applied = Some(LogPosition { index: self.index, term: 1 });
        let outcome = txn.commit(WriteSet { applied, ..WriteSet::default() });
        if !expected_events.is_empty() {
            model.current = main;
        }
        self.model = model;
        assert_eq!(outcome.revision, self.model.current);
        let events: Vec<_> = outcome.events.iter().flat_map(|revision| &revision.events).collect();
        let events: Vec<_> = events.iter().map(|event| (event.kind, event.key.to_vec())).collect();
        assert_eq!(events, expected_events);
    }

    fn compact(&mut self, revision: i64) {
        match self.store.compact(revision) {
            Ok(ticket) => {
                assert!(self.model.compacted < revision && revision <= self.model.current);
                self.index += 1;
                self.store.backend().append(WriteSet {
                    changes: vec![ticket.change],
                    applied: Some(LogPosition { index: self.index, term: 1 }),
                    ..WriteSet::default()
                });
                self.jobs.push(ticket.job.with_batch(3));
                self.model.compacted = revision;
            }
            Err(ReadError::Compacted) => assert!(revision <= self.model.compacted),
            Err(ReadError::FutureRevision { .. }) => assert!(revision > self.model.current),
            Err(error) => panic!("{error}"),
        }
    }

    /// Steps through jobs in their order. Checks the cached hash of those that end.
    fn step(&mut self, steps: usize) {
        for _ in 0..steps {
            let Some(job) = self.jobs.first_mut() else { return };
            if self.store.compaction_step(job).unwrap().finished {
                self.jobs.remove(0);
            }
        }
    }

    fn commit(&mut self) {
        self.store.backend().commit().unwrap();
        self.durable = self.model.clone();
    }

    fn reopen(&mut self, restored: Restored) {
        self.model = self.durable.clone();
        let applied = self.store.backend().stored_consistent_position();
        assert!(applied.index <= self.index);
        self.index = applied.index;
        self.jobs = restored.resume_compaction.into_iter().map(|job| job.with_batch(2)).collect();
        // A compaction at the very end may have been all there was.
        assert_eq!(self.store.current_revision(), self.model.current);
        assert_eq!(self.store.compacted_revision(), self.model.compacted);
        let mut attached: Vec<_> =
            restored.attachments.iter().map(|(key, lease)| (key.to_vec(), lease.0)).collect();
        attached.sort();
        let now = self.model.at(self.model.current).into_iter();
        let expected: Vec<_> =
            now.filter(|(_, value)| value.lease != 0).map(|(key, value)| (key, value.lease)).collect();
        assert_eq!(attached, expected);
    }

    fn check(&self, pick: &prop::sample::Index) {
        let Model { current, compacted, .. } = self.model;
        let oldest = compacted.max(1);
        let at = oldest + pick.index((current - oldest + 1) as usize) as i64;
        assert_eq!(read_all(&self.store, at), self.model.at(at), "at {at}");
        if let Some(expected) = self.model.hash(at)
            && !self.store.compaction_hashes().iter().any(|cached| cached.hash_revision == at)
        {
            assert_eq!(self.store.hash_kv(at).unwrap().hash, expected, "hash at {at}, compacted {compacted}");
        }
        if compacted > 1 {
            let query = RangeQuery { revision: compacted - 1, ..RangeQuery::new(everything()) };
            assert!(matches!(self.store.range(&query), Err(ReadError::Compacted)));
        }
        let query = RangeQuery { revision: current + 1, ..RangeQuery::new(everything()) };
        assert!(matches!(self.store.range(&query), Err(ReadError::FutureRevision { .. })));
        self.check_queries(at);
        self.check_history(at.max(compacted + 1));
    }

    /// Limits, filters, sorting against the plain list.
    fn check_queries(&self, at: i64) {
        let all: Vec<(Vec<u8>, Value)> = self.model.at(at).into_iter().collect();
        for (target, order) in [
            (SortTarget::Key, SortOrder::None),
            (SortTarget::Key, SortOrder::Descend),
            (SortTarget::Mod, SortOrder::None),
            (SortTarget::Create, SortOrder::Ascend),
            (SortTarget::Version, SortOrder::Descend),
            (SortTarget::Value, SortOrder::Ascend),
            (SortTarget::Value, SortOrder::None),
        ] {
            for (limit, min_mod_revision, keys_only) in
                [(0, 0, false), (3, 0, true), (4, at / 2, false), (2, at / 2, true)]
            {
                let query = RangeQuery {
                    revision: at,
                    limit,
                    min_mod_revision,
                    keys_only,
                    keys_only_from_index: false,
                    sort_target: target,
                    sort_order: order,
                    ..RangeQuery::new(everything())
                };
                let result = self.store.range(&query).unwrap();
                if let Some(small) = self.store.range_within(&query, 8).unwrap() {
                    assert_eq!(
                        (small.kvs, small.count, small.more),
                        (result.kvs.clone(), result.count, result.more)
                    );
                }
                let mut expected = all.clone();
                expected.retain(|(_, value)| min_mod_revision == 0 || value.mod_revision >= min_mod_revision);
                let limit = if limit == 0 { usize::MAX } else { limit as usize };
                if order == SortOrder::None && min_mod_revision == 0 {
                    expected.truncate(limit.saturating_add(1));
                }
                let more = expected.len() > limit;
                let rank = |value: &Value| match target {
                    SortTarget::Key => 0,
                    SortTarget::Mod => value.mod_revision,
                    SortTarget::Create => value.create_revision,
                    SortTarget::Version => value.version,
                    SortTarget::Value => 0,
                };
                match (target, order) {
                    (SortTarget::Key, SortOrder::Descend) => expected.reverse(),
                    (SortTarget::Key, _) => {}
                    (SortTarget::Value, _) => {
                        expected.sort_by(|left, right| left.1.value.cmp(&right.1.value))
                    }
                    (_, SortOrder::Descend) => expected.sort_by_key(|(_, value)| -rank(value)),
                    _ => expected.sort_by_key(|(_, value)| rank(value)),
                }
                expected.truncate(limit);
                let found: Vec<_> = result
                    .kvs
                    .decode()
                    .unwrap()
                    .into_iter()
                    .map(|kv| (kv.key.to_vec(), kv.mod_revision, kv.value.to_vec(), kv.lease))
                    .collect();
                let expected: Vec<_> = expected
                    .into_iter()
                    .map(|(key, value)| {
                        (
                            key,
                            value.mod_revision,
                            if keys_only { Vec::new() } else { value.value },
                            value.lease,
                        )
                    })
                    .collect();
                assert_eq!(found, expected, "{query:?}");
                assert_eq!(
                    (result.count as usize, result.more, result.revision),
                    (all.len(), more, self.model.current)
                );
            }
        }
        let count = self
            .store
            .range(&RangeQuery { revision: at, limit: 1, count_only: true, ..RangeQuery::new(everything()) })
            .unwrap();
        assert_eq!((count.count as usize, count.kvs.len(), count.more), (all.len(), 0, false));
        for (key, value) in &all {
            let record = self.store.record_at(key, at).unwrap().unwrap();
            assert_eq!(mvcc::record::parse(&record).unwrap().mod_revision, value.mod_revision);
        }
    }

    fn check_history(&self, from: i64) {
        let changes = self.store.changes(from, i64::MAX, usize::MAX).unwrap();
        let found: Vec<_> = changes
            .iter()
            .flat_map(|revision| &revision.events)
            .map(|event| (event.revision, event.key.to_vec(), event.kind == EventKind::Put))
            .collect();
        let expected: Vec<_> = self
            .model
            .records
            .iter()
            .filter(|record| record.revision.main >= from)
            .map(|record| (record.revision, record.key.clone(), record.put.is_some()))
            .collect();
        assert_eq!(found, expected);
        let few = self.store.changes(from, i64::MAX, 2).unwrap();
        assert_eq!(few.len(), changes.len().min(2));
    }

    fn run(&mut self, operation: &Operation) {
        match operation {
            Operation::Txn(changes, commit) => self.txn(changes, *commit),
            Operation::Compact(pick) => self.compact(1 + pick.index(self.model.current as usize + 1) as i64),
            Operation::Step(steps) => self.step(*steps),
            Operation::Commit => self.commit(),
            Operation::Check(pick) => self.check(pick),
            Operation::Restart => {
                self.commit();
                let disk = self.disk.crash(Survival::Nothing);
                self.switch(disk);
            }
            Operation::Crash(seed) => {
                let disk = self.disk.crash(Survival::Random(*seed));
                self.switch(disk);
            }
        }
    }

    fn switch(&mut self, disk: SimDisk) {
        self.disk = disk;
        let restored;
        (self.store, restored) = open(&self.disk);
        self.reopen(restored);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn behaves_like_a_list(operations in prop::collection::vec(operation(), 1..70), end in any::<prop::sample::Index>()) {
        let mut machine = Machine::new();
        for operation in &operations {
            machine.run(operation);
        }
        while !machine.jobs.is_empty() {
            machine.step(1);
        }
        machine.commit();
        machine.check(&end);
        // What compaction leaves is exactly what the index knows: nothing more, nothing less.
        let view = machine.store.backend().view();
        let left: Vec<Revision> = view
            .records(Revision::default(), Revision::new(i64::MAX, 0))
            .unwrap()
            .map(|item| item.unwrap().0.revision)
            .collect();
        let Model { compacted, records, .. } = &machine.model;
        let kept = machine.model.kept(*compacted);
        let newer = records.iter().map(|record| record.revision).filter(|revision| revision.main >= *compacted);
        for revision in newer.filter(|revision| revision.main > *compacted) {
            prop_assert!(left.contains(&revision), "{revision} is missing");
        }
        for revision in left.iter().filter(|revision| revision.main < *compacted) {
            prop_assert!(kept.contains(revision), "{revision} should be gone");
        }
    }
}

#[test]
fn a_compaction_hash_is_the_hash_before() {
    let mut machine = Machine::new();
    for number in 0..60u8 {
        machine.txn(&[Change::Put(number % 7, number, 0)], true);
        if number % 9 == 0 {
            machine.txn(&[Change::Delete(number % 7, 1)], true);
        }
    }
    for (number, revision) in (10..60).step_by(4).enumerate() {
        let previous = machine.model.compacted;
        let before = machine.store.hash_kv(revision).unwrap();
        assert_eq!(before.compact_revision, previous);
        machine.compact(revision);
        while !machine.jobs.is_empty() {
            machine.step(1);
        }
        let after = machine.store.hash_kv(revision).unwrap();
        assert_eq!((after.hash, after.compact_revision), (before.hash, previous), "the cached one");
        assert_eq!(machine.store.compaction_hashes().len(), (number + 1).min(10));
    }
    // Without the cache the same revision has a hash of its own, with the new compaction point.
    machine.commit();
    let disk = machine.disk.clone().crash(Survival::Nothing);
    machine.switch(disk);
    let fresh = machine.store.hash_kv(58).unwrap();
    assert_eq!(fresh.compact_revision, 58);
    assert_eq!(fresh.hash, machine.model.hash(58).unwrap());
}

/// A restore with `--bump-revision` leaves one record of zero bytes at the new revision and a
/// scheduled compaction there.
#[test]
fn a_bumped_revision_starts_there_and_lists_no_empty_key() {
    let mut machine = Machine::new();
    machine.txn(&[Change::Put(1, 1, 0), Change::Put(2, 2, 0)], true);
    let bumped = Revision::new(1_000_000, 0);
    machine.store.backend().append(WriteSet {
        records: vec![(RecordKey::put(bumped), bytes::Bytes::new())],
        changes: vec![backend::schema::set_scheduled_compact_revision(bumped.main)],
        ..WriteSet::default()
    });
    machine.store.backend().commit().unwrap();
    let disk = machine.disk.crash(Survival::Nothing);
    let (store, restored) = open(&disk);
    assert_eq!((store.current_revision(), store.compacted_revision()), (bumped.main, bumped.main));
    let mut job = restored.resume_compaction.unwrap();
    while !store.compaction_step(&mut job).unwrap().finished {}
    store.backend().commit().unwrap();
    let (store, restored) = open(&disk.crash(Survival::Nothing));
    assert!(restored.resume_compaction.is_none());
    assert_eq!(store.current_revision(), bumped.main);
    assert_eq!(read_all(&store, 0).len(), 2);
    assert!(store.changes(bumped.main, i64::MAX, 10).unwrap().is_empty());
    assert!(store.range(&RangeQuery::key("")).unwrap().kvs.is_empty());
    let mut txn = store.write();
    assert_eq!(txn.put("k".into(), "v".into(), LeaseId(0)).unwrap().revision, bumped.main + 1);
    txn.commit(WriteSet::default());
}

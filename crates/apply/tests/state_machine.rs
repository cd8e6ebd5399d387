//! The applier on a simulated disk: requests in, answers and stored state out.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use apply::{Alarms, Applied, Applier, ApplyError, FollowUp, Options, Quota, Reply, Shared};
use backend::{Backend, BucketId};
use env::sim::{SimDisk, Survival};
use lease::Lessor;
use membership::{Cluster, ConfChange, Member};
use mvcc::{RangeQuery, Store};
use pb::request_op::Request;
use prost::Message;
use proto::etcdserverpb as pb;
use types::{ClusterId, CompatVersion, Entry, EntryKind, KeyRange, MemberId};

const MEMBER: MemberId = MemberId(0x1234);

struct Machine {
    disk: SimDisk,
    backend: Backend,
    store: Arc<Store>,
    shared: Arc<Shared>,
    applier: Applier,
    next_index: u64,
}

impl Machine {
    fn new(quota: Quota) -> Self {
        Self::open(SimDisk::new(), quota)
    }

    fn open(disk: SimDisk, quota: Quota) -> Self {
        let options = backend::Options { initial_map_bytes: 1 << 26, ..Default::default() };
        let backend = Backend::open(Arc::new(disk.clone()), Path::new("db"), options).unwrap();
        let (store, restored) = Store::open(backend.clone()).unwrap();
        let store = Arc::new(store);
        let mut lessor = Lessor::new(lease::Options::default());
        let records = backend.view().scan(BucketId::Lease).unwrap();
        let records = records.iter().map(|(key, value)| lease::decode_record(key, value).unwrap());
        assert_eq!(lessor.restore(records, restored.attachments), 0);
        let alarms = backend.view().scan(BucketId::Alarm).unwrap();
        let alarms = Alarms::restore(alarms.iter().map(|(key, _)| &key[..]));
        let shared = Arc::new(Shared::new(Cluster::new(ClusterId(1), 1), alarms, lessor));
        let options = Options { member: MEMBER, compat: CompatVersion::V3_7, quota, bcrypt_cost: 4 };
        let applier = Applier::new(options, backend.clone(), store.clone(), shared.clone());
        let next_index = applier.position().index + 1;
        Self { disk, backend, store, shared, applier, next_index }
    }

    fn entry(&mut self, kind: EntryKind, data: Vec<u8>) -> Entry {
        let index = self.next_index;
        self.next_index += 1;
        Entry { index, term: 2, kind, data: data.into() }
    }

    fn apply(&mut self, mut request: pb::InternalRaftRequest) -> Applied {
        let id = (MEMBER.0 << 48) | self.next_index;
        request.header = Some(pb::RequestHeader { id, ..Default::default() });
        let entry = self.entry(EntryKind::Normal, request.encode_to_vec());
        let applied = self.applier.apply(&entry, Duration::ZERO).unwrap();
        assert_eq!(applied.request.unwrap().0, id);
        assert_eq!(self.backend.consistent_position().index, entry.index, "every entry moves the index");
        applied
    }

    fn put(&mut self, request: pb::PutRequest) -> Applied {
        self.apply(pb::InternalRaftRequest { put: Some(request), ..Default::default() })
    }

    fn txn(&mut self, request: pb::TxnRequest) -> Result<pb::TxnResponse, ApplyError> {
        match self.apply(pb::InternalRaftRequest { txn: Some(request), ..Default::default() }).result {
            Ok(Reply::Txn(response)) => Ok(response),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error),
        }
    }

    fn grant(&mut self, id: i64) -> Applied {
        let grant = pb::LeaseGrantRequest { id, ttl: 60 };
        self.apply(pb::InternalRaftRequest { lease_grant: Some(grant), ..Default::default() })
    }

    fn alarm(&mut self, action: i32, kind: pb::AlarmType) -> Applied {
        let alarm = pb::AlarmRequest { action, member_id: MEMBER.0, alarm: kind as i32 };
        self.apply(pb::InternalRaftRequest { alarm: Some(Box::new(alarm)), ..Default::default() })
    }

    fn keys(&self) -> Vec<String> {
        let all = self.store.range(&RangeQuery::new(KeyRange::From("".into()))).unwrap();
        all.kvs.decode().unwrap().into_iter().map(|kv| String::from_utf8(kv.key.to_vec()).unwrap()).collect()
    }
}

fn put(key: &'static str, value: &'static str) -> pb::PutRequest {
    pb::PutRequest { key: key.into(), value: value.into(), ..Default::default() }
}

fn op(request: Request) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

fn put_op(key: &'static str, value: &'static str) -> pb::RequestOp {
    op(Request::RequestPut(put(key, value)))
}

fn delete_op(key: &'static str, range_end: &'static str) -> pb::RequestOp {
    let delete = pb::DeleteRangeRequest { key: key.into(), range_end: range_end.into(), prev_kv: true };
    op(Request::RequestDeleteRange(delete))
}

fn get_op(key: &'static str) -> pb::RequestOp {
    op(Request::RequestRange(pb::RangeRequest { key: key.into(), ..Default::default() }))
}

fn mod_is(key: &'static str, revision: i64) -> pb::Compare {
    pb::Compare {
        key: key.into(),
        target: pb::compare::CompareTarget::Mod as i32,
        target_union: Some(pb::compare::TargetUnion::ModRevision(revision)),
        ..Default::default()
    }
}

#[test]
fn puts_count_revisions_and_return_what_was_there() {
    let mut machine = Machine::new(Quota::Off);
    let Reply::Put(first) = machine.put(put("a", "1")).result.unwrap() else { panic!() };
    assert_eq!((first.header.unwrap().revision, first.prev_kv), (2, None));
    let applied = machine.put(pb::PutRequest { prev_kv: true, ..put("a", "2") });
    assert_eq!(applied.events.unwrap().main, 3);
    let Ok(Reply::Put(second)) = applied.result else { panic!() };
    let previous = second.prev_kv.unwrap();
    assert_eq!((previous.version, &previous.value[..]), (1, &b"1"[..]));
}

/// Old leaders wrote reads into the log; nobody waits for their answers here.
#[test]
fn a_read_in_the_log_is_passed_over() {
    let mut machine = Machine::new(Quota::Off);
    machine.put(put("a", "1"));
    let range = pb::RangeRequest { key: "a".into(), ..Default::default() };
    let applied = machine.apply(pb::InternalRaftRequest { range: Some(range.into()), ..Default::default() });
    assert!(applied.events.is_none());
    assert_eq!((machine.store.current_revision(), machine.keys().len()), (2, 1));
}

#[test]
fn a_refused_put_changes_nothing() {
    let mut machine = Machine::new(Quota::Off);
    let refused = machine.put(pb::PutRequest { lease: 7, ..put("a", "1") });
    assert_eq!(refused.result, Err(ApplyError::LeaseNotFound(types::LeaseId(7))));
    let refused = machine.put(pb::PutRequest { ignore_value: true, ..put("a", "") });
    assert_eq!(refused.result, Err(ApplyError::KeyNotFound));
    assert_eq!((machine.store.current_revision(), machine.keys().len()), (1, 0));
}

#[test]
fn transactions_compare_the_past_and_see_their_own_writes() {
    let mut machine = Machine::new(Quota::Off);
    machine.put(put("k", "0"));
    let update = pb::TxnRequest {
        compare: vec![mod_is("k", 2)],
        success: vec![put_op("k", "1"), get_op("k"), delete_op("k", "")],
        failure: vec![get_op("k")],
    };
    let response = machine.txn(update.clone()).unwrap();
    assert!(response.succeeded);
    assert_eq!(response.header.unwrap().revision, 3);
    let Some(pb::response_op::Response::ResponseRange(seen)) = &response.responses[1].response else {
        panic!()
    };
    assert_eq!((&seen.kvs[0].value[..], seen.kvs[0].mod_revision), (&b"1"[..], 3));
    assert!(machine.keys().is_empty());
    let again = machine.txn(update).unwrap();
    assert!(!again.succeeded);
    assert_eq!(again.header.unwrap().revision, 3, "a read in a transaction makes no revision");
}

#[test]
fn a_transaction_that_fails_its_checks_has_no_effect() {
    let mut machine = Machine::new(Quota::Off);
    machine.put(put("a", "1"));
    let future = pb::RangeRequest { key: "a".into(), revision: 99, ..Default::default() };
    let negative = pb::RangeRequest { key: "a".into(), revision: -5, ..Default::default() };
    let unknown_lease = pb::PutRequest { lease: 5, ..put("c", "") };
    let deleted_before = pb::PutRequest { ignore_value: true, ..put("a", "") };
    let cases = [
        (vec![put_op("b", ""), op(Request::RequestRange(future))], ApplyError::FutureRevision),
        (vec![put_op("b", ""), op(Request::RequestRange(negative))], ApplyError::Compacted),
        (
            vec![put_op("b", ""), op(Request::RequestPut(unknown_lease))],
            ApplyError::LeaseNotFound(types::LeaseId(5)),
        ),
        (vec![delete_op("a", "\0"), op(Request::RequestPut(deleted_before))], ApplyError::KeyNotFound),
    ];
    for (success, expected) in cases {
        assert_eq!(machine.txn(pb::TxnRequest { success, ..Default::default() }), Err(expected));
    }
    assert_eq!((machine.keys(), machine.store.current_revision()), (vec!["a".to_owned()], 2));
}

#[test]
fn nested_transactions_run_their_chosen_branches_in_order() {
    let mut machine = Machine::new(Quota::Off);
    machine.put(put("x", "1"));
    let inner = pb::TxnRequest {
        compare: vec![mod_is("x", 2)],
        success: vec![put_op("in", "yes")],
        failure: vec![put_op("in", "no")],
    };
    let last = pb::TxnRequest {
        compare: vec![mod_is("x", 1)],
        failure: vec![put_op("last", "")],
        ..Default::default()
    };
    let outer = pb::TxnRequest {
        // The compare of the nested one sees x as it was before this put.
        success: vec![put_op("x", "2"), op(Request::RequestTxn(inner)), op(Request::RequestTxn(last))],
        ..Default::default()
    };
    let response = machine.txn(outer).unwrap();
    let Some(pb::response_op::Response::ResponseTxn(inner)) = &response.responses[1].response else {
        panic!()
    };
    assert!(inner.succeeded);
    assert_eq!(inner.header, Some(pb::ResponseHeader::default()), "present and empty");
    assert_eq!(machine.keys(), ["in", "last", "x"]);
}

#[test]
fn revoking_a_lease_deletes_its_keys_in_one_revision() {
    let mut machine = Machine::new(Quota::Off);
    machine.grant(7);
    for key in ["b", "a", "c"] {
        machine.put(pb::PutRequest { lease: 7, ..put(key, "") });
    }
    machine.put(put("c", "kept, without lease"));
    let revoke = pb::LeaseRevokeRequest { id: 7 };
    let applied = machine.apply(pb::InternalRaftRequest { lease_revoke: Some(revoke), ..Default::default() });
    let events = applied.events.unwrap();
    let deleted: Vec<_> = events.events.iter().map(|event| event.key.clone()).collect();
    assert_eq!((events.main, deleted), (6, vec!["a".into(), "b".into()]));
    assert_eq!(machine.keys(), ["c"]);
    assert!(machine.backend.view().scan(BucketId::Lease).unwrap().is_empty());
}

#[test]
fn only_the_first_empty_entry_of_a_term_starts_it() {
    let mut machine = Machine::new(Quota::Off);
    let empty = |machine: &mut Machine, term| {
        let entry = Entry { term, ..machine.entry(EntryKind::Normal, Vec::new()) };
        let applied = machine.applier.apply(&entry, Duration::ZERO).unwrap();
        assert_eq!(machine.backend.consistent_position().index, entry.index, "every entry moves the index");
        matches!(applied.follow_up, Some(FollowUp::FirstCommitInTerm { term: started }) if started == term)
    };
    assert!(empty(&mut machine, 2), "the leader's");
    machine.put(put("x", "1"));
    assert!(!empty(&mut machine, 2), "in the place of a refused conf change");
    assert!(empty(&mut machine, 3), "the next leader's");
}

#[test]
fn passing_the_quota_applies_the_put_and_says_no_space() {
    let mut machine = Machine::new(Quota::Bytes(1));
    let applied = machine.put(put("a", "1"));
    assert_eq!(applied.result, Err(ApplyError::NoSpace));
    assert!(matches!(applied.follow_up, Some(FollowUp::RaiseNoSpace)));
    assert_eq!(machine.keys(), ["a"], "members with another quota applied it too");
    machine.alarm(pb::alarm_request::AlarmAction::Activate as i32, pb::AlarmType::Nospace);
    assert_eq!(machine.put(put("b", "1")).result, Err(ApplyError::NoSpace));
    assert_eq!(machine.keys(), ["a"], "with the alarm on nothing is applied");
    let delete = pb::DeleteRangeRequest { key: "a".into(), ..Default::default() };
    let deleted = machine.apply(pb::InternalRaftRequest { delete_range: Some(delete), ..Default::default() });
    assert!(deleted.result.is_ok(), "deletes make room");
}

#[test]
fn a_corrupt_cluster_refuses_writes_until_disarmed() {
    let mut machine = Machine::new(Quota::Off);
    machine.alarm(pb::alarm_request::AlarmAction::Activate as i32, pb::AlarmType::Corrupt);
    assert_eq!(machine.put(put("a", "1")).result, Err(ApplyError::Corrupt));
    machine.alarm(pb::alarm_request::AlarmAction::Deactivate as i32, pb::AlarmType::Corrupt);
    assert!(machine.put(put("a", "1")).result.is_ok());
    assert_eq!(machine.alarm(77, pb::AlarmType::Corrupt).result, Err(ApplyError::UnknownAlarmAction));
}

#[test]
fn members_join_publish_and_are_stored() {
    let mut machine = Machine::new(Quota::Off);
    let member = Member::new(MEMBER, vec!["http://127.0.0.1:2380".to_owned()]);
    let change = ConfChange::Add(member).encode(0).encode_to_vec();
    let entry = machine.entry(EntryKind::ConfChange, change.clone());
    let applied = machine.applier.apply(&entry, Duration::ZERO).unwrap();
    let Some(FollowUp::ConfChange { change: accepted }) = applied.follow_up else { panic!() };
    assert_eq!(accepted.node_id, Some(MEMBER.0));
    let again = machine.entry(EntryKind::ConfChange, change);
    let applied = machine.applier.apply(&again, Duration::ZERO).unwrap();
    let Some(FollowUp::ConfChange { change: refused }) = applied.follow_up else { panic!() };
    assert_eq!((refused.node_id, applied.result.is_err()), (Some(0), true));
    assert_eq!(machine.shared.cluster().members().len(), 1);
    let stored = machine.backend.view().get(BucketId::Members, b"1234").unwrap().unwrap();
    assert_eq!(stored, r#"{"id":4660,"peerURLs":["http://127.0.0.1:2380"]}"#);
}

#[test]
fn after_a_crash_entries_are_applied_exactly_once() {
    let mut machine = Machine::new(Quota::Off);
    let mut entries = Vec::new();
    for _ in 0..20 {
        let put = pb::PutRequest { key: "counter".into(), ..Default::default() };
        let request = pb::InternalRaftRequest { put: Some(put), ..Default::default() };
        let entry = machine.entry(EntryKind::Normal, request.encode_to_vec());
        machine.applier.apply(&entry, Duration::ZERO).unwrap();
        entries.push(entry);
        if entries.len() == 12 {
            machine.backend.commit().unwrap();
        }
    }
    let disk = machine.disk.crash(Survival::Nothing);
    let mut restarted = Machine::open(disk, Quota::Off);
    assert_eq!((restarted.applier.position().index, restarted.store.current_revision()), (12, 13));
    for entry in &entries {
        restarted.applier.apply(entry, Duration::ZERO).unwrap();
    }
    let found = restarted.store.range(&RangeQuery::key("counter")).unwrap().kvs.decode().unwrap();
    assert_eq!((found[0].version, restarted.store.current_revision()), (20, 21));
}

#[test]
fn a_received_database_takes_the_place_of_everything() {
    use std::io::Read;
    let mut leader = Machine::new(Quota::Off);
    leader.grant(7);
    leader.put(pb::PutRequest { lease: 7, ..put("leased", "1") });
    leader.put(put("kept", "1"));
    leader.alarm(1, pb::AlarmType::Nospace);
    let add = ConfChange::Add(Member::new(MemberId(9), vec!["http://a:1".to_owned()]));
    let entry = leader.entry(EntryKind::ConfChange, add.encode(0).encode_to_vec());
    leader.applier.apply(&entry, Duration::ZERO).unwrap();
    let mut image = leader.backend.snapshot().unwrap();
    let position = image.position();
    let mut db = Vec::new();
    image.read_to_end(&mut db).unwrap();

    let mut follower = Machine::new(Quota::Off);
    follower.grant(3);
    follower.put(pb::PutRequest { lease: 3, ..put("old", "1") });
    let disk: Arc<dyn env::Disk> = Arc::new(follower.disk.clone());
    let file = disk.open(Path::new("received"), env::OpenMode::CreateNew(0o600)).unwrap();
    file.write_at(&db, 0).unwrap();
    file.sync_all().unwrap();
    let snapshot = types::Snapshot { position, ..Default::default() };
    follower.applier.install(Path::new("received"), &snapshot).unwrap();

    assert_eq!(follower.keys(), ["kept", "leased"]);
    assert_eq!(follower.applier.position(), position);
    let lessor = follower.shared.lessor.lock();
    assert_eq!((lessor.lease_of(b"leased"), lessor.len()), (Some(types::LeaseId(7)), 1));
    drop(lessor);
    assert!(follower.shared.alarms().is_active(pb::AlarmType::Nospace));
    assert!(follower.shared.cluster().member(MemberId(9)).is_some());
    assert_eq!(follower.store.current_revision(), leader.store.current_revision());
    // The next entry follows the snapshot.
    follower.next_index = position.index + 1;
    follower.alarm(2, pb::AlarmType::Nospace);
    follower.put(put("next", "1"));
    assert_eq!(follower.keys(), ["kept", "leased", "next"]);
}

#[test]
fn a_database_of_another_snapshot_is_refused() {
    use std::io::Read;
    let mut leader = Machine::new(Quota::Off);
    leader.put(put("a", "1"));
    let mut image = leader.backend.snapshot().unwrap();
    let mut position = image.position();
    position.index += 1;
    let mut db = Vec::new();
    image.read_to_end(&mut db).unwrap();
    let mut follower = Machine::new(Quota::Off);
    let disk: Arc<dyn env::Disk> = Arc::new(follower.disk.clone());
    disk.open(Path::new("received"), env::OpenMode::CreateNew(0o600)).unwrap().write_at(&db, 0).unwrap();
    let snapshot = types::Snapshot { position, ..Default::default() };
    let error = follower.applier.install(Path::new("received"), &snapshot).unwrap_err();
    assert!(
        matches!(error, apply::restore::RestoreError::WrongDatabase { snapshot: 2, index: 1 }),
        "{error}"
    );
}

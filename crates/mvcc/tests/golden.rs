//! Databases written by etcd 3.5.30, read by us.
#![allow(missing_docs)]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use backend::{Backend, BucketId, schema};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use env::real::RealDisk;
use mvcc::{ReadError, Restored, Store};
use serde_json::Value as Json;
use types::{CompatVersion, LogPosition, Version};

use common::{Value, read_all};

struct Fixture {
    _directory: tempfile::TempDir,
    store: Store,
    restored: Restored,
    facts: Json,
}

fn fixture(name: &str) -> Fixture {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    std::fs::copy(fixtures.join(format!("{name}.db")), &path).unwrap();
    let backend = Backend::open(Arc::new(RealDisk), &path, common::options()).unwrap();
    let (store, restored) = Store::open(backend).unwrap();
    let facts = std::fs::read(fixtures.join(format!("{name}.json"))).unwrap();
    Fixture { _directory: directory, store, restored, facts: serde_json::from_slice(&facts).unwrap() }
}

fn base64(json: &Json) -> Vec<u8> {
    STANDARD.decode(json.as_str().unwrap()).unwrap()
}

fn check_hashes(store: &Store, facts: &Json) {
    for (revision, expected) in facts["hashkv"].as_object().unwrap() {
        let hash = store.hash_kv(revision.parse().unwrap()).unwrap();
        assert_eq!(u64::from(hash.hash), expected["hash"].as_u64().unwrap(), "revision {revision}");
        assert_eq!(hash.compact_revision, expected["compact_revision"].as_i64().unwrap());
    }
}

#[test]
fn clean_member() {
    let Fixture { store, restored, facts, .. } = fixture("clean-3.5.30");
    assert_eq!(store.current_revision(), 567);
    assert_eq!(store.compacted_revision(), 475);
    assert_eq!(store.live_keys(), 413);
    assert!(restored.resume_compaction.is_none());
    let expected: BTreeMap<Vec<u8>, Value> = facts["kvs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|kv| {
            let number = |name: &str| kv[name].as_i64().unwrap_or(0);
            let value = Value {
                value: kv.get("value").map(base64).unwrap_or_default(),
                create_revision: number("create_revision"),
                mod_revision: number("mod_revision"),
                version: number("version"),
                lease: number("lease"),
            };
            (base64(&kv["key"]), value)
        })
        .collect();
    assert_eq!(read_all(&store, 0), expected);
    check_hashes(&store, &facts);
    assert!(matches!(store.hash_kv(474), Err(ReadError::Compacted)));
    assert!(matches!(store.hash_kv(568), Err(ReadError::FutureRevision { .. })));

    let mut attached: Vec<(i64, Vec<u8>)> =
        restored.attachments.iter().map(|(key, lease)| (lease.0, key.to_vec())).collect();
    attached.sort();
    let mut expected = Vec::new();
    for lease in facts["leases"].as_array().unwrap() {
        for key in lease["keys"].as_array().unwrap() {
            expected.push((lease["id"].as_i64().unwrap(), base64(key)));
        }
    }
    expected.sort();
    assert_eq!(attached, expected);
}

#[test]
fn clean_member_schema() {
    let Fixture { store, facts, .. } = fixture("clean-3.5.30");
    let backend = store.backend();
    let view = backend.view();
    let term = facts["wal"]["last_entry_term"].as_u64().unwrap();
    assert_eq!(backend.stored_consistent_position(), LogPosition { index: 578, term });
    assert_eq!(schema::finished_compact_revision(&view).unwrap(), Some(475));
    assert_eq!(schema::scheduled_compact_revision(&view).unwrap(), Some(475));
    assert_eq!(schema::storage_version(&view).unwrap(), None);
    assert_eq!(schema::detect_version(&view).unwrap(), Version::new(3, 5, 0));
    assert_eq!(schema::auth_revision(&view).unwrap(), 6);
    let member = facts["member_id"].as_u64().unwrap();
    let conf_state = schema::encode_conf_state(&[member], &[], &[], &[], false);
    assert_eq!(schema::conf_state(&view).unwrap().unwrap(), conf_state);
    assert_eq!(view.scan(BucketId::Lease).unwrap().len(), 2);
    assert_eq!(view.scan(BucketId::Members).unwrap()[0].0, facts["member_id_hex"].as_str().unwrap());
    assert_eq!(backend.size_bytes(), 30 * 4096);

    // Up to 3.7 and back to what 3.5 expects.
    assert!(backend.migrate(Version::new(3, 7, 0), CompatVersion::V3_7, None).unwrap());
    assert_eq!(schema::storage_version(&backend.view()).unwrap(), Some(Version::new(3, 7, 0)));
    assert!(schema::validate(&backend.view(), CompatVersion::V3_6).is_err());
    schema::validate(&backend.view(), CompatVersion::V3_5).unwrap();
    let log = Some(Version::new(3, 6, 0));
    assert!(backend.migrate(Version::new(3, 5, 0), CompatVersion::V3_7, log).is_err());
    assert!(backend.migrate(Version::new(3, 5, 0), CompatVersion::V3_7, None).unwrap());
    assert_eq!(schema::storage_version(&backend.view()).unwrap(), None);
}

#[test]
fn snapshot_of_a_running_member() {
    let Fixture { store, facts, .. } = fixture("snapshot-3.5.30");
    assert_eq!(store.current_revision(), 567);
    assert_eq!(store.live_keys(), 413);
    check_hashes(&store, &facts);
    let clean = fixture("clean-3.5.30");
    assert_eq!(read_all(&store, 0), read_all(&clean.store, 0));
    assert_eq!(read_all(&store, 475), read_all(&clean.store, 475));
}

#[test]
fn history_is_complete_from_the_compaction_on() {
    let Fixture { store, .. } = fixture("clean-3.5.30");
    assert!(matches!(store.changes(474, 567, 1000), Err(ReadError::Compacted)));
    let changes = store.changes(476, 567, 1000).unwrap();
    let revisions: Vec<i64> = changes.iter().map(|events| events.main).collect();
    assert_eq!(revisions, (476..=567).collect::<Vec<_>>());
    assert_eq!(changes.last().unwrap().events[0].key, "after/compaction");
    let some = store.changes(476, 567, 10).unwrap();
    assert_eq!(some.last().unwrap().main, 485);
}

#[test]
fn defragmentation_changes_nothing_that_can_be_read() {
    let Fixture { store, facts, _directory, .. } = fixture("clean-3.5.30");
    let (before, hash) = (read_all(&store, 500), store.backend().hash().unwrap());
    let result = store.backend().defragment().unwrap();
    assert!(result.after_bytes <= result.before_bytes);
    assert_eq!(store.backend().hash().unwrap(), hash);
    assert_eq!(store.backend().check(), Vec::<String>::new());
    assert_eq!(read_all(&store, 500), before);
    check_hashes(&store, &facts);
    let left: Vec<_> = std::fs::read_dir(_directory.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "no temporary file is left");
}

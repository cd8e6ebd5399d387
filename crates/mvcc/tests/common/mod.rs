//! Helpers shared by the tests of the store.
#![allow(dead_code, missing_docs)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use backend::{Backend, Options};
use env::sim::SimDisk;
use mvcc::{RangeQuery, Restored, Store};
use types::KeyRange;

pub const PATH: &str = "db";

pub fn options() -> Options {
    Options { initial_map_bytes: 1 << 24, verify: true, ..Options::default() }
}

pub fn open_backend(disk: &SimDisk) -> Backend {
    Backend::open(Arc::new(disk.clone()), Path::new(PATH), options()).unwrap()
}

pub fn open(disk: &SimDisk) -> (Store, Restored) {
    Store::open(open_backend(disk)).unwrap()
}

pub fn everything() -> KeyRange {
    KeyRange::from_wire("\0".into(), "\0".into())
}

/// A key-value pair without its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    pub value: Vec<u8>,
    pub create_revision: i64,
    pub mod_revision: i64,
    pub version: i64,
    pub lease: i64,
}

pub fn read_all(store: &Store, revision: i64) -> BTreeMap<Vec<u8>, Value> {
    let result = store.range(&RangeQuery { revision, ..RangeQuery::new(everything()) }).unwrap();
    let kvs = result.kvs.decode().unwrap();
    assert_eq!(result.count as usize, kvs.len());
    assert!(kvs.is_sorted_by(|left, right| left.key < right.key));
    let value = |kv: &proto::mvccpb::KeyValue| Value {
        value: kv.value.to_vec(),
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        lease: kv.lease,
    };
    kvs.iter().map(|kv| (kv.key.to_vec(), value(kv))).collect()
}

//! The multi-version key-value store.
//!
//! Every change of a key gets a revision and is stored as a record of its own under that revision,
//! so the past stays readable until it is compacted. An index in memory says which record holds a
//! key at a revision; the records live in the [`backend`].
//!
//! - [`Store`]: reads ([`Store::range`]) from any thread, one [`WriteTxn`] at a time;
//! - compaction in bounded steps ([`Store::compaction_step`]), hashes ([`Store::hash_kv`]);
//! - [`RevisionEvents`]: what watchers see of a revision, live or from history ([`Store::changes`]);
//! - [`watch`]: the hub that brings them to watchers.
//!
//! No clock, no thread, no disk access of its own. Leases are only reported: which key had which.
//!
//! **Source**: etcd `server/storage/mvcc`.

mod compact;
pub mod event;
mod hash;
mod history;
mod index;
mod kvs;
mod range;
pub mod record;
mod store;
mod txn;
pub mod watch;

pub use compact::{CompactionJob, CompactionTicket, Step};
pub use event::{Event, EventKind, RevisionEvents};
pub use hash::HashKv;
pub use kvs::EncodedKvs;
pub use range::{RangeQuery, RangeResult, SortOrder, SortTarget};
pub use store::{Counters, KeyMeta, ReadError, Restored, Store};
pub use txn::{DeletedKey, Put, TxnOutcome, WriteTxn};

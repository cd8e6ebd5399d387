//! The write-ahead log and the snapshot files, in etcd's formats.
//!
//! [`mod@format`] is the bytes alone. [`Wal`] is the open log of a member: segments in
//! `<data-dir>/member/wal`, appended to by one thread. [`snap`] are the `.snap` files beside the
//! backend. Nothing here decides anything: what to append, when to sync and when to snapshot
//! is the caller's.
//!
//! ```text
//! <dir>/<sequence:016x>-<first index:016x>.wal    segments; the last one preallocated
//! <dir>/{0,1}.tmp                                 the next segment, being prepared
//! <dir>/<segment>.broken                          copy of a segment whose torn end was cut off
//! ```
//!
//! **Source**: etcd `server/storage/wal`, `server/etcdserver/api/snap`.

mod blocks;
mod error;
pub mod format;
mod purge;
mod repair;
mod replay;
mod segment;
pub mod snap;
mod spare;
mod wal;

pub use error::{Damage, Error};
pub use format::{Metadata, WalSnapshot};
pub use purge::purge;
pub use replay::{Replayed, newest_valid_snapshot, read, valid_snapshots};
pub use segment::{SegmentName, exists, segments};
pub use spare::{Prepared, Preparer};
pub use wal::{Appended, Batch, Options, SEGMENT_BYTES, Wal};

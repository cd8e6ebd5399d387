//! A B+tree store in bbolt's file format: one writer, many readers, over a memory map.
//!
//! - [`format`](mod@format): pages as bytes, usable without opening a database;
//! - [`Db`]: the open file; [`ReadTx`], [`Bucket`], [`Cursor`]: reading a committed state without copying;
//! - [`WriteTx`], [`BucketMut`]: changing it; [`CommitStats`]: what a commit did;
//! - [`ReadTx::check`]: whether a file is sound; [`ReadTx::copy_to`]: a copy of a running database;
//!   [`compact_into`]: the same content in a new file without holes.
//!
//! Invariants:
//! - a page that a committed state can reach is never written while that state can still be read,
//!   by a reader or after a crash;
//! - after a crash the file opens at the last committed transaction, or at the one whose commit
//!   had not returned yet;
//! - bytes of the file never cause a panic, a read outside the file or an endless loop;
//! - after a failed write or sync nothing more is written ([`Error::Poisoned`]).
//!
//! Deliberately absent: threads, logs, clocks (unless one is handed in), shrinking a file, and
//! batching of several users' changes, which is `backend`'s.
//!
//! Source: bbolt 1.5.

mod check;
mod commit;
mod compact;
mod copy;
mod cursor;
mod db;
mod error;
pub mod format;
mod freelist;
mod node;
mod open;
mod reach;
mod read;
mod rebalance;
mod snapshot;
mod write;

pub use check::Fault;
pub use commit::CommitStats;
pub use compact::{COMPACT_FILL_PERCENT, compact_into};
pub use copy::CopyReader;
pub use cursor::{Cursor, Item, Value};
pub use db::{Db, Options, Stats};
pub use error::{Error, OpenError};
pub use read::{Bucket, Iter, ReadTx};
pub use write::{BucketMut, DEFAULT_FILL_PERCENT, Visit, WriteTx};

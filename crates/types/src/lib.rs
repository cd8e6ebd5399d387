//! The words of the domain, as newtypes where a mix-up would hurt.
//!
//! Depends on nothing but `bytes`. Raft terms and log indexes stay plain `u64` in fields named
//! `term` and `index`; a pair of them is a [`LogPosition`].

mod arena;
mod ids;
mod os;
pub mod raft;
mod range;
mod revision;
mod version;

pub use arena::BytesArena;
pub use ids::{ClusterId, LeaseId, MemberId, ParseIdError, RequestId, RequestIdGenerator};
pub use os::os_reason;
pub use raft::{ConfState, Entry, EntryKind, HardState, Snapshot};
pub use range::KeyRange;
pub use revision::{ParseRevisionError, RecordKey, Revision};
pub use version::{CompatVersion, ParseVersionError, Version};

/// A place in the raft log.
///
/// Ordered by index first: two positions of one log never disagree about the order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogPosition {
    /// Log index, 1 for the first entry; 0 means "before the log".
    pub index: u64,
    /// Term of the entry at `index`.
    pub term: u64,
}

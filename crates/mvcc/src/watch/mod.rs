//! Watch: every change, in order, to everybody who asked for it.
//!
//! ```text
//!  apply ── publish ──▶ inbox ──▶ HubWorker ──▶ queue of each Stream ── take ──▶ services
//!  services ── create, cancel, progress ──▲            │
//!                                          ╰── queue drained ◀──╯
//! ```
//!
//! - [`Hub`] takes what apply committed and never waits: a full inbox is emptied, and watchers
//!   read what was in it from history.
//! - [`HubWorker`] owns all watchers. It is stepped by the driver, on one thread, and does
//!   nothing by itself: same calls, same results.
//! - [`Stream`] is the other end: one per gRPC stream, with a bounded queue of [`Outgoing`].
//!
//! Invariants, per watcher
//! - Events come in order of revisions and sub-revisions, none twice, none left out, all of one
//!   revision in one response.
//! - `min_revision` is the first revision that it has not been given. All below it are queued or
//!   were taken; this is all that a watcher needs to go on from history at any time.
//! - A watcher is *synced* (it gets events as they are published), *unsynced* (it reads history
//!   up to where the hub is, then becomes synced) or *stalled* (its stream's queue was full; it
//!   becomes unsynced when that is taken). So a slow reader costs nobody else anything.
//! - A progress response at revision R is queued behind all events up to R.
//!
//! An event is encoded once, whoever wants it; responses with the same events share their bytes.
//! Catching up starts at once, reads at most 1000 revisions at a time, for all watchers that need
//! them together, and live events go first in between.
//!
//! Nothing of this survives a restart: clients come back with the next revision they need.
//!
//! **Source**: etcd `server/storage/mvcc/{watchable_store,watcher,watcher_group}.go`,
//! `server/etcdserver/api/v3rpc/watch.go`.

mod batch;
mod catch_up;
mod history;
mod hub;
mod interval;
mod matcher;
mod stream;
mod worker;

pub use batch::Batch;
pub use history::{History, HistoryError};
pub use hub::{Hub, HubStats};
pub use stream::Stream;
pub use worker::{HubWorker, Step};

use std::sync::Arc;
use std::time::Duration;

use types::KeyRange;

use crate::event::EventKind;

/// Id of a watcher, unique in its stream.
pub type WatchId = i64;

/// The id in progress responses that speak for all watchers of a stream.
pub const ALL_WATCHERS: WatchId = -1;

/// Which kinds of events a watcher does not want.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    /// Drop puts (`NOPUT`).
    pub no_put: bool,
    /// Drop deletions (`NODELETE`).
    pub no_delete: bool,
}

impl Filters {
    /// Reads the wire form; unknown numbers mean nothing.
    pub fn from_wire(numbers: impl IntoIterator<Item = i32>) -> Self {
        let mut filters = Self::default();
        for number in numbers {
            filters.no_put |= number == 0;
            filters.no_delete |= number == 1;
        }
        filters
    }

    pub(crate) fn pass(self, kind: EventKind) -> bool {
        match kind {
            EventKind::Put => !self.no_put,
            EventKind::Delete => !self.no_delete,
        }
    }
}

/// What a client wants to watch.
#[derive(Clone, Debug)]
pub struct WatchRequest {
    /// The wanted id; `None` (0 on the wire) lets the stream choose.
    pub id: Option<WatchId>,
    /// The keys. An empty key must have been replaced by `"\0"`.
    pub range: KeyRange,
    /// First wanted revision; 0 = what comes after the current one.
    pub start_revision: i64,
    /// Unwanted kinds of events.
    pub filters: Filters,
    /// Send the previous key-value with each event.
    pub prev_kv: bool,
    /// Send a sign of life when there was no event for a while.
    pub progress_notify: bool,
    /// The client accepts a revision in several parts. Passed through to [`Outgoing::Events`].
    pub fragment: bool,
}

impl WatchRequest {
    /// A plain watch of a range from now on.
    pub fn new(range: KeyRange) -> Self {
        Self {
            id: None,
            range,
            start_revision: 0,
            filters: Filters::default(),
            prev_kv: false,
            progress_notify: false,
            fragment: false,
        }
    }
}

/// Why a watcher is not created. The texts are upstream's `cancel_reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CreateError {
    /// The start revision is negative. Upstream checks this before permissions, the others after.
    #[error("etcdserver: mvcc: required revision has been compacted")]
    NegativeStart,
    /// The range ends before it begins.
    #[error("mvcc: watcher range is empty")]
    EmptyRange,
    /// The id is in use on this stream.
    #[error("mvcc: duplicate watch ID provided on the WatchStream")]
    DuplicateId,
}

/// A response to send, in order.
#[derive(Clone, Debug)]
pub enum Outgoing {
    /// The watcher exists. Its events come behind this.
    Created {
        /// The watcher.
        id: WatchId,
        /// The current revision, for the header.
        revision: i64,
    },
    /// Events.
    Events {
        /// The watcher.
        id: WatchId,
        /// For the header: the events' revision, or where the hub was when history was read.
        revision: i64,
        /// Whether the client accepts fragments.
        fragment: bool,
        /// The events, encoded.
        batch: Arc<Batch>,
    },
    /// The watcher needs revisions that are gone. It gets nothing more; its id stays in use until
    /// it is cancelled. The header has revision 0.
    Compacted {
        /// The watcher.
        id: WatchId,
        /// The compaction point.
        compact_revision: i64,
    },
    /// All events up to `revision` were sent.
    Progress {
        /// The watcher, or [`ALL_WATCHERS`].
        id: WatchId,
        /// That revision.
        revision: i64,
    },
    /// The watcher is gone, as the client asked.
    Cancelled {
        /// The watcher.
        id: WatchId,
        /// The current revision, for the header.
        revision: i64,
    },
}

/// Settings of a [`Hub`].
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Responses that wait on one stream; streams of many watchers may have two more for each.
    pub queue_responses: usize,
    /// Bytes of events that wait on one stream. One response may exceed it.
    pub queue_bytes: usize,
    /// Revisions that wait for the worker.
    pub inbox_revisions: usize,
    /// Bytes of records that wait for the worker.
    pub inbox_bytes: usize,
    /// Time between progress notifications; each stream adds up to a tenth of it.
    pub progress_interval: Duration,
    /// Chooses that tenth.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            // What comes in while a busy worker makes a round: with fewer, watchers of a busy member fall
            // back to reading history, which costs more.
            queue_responses: 1024,
            queue_bytes: 4 << 20,
            inbox_revisions: 16_384,
            inbox_bytes: 64 << 20,
            progress_interval: Duration::from_secs(600),
            seed: 0,
        }
    }
}

/// A seeded step: spreads consecutive numbers over all 64 bits (SplitMix64).
pub(crate) fn scatter(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

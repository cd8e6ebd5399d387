//! What the hub needs of the store.

use std::sync::Arc;

use bytes::Bytes;

use crate::event::RevisionEvents;
use crate::store::{ReadError, Store};

/// Why history cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The first wanted revision is gone.
    #[error("mvcc: required revision has been compacted")]
    Compacted,
    /// The store cannot read its own records.
    #[error("watch: history cannot be read, watchers wait")]
    Unreadable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// The past of the store. Called from the worker's thread and from those that create watchers.
pub trait History: Send + Sync + 'static {
    /// The revision of the last committed write.
    fn current_revision(&self) -> i64;

    /// The compaction point; -1 = never compacted. This revision itself can be read.
    fn compacted_revision(&self) -> i64;

    /// The events of revisions `from..=to`, oldest first, at most `max_revisions` revisions.
    /// Fewer than that means that all up to `to` was given.
    fn changes(
        &self,
        from: i64,
        to: i64,
        max_revisions: usize,
    ) -> Result<Vec<Arc<RevisionEvents>>, HistoryError>;

    /// The encoded `KeyValue` of a key as of a revision; `None` if there was none, or that
    /// revision is gone.
    fn record_at(&self, key: &[u8], revision: i64) -> Option<Bytes>;
}

impl History for Store {
    fn current_revision(&self) -> i64 {
        Self::current_revision(self)
    }

    fn compacted_revision(&self) -> i64 {
        Self::compacted_revision(self)
    }

    fn changes(
        &self,
        from: i64,
        to: i64,
        max_revisions: usize,
    ) -> Result<Vec<Arc<RevisionEvents>>, HistoryError> {
        Self::changes(self, from, to, max_revisions).map_err(|error| match error {
            ReadError::Compacted => HistoryError::Compacted,
            other => HistoryError::Unreadable(Box::new(other)),
        })
    }

    fn record_at(&self, key: &[u8], revision: i64) -> Option<Bytes> {
        Self::record_at(self, key, revision).ok().flatten()
    }
}

/// Nothing ever happened, yet each key had a value that tells when it was asked for.
#[cfg(test)]
pub(crate) struct Echo;

#[cfg(test)]
impl History for Echo {
    fn current_revision(&self) -> i64 {
        1
    }

    fn compacted_revision(&self) -> i64 {
        -1
    }

    fn changes(&self, _: i64, _: i64, _: usize) -> Result<Vec<Arc<RevisionEvents>>, HistoryError> {
        Ok(Vec::new())
    }

    fn record_at(&self, key: &[u8], revision: i64) -> Option<Bytes> {
        Some(format!("{} at {revision}", String::from_utf8_lossy(key)).into())
    }
}

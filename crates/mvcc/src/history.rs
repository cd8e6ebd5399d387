//! Past events, read back from the records.

use std::sync::Arc;

use backend::RecordValue;
use bytes::Bytes;
use types::{RecordKey, Revision};

use crate::event::{Event, RevisionEvents};
use crate::record;
use crate::store::{ReadError, Store};

impl Store {
    /// The events of revisions `from..=to`, at most `max_revisions` of them, oldest first.
    ///
    /// `to` beyond the current revision means the current one. Reading from the compaction point on
    /// is allowed, below it is not. Fewer than `max_revisions` results mean that all up to `to` was
    /// given; a revision without events does not appear.
    pub fn changes(
        &self,
        from: i64,
        to: i64,
        max_revisions: usize,
    ) -> Result<Vec<Arc<RevisionEvents>>, ReadError> {
        let state = self.state.read();
        if from < state.compacted {
            return Err(ReadError::Compacted);
        }
        let to = to.min(state.current);
        let view = self.backend.view();
        drop(state);
        let mut revisions: Vec<Arc<RevisionEvents>> = Vec::new();
        let mut open = RevisionEvents { main: 0, events: Vec::new() };
        for item in view.records(Revision::new(from.max(0), 0), Revision::new(to, i64::MAX))? {
            let (key, value) = item?;
            let Some(event) = event_of(key, value)? else { continue };
            if event.revision.main != open.main {
                close(&mut open, &mut revisions);
                if revisions.len() == max_revisions {
                    return Ok(revisions);
                }
                open.main = event.revision.main;
            }
            open.events.push(event);
        }
        close(&mut open, &mut revisions);
        Ok(revisions)
    }
}

fn close(open: &mut RevisionEvents, revisions: &mut Vec<Arc<RevisionEvents>>) {
    if !open.events.is_empty() {
        let events = std::mem::take(&mut open.events);
        revisions.push(Arc::new(RevisionEvents { main: open.main, events }));
    }
}

/// The event of a record; none for the empty key, which no client can name.
fn event_of(key: RecordKey, value: RecordValue<'_>) -> Result<Option<Event>, ReadError> {
    let RecordKey { revision, tombstone } = key;
    let record = value.into_bytes();
    let fields = record::parse(&record).map_err(|source| ReadError::Malformed { revision, source })?;
    if fields.key.is_empty() {
        return Ok(None);
    }
    let key: Bytes = record.slice_ref(fields.key);
    let created = fields.version == 1;
    Ok(Some(match tombstone {
        true => Event::delete(revision, key),
        false => Event::put(revision, key, record, created),
    }))
}

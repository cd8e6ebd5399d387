//! What one revision changed, as watchers see it.
//!
//! A committed write transaction yields one [`RevisionEvents`]; `Store::changes` reads the
//! same values back from history. Both are shared by all watchers through an `Arc`, and the wire
//! form of an event is made at most once, whoever needs it first.
//!
//! **Source**: etcd `server/storage/mvcc/watchable_store_txn.go`; `mvccpb.Event{type=1, kv=2,
//! prev_kv=3}`.

use std::sync::OnceLock;

use bytes::{BufMut, Bytes, BytesMut};
use types::Revision;

use crate::record::{self, varint_len};

/// Kind of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// The key was created or overwritten.
    Put,
    /// The key was deleted.
    Delete,
}

/// One change of one key.
#[derive(Debug)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// When: main is the revision of the transaction, sub the place in it.
    pub revision: Revision,
    /// The changed key.
    pub key: Bytes,
    /// The encoded `mvccpb.KeyValue` that watchers get as `kv`: the stored record for a put, key
    /// and mod revision only for a delete.
    pub record: Bytes,
    /// Whether the change is a put that created the key: it has no previous value.
    pub created: bool,
    wire: OnceLock<Bytes>,
    wire_with_previous: OnceLock<Bytes>,
}

impl Event {
    /// A put; `record` is the stored `KeyValue`.
    pub fn put(revision: Revision, key: Bytes, record: Bytes, created: bool) -> Self {
        Self::new(EventKind::Put, revision, key, record, created)
    }

    /// A deletion of `key`.
    pub fn delete(revision: Revision, key: Bytes) -> Self {
        let record = record::encode_deleted(&key, revision.main);
        Self::new(EventKind::Delete, revision, key, record, false)
    }

    fn new(kind: EventKind, revision: Revision, key: Bytes, record: Bytes, created: bool) -> Self {
        let (wire, wire_with_previous) = (OnceLock::new(), OnceLock::new());
        Self { kind, revision, key, record, created, wire, wire_with_previous }
    }

    /// The encoded `mvccpb.Event` without previous value. Made once.
    pub fn wire(&self) -> &Bytes {
        self.wire.get_or_init(|| self.encode(None))
    }

    /// The encoded `mvccpb.Event` with the previous `KeyValue`, which `previous` fetches as raw
    /// bytes: the key's record at `revision.main - 1`, or none. Made once; a creation never asks.
    pub fn wire_with_previous(&self, previous: impl FnOnce() -> Option<Bytes>) -> &Bytes {
        self.wire_with_previous.get_or_init(|| match self.created {
            true => self.wire().clone(),
            false => previous().map_or_else(|| self.wire().clone(), |previous| self.encode(Some(&previous))),
        })
    }

    fn encode(&self, previous: Option<&[u8]>) -> Bytes {
        let field_len = |bytes: &[u8]| 1 + varint_len(bytes.len() as u64) + bytes.len();
        let mut wire = BytesMut::with_capacity(2 + field_len(&self.record) + previous.map_or(0, field_len));
        if self.kind == EventKind::Delete {
            wire.put_slice(&[0x08, 1]);
        }
        record::put_bytes_field(&mut wire, 2, &self.record);
        if let Some(previous) = previous {
            record::put_bytes_field(&mut wire, 3, previous);
        }
        wire.freeze()
    }
}

/// All changes of one revision, in order of their sub-revisions.
#[derive(Debug)]
pub struct RevisionEvents {
    /// The revision.
    pub main: i64,
    /// Its changes; never empty.
    pub events: Vec<Event>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;
    use proto::mvccpb;

    #[test]
    fn wire_forms_decode_with_prost() {
        let kv = mvccpb::KeyValue { key: "k".into(), mod_revision: 7, version: 1, ..Default::default() };
        let record = Bytes::from(kv.encode_to_vec());
        let put = Event::put(Revision::new(7, 0), "k".into(), record.clone(), false);
        let decoded = mvccpb::Event::decode(put.wire().clone()).unwrap();
        assert_eq!(
            (decoded.r#type(), decoded.kv, decoded.prev_kv),
            (mvccpb::event::EventType::Put, Some(kv.clone()), None)
        );

        let delete = Event::delete(Revision::new(9, 0), "k".into());
        let decoded = mvccpb::Event::decode(delete.wire_with_previous(|| Some(record)).clone()).unwrap();
        assert_eq!(decoded.r#type(), mvccpb::event::EventType::Delete);
        let gone = mvccpb::KeyValue { key: "k".into(), mod_revision: 9, ..Default::default() };
        assert_eq!((decoded.kv, decoded.prev_kv), (Some(gone), Some(kv)));
    }
}

//! Encoded events, shared by all responses that carry the same ones.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::History;
use crate::event::{Event, EventKind, RevisionEvents};
use crate::record::{put_bytes_field, put_varint, varint_len};

/// Key of field 11 (`events`) of `WatchResponse`, length-delimited.
const EVENTS_FIELD: u8 = 11 << 3 | 2;

/// Some events as they stand in a `WatchResponse`.
///
/// ```text
/// encoded: (0x5a, length as varint, mvccpb.Event)*        field 11, once per event
/// ends:    end of each of these entries in `encoded`
/// ```
#[derive(Debug)]
pub struct Batch {
    encoded: Bytes,
    /// Empty if there is but one event.
    ends: Vec<usize>,
}

impl Batch {
    /// All entries of field 11: append it to an encoded response as it is.
    pub fn encoded(&self) -> &Bytes {
        &self.encoded
    }

    /// Number of events.
    pub fn len(&self) -> usize {
        self.ends.len().max(1)
    }

    /// Never: a batch has events.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The entries of field 11 one by one, for fragments.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        let bounds = move |at: usize| match at {
            0 => 0,
            at => self.ends.get(at - 1).copied().unwrap_or(self.encoded.len()),
        };
        (0..self.len()).map(move |at| &self.encoded[bounds(at)..bounds(at + 1)])
    }

    fn new(events: &[&Bytes]) -> Self {
        let entry_len = |wire: &&Bytes| 1 + varint_len(wire.len() as u64) + wire.len();
        let mut encoded = BytesMut::with_capacity(events.iter().map(entry_len).sum());
        let mut ends = Vec::with_capacity(if events.len() > 1 { events.len() } else { 0 });
        for wire in events {
            encoded.put_u8(EVENTS_FIELD);
            put_varint(&mut encoded, wire.len() as u64);
            encoded.put_slice(wire);
            if events.len() > 1 {
                ends.push(encoded.len());
            }
        }
        Self { encoded: encoded.freeze(), ends }
    }
}

/// Place of an event: number of the revision in a list, number of the event in it.
pub(crate) type Place = (u32, u32);

/// Makes batches of the events of some revisions, each once.
///
/// Watchers that want the same events (of one key, of one prefix) share what the first of them
/// needed. Only the latest few are remembered: others are likely to be other watchers' others.
#[derive(Default)]
pub(crate) struct BatchMaker {
    made: Vec<(bool, Vec<Place>, Arc<Batch>)>,
    next: usize,
}

const REMEMBERED: usize = 32;

impl BatchMaker {
    /// The batch of the events at `places`, which are ascending and not empty.
    pub(crate) fn batch(
        &mut self,
        history: &dyn History,
        revisions: &[Arc<RevisionEvents>],
        places: &[Place],
        prev_kv: bool,
    ) -> Arc<Batch> {
        let known = |(prev, of, _): &&(bool, Vec<Place>, Arc<Batch>)| *prev == prev_kv && of == places;
        if let Some((_, _, batch)) = self.made.iter().find(known) {
            return batch.clone();
        }
        let event = |(revision, event): &Place| &revisions[*revision as usize].events[*event as usize];
        let wires: Vec<_> = places.iter().map(|place| wire(history, event(place), prev_kv)).collect();
        let batch = Arc::new(Batch::new(&wires));
        let made = (prev_kv, places.to_vec(), batch.clone());
        if self.made.len() < REMEMBERED {
            self.made.push(made);
        } else {
            self.made[self.next] = made;
            self.next = (self.next + 1) % REMEMBERED;
        }
        batch
    }
}

/// The batch of a single event, without the detour over the event's own wire form.
pub(crate) fn single(history: &dyn History, event: &Event, prev_kv: bool) -> Arc<Batch> {
    let previous = match prev_kv && !event.created {
        true => history.record_at(&event.key, event.revision.main - 1),
        false => None,
    };
    let field_len = |bytes: &Bytes| 1 + varint_len(bytes.len() as u64) + bytes.len();
    let kind_len = if event.kind == EventKind::Delete { 2 } else { 0 };
    let len = kind_len + field_len(&event.record) + previous.as_ref().map_or(0, field_len);
    let mut encoded = Vec::with_capacity(1 + varint_len(len as u64) + len);
    encoded.put_u8(EVENTS_FIELD);
    put_varint(&mut encoded, len as u64);
    if event.kind == EventKind::Delete {
        encoded.put_slice(&[0x08, 1]);
    }
    put_bytes_field(&mut encoded, 2, &event.record);
    if let Some(previous) = previous {
        put_bytes_field(&mut encoded, 3, &previous);
    }
    Arc::new(Batch { encoded: encoded.into(), ends: Vec::new() })
}

fn wire<'a>(history: &dyn History, event: &'a Event, prev_kv: bool) -> &'a Bytes {
    match prev_kv {
        true => event.wire_with_previous(|| history.record_at(&event.key, event.revision.main - 1)),
        false => event.wire(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::history::Echo;
    use types::Revision;

    #[test]
    fn the_short_way_leads_to_the_same_bytes() {
        let long = Bytes::from(vec![7; 300]);
        for event in [
            Event::put(Revision::new(9, 0), "k".into(), long.clone(), false),
            Event::put(Revision::new(9, 0), "k".into(), long, true),
            Event::delete(Revision::new(9, 0), "k".into()),
        ] {
            let events = [Arc::new(RevisionEvents { main: 9, events: vec![event] })];
            for prev_kv in [false, true] {
                let short = single(&Echo, &events[0].events[0], prev_kv);
                let way = BatchMaker::default().batch(&Echo, &events, &[(0, 0)], prev_kv);
                assert_eq!(short.encoded(), way.encoded());
                assert_eq!((short.len(), short.entries().len()), (1, 1));
            }
        }
    }
}

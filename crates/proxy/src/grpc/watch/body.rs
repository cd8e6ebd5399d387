//! Watch responses, encoded once for everybody who gets the same.
//!
//! ```text
//! gRPC prefix | field 1: header | field 2: watch id | the rest: flags, reason, events
//!               shared            per watch           shared
//! ```

use std::sync::Arc;

use api::grpc::write_prefix;
use bytes::{Bytes, BytesMut};
use prost::encoding;
use proto::etcdserverpb as pb;
use proto::mvccpb::Event;
use proto::mvccpb::event::EventType;

const HEADER_FIELD: u32 = 1;
const ID_FIELD: u32 = 2;
const EVENTS_FIELD: u32 = 11;

/// A response without the id of its watch.
#[derive(Debug, PartialEq)]
pub(crate) struct Body {
    head: Bytes,
    rest: Bytes,
}

impl Body {
    /// A response; its own watch id does not count.
    pub(crate) fn new(response: &pb::WatchResponse) -> Arc<Self> {
        Self::with_events(response, response.events.iter().cloned())
    }

    /// A response with these events in place of its own.
    fn with_events(response: &pb::WatchResponse, events: impl Iterator<Item = Event>) -> Arc<Self> {
        let (mut head, mut rest) = (BytesMut::new(), BytesMut::new());
        if let Some(header) = &response.header {
            encoding::message::encode(HEADER_FIELD, header, &mut head);
        }
        let flags = pb::WatchResponse {
            created: response.created,
            canceled: response.canceled,
            compact_revision: response.compact_revision,
            cancel_reason: response.cancel_reason.clone(),
            ..Default::default()
        };
        prost::Message::encode_raw(&flags, &mut rest);
        for event in events {
            encoding::message::encode(EVENTS_FIELD, &event, &mut rest);
        }
        Arc::new(Self { head: head.freeze(), rest: rest.freeze() })
    }

    /// Size of the part that is shared.
    pub(crate) fn len(&self) -> usize {
        self.head.len() + self.rest.len()
    }

    /// Appends the response of one watch, with the prefix of gRPC.
    pub(crate) fn write(&self, watch_id: i64, out: &mut BytesMut) {
        let id_len = if watch_id == 0 { 0 } else { encoding::int64::encoded_len(ID_FIELD, &watch_id) };
        write_prefix(out, self.len() + id_len);
        out.extend_from_slice(&self.head);
        if watch_id != 0 {
            encoding::int64::encode(ID_FIELD, &watch_id, out);
        }
        out.extend_from_slice(&self.rest);
    }
}

/// What a watch wants to see of the events of its range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) previous: bool,
    pub(crate) no_put: bool,
    pub(crate) no_delete: bool,
}

impl View {
    pub(crate) fn of(request: &pb::WatchCreateRequest) -> Self {
        use pb::watch_create_request::FilterType;
        let has = |filter: FilterType| request.filters.contains(&(filter as i32));
        Self {
            previous: request.prev_kv,
            no_put: has(FilterType::Noput),
            no_delete: has(FilterType::Nodelete),
        }
    }

    fn shows(self, event: &Event) -> bool {
        match event.r#type() {
            EventType::Put => !self.no_put,
            EventType::Delete => !self.no_delete,
        }
    }
}

/// What tells bodies of one response apart: the view, and the first event.
type Variant = (View, usize);

/// The bodies that one response with events has, made when the first watch wants them.
pub(crate) struct Bodies<'a> {
    response: &'a pb::WatchResponse,
    made: Vec<(Variant, Option<Arc<Body>>)>,
}

impl<'a> Bodies<'a> {
    pub(crate) fn new(response: &'a pb::WatchResponse) -> Self {
        Self { response, made: Vec::new() }
    }

    /// The body for a watch that has seen everything before `next_revision`; `None` if it has nothing
    /// for it.
    pub(crate) fn get(&mut self, view: View, next_revision: i64) -> Option<Arc<Body>> {
        let events = &self.response.events;
        let first = events.partition_point(|event| revision_of(event) < next_revision);
        let variant = (view, first);
        if let Some((_, body)) = self.made.iter().find(|(known, _)| *known == variant) {
            return body.clone();
        }
        let shown = || events[first..].iter().filter(|event| view.shows(event));
        let body = shown().next().is_some().then(|| {
            let events = shown().map(|event| match view.previous {
                true => event.clone(),
                false => Event { prev_kv: None, ..event.clone() },
            });
            Body::with_events(self.response, events)
        });
        self.made.push((variant, body.clone()));
        body
    }
}

pub(crate) fn revision_of(event: &Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;
    use proto::mvccpb::KeyValue;

    fn event(kind: EventType, mod_revision: i64) -> Event {
        let kv = |value: &'static str| KeyValue { mod_revision, value: value.into(), ..Default::default() };
        Event { r#type: kind.into(), kv: Some(kv("new")), prev_kv: Some(kv("old")) }
    }

    fn response(events: Vec<Event>) -> pb::WatchResponse {
        let header = pb::ResponseHeader { cluster_id: 7, revision: 9, ..Default::default() };
        pb::WatchResponse { header: Some(header), events, ..Default::default() }
    }

    fn read(body: &Body, watch_id: i64) -> pb::WatchResponse {
        let mut out = BytesMut::new();
        body.write(watch_id, &mut out);
        let len = u32::from_be_bytes(out[1..5].try_into().unwrap());
        assert_eq!((out[0], len as usize), (0, out.len() - 5));
        pb::WatchResponse::decode(&out[5..]).unwrap()
    }

    #[test]
    fn the_same_body_is_every_watchs_response() {
        let full = pb::WatchResponse {
            canceled: true,
            compact_revision: 3,
            cancel_reason: "why".to_owned(),
            ..response(vec![event(EventType::Put, 8)])
        };
        let body = Body::new(&full);
        for watch_id in [0, 1, -1, i64::MAX] {
            assert_eq!(read(&body, watch_id), pb::WatchResponse { watch_id, ..full.clone() });
        }
    }

    #[test]
    fn views_differ_and_equal_ones_share() {
        let response =
            response(vec![event(EventType::Put, 5), event(EventType::Delete, 5), event(EventType::Put, 8)]);
        let mut bodies = Bodies::new(&response);
        let seen = |bodies: &mut Bodies<'_>, view, next| {
            let Some(body) = bodies.get(view, next) else { return Vec::new() };
            let events = read(&body, 1).events;
            events.iter().map(|event| (event.r#type, revision_of(event), event.prev_kv.is_some())).collect()
        };
        let (put, delete) = (EventType::Put as i32, EventType::Delete as i32);
        let plain = View::default();
        assert_eq!(seen(&mut bodies, plain, 1), [(put, 5, false), (delete, 5, false), (put, 8, false)]);
        assert_eq!(seen(&mut bodies, View { previous: true, ..plain }, 6), [(put, 8, true)]);
        assert_eq!(seen(&mut bodies, View { no_put: true, ..plain }, 0), [(delete, 5, false)]);
        assert_eq!(seen(&mut bodies, View { no_put: true, ..plain }, 6), []);
        assert_eq!(seen(&mut bodies, View { no_put: true, no_delete: true, ..plain }, 0), []);
        assert_eq!(seen(&mut bodies, plain, 9), []);
        let (one, other) = (bodies.get(plain, 1).unwrap(), bodies.get(plain, 3).unwrap());
        assert!(Arc::ptr_eq(&one, &other));
    }
}

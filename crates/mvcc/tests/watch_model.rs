//! Watch against the plain history: whatever happens, each watcher gets what it asked for, in
//! order, once, whole revisions, with nothing missing, and progress never lies.

mod watch_support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mvcc::watch::*;
use mvcc::{EventKind, RevisionEvents};
use proptest::prelude::*;
use prost::Message;
use types::KeyRange;
use watch_support::{Past, decode};

#[derive(Clone, Debug)]
enum Action {
    Write(Vec<(u8, bool)>),
    Publish(usize),
    Compact(u8),
    Create { stream: usize, range: u8, start: u8, filters: u8, prev_kv: bool, progress: bool },
    Cancel { stream: usize, which: usize },
    Step,
    Take(usize),
    Reconnect(usize),
    AskProgress(usize),
    Pass,
}

fn action() -> impl Strategy<Value = Action> {
    let stream = 0usize..3;
    prop_oneof![
        6 => prop::collection::vec((0u8..4, any::<bool>()), 1..4).prop_map(Action::Write),
        4 => (1usize..5).prop_map(Action::Publish),
        1 => any::<u8>().prop_map(Action::Compact),
        3 => (stream.clone(), 0u8..6, any::<u8>(), 0u8..6, any::<bool>(), any::<bool>()).prop_map(
            |(stream, range, start, filters, prev_kv, progress)| Action::Create { stream, range, start, filters, prev_kv, progress }
        ),
        1 => (stream.clone(), 0usize..4).prop_map(|(stream, which)| Action::Cancel { stream, which }),
        6 => Just(Action::Step),
        4 => stream.clone().prop_map(Action::Take),
        1 => stream.clone().prop_map(Action::Reconnect),
        2 => stream.prop_map(Action::AskProgress),
        1 => Just(Action::Pass),
    ]
}

const KEYS: [&str; 4] = ["a", "b", "bb", "c"];

fn range(number: u8) -> KeyRange {
    match number {
        0..4 => KeyRange::Single(KEYS[number as usize].into()),
        4 => KeyRange::Span("b".into(), "c".into()),
        _ => KeyRange::From("b".into()),
    }
}

/// What the test knows of a watcher.
struct Expectation {
    request: WatchRequest,
    created_revision: i64,
    /// First revision that may still come.
    next: i64,
    gone: bool,
    /// Cancelled, though the answer may still be queued.
    cancelled: bool,
}

struct Client {
    stream: Stream,
    watchers: BTreeMap<WatchId, Expectation>,
}

struct World {
    past: Arc<Past>,
    hub: Hub,
    worker: HubWorker,
    now: Duration,
    clients: Vec<Client>,
    unpublished: Vec<Arc<RevisionEvents>>,
    compacted: i64,
    values: u32,
}

impl World {
    fn new() -> Self {
        let past = Past::new();
        let options = Options {
            queue_responses: 1,
            queue_bytes: 300,
            inbox_revisions: 3,
            progress_interval: Duration::from_secs(1),
            ..Options::default()
        };
        let (hub, worker) = Hub::new(past.clone(), options);
        let clients =
            (0..3).map(|_| Client { stream: hub.stream(|| {}), watchers: BTreeMap::new() }).collect();
        let now = Duration::ZERO;
        Self { past, hub, worker, now, clients, unpublished: Vec::new(), compacted: -1, values: 0 }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Write(changes) => {
                let mut named: BTreeMap<&str, Option<String>> = BTreeMap::new();
                for (key, put) in changes {
                    self.values += 1;
                    let key = KEYS[key as usize];
                    let exists = self.past.true_record_at(key.as_bytes(), i64::MAX).is_some();
                    if put || exists {
                        named.insert(key, put.then(|| format!("value {}", self.values)));
                    }
                }
                let changes: Vec<_> = named.iter().map(|(key, value)| (*key, value.as_deref())).collect();
                if !changes.is_empty() {
                    self.unpublished.push(self.past.write(&changes));
                }
            }
            Action::Publish(count) => {
                let count = count.min(self.unpublished.len());
                self.hub.publish(self.unpublished.drain(..count));
            }
            Action::Compact(place) => {
                let current = self.past.current_revision();
                let revision = current - i64::from(place) % 8;
                if revision > self.compacted && revision > 0 {
                    self.compacted = revision;
                    self.past.compact(revision);
                }
            }
            Action::Create { stream, range: number, start, filters, prev_kv, progress } => {
                let current = self.past.current_revision();
                let start_revision = match start % 3 {
                    0 => 0,
                    _ => (current + 3 - i64::from(start) % 10).max(0),
                };
                let filters = Filters { no_put: filters == 0, no_delete: filters == 1 };
                let request = WatchRequest {
                    start_revision,
                    filters,
                    prev_kv,
                    progress_notify: progress,
                    ..WatchRequest::new(range(number))
                };
                self.create(stream, request);
            }
            Action::Cancel { stream, which } => {
                let client = &mut self.clients[stream];
                let Some((id, watcher)) = client.watchers.iter_mut().nth(which) else { return };
                assert_eq!(client.stream.cancel(*id), !watcher.cancelled);
                watcher.cancelled = true;
            }
            Action::Step => drop(self.worker.step(self.now)),
            Action::Take(stream) => self.take(stream),
            Action::Reconnect(stream) => {
                // As clients do: a new stream, going on behind the last revision seen.
                let old = std::mem::replace(&mut self.clients[stream].stream, self.hub.stream(|| {}));
                drop(old);
                for (_, watcher) in std::mem::take(&mut self.clients[stream].watchers) {
                    if watcher.cancelled {
                        continue;
                    }
                    let start_revision =
                        if watcher.next > 0 { watcher.next } else { watcher.created_revision + 1 };
                    self.create(stream, WatchRequest { start_revision, ..watcher.request });
                }
            }
            Action::AskProgress(stream) => self.clients[stream].stream.request_progress(),
            Action::Pass => self.now += Duration::from_millis(700),
        }
    }

    fn create(&mut self, stream: usize, request: WatchRequest) {
        let current = self.past.current_revision();
        let client = &mut self.clients[stream];
        let next = if request.start_revision > 0 { request.start_revision } else { current + 1 };
        let request = WatchRequest { id: None, ..request };
        let id = client.stream.create(request.clone()).unwrap();
        // It counts from its Created on; until then `created_revision` is 0.
        let created_revision = 0;
        let expectation = Expectation { request, created_revision, next, gone: false, cancelled: false };
        assert!(client.watchers.insert(id, expectation).is_none(), "id {id} given twice");
    }

    fn take(&mut self, stream: usize) {
        let all = self.past.all();
        let client = &mut self.clients[stream];
        for response in client.stream.take() {
            match response {
                Outgoing::Created { id, revision } => {
                    let watcher = client.watchers.get_mut(&id).unwrap();
                    assert_eq!(watcher.created_revision, 0, "created twice");
                    watcher.created_revision = revision;
                    assert!(watcher.request.start_revision > 0 || watcher.next == revision + 1);
                }
                Outgoing::Cancelled { id, .. } => drop(client.watchers.remove(&id).unwrap()),
                Outgoing::Compacted { id, compact_revision } => {
                    let watcher = client.watchers.get_mut(&id).unwrap();
                    assert!(!watcher.gone && watcher.created_revision > 0);
                    assert!(compact_revision <= self.compacted);
                    assert!(watcher.next < compact_revision, "nothing that it needs is gone");
                    watcher.gone = true;
                }
                Outgoing::Progress { id, revision } => {
                    let spoken_for = |other: &WatchId| id == ALL_WATCHERS || id == *other;
                    for (_, watcher) in client.watchers.iter_mut().filter(|(other, _)| spoken_for(other)) {
                        // Created may be behind this response, and Cancelled too.
                        if watcher.created_revision == 0 || watcher.cancelled {
                            continue;
                        }
                        assert!(!watcher.gone);
                        assert!(revision >= watcher.request.start_revision, "it waits for the future");
                        assert!(revision >= watcher.created_revision || watcher.request.start_revision > 0);
                        let missing = expected(&all, watcher, revision);
                        assert!(missing.is_empty(), "progress at {revision}, but {missing:?} did not come");
                        watcher.next = watcher.next.max(revision + 1);
                    }
                    assert!(id == ALL_WATCHERS || client.watchers[&id].request.progress_notify);
                }
                Outgoing::Events { id, revision, batch, fragment } => {
                    let watcher = client.watchers.get_mut(&id).unwrap();
                    assert!(!watcher.gone && watcher.created_revision > 0 && !fragment);
                    let events = decode(&batch);
                    let last = events.last().unwrap().kv.as_ref().unwrap().mod_revision;
                    assert!(last <= revision);
                    let wanted = expected(&all, watcher, last);
                    let got: Vec<_> = events
                        .iter()
                        .map(|event| {
                            let kv = event.kv.as_ref().unwrap();
                            (kv.mod_revision, kv.key.clone(), event.r#type == 0)
                        })
                        .collect();
                    assert_eq!(got, wanted, "in order, once, whole revisions");
                    for event in &events {
                        let kv = event.kv.as_ref().unwrap();
                        if event.r#type == 0 {
                            let record = self.past.true_record_at(&kv.key, kv.mod_revision).unwrap();
                            assert_eq!(kv.encode_to_vec(), record);
                        }
                        let truth = self.past.true_record_at(&kv.key, kv.mod_revision - 1);
                        let previous = event.prev_kv.as_ref().map(|kv| Bytes::from(kv.encode_to_vec()));
                        match previous {
                            Some(_) => assert!(watcher.request.prev_kv && previous == truth),
                            None => {
                                let gone = kv.mod_revision - 1 < self.compacted;
                                assert!(!watcher.request.prev_kv || truth.is_none() || gone);
                            }
                        }
                    }
                    watcher.next = last + 1;
                }
            }
        }
    }

    /// Lets everything come through and looks whether all of it did.
    fn finish(&mut self) {
        self.hub.publish(self.unpublished.drain(..));
        for _ in 0..1000 {
            let busy = self.worker.step(self.now).busy;
            let waiting = self.clients.iter().any(|client| client.stream.waiting() > 0);
            (0..self.clients.len()).for_each(|stream| self.take(stream));
            if !busy && !waiting && !self.worker.step(self.now).busy {
                let all = self.past.all();
                for watcher in self.clients.iter().flat_map(|client| client.watchers.values()) {
                    assert!(watcher.created_revision > 0);
                    let missing = expected(&all, watcher, i64::MAX);
                    assert!(watcher.gone || missing.is_empty(), "{missing:?} never came");
                }
                let watchers = self.clients.iter().map(|client| client.watchers.len()).sum();
                assert_eq!(self.hub.stats().watchers, watchers);
                assert_eq!(self.hub.stats().slow_watchers, 0);
                return;
            }
        }
        panic!("the hub does not come to rest");
    }
}

/// What the watcher still needs, up to a revision.
fn expected(all: &[Arc<RevisionEvents>], watcher: &Expectation, to: i64) -> Vec<(i64, Bytes, bool)> {
    let request = &watcher.request;
    let revisions = all.iter().filter(|events| (watcher.next..=to).contains(&events.main));
    revisions
        .flat_map(|revision| &revision.events)
        .filter(|event| request.range.contains(&event.key))
        .filter(|event| match event.kind {
            EventKind::Put => !request.filters.no_put,
            EventKind::Delete => !request.filters.no_delete,
        })
        .map(|event| (event.revision.main, event.key.clone(), event.kind == EventKind::Put))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]
    #[test]
    fn every_watcher_gets_its_history(actions in prop::collection::vec(action(), 1..120)) {
        let mut world = World::new();
        for action in actions {
            world.act(action);
        }
        world.finish();
    }
}

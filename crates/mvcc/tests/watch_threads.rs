//! The hub over the real store, with everybody on a thread of his own: a writer that also
//! compacts, the worker, and clients of different speed that reconnect now and then.
#![allow(missing_docs)]

mod common;
mod watch_support;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use backend::WriteSet;
use bytes::Bytes;
use env::sim::SimDisk;
use env::{Random, SeededRandom};
use mvcc::watch::*;
use mvcc::{EventKind, RevisionEvents, Store};
use types::{KeyRange, LeaseId};

use common::open;
use watch_support::decode;

const REVISIONS: i64 = 6000;
const KEYS: u64 = 50;
/// Far beyond any stall of the machine: a client that waits so long has lost something.
const PATIENCE: Duration = Duration::from_secs(60);

fn key(number: u64) -> String {
    format!("key/{number:02}")
}

/// Writes, publishes, compacts; returns everything that happened.
fn write(store: &Store, hub: &Hub) -> Vec<Arc<RevisionEvents>> {
    let mut random = SeededRandom::new(1);
    let mut history = Vec::new();
    while store.current_revision() < REVISIONS {
        let mut txn = store.write();
        let mut used = std::collections::BTreeSet::new();
        for _ in 0..random.below(3) + 1 {
            let key = key(random.below(KEYS));
            if !used.insert(key.clone()) {
                continue;
            }
            if random.below(4) == 0 {
                txn.delete_range(&KeyRange::Single(key.into())).unwrap();
            } else {
                let value = vec![b'v'; random.below(300) as usize];
                txn.put(key.into(), value.into(), LeaseId(0)).unwrap();
            }
        }
        let events = txn.commit(WriteSet::default()).events;
        history.extend(events.iter().cloned());
        hub.publish(events);
        let current = store.current_revision();
        if random.below(100) == 0 {
            store.backend().commit().unwrap();
        }
        if random.below(500) == 0 && current > 1500 {
            let mut job = store.compact(current - 1000).unwrap().job;
            while !store.compaction_step(&mut job).unwrap().finished {}
        }
    }
    history
}

struct Client {
    hub: Hub,
    random: SeededRandom,
    /// Takes rarely.
    slow: bool,
    range: KeyRange,
    next: i64,
    seen: Vec<(i64, Bytes, bool)>,
    /// Revisions from..to that a compaction took.
    lost: Vec<(i64, i64)>,
}

impl Client {
    fn connect(&self) -> (Stream, Receiver<()>) {
        let (sender, receiver) = channel();
        let stream = self.hub.stream(move || {
            let _ = sender.send(());
        });
        let request = WatchRequest {
            start_revision: self.next,
            prev_kv: self.next % 2 == 0,
            ..WatchRequest::new(self.range.clone())
        };
        stream.create(request).unwrap();
        (stream, receiver)
    }

    /// Watches until it knows that it has seen the last revision.
    fn run(mut self) -> Self {
        let (mut stream, mut ready) = self.connect();
        let mut last_word = Instant::now();
        while self.next <= REVISIONS {
            match ready.recv_timeout(Duration::from_millis(5)) {
                Ok(()) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => panic!("the stream is gone"),
            }
            if self.slow && self.random.below(4) > 0 {
                continue;
            }
            if self.random.below(60) == 0 {
                (stream, ready) = self.connect();
            }
            if self.random.below(20) == 0 {
                self.replace_watcher(&stream);
                continue;
            }
            let taken = stream.take();
            if !taken.is_empty() {
                last_word = Instant::now();
            }
            assert!(last_word.elapsed() < PATIENCE, "nothing came, waiting for {}", self.next);
            let mut reconnect = false;
            for response in taken {
                reconnect |= self.hear(response);
            }
            if reconnect {
                (stream, ready) = self.connect();
            }
            stream.request_progress();
        }
        self
    }

    /// Cancels the watcher and creates another one of the same id, which goes on where the old one
    /// stopped: it would notice if something of the old one still came.
    fn replace_watcher(&mut self, stream: &Stream) {
        assert!(stream.cancel(0));
        let mut before = stream.take();
        assert!(matches!(before.pop(), Some(Outgoing::Cancelled { id: 0, .. })), "it is the last word");
        for response in before {
            self.hear(response);
        }
        let request =
            WatchRequest { id: Some(0), start_revision: self.next, ..WatchRequest::new(self.range.clone()) };
        stream.create(request).unwrap();
    }

    fn hear(&mut self, response: Outgoing) -> bool {
        match response {
            Outgoing::Created { .. } => {}
            Outgoing::Progress { revision, .. } => self.next = self.next.max(revision + 1),
            Outgoing::Cancelled { .. } => panic!("nobody cancelled"),
            Outgoing::Compacted { compact_revision, .. } => {
                assert!(self.next < compact_revision);
                self.lost.push((self.next, compact_revision));
                self.next = compact_revision;
                return true;
            }
            Outgoing::Events { batch, .. } => {
                for event in decode(&batch) {
                    let kv = event.kv.unwrap();
                    assert!(kv.mod_revision >= self.next);
                    self.seen.push((kv.mod_revision, kv.key, event.r#type == 0));
                }
                self.next = self.seen.last().unwrap().0 + 1;
            }
        }
        false
    }

    fn check(&self, history: &[Arc<RevisionEvents>]) {
        let lost = |revision: i64| self.lost.iter().any(|(from, to)| (*from..*to).contains(&revision));
        let wanted: Vec<_> = history
            .iter()
            .filter(|events| !lost(events.main))
            .flat_map(|events| &events.events)
            .filter(|event| self.range.contains(&event.key))
            .map(|event| (event.revision.main, event.key.clone(), event.kind == EventKind::Put))
            .collect();
        assert_eq!(self.seen.len(), wanted.len());
        assert!(self.seen == wanted, "what was seen is not what was written");
    }
}

/// Closes the hub when it goes.
struct Ending<'a>(&'a Hub);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

#[test]
fn nothing_is_lost_between_threads() {
    let disk = SimDisk::new();
    let (store, _) = open(&disk);
    let store = Arc::new(store);
    let options = Options { queue_responses: 16, inbox_revisions: 64, ..Options::default() };
    let (hub, worker) = Hub::new(store.clone(), options);
    let start = Instant::now();
    std::thread::scope(|scope| {
        // Also when a client fails: the worker would run for ever.
        let _ending = Ending(&hub);
        scope.spawn(|| worker.run(|| start.elapsed(), |error| panic!("{error}")));
        let ranges = [
            KeyRange::Single(key(7).into()),
            KeyRange::Span(key(10).into(), key(20).into()),
            KeyRange::From(Bytes::new()),
            KeyRange::Span(key(0).into(), key(40).into()),
        ];
        let clients: Vec<_> = ranges
            .into_iter()
            .enumerate()
            .map(|(number, range)| {
                let random = SeededRandom::new(number as u64);
                let (slow, next) = (number >= 2, 2);
                let client =
                    Client { hub: hub.clone(), random, slow, range, next, seen: vec![], lost: vec![] };
                scope.spawn(|| client.run())
            })
            .collect();
        let history = write(&store, &hub);
        for client in clients {
            client.join().unwrap().check(&history);
        }
    });
}

//! Processor time of the watch hub per delivered event.
//!
//! `cargo run --release -p mvcc --example watch`

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mvcc::watch::{Filters, History, HistoryError, Hub, Options, Outgoing, WatchRequest};
use mvcc::{Event, RevisionEvents, record};
use types::{KeyRange, Revision};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A history that nobody should have to read.
struct Unread;

impl History for Unread {
    fn current_revision(&self) -> i64 {
        1
    }

    fn compacted_revision(&self) -> i64 {
        -1
    }

    fn changes(&self, _: i64, _: i64, _: usize) -> Result<Vec<Arc<RevisionEvents>>, HistoryError> {
        panic!("the bench is to stay live");
    }

    fn record_at(&self, _: &[u8], _: i64) -> Option<Bytes> {
        Some(Bytes::from_static(&[7; 100]))
    }
}

/// Processor time of this thread.
fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn key(namespace: usize, number: usize) -> Bytes {
    format!("/registry/pods/namespace-{namespace:05}/pod-{number:06}").into()
}

fn prefix(namespace: usize) -> KeyRange {
    let start = format!("/registry/pods/namespace-{namespace:05}/");
    KeyRange::Span(start.into(), format!("/registry/pods/namespace-{namespace:05}0").into())
}

fn put(main: i64, key: Bytes, value: &[u8]) -> Arc<RevisionEvents> {
    let fields = record::RecordFields {
        key: &key,
        create_revision: 2,
        mod_revision: main,
        version: 3,
        value,
        lease: 0,
    };
    let record = record::encode(&fields);
    Arc::new(RevisionEvents { main, events: vec![Event::put(Revision::new(main, 0), key, record, false)] })
}

/// Publishes 200,000 events in rounds of 100, which is 2 ms of 50,000 events/s, and takes all.
fn measure(what: &str, streams: usize, watches: &[KeyRange], keys: &[Bytes], prev_kv: bool) {
    const EVENTS: usize = 200_000;
    const ROUND: usize = 100;
    let (hub, mut worker) = Hub::new(Arc::new(Unread), Options::default());
    let streams: Vec<_> = (0..streams).map(|_| hub.stream(|| {})).collect();
    for (number, range) in watches.iter().enumerate() {
        let filters = Filters::default();
        let request = WatchRequest { prev_kv, filters, ..WatchRequest::new(range.clone()) };
        streams[number % streams.len()].create(request).expect("is created");
    }
    worker.step(Duration::ZERO);
    let mut taken = Vec::new();
    for stream in &streams {
        stream.take_into(&mut taken);
        taken.clear();
    }
    let (mut publish, mut step, mut take) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let mut delivered = 0;
    let mut main = 1;
    for round in 0..EVENTS / ROUND {
        let events: Vec<_> = (0..ROUND)
            .map(|at| {
                main += 1;
                put(main, keys[(round * ROUND + at) * 7919 % keys.len()].clone(), &[7; 100])
            })
            .collect();
        let start = cpu();
        hub.publish(events);
        let published = cpu();
        while worker.step(Duration::ZERO).busy {}
        let stepped = cpu();
        for stream in &streams {
            stream.take_into(&mut taken);
            for response in taken.drain(..) {
                if let Outgoing::Events { batch, .. } = response {
                    delivered += batch.len();
                    black_box(batch.encoded().len());
                }
            }
        }
        publish += published - start;
        step += stepped - published;
        take += cpu() - stepped;
    }
    let per = |time: Duration, count: usize| time.as_nanos() as f64 / count.max(1) as f64;
    println!(
        "{what:<58} {:>5.1} per event; publish {:>4.0} ns, worker {:>5.0} ns an event; {:>4.0} ns a delivery, take {:>3.0} ns",
        delivered as f64 / EVENTS as f64,
        per(publish, EVENTS),
        per(step, EVENTS),
        per(step, delivered),
        per(take, delivered),
    );
}

fn main() {
    let single = |number: usize| KeyRange::Single(key(number % 100, number));
    let keys: Vec<_> = (0..20_000).map(|number| key(number % 100, number)).collect();
    let own_keys: Vec<_> = (0..20_000).map(single).collect();
    measure("20,000 watchers of a key each, 200 streams", 200, &own_keys, &keys, false);
    measure("the same with prev_kv", 200, &own_keys, &keys, true);
    let prefixes: Vec<_> = (0..100).map(prefix).collect();
    measure("100 watchers of a prefix each, 100 streams", 100, &prefixes, &keys, false);
    let many: Vec<_> = (0..20_000).map(prefix).collect();
    let many_keys: Vec<_> = (0..20_000).map(|number| key(number, number)).collect();
    measure("20,000 watchers of a prefix each, 200 streams", 200, &many, &many_keys, false);
    let all: Vec<_> = (0..100).map(|_| KeyRange::From("/registry".into())).collect();
    measure("100 watchers of everything, 100 streams", 100, &all, &keys, false);
    let crowd: Vec<_> = (0..1000).map(|number| prefix(number % 10)).collect();
    measure("1,000 watchers of 10 prefixes, 100 streams", 100, &crowd, &keys, false);
}

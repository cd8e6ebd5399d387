//! Watch, told as transcripts: commands in, full trace out.

mod watch_support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mvcc::EventKind;
use mvcc::watch::*;
use types::KeyRange;
use watch_support::{Change, Past, decode};

struct World {
    past: Arc<Past>,
    hub: Hub,
    worker: HubWorker,
    now: Duration,
}

impl World {
    fn new() -> Self {
        Self::with(Options::default())
    }

    fn with(options: Options) -> Self {
        let past = Past::new();
        let (hub, worker) = Hub::new(past.clone(), options);
        Self { past, hub, worker, now: Duration::ZERO }
    }

    fn put(&self, key: &str, value: &str) {
        self.write(&[(key, Some(value))]);
    }

    fn write(&self, changes: &[Change<'_>]) {
        self.hub.publish([self.past.write(changes)]);
    }

    /// Steps until there is nothing to do.
    fn settle(&mut self) {
        while self.worker.step(self.now).busy {}
    }

    fn take(&mut self, stream: &Stream) -> Vec<String> {
        self.settle();
        stream.take().iter().map(show).collect()
    }
}

fn show(response: &Outgoing) -> String {
    match response {
        Outgoing::Created { id, revision } => format!("{id} created @{revision}"),
        Outgoing::Cancelled { id, revision } => format!("{id} cancelled @{revision}"),
        Outgoing::Progress { id, revision } => format!("{id} progress @{revision}"),
        Outgoing::Compacted { id, compact_revision } => format!("{id} compacted {compact_revision}"),
        Outgoing::Events { id, revision, batch, .. } => {
            let events: Vec<_> = decode(batch)
                .into_iter()
                .map(|event| {
                    let kv = event.kv.unwrap();
                    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                    let previous =
                        event.prev_kv.map(|kv| format!("<{}", text(&kv.value))).unwrap_or_default();
                    match event.r#type {
                        0 => format!("{}={}{previous}#{}", text(&kv.key), text(&kv.value), kv.mod_revision),
                        _ => format!("-{}{previous}#{}", text(&kv.key), kv.mod_revision),
                    }
                })
                .collect();
            format!("{id} {} @{revision}", events.join(" "))
        }
    }
}

fn key(key: &'static str) -> WatchRequest {
    WatchRequest::new(KeyRange::Single(key.into()))
}

fn span(start: &'static str, end: &'static str) -> WatchRequest {
    WatchRequest::new(KeyRange::Span(start.into(), end.into()))
}

fn from(request: WatchRequest, start_revision: i64) -> WatchRequest {
    WatchRequest { start_revision, ..request }
}

#[test]
fn live_events_come_in_order_to_those_who_asked() {
    let mut world = World::new();
    let stream = world.hub.stream(|| {});
    assert_eq!(stream.create(key("b")), Ok(0));
    assert_eq!(stream.create(span("a", "c")), Ok(1));
    assert_eq!(stream.create(WatchRequest::new(KeyRange::From("b".into()))), Ok(2));
    world.put("a", "1");
    world.write(&[("b", Some("2")), ("c", Some("3")), ("a", None)]);
    let mut taken = world.take(&stream);
    taken[3..].sort();
    assert_eq!(
        taken,
        [
            "0 created @1",
            "1 created @1",
            "2 created @1",
            "0 b=2#3 @3",
            "1 a=1#2 @2",
            "1 b=2#3 -a#3 @3",
            "2 b=2#3 c=3#3 @3",
        ]
    );
}

#[test]
fn start_revisions() {
    let mut world = World::new();
    for value in ["1", "2", "3"] {
        world.put("k", value); // revisions 2, 3, 4
    }
    let stream = world.hub.stream(|| {});
    for start in [0, 2, 4, 6] {
        stream.create(from(key("k"), start)).unwrap();
    }
    assert_eq!(stream.create(from(key("k"), -1)), Err(CreateError::NegativeStart));
    let taken = world.take(&stream);
    assert_eq!(taken[..4], ["0 created @4", "1 created @4", "2 created @4", "3 created @4"]);
    let mut caught_up = taken[4..].to_vec();
    caught_up.sort();
    assert_eq!(caught_up, ["1 k=1#2 k=2#3 k=3#4 @4", "2 k=3#4 @4"]);
    world.put("k", "4");
    let mut taken = world.take(&stream);
    taken.sort();
    assert_eq!(taken, ["0 k=4#5 @5", "1 k=4#5 @5", "2 k=4#5 @5"]);
    world.put("k", "5");
    assert_eq!(world.take(&stream).len(), 4, "now the one that waited for revision 6 too");
}

#[test]
fn ids_are_chosen_or_given() {
    let mut world = World::new();
    let stream = world.hub.stream(|| {});
    let with_id = |id| WatchRequest { id: Some(id), ..key("k") };
    assert_eq!(stream.create(with_id(1)), Ok(1));
    assert_eq!(stream.create(key("k")), Ok(0));
    assert_eq!(stream.create(key("k")), Ok(2), "1 is taken");
    assert_eq!(stream.create(with_id(-7)), Ok(-7));
    let duplicate = stream.create(with_id(2));
    assert_eq!(duplicate, Err(CreateError::DuplicateId));
    assert_eq!(duplicate.unwrap_err().to_string(), "mvcc: duplicate watch ID provided on the WatchStream");
    let empty = stream.create(span("b", "a"));
    assert_eq!(empty.unwrap_err().to_string(), "mvcc: watcher range is empty");
    assert!(stream.cancel(0));
    assert!(!stream.cancel(0));
    assert_eq!(stream.create(key("k")), Ok(3), "ids are not used again by themselves");
    assert_eq!(stream.create(with_id(0)), Ok(0));
    world.put("k", "1");
    assert_eq!(world.take(&stream).iter().filter(|line| line.contains("k=1#2")).count(), 5);
}

#[test]
fn nothing_comes_behind_a_cancellation() {
    let mut world = World::new();
    let stream = world.hub.stream(|| {});
    stream.create(key("k")).unwrap();
    world.put("k", "1");
    world.settle();
    world.put("k", "2");
    stream.cancel(0);
    // The same id anew does not inherit what was meant for the old one.
    stream.create(WatchRequest { id: Some(0), ..key("k") }).unwrap();
    world.put("k", "3");
    assert_eq!(
        world.take(&stream),
        ["0 created @1", "0 k=1#2 @2", "0 cancelled @3", "0 created @3", "0 k=3#4 @4"]
    );
}

#[test]
fn filters_and_previous_values() {
    let mut world = World::new();
    let stream = world.hub.stream(|| {});
    let filtered = |numbers: &[i32]| WatchRequest {
        filters: Filters::from_wire(numbers.iter().copied()),
        prev_kv: true,
        ..key("k")
    };
    for numbers in [&[][..], &[0], &[1, 9], &[0, 1]] {
        stream.create(filtered(numbers)).unwrap();
    }
    world.put("k", "1");
    world.put("k", "2");
    world.write(&[("k", None)]);
    let lines = world.take(&stream);
    let of = |id: &str| lines[4..].iter().filter(|line| line.starts_with(id)).cloned().collect::<Vec<_>>();
    assert_eq!(of("0"), ["0 k=1#2 @2", "0 k=2<1#3 @3", "0 -k<2#4 @4"]);
    assert_eq!(of("1"), ["1 -k<2#4 @4"]);
    assert_eq!(of("2"), ["2 k=1#2 @2", "2 k=2<1#3 @3"]);
    assert_eq!(of("3"), [] as [&str; 0]);

    // The previous value is at the revision before, so it is gone when that is compacted.
    world.put("k", "3");
    world.put("k", "4");
    world.past.compact(6);
    assert!(world.take(&stream).contains(&"0 k=4#6 @6".to_owned()));
}

#[test]
fn what_is_compacted_cannot_be_watched() {
    let mut world = World::new();
    for value in ["1", "2", "3"] {
        world.put("k", value);
    }
    world.past.compact(3);
    let stream = world.hub.stream(|| {});
    stream.create(from(key("k"), 2)).unwrap();
    stream.create(from(key("k"), 3)).unwrap();
    let mut taken = world.take(&stream);
    taken.sort();
    assert_eq!(taken, ["0 compacted 3", "0 created @4", "1 created @4", "1 k=2#3 k=3#4 @4"]);
    // The id stays in use and keeps manual progress away until it is cancelled.
    stream.request_progress();
    assert_eq!(world.take(&stream), [] as [&str; 0]);
    let again = WatchRequest { id: Some(0), ..key("k") };
    assert_eq!(stream.create(again), Err(CreateError::DuplicateId));
    assert!(stream.cancel(0));
    stream.request_progress();
    assert_eq!(world.take(&stream), ["0 cancelled @4", "-1 progress @4"]);
}

#[test]
fn manual_progress() {
    let mut world = World::new();
    let stream = world.hub.stream(|| {});
    stream.request_progress();
    assert_eq!(world.take(&stream), [] as [&str; 0], "nobody watches");
    stream.create(key("k")).unwrap();
    stream.request_progress();
    assert_eq!(world.take(&stream), ["0 created @1", "-1 progress @1"]);

    // Asked between commit and publication: the answer waits and comes behind the event.
    let events = world.past.put("k", "1");
    stream.request_progress();
    assert_eq!(world.take(&stream), [] as [&str; 0]);
    world.hub.publish([events]);
    assert_eq!(world.take(&stream), ["0 k=1#2 @2", "-1 progress @2"]);

    // A watcher that waits for the future silences it.
    stream.create(from(key("k"), 9)).unwrap();
    stream.request_progress();
    assert_eq!(world.take(&stream), ["1 created @2"]);
}

#[test]
fn progress_notifications() {
    let interval = Duration::from_secs(600);
    let mut world = World::new();
    let stream = world.hub.stream(|| {});
    stream.create(WatchRequest { progress_notify: true, ..key("k") }).unwrap();
    stream.create(key("k")).unwrap();
    stream.create(from(WatchRequest { progress_notify: true, ..key("k") }, 9)).unwrap();
    assert_eq!(world.take(&stream).len(), 3);
    let next = world.worker.step(world.now).next.unwrap();
    assert!((interval..interval * 11 / 10).contains(&next), "{next:?}");
    world.now = next - Duration::from_nanos(1);
    assert_eq!(world.take(&stream), [] as [&str; 0]);
    world.now = next;
    assert_eq!(world.take(&stream), ["0 progress @1"]);
    world.put("k", "1");
    world.put("x", "1");
    world.now = next * 2;
    let mut lines = world.take(&stream);
    lines.sort();
    assert_eq!(lines, ["0 k=1#2 @2", "1 k=1#2 @2"], "an event is sign of life enough");
    world.now = next * 3;
    assert_eq!(world.take(&stream), ["0 progress @3"]);
}

#[test]
fn a_slow_stream_costs_nobody_else_and_loses_nothing() {
    let mut world = World::with(Options { queue_responses: 3, ..Options::default() });
    let (slow, quick) = (world.hub.stream(|| {}), world.hub.stream(|| {}));
    slow.create(key("k")).unwrap();
    quick.create(key("k")).unwrap();
    world.take(&quick);
    let mut seen = Vec::new();
    for revision in 2..=40 {
        world.put("k", "v");
        assert_eq!(world.take(&quick), [format!("0 k=v#{revision} @{revision}")]);
    }
    assert_eq!(world.hub.stats().slow_watchers, 1);
    loop {
        let lines = world.take(&slow);
        if lines.is_empty() {
            break;
        }
        seen.extend(lines);
    }
    let events: Vec<_> =
        seen.join(" ").split(' ').filter(|word| word.starts_with("k=v")).map(str::to_owned).collect();
    assert_eq!(events, (2..=40).map(|revision| format!("k=v#{revision}")).collect::<Vec<_>>());
    assert!(seen.len() < 10, "what was missed comes in few responses: {seen:?}");
    assert_eq!(world.hub.stats().slow_watchers, 0);
}

#[test]
fn a_full_inbox_is_read_from_history() {
    let mut world = World::with(Options { inbox_revisions: 4, ..Options::default() });
    let stream = world.hub.stream(|| {});
    stream.create(key("k")).unwrap();
    world.take(&stream);
    for _ in 0..10 {
        world.put("k", "v");
    }
    let lines = world.take(&stream);
    assert!(lines[0].starts_with("0 k=v#2 k=v#3"), "{lines:?}");
    assert!(lines.last().unwrap().contains("k=v#11"), "{lines:?}");
}

#[test]
fn long_histories_come_in_windows_of_whole_revisions() {
    let mut world = World::new();
    for _ in 0..1500 {
        world.write(&[("a", Some("1")), ("k", Some("2"))]);
    }
    let stream = world.hub.stream(|| {});
    stream.create(from(span("a", "z"), 1)).unwrap();
    world.settle();
    let mut next = (2, "a");
    for response in stream.take().into_iter().skip(1) {
        let Outgoing::Events { batch, .. } = response else { panic!("{response:?}") };
        let events = decode(&batch);
        assert!(events.len() <= 2000 && events.len().is_multiple_of(2));
        for kv in events.into_iter().filter_map(|event| event.kv) {
            assert_eq!((kv.mod_revision, &kv.key[..]), (next.0, next.1.as_bytes()));
            next = if next.1 == "a" { (next.0, "k") } else { (next.0 + 1, "a") };
        }
    }
    assert_eq!(next, (1502, "a"));
}

#[test]
fn a_replaced_store_is_caught_up_with_or_given_up() {
    let mut world = World::new();
    let stream = world.hub.stream(|| {});
    stream.create(key("k")).unwrap();
    stream.create(from(key("k"), 150)).unwrap();
    world.take(&stream);
    world.past.replace(100);
    world.hub.resync();
    world.put("k", "v");
    assert_eq!(world.take(&stream), ["0 compacted 100"]);
    while world.past.current_revision() < 150 {
        world.put("k", "v");
    }
    assert_eq!(world.take(&stream), ["1 k=v#150 @150"]);
}

#[test]
fn unreadable_history_is_reported_and_tried_again() {
    let mut world = World::new();
    world.put("k", "1");
    let stream = world.hub.stream(|| {});
    stream.create(from(key("k"), 2)).unwrap();
    world.past.set_unreadable(true);
    let step = world.worker.step(world.now);
    assert!(step.error.unwrap().to_string().contains("cannot be read") && !step.busy);
    world.past.set_unreadable(false);
    assert!(world.worker.step(world.now).error.is_none());
    world.now = step.next.unwrap();
    assert_eq!(world.take(&stream), ["0 created @2", "0 k=1#2 @2"]);
}

#[test]
fn services_are_woken_once_per_take() {
    let mut world = World::new();
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = calls.clone();
    let stream = world.hub.stream(move || {
        counter.fetch_add(1, Ordering::Relaxed);
    });
    stream.create(key("k")).unwrap();
    world.put("k", "1");
    world.put("k", "2");
    world.settle();
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    assert_eq!(stream.waiting(), 3);
    stream.take();
    world.put("k", "3");
    world.settle();
    assert_eq!(calls.load(Ordering::Relaxed), 2);
}

#[test]
fn equal_watchers_share_bytes_and_a_dropped_stream_is_forgotten() {
    let mut world = World::new();
    let (one, two) = (world.hub.stream(|| {}), world.hub.stream(|| {}));
    for stream in [&one, &two] {
        stream.create(span("a", "z")).unwrap();
        stream.create(from(span("a", "z"), 1)).unwrap();
    }
    world.write(&[("k", Some("1")), ("zz", Some("2")), ("l", None)]);
    world.settle();
    let mut batches = Vec::new();
    for response in one.take().into_iter().chain(two.take()) {
        if let Outgoing::Events { batch, .. } = response {
            batches.push(batch);
        }
    }
    assert_eq!(batches.len(), 4);
    let distinct = batches.iter().filter(|batch| !Arc::ptr_eq(batch, &batches[0])).count();
    assert!(distinct <= 2, "live ones share, caught-up ones share");
    assert_eq!(
        world.hub.stats(),
        HubStats { watchers: 4, slow_watchers: 0, streams: 2, delivered_events: 8 }
    );
    drop(one);
    world.settle();
    assert_eq!(world.hub.stats().watchers, 2);
    drop(two);
    world.settle();
    assert_eq!(world.hub.stats(), HubStats { delivered_events: 8, ..HubStats::default() });
}

#[test]
fn kinds_pass_filters() {
    // Numbers as on the wire: 0 drops puts, 1 drops deletions.
    assert_eq!(Filters::from_wire([0]), Filters { no_put: true, no_delete: false });
    assert_eq!(Filters::from_wire([1, 7]), Filters { no_put: false, no_delete: true });
    assert_ne!(EventKind::Put, EventKind::Delete);
}

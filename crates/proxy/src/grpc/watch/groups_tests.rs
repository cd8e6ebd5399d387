use super::*;

use std::collections::HashSet;

use bytes::BytesMut;
use prost::Message;
use proto::mvccpb::{Event, KeyValue};

/// The machine, and the callers' side of it.
#[derive(Default)]
struct Bench {
    groups: Groups,
    outlets: HashMap<u64, Arc<Outlet>>,
    open: HashSet<BroadcastId>,
    opened: Vec<(BroadcastId, i64, Token)>,
    /// Of the watches added from now on.
    needs_leader: bool,
}

fn range(key: &'static str) -> Range {
    Range { key: key.into(), range_end: Bytes::new(), needs_leader: false }
}

impl Bench {
    /// Adds a watch with its own stream; `now` is the revision of the cluster.
    fn add(&mut self, stream: u64, start_revision: i64, now: i64) {
        self.add_with(stream, start_revision, now, false, None);
    }

    fn add_with(&mut self, stream: u64, start_revision: i64, now: i64, progress: bool, token: Option<&str>) {
        let outlet = self.outlets.entry(stream).or_default().clone();
        let header = pb::ResponseHeader { revision: now, ..Default::default() };
        self.groups.add(Watch {
            stream: StreamId(stream),
            id: 0,
            range: Range { needs_leader: self.needs_leader, ..range("k") },
            start_revision,
            header,
            progress,
            view: View::default(),
            token: token.map(Into::into),
            outlet,
        });
        self.settle();
        let created = self.received(stream);
        assert!(created.len() == 1 && created[0].created, "{created:?}");
    }

    fn settle(&mut self) {
        for effect in self.groups.take_effects() {
            match effect {
                Effect::Open { id, start_revision, token, .. } => {
                    assert!(self.open.insert(id));
                    self.opened.push((id, start_revision, token));
                }
                Effect::Close { id } => assert!(self.open.remove(&id)),
            }
        }
    }

    fn respond(&mut self, broadcast: usize, response: pb::WatchResponse) {
        self.groups.response(self.opened[broadcast].0, &response);
        self.settle();
    }

    /// Events of these revisions, when the cluster is at `now`.
    fn events(&mut self, broadcast: usize, revisions: &[i64], now: i64) {
        let event = |mod_revision: &i64| Event {
            kv: Some(KeyValue { mod_revision: *mod_revision, ..Default::default() }),
            ..Default::default()
        };
        let events = revisions.iter().map(event).collect();
        self.respond(broadcast, pb::WatchResponse { events, ..at(now) });
    }

    fn received(&mut self, stream: u64) -> Vec<pb::WatchResponse> {
        let outgoing = self.outlets[&stream].take();
        let read = |(id, body): (i64, Arc<Body>)| {
            let mut out = BytesMut::new();
            body.write(id, &mut out);
            pb::WatchResponse::decode(&out[5..]).unwrap()
        };
        outgoing.into_iter().map(read).collect()
    }

    /// Revisions of the events that a stream received.
    fn seen(&mut self, stream: u64) -> Vec<i64> {
        self.received(stream).iter().flat_map(|response| response.events.iter().map(revision_of)).collect()
    }
}

fn at(revision: i64) -> pb::WatchResponse {
    let header = pb::ResponseHeader { revision, ..Default::default() };
    pb::WatchResponse { header: Some(header), ..Default::default() }
}

#[test]
fn a_thousand_equal_watches_are_one() {
    let mut bench = Bench::default();
    (0..1000).for_each(|stream| bench.add(stream, 0, 10));
    assert_eq!(bench.opened.len(), 1);
    assert_eq!(bench.opened[0].1, 11);
    assert_eq!(bench.groups.coalesced, 999);
    bench.events(0, &[11, 12], 12);
    (0..1000).for_each(|stream| assert_eq!(bench.seen(stream), [11, 12]));
    assert_eq!(bench.groups.spared, 999);
    (0..1000).for_each(|stream| bench.groups.stream_gone(StreamId(stream)));
    bench.settle();
    assert!(bench.open.is_empty() && bench.groups.groups.is_empty() && bench.groups.ranges.is_empty());
    assert_eq!(bench.groups.coalesced, 0);
}

#[test]
fn who_needs_history_catches_up_alone_and_then_joins() {
    let mut bench = Bench::default();
    bench.add(1, 0, 100);
    bench.events(0, &[101], 101);
    bench.add(2, 5, 101);
    assert_eq!((bench.opened.len(), bench.opened[1].1), (2, 5));
    // A batch of history, while the header says where the cluster is: not everything has come.
    bench.events(1, &[5, 6], 101);
    assert_eq!(bench.open.len(), 2);
    bench.events(0, &[102], 102);
    bench.events(1, &[7, 101], 102);
    assert_eq!(bench.open.len(), 2);
    bench.events(1, &[102], 102);
    assert_eq!(bench.open.len(), 1);
    bench.events(0, &[103], 103);
    assert_eq!(bench.seen(1), [101, 102, 103]);
    assert_eq!(bench.seen(2), [5, 6, 7, 101, 102, 103]);
    assert_eq!(bench.groups.coalesced, 1);
}

#[test]
fn history_without_events_needs_no_watch_of_its_own() {
    let mut bench = Bench::default();
    bench.add(1, 0, 100);
    bench.events(0, &[101], 101);
    // Other keys have moved the cluster on.
    bench.add(2, 150, 200);
    bench.add(3, 102, 200);
    bench.add(4, 101, 200);
    assert_eq!(bench.opened.len(), 2);
    assert_eq!(bench.opened[1].1, 101);
    bench.events(1, &[101], 200);
    assert_eq!(bench.open.len(), 1);
    bench.events(0, &[201], 201);
    let seen = [1, 2, 3, 4].map(|stream| bench.seen(stream));
    assert_eq!(seen, [vec![101, 201], vec![201], vec![201], vec![101, 201]]);
}

#[test]
fn the_one_that_catches_up_moves_not_the_newest() {
    let mut bench = Bench::default();
    bench.add(1, 5, 100);
    bench.events(0, &[5, 6], 100);
    bench.add(2, 3, 100);
    bench.events(0, &[100], 100);
    bench.add(3, 101, 100);
    // It joined the one that has caught up meanwhile.
    assert_eq!(bench.opened.len(), 2);
    bench.events(0, &[101], 101);
    assert_eq!(bench.open.len(), 2);
    bench.events(1, &[5, 6, 100, 101], 101);
    assert_eq!(bench.open.len(), 1);
    assert!(bench.open.contains(&bench.opened[0].0));
    assert_eq!((bench.seen(1), bench.seen(3)), (vec![5, 6, 100, 101], vec![101]));
    assert_eq!(bench.seen(2), [5, 6, 100, 101]);
}

/// A fresh watch joined one that was reading a long history, and heard of nothing until that was over.
#[test]
fn who_wants_what_is_new_does_not_wait_behind_history() {
    let mut bench = Bench::default();
    bench.add(1, 1, 1_000_000);
    bench.add(2, 0, 1_000_000);
    bench.add(3, 999_000, 1_000_000);
    bench.add(4, 1_000_001, 1_000_000);
    // The second and the fourth share.
    let begun: Vec<i64> = bench.opened.iter().map(|(_, revision, _)| *revision).collect();
    assert_eq!(begun, [1, 1_000_001, 999_000]);
    bench.events(0, &[1, 2], 1_000_000);
    bench.events(1, &[1_000_001], 1_000_001);
    assert_eq!((bench.seen(2), bench.seen(4)), (vec![1_000_001], vec![1_000_001]));
    // One that needs the same history shares it.
    bench.add(5, 3, 1_000_001);
    assert_eq!(bench.opened.len(), 3);
    bench.events(2, &[1_000_001], 1_000_001);
    bench.events(0, &[3, 1_000_001], 1_000_001);
    assert_eq!(bench.open.len(), 1);
    // Of those that are equally far the oldest stays.
    bench.events(0, &[1_000_002], 1_000_002);
    let seen = [1, 2, 3, 4, 5].map(|stream| bench.seen(stream));
    let (new, both) = (1_000_002, vec![1_000_001, 1_000_002]);
    assert_eq!(seen, [vec![1, 2, 3, 1_000_001, new], vec![new], both, vec![new], vec![3, 1_000_001, new]]);
}

/// Lists are read from members that are more or less behind, while others write; nothing happens in the
/// range that is watched.
#[test]
fn a_little_history_does_not_keep_watches_apart() {
    let mut bench = Bench::default();
    bench.add(1, 101, 150);
    (2..100).for_each(|stream| bench.add(stream, 100 + stream as i64, 160 + stream as i64));
    // Others from now on: this is what two members that are behind say of it.
    bench.add(100, 0, 120);
    bench.add(101, 0, 110);
    assert_eq!(bench.opened.len(), 1);
    let mut lagging = Bench::default();
    lagging.add(1, 1, 50_000);
    lagging.add(2, 0, 40_000);
    lagging.add(3, 0, 45_000);
    assert_eq!(lagging.opened.len(), 2);
}

#[test]
fn who_has_caught_up_is_not_sent_back() {
    let mut bench = Bench::default();
    bench.add(1, 0, 100);
    bench.events(0, &[101], 101);
    // Its history begins behind what the other has shown, and is long.
    bench.add(2, 90, 200);
    bench.events(1, &[150, 151], 200);
    // All that this one learns is that nothing came; the other one is ahead with what it has seen.
    bench.respond(0, at(160));
    assert_eq!(bench.open.len(), 2);
    bench.events(1, &[201], 201);
    bench.events(0, &[201], 201);
    assert_eq!(bench.open.len(), 1);
}

#[test]
fn the_future_waits_for_its_revision() {
    let mut bench = Bench::default();
    bench.add(1, i64::MAX - 2, 10);
    assert_eq!(bench.opened[0].1, 11);
    bench.add(2, 0, 10);
    bench.add(3, 13, 10);
    assert_eq!(bench.open.len(), 1);
    bench.events(0, &[11], 11);
    bench.events(0, &[12, 13], 13);
    assert_eq!((bench.seen(1), bench.seen(2), bench.seen(3)), (vec![], vec![11, 12, 13], vec![13]));
}

#[test]
fn from_now_on_means_what_this_proxy_has_shown() {
    let mut bench = Bench::default();
    bench.add(1, 0, 10);
    bench.events(0, &[11], 11);
    let outlet = Arc::new(Outlet::default());
    bench.outlets.insert(2, outlet);
    // The member that was asked has not heard of revision 11.
    bench.add(2, 0, 10);
    assert_eq!(bench.open.len(), 1);
    bench.events(0, &[12], 12);
    assert_eq!(bench.seen(2), [12]);
}

#[test]
fn progress_goes_to_who_wants_it_and_lets_others_join() {
    let mut bench = Bench::default();
    bench.add_with(1, 0, 10, true, None);
    bench.add_with(2, 5, 10, false, None);
    bench.respond(0, at(20));
    let progress = bench.received(1);
    assert!(progress.len() == 1 && client::is_progress(&progress[0]));
    assert!(bench.received(2).is_empty());
    // Its history had nothing: the progress says so.
    bench.respond(1, at(20));
    assert_eq!(bench.open.len(), 1);
}

#[test]
fn a_compaction_ends_everybody() {
    let mut bench = Bench::default();
    bench.add_with(1, 5, 10, false, Some("a"));
    bench.add_with(2, 5, 10, false, Some("b"));
    bench.respond(0, pb::WatchResponse { canceled: true, compact_revision: 8, created: true, ..at(10) });
    for stream in [1, 2] {
        let last = bench.received(stream).pop().unwrap();
        assert!(last.canceled && !last.created && last.compact_revision == 8);
    }
    assert!(bench.open.is_empty() && bench.groups.groups.is_empty());
    bench.groups.cancel(StreamId(1), 0);
    assert!(bench.received(1).is_empty());
}

/// All who shared the watch were told that their revisions were gone.
#[test]
fn a_compaction_ends_only_whom_it_concerns() {
    let mut bench = Bench::default();
    bench.add_with(1, 0, 10, false, Some("a"));
    bench.events(0, &[11], 11);
    // These need less than the first, and nothing that was compacted.
    bench.add_with(2, 60, 100, false, Some("b"));
    bench.add_with(3, 50, 100, false, Some("c"));
    bench.add_with(4, 500, 100, false, Some("d"));
    assert_eq!(bench.opened.len(), 1);
    // The stream broke, and what it goes on from is gone.
    bench.respond(0, pb::WatchResponse { canceled: true, compact_revision: 50, ..at(100) });
    let last = bench.received(1).pop().unwrap();
    assert!(last.canceled && last.compact_revision == 50);
    assert_eq!((bench.opened.len(), bench.open.len()), (2, 1));
    assert_eq!((bench.opened[1].1, bench.opened[1].2.as_deref()), (50, Some("c")));
    assert_eq!(bench.groups.coalesced, 2);
    bench.events(1, &[55, 60], 100);
    bench.events(1, &[500], 500);
    let seen = [1, 2, 3, 4].map(|stream| bench.seen(stream));
    assert_eq!(seen, [vec![], vec![60, 500], vec![55, 60, 500], vec![500]]);
}

#[test]
fn after_a_compaction_the_future_begins_at_what_comes_next() {
    let mut bench = Bench::default();
    bench.add(1, 0, 10);
    bench.add(2, i64::MAX - 2, 10);
    bench.respond(0, at(30));
    // What lies before the progress is delivered.
    bench.respond(0, pb::WatchResponse { canceled: true, compact_revision: 31, ..at(40) });
    assert!(bench.received(1).is_empty());
    assert_eq!(bench.opened[1].1, 31);
    bench.respond(1, pb::WatchResponse { canceled: true, compact_revision: 45, ..at(60) });
    assert!(bench.received(1).pop().unwrap().canceled);
    assert_eq!((bench.opened.len(), bench.opened[2].1), (3, 61));
    bench.groups.cancel(StreamId(2), 0);
    bench.settle();
    assert_eq!(bench.received(2).pop().unwrap().header.unwrap().revision, 60);
    assert!(bench.open.is_empty());
}

#[test]
fn without_a_leader_only_those_end_who_asked_for_one() {
    let mut bench = Bench::default();
    bench.add(1, 0, 10);
    bench.needs_leader = true;
    bench.add(2, 0, 10);
    bench.add(3, 0, 10);
    assert_eq!((bench.opened.len(), bench.groups.coalesced), (2, 1));
    bench.groups.leader_lost(bench.opened[1].0);
    bench.settle();
    assert_eq!((bench.open.len(), bench.groups.coalesced), (1, 0));
    let ends = [1, 2, 3].map(|stream| bench.outlets[&stream].ended());
    assert_eq!(ends, [None, Some(End::NoLeader), Some(End::NoLeader)]);
    [2, 3].into_iter().for_each(|stream| bench.groups.stream_gone(StreamId(stream)));
    bench.events(0, &[11], 11);
    assert_eq!(bench.seen(1), [11]);
}

#[test]
fn who_lost_permission_does_not_take_the_others_along() {
    let mut bench = Bench::default();
    bench.add_with(1, 0, 10, false, Some("a"));
    bench.add_with(2, 0, 10, false, Some("b"));
    bench.events(0, &[11], 11);
    let reason = "etcdserver: permission denied".to_owned();
    bench.respond(0, pb::WatchResponse { canceled: true, cancel_reason: reason.clone(), ..at(11) });
    assert_eq!(bench.received(1).pop().unwrap().cancel_reason, reason);
    assert_eq!(bench.opened.len(), 2);
    assert_eq!((bench.opened[1].1, bench.opened[1].2.as_deref()), (12, Some("b")));
    bench.events(1, &[12], 12);
    assert_eq!(bench.seen(2), [11, 12]);
    assert_eq!(bench.groups.coalesced, 0);
}

#[test]
fn a_cancelled_watch_is_told_so_and_the_others_go_on() {
    let mut bench = Bench::default();
    bench.add(1, 0, 10);
    bench.add(2, 0, 10);
    bench.events(0, &[11], 11);
    bench.groups.cancel(StreamId(1), 7);
    bench.groups.cancel(StreamId(1), 0);
    bench.groups.cancel(StreamId(1), 0);
    bench.settle();
    let received = bench.received(1);
    assert_eq!(received.len(), 2);
    assert!(received[1].canceled && received[1].header.unwrap().revision == 11);
    bench.events(0, &[12], 12);
    assert_eq!((bench.seen(1), bench.seen(2)), (vec![], vec![11, 12]));
    bench.groups.cancel(StreamId(2), 0);
    bench.settle();
    assert!(bench.open.is_empty());
    // What the cluster had under way is for nobody.
    bench.events(0, &[13], 13);
    assert_eq!(bench.groups.coalesced, 0);
}

//! Watch, Lock and Election over the wire.

mod support {
    pub mod client;
    pub mod member;
    pub use client::*;
}

use std::sync::Arc;
use std::time::Duration;

use api::Member;
use api::member::Config;
use bytes::Bytes;
use pb::watch_request::RequestUnion;
use proto::mvccpb::event::EventType;
use proto::{etcdserverpb as pb, v3electionpb as electionpb, v3lockpb as lockpb};
use support::member::{CLUSTER, FakeMember, Fixture, MEMBER, TERM, start, start_with, text};
use support::{Client, Incoming, PATIENCE, frame, request, within};

const WATCH: &str = "/etcdserverpb.Watch/Watch";

fn put(member: &FakeMember, key: impl Into<Bytes>, value: impl Into<Bytes>) {
    let put = pb::PutRequest { key: key.into(), value: value.into(), ..Default::default() };
    member.apply(pb::InternalRaftRequest { put: Some(put), ..Default::default() }).unwrap();
}

fn delete(member: &FakeMember, key: &'static str) {
    let delete_range = Some(pb::DeleteRangeRequest { key: key.into(), ..Default::default() });
    member.apply(pb::InternalRaftRequest { delete_range, ..Default::default() }).unwrap();
}

fn header(revision: i64) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader { cluster_id: CLUSTER.0, member_id: MEMBER.0, revision, raft_term: TERM })
}

struct Watch {
    body: h2::SendStream<Bytes>,
    incoming: Incoming,
}

fn create(key: &'static str, range_end: &'static str) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest { key: key.into(), range_end: range_end.into(), ..Default::default() }
}

fn wrap(union: RequestUnion) -> pb::WatchRequest {
    pb::WatchRequest { request_union: Some(union) }
}

impl Watch {
    /// Opens a stream with a first watcher and takes the answer.
    async fn open(client: &Client, first: pb::WatchCreateRequest) -> (Self, pb::WatchResponse) {
        let mut send = client.send.clone().ready().await.unwrap();
        let (response, mut body) = send.send_request(request(WATCH).body(()).unwrap(), false).unwrap();
        body.send_data(frame(&wrap(RequestUnion::CreateRequest(first))), false).unwrap();
        let incoming = Incoming::new(within(response).await.unwrap().into_body());
        let mut watch = Self { body, incoming };
        let created = watch.next().await;
        (watch, created)
    }

    async fn ask(&mut self, union: RequestUnion) {
        self.body.send_data(frame(&wrap(union)), false).unwrap();
    }

    async fn next(&mut self) -> pb::WatchResponse {
        self.incoming.next().await.expect("the stream goes on")
    }

    /// The next `count` events, across responses.
    async fn events(&mut self, count: usize) -> Vec<(i64, EventType, Bytes)> {
        let mut events = Vec::new();
        while events.len() < count {
            for event in self.next().await.events {
                let kind = event.r#type();
                let kv = event.kv.unwrap();
                events.push((kv.mod_revision, kind, kv.key));
            }
        }
        events
    }
}

#[tokio::test]
async fn a_watcher_sees_every_change_once() {
    let fixture = start();
    let client = fixture.client().await;
    put(&fixture.member, "a", "0");
    let (mut watch, created) = Watch::open(&client, create("a", "b")).await;
    let expected = pb::WatchResponse { header: header(2), created: true, ..Default::default() };
    assert_eq!(created, expected);
    put(&fixture.member, "a", "1");
    let response = watch.next().await;
    assert_eq!((response.header, response.watch_id, response.created), (header(3), 0, false));
    let kv = response.events[0].kv.clone().unwrap();
    assert_eq!((&kv.value[..], kv.create_revision, kv.mod_revision, kv.version), (&b"1"[..], 2, 3, 2));
    put(&fixture.member, "b", "outside");
    delete(&fixture.member, "a");
    let response = watch.next().await;
    assert_eq!(response.header, header(5));
    let event = &response.events[0];
    assert_eq!((event.r#type(), event.prev_kv.clone()), (EventType::Delete, None));
    let gone = event.kv.clone().unwrap();
    assert_eq!((&gone.key[..], gone.mod_revision, gone.create_revision), (&b"a"[..], 5, 0));

    // History with previous values, and an explicit id.
    let past = pb::WatchCreateRequest { start_revision: 2, prev_kv: true, watch_id: 9, ..create("a", "") };
    watch.ask(RequestUnion::CreateRequest(past)).await;
    let created = watch.next().await;
    assert_eq!((created.watch_id, created.created, created.header), (9, true, header(5)));
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let response = watch.next().await;
        assert_eq!(response.watch_id, 9);
        seen.extend(response.events);
    }
    let previous: Vec<_> = seen.iter().map(|event| event.prev_kv.as_ref().map(|kv| &kv.value[..])).collect();
    assert_eq!(previous, [None, Some(&b"0"[..]), Some(&b"1"[..])]);

    // Filters.
    let filtered =
        pb::WatchCreateRequest { start_revision: 2, filters: vec![0], watch_id: 10, ..create("\0", "\0") };
    watch.ask(RequestUnion::CreateRequest(filtered)).await;
    assert!(watch.next().await.created);
    assert_eq!(watch.events(1).await, [(5, EventType::Delete, "a".into())]);
}

#[tokio::test]
async fn refusals_come_in_band_and_in_order() {
    let fixture = start();
    let client = fixture.client().await;
    let (mut watch, _) =
        Watch::open(&client, pb::WatchCreateRequest { watch_id: -5, ..create("", "\0") }).await;
    let cases = [
        (
            pb::WatchCreateRequest { start_revision: -1, ..create("b", "a") },
            "etcdserver: mvcc: required revision has been compacted",
        ),
        (create("b", "a"), "mvcc: watcher range is empty"),
        (create("a", "a"), "mvcc: watcher range is empty"),
        (
            pb::WatchCreateRequest { watch_id: -5, ..create("a", "") },
            "mvcc: duplicate watch ID provided on the WatchStream",
        ),
    ];
    for (number, (bad, _)) in cases.iter().enumerate() {
        watch.ask(RequestUnion::CreateRequest(bad.clone())).await;
        let good = pb::WatchCreateRequest { watch_id: 100 + number as i64, ..create("a", "") };
        watch.ask(RequestUnion::CreateRequest(good)).await;
    }
    for (number, (_, reason)) in cases.iter().enumerate() {
        let refused = watch.next().await;
        assert_eq!((refused.watch_id, refused.created, refused.canceled), (-1, true, true));
        assert_eq!(
            (&refused.cancel_reason[..], refused.header, refused.compact_revision),
            (*reason, header(1), 0)
        );
        let created = watch.next().await;
        assert_eq!((created.watch_id, created.created, created.canceled), (100 + number as i64, true, false));
    }
    // Cancel: an unknown id says nothing, a known one answers.
    for watch_id in [77, 100] {
        watch.ask(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id })).await;
    }
    let cancelled = watch.next().await;
    assert_eq!((cancelled.watch_id, cancelled.canceled, &cancelled.cancel_reason[..]), (100, true, ""));
    // Progress of all.
    watch.ask(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})).await;
    let progress = watch.next().await;
    assert_eq!((progress.watch_id, progress.header, progress.events.len()), (-1, header(1), 0));
}

#[tokio::test]
async fn half_close_leaves_the_watchers_alone_and_reset_ends_them() {
    let fixture = start();
    let client = fixture.client().await;
    let (mut watch, _) = Watch::open(&client, create("a", "")).await;
    watch.body.send_data(Bytes::new(), true).unwrap();
    put(&fixture.member, "a", "1");
    assert_eq!(watch.events(1).await.len(), 1);
    let watchers = || fixture.member.hub().stats();
    eventually(|| watchers().watchers == 1).await;
    watch.body.send_reset(h2::Reason::CANCEL);
    eventually(|| watchers().watchers == 0).await;
    eventually(|| {
        let counts = fixture.serving.metrics().snapshot();
        let watch = counts.iter().find(|counts| counts.info.method == "Watch").unwrap();
        watch.handled[1] == 1
    })
    .await;
}

async fn eventually(done: impl Fn() -> bool) {
    let begun = std::time::Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn compaction_cancels_and_progress_is_notified() {
    let interval = Duration::from_millis(100);
    let fixture = start_with(Config { progress_notify_interval: interval, ..Default::default() }, |_| {});
    let client = fixture.client().await;
    for _ in 0..5 {
        put(&fixture.member, "a", "1");
    }
    let compaction = Some(Box::new(pb::CompactionRequest { revision: 4, physical: false }));
    fixture.member.apply(pb::InternalRaftRequest { compaction, ..Default::default() }).unwrap();
    let old = pb::WatchCreateRequest { start_revision: 3, ..create("a", "") };
    let (mut watch, created) = Watch::open(&client, old).await;
    assert!(created.created && !created.canceled);
    let cancelled = watch.next().await;
    let expected =
        pb::WatchResponse { header: header(0), canceled: true, compact_revision: 4, ..Default::default() };
    assert_eq!(cancelled, expected);

    let (mut noisy, _) =
        Watch::open(&client, pb::WatchCreateRequest { progress_notify: true, ..create("a", "") }).await;
    let progress = noisy.next().await;
    assert_eq!((progress.header, progress.events.len(), progress.watch_id), (header(6), 0, 0));
}

#[tokio::test]
async fn large_responses_are_cut_where_that_is_allowed() {
    let fixture = start_with(Config { max_request_bytes: 100_000, ..Default::default() }, |_| {});
    let client = fixture.client().await;
    for number in 0..30 {
        put(&fixture.member, format!("k{number}"), vec![7; 50_000]);
    }
    let whole = pb::WatchCreateRequest { start_revision: 2, ..create("k", "l") };
    let (mut watch, _) = Watch::open(&client, whole.clone()).await;
    let mut plain = Vec::new();
    while plain.len() < 30 {
        let response = watch.next().await;
        assert!(!response.fragment);
        plain.extend(response.events);
    }
    let (mut watch, _) = Watch::open(&client, pb::WatchCreateRequest { fragment: true, ..whole }).await;
    let (mut cut, mut parts) = (Vec::new(), Vec::new());
    while cut.len() < 30 {
        let response = watch.next().await;
        assert!(prost::Message::encoded_len(&response) < 100_000 + 512 * 1024);
        parts.push((response.fragment, response.header));
        cut.extend(response.events);
    }
    assert_eq!(cut, plain);
    assert!(parts.len() >= 3 && parts.iter().any(|(fragment, _)| *fragment), "{parts:?}");
    assert!(!parts.last().unwrap().0, "the last part says that it is the last");
}

#[tokio::test]
async fn five_thousand_watches_on_one_stream() {
    let fixture = start();
    let client = fixture.client().await;
    let (mut watch, _) = Watch::open(&client, create("x", "")).await;
    for number in 0..5_000 {
        let key = Bytes::from(format!("key/{number:05}"));
        let wanted = pb::WatchCreateRequest { key, ..Default::default() };
        watch.ask(RequestUnion::CreateRequest(wanted)).await;
    }
    for number in 1..=5_000 {
        assert_eq!(watch.next().await.watch_id, number);
    }
    for number in (0..5_000).step_by(7) {
        put(&fixture.member, format!("key/{number:05}"), "v");
    }
    let seen = watch.events(715).await;
    assert!(seen.windows(2).all(|pair| pair[0].0 < pair[1].0));
}

/// The writer goes on and the server's memory stays bounded; the reader gets everything later.
#[tokio::test]
async fn a_watcher_that_does_not_read_misses_nothing() {
    let fixture = start();
    let client = fixture.client().await;
    let (mut watch, _) = Watch::open(&client, create("k", "l")).await;
    for number in 0..3_000 {
        put(&fixture.member, format!("k{number}"), vec![7; 1_000]);
    }
    let seen = watch.events(3_000).await;
    assert_eq!(seen.len(), 3_000);
    assert!(seen.iter().zip(2..).all(|((revision, _, _), expected)| *revision == expected));
}

fn lock_request(lease: i64) -> lockpb::LockRequest {
    lockpb::LockRequest { name: "mutex".into(), lease }
}

fn grant(member: &FakeMember, id: i64) {
    let lease_grant = Some(pb::LeaseGrantRequest { id, ttl: 600 });
    member.apply(pb::InternalRaftRequest { lease_grant, ..Default::default() }).unwrap();
}

fn keys(member: &Arc<FakeMember>) -> Vec<String> {
    let all = mvcc::RangeQuery::new(types::KeyRange::From(Bytes::new()));
    let kvs = member.store().range(&all).unwrap().kvs.decode().unwrap();
    kvs.into_iter().map(|kv| String::from_utf8(kv.key.to_vec()).unwrap()).collect()
}

async fn lock(fixture: &Fixture, lease: i64) -> support::Answer {
    fixture.client().await.unary("/v3lockpb.Lock/Lock", &lock_request(lease)).await
}

#[tokio::test]
async fn a_lock_goes_from_hand_to_hand() {
    let fixture = start();
    let client = fixture.client().await;
    (1..4).for_each(|id| grant(&fixture.member, id));
    let first: lockpb::LockResponse = lock(&fixture, 1).await.only();
    assert_eq!((first.header, &first.key[..]), (header(2), &b"mutex/1"[..]));
    let again: lockpb::LockResponse = lock(&fixture, 1).await.only();
    assert_eq!((again.header, again.key), (header(2), first.key.clone()));

    // The second gives up: its place in the queue is given back.
    let head = || request("/v3lockpb.Lock/Lock");
    let impatient = client.call(head().header("grpc-timeout", "50m"), vec![frame(&lock_request(2))]).await;
    assert_eq!((impatient.code(), impatient.text()), (4, "context deadline exceeded".to_owned()));
    eventually(|| keys(&fixture.member) == ["mutex/1"]).await;

    let third = client.call(head(), vec![frame(&lock_request(3))]);
    let unlock = async {
        eventually(|| keys(&fixture.member) == ["mutex/1", "mutex/3"]).await;
        client.unary("/v3lockpb.Lock/Unlock", &lockpb::UnlockRequest { key: first.key.clone() }).await
    };
    let (third, unlocked) = tokio::join!(third, unlock);
    assert_eq!(unlocked.only::<lockpb::UnlockResponse>().header, header(6));
    let third: lockpb::LockResponse = third.only();
    assert_eq!((third.header, &third.key[..]), (header(6), &b"mutex/3"[..]));

    let bad = lock(&fixture, 99).await;
    assert_eq!((bad.code(), bad.text()), (2, text("requested lease not found")));
    // Without a lease the server grants one; here it expires while it waits.
    let waiting = client.call(head(), vec![frame(&lock_request(0))]);
    let expire = async {
        eventually(|| keys(&fixture.member).len() == 2).await;
        let own = keys(&fixture.member).into_iter().find(|key| key != "mutex/3").unwrap();
        let id = i64::from_str_radix(own.strip_prefix("mutex/").unwrap(), 16).unwrap();
        let lease_revoke = Some(pb::LeaseRevokeRequest { id });
        fixture.member.apply(pb::InternalRaftRequest { lease_revoke, ..Default::default() }).unwrap();
        delete(&fixture.member, "mutex/3");
    };
    let (lost, ()) = tokio::join!(waiting, expire);
    assert_eq!((lost.code(), lost.text()), (2, "mutex: session is expired".to_owned()));
}

#[tokio::test]
async fn leaders_are_elected_observed_and_replaced() {
    let fixture = start();
    let client = fixture.client().await;
    let path = |method: &str| format!("/v3electionpb.Election/{method}");
    (1..3).for_each(|id| grant(&fixture.member, id));
    let name = electionpb::LeaderRequest { name: "e".into() };
    let none = client.unary(&path("Leader"), &name).await;
    assert_eq!((none.code(), none.text()), (2, "election: no leader".to_owned()));

    let mut send = client.send.clone().ready().await.unwrap();
    let (response, mut body) = send.send_request(request(&path("Observe")).body(()).unwrap(), false).unwrap();
    body.send_data(frame(&name), true).unwrap();

    let run = |lease, value: &'static str| electionpb::CampaignRequest {
        name: "e".into(),
        lease,
        value: value.into(),
    };
    let won: electionpb::CampaignResponse = client.unary(&path("Campaign"), &run(1, "one")).await.only();
    let leader = won.leader.unwrap();
    assert_eq!((won.header, &leader.key[..], leader.rev, leader.lease), (header(2), &b"e/1"[..], 2, 1));
    let mut observed = Incoming::new(within(response).await.unwrap().into_body());
    let value = async |observed: &mut Incoming| -> (Bytes, i64) {
        let seen: electionpb::LeaderResponse = observed.next().await.unwrap();
        (seen.kv.unwrap().value, seen.header.unwrap().revision)
    };
    assert_eq!(value(&mut observed).await, ("one".into(), 2));

    let proclaim = electionpb::ProclaimRequest { leader: Some(leader.clone()), value: "two".into() };
    let response: electionpb::ProclaimResponse = client.unary(&path("Proclaim"), &proclaim).await.only();
    assert_eq!(response.header, header(3));
    assert_eq!(value(&mut observed).await, ("two".into(), 3));
    let stale = electionpb::LeaderKey { rev: 77, ..leader.clone() };
    let refused = electionpb::ProclaimRequest { leader: Some(stale.clone()), value: "x".into() };
    let refused = client.unary(&path("Proclaim"), &refused).await;
    assert_eq!((refused.code(), refused.text()), (2, "election: not leader".to_owned()));
    let missing = client.unary(&path("Resign"), &electionpb::ResignRequest { leader: None }).await;
    assert_eq!((missing.code(), missing.text()), (2, "\"leader\" field must be provided".to_owned()));

    let head = request(&path("Campaign"));
    let second = client.call(head, vec![frame(&run(2, "heir"))]);
    let resign = async {
        eventually(|| keys(&fixture.member) == ["e/1", "e/2"]).await;
        let harmless = electionpb::ResignRequest { leader: Some(stale) };
        let _: electionpb::ResignResponse = client.unary(&path("Resign"), &harmless).await.only();
        let _: electionpb::ResignResponse =
            client.unary(&path("Resign"), &electionpb::ResignRequest { leader: Some(leader) }).await.only();
    };
    let (second, ()) = tokio::join!(second, resign);
    assert_eq!(second.only::<electionpb::CampaignResponse>().leader.unwrap().rev, 4);
    assert_eq!(value(&mut observed).await.0, "heir");
    let now: electionpb::LeaderResponse = client.unary(&path("Leader"), &name).await.only();
    assert_eq!(now.kv.unwrap().value, "heir");
}

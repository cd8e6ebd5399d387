//! The KV service over the wire, on a member without raft.

mod support {
    pub mod client;
    pub mod member;
    pub use client::*;
}

use std::sync::atomic::Ordering;

use bytes::Bytes;
use pb::request_op::Request;
use pb::response_op::Response;
use proto::etcdserverpb as pb;
use support::member::{CLUSTER, Fixture, MEMBER, TERM, start, start_as, text};
use support::{Answer, Client, request};
use types::CompatVersion;

fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> pb::PutRequest {
    pb::PutRequest { key: key.into(), value: value.into(), ..Default::default() }
}

fn get(key: &'static str) -> pb::RangeRequest {
    pb::RangeRequest { key: key.into(), ..Default::default() }
}

fn all() -> pb::RangeRequest {
    pb::RangeRequest { key: b"\0"[..].into(), range_end: b"\0"[..].into(), ..Default::default() }
}

fn op(request: Request) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

fn header(revision: i64) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader { cluster_id: CLUSTER.0, member_id: MEMBER.0, revision, raft_term: TERM })
}

async fn call<Req: prost::Message>(client: &Client, method: &str, message: &Req) -> Answer {
    client.unary(&format!("/etcdserverpb.KV/{method}"), message).await
}

async fn range(client: &Client, request: &pb::RangeRequest) -> pb::RangeResponse {
    call(client, "Range", request).await.only()
}

async fn stream(client: &Client, request: &pb::RangeRequest) -> Vec<pb::RangeResponse> {
    let answer = call(client, "RangeStream", request).await;
    assert_eq!((answer.code(), answer.text()), (0, String::new()));
    let decode =
        |message: &Bytes| -> pb::RangeStreamResponse { prost::Message::decode(message.clone()).unwrap() };
    answer.messages.iter().map(|message| decode(message).range_response.unwrap()).collect()
}

async fn fill(fixture: &Fixture, count: usize, value_bytes: usize) {
    for number in 0..count {
        let request = put(format!("k{number:05}"), vec![b'v'; value_bytes]);
        fixture.member.apply(pb::InternalRaftRequest { put: Some(request), ..Default::default() }).unwrap();
    }
}

#[tokio::test]
async fn puts_and_gets_carry_full_headers() {
    let fixture = start();
    let client = fixture.client().await;
    let response: pb::PutResponse = call(&client, "Put", &put("a", "1")).await.only();
    assert_eq!(response, pb::PutResponse { header: header(2), prev_kv: None });
    let request = pb::PutRequest { prev_kv: true, ..put("a", "2") };
    let response: pb::PutResponse = call(&client, "Put", &request).await.only();
    assert_eq!(response.header, header(3));
    assert_eq!(response.prev_kv.unwrap().value, "1");

    let response = range(&client, &get("a")).await;
    assert_eq!((response.header, response.count, response.more), (header(3), 1, false));
    let kv = &response.kvs[0];
    assert_eq!((&kv.value[..], kv.create_revision, kv.mod_revision, kv.version), (&b"2"[..], 2, 3, 2));
    assert_eq!(range(&client, &pb::RangeRequest { revision: 2, ..get("a") }).await.kvs[0].value, "1");
    let missing = range(&client, &get("b")).await;
    assert_eq!((missing.header, missing.kvs.len(), missing.count), (header(3), 0, 0));

    let delete = pb::DeleteRangeRequest { key: "a".into(), prev_kv: true, ..Default::default() };
    let response: pb::DeleteRangeResponse = call(&client, "DeleteRange", &delete).await.only();
    assert_eq!((response.header, response.deleted, response.prev_kvs.len()), (header(4), 1, 1));
    let response: pb::DeleteRangeResponse = call(&client, "DeleteRange", &delete).await.only();
    assert_eq!((response.header, response.deleted), (header(4), 0));
}

#[tokio::test]
async fn serializable_reads_ask_nobody() {
    let fixture = start();
    let client = fixture.client().await;
    let asked = || fixture.member.read_indexes.load(Ordering::SeqCst);
    range(&client, &pb::RangeRequest { serializable: true, ..get("a") }).await;
    assert_eq!(asked(), 0);
    range(&client, &get("a")).await;
    assert_eq!(asked(), 1);
    // A transaction of compares alone is serializable; one of ranges is as its ranges are.
    let _: pb::TxnResponse = call(&client, "Txn", &pb::TxnRequest::default()).await.only();
    assert_eq!(asked(), 1);
    let txn = pb::TxnRequest { success: vec![op(Request::RequestRange(get("a")))], ..Default::default() };
    let response: pb::TxnResponse = call(&client, "Txn", &txn).await.only();
    assert_eq!((asked(), response.header, response.succeeded), (2, header(1), true));
}

#[tokio::test]
async fn large_ranges_are_whole_and_limited_ones_exact() {
    let fixture = start();
    let client = fixture.client().await;
    fill(&fixture, 1000, 10).await;
    let whole = range(&client, &all()).await;
    assert_eq!((whole.kvs.len(), whole.count, whole.more), (1000, 1000, false));
    for limit in [1, 127, 128, 129, 999, 1000, 1001] {
        let part = range(&client, &pb::RangeRequest { limit, ..all() }).await;
        let expected = (limit.min(1000) as usize, 1000, limit < 1000);
        assert_eq!((part.kvs.len(), part.count, part.more), expected, "{limit}");
        assert_eq!(part.kvs[..], whole.kvs[..part.kvs.len()]);
    }
    let count = range(&client, &pb::RangeRequest { count_only: true, limit: 3, ..all() }).await;
    assert_eq!((count.kvs.len(), count.count, count.more), (0, 1000, false));
    let descending = range(&client, &pb::RangeRequest { sort_order: 2, limit: 2, ..all() }).await;
    assert_eq!((&descending.kvs[0].key[..], descending.more, descending.count), (&b"k00999"[..], true, 1000));
    let filtered = range(&client, &pb::RangeRequest { min_mod_revision: 1001, ..all() }).await;
    assert_eq!((filtered.kvs.len(), filtered.count, filtered.more), (1, 1000, false));
    let prefix = pb::RangeRequest { key: "k0001".into(), range_end: "k0002".into(), ..Default::default() };
    let prefix = range(&client, &prefix).await;
    assert_eq!((prefix.kvs.len(), prefix.count, prefix.more), (10, 10, false));
}

/// Without an order another target sorts, as it does for Range, so no part stands alone; etcd goes on at wrong keys then.
#[tokio::test]
async fn a_stream_by_another_target_comes_in_one_part() {
    let fixture = start();
    fill(&fixture, 3000, 100).await;
    let client = fixture.client().await;
    for n in 0..20 {
        let (key, value) = (format!("k{n:05}"), format!("{:02}", 40 - n));
        let request = put(key, value);
        fixture.member.apply(pb::InternalRaftRequest { put: Some(request), ..Default::default() }).unwrap();
    }
    for sort_target in [1, 2, 3, 4] {
        for limit in [0, 7] {
            let wanted = pb::RangeRequest { sort_target, limit, ..all() };
            let expected = range(&client, &wanted).await;
            assert!(stream(&client, &wanted).await == [expected], "{wanted:?}");
        }
    }
}

#[tokio::test]
async fn a_streamed_range_merges_to_the_range() {
    let fixture = start();
    let client = fixture.client().await;
    assert_eq!(
        stream(&client, &all()).await,
        [pb::RangeResponse { header: header(1), ..Default::default() }]
    );
    fill(&fixture, 160, 20_000).await;
    for wanted in [
        all(),
        pb::RangeRequest { limit: 5, ..all() },
        pb::RangeRequest { limit: 150, ..all() },
        pb::RangeRequest { limit: 160, ..all() },
        pb::RangeRequest { revision: 100, ..all() },
        pb::RangeRequest { key: "k00003".into(), ..Default::default() },
        pb::RangeRequest { key: "k0".into(), range_end: "k0002".into(), sort_order: 1, ..Default::default() },
        pb::RangeRequest { count_only: true, ..all() },
        pb::RangeRequest { keys_only: true, ..all() },
    ] {
        let parts = stream(&client, &wanted).await;
        let (last, others) = parts.split_last().unwrap();
        assert!(others.iter().all(|part| part.header.is_none() && !part.more && part.count == 0));
        assert_eq!(parts[0].kvs.len().min(11), parts[0].kvs.len(), "the first part is small");
        let merged = pb::RangeResponse {
            kvs: parts.iter().flat_map(|part| part.kvs.clone()).collect(),
            ..last.clone()
        };
        assert_eq!(merged, range(&client, &wanted).await, "{wanted:?}");
    }
    assert!(stream(&client, &all()).await.len() > 3);

    for (wanted, text) in [
        (pb::RangeRequest { sort_order: 2, ..all() }, "RangeStream does not support custom sort orders"),
        (
            pb::RangeRequest { sort_order: 1, sort_target: 3, ..all() },
            "RangeStream does not support custom sort orders",
        ),
        (pb::RangeRequest { max_mod_revision: 3, ..all() }, "RangeStream does not support revision filters"),
    ] {
        let answer = call(&client, "RangeStream", &wanted).await;
        assert_eq!((answer.code(), answer.text()), (12, text.to_owned()));
    }
    // A target without an order is ignored: parts cannot be sorted by anything but the key.
    let ordered = stream(&client, &pb::RangeRequest { sort_target: 4, ..all() }).await;
    assert_eq!(ordered.iter().map(|part| part.kvs.len()).sum::<usize>(), 160);
}

#[tokio::test]
async fn mistakes_get_the_tables_texts() {
    let fixture = start();
    let client = fixture.client().await;
    call(&client, "Put", &put("a", "1")).await;
    let range_cases = [
        (get(""), 3, "key is not provided"),
        (pb::RangeRequest { sort_order: 9, ..get("a") }, 3, "invalid sort option"),
        (pb::RangeRequest { sort_target: 9, ..get("a") }, 3, "invalid sort option"),
        (pb::RangeRequest { revision: 9, ..get("a") }, 11, "mvcc: required revision is a future revision"),
    ];
    for (wanted, code, expected) in range_cases {
        for method in ["Range", "RangeStream"] {
            let answer = call(&client, method, &wanted).await;
            assert_eq!((answer.code(), answer.text()), (code, text(expected)), "{method}");
        }
    }
    let put_cases = [
        (put("", "1"), 3, "key is not provided"),
        (pb::PutRequest { ignore_value: true, ..put("a", "1") }, 3, "value is provided"),
        (pb::PutRequest { ignore_lease: true, lease: 1, ..put("a", "1") }, 3, "lease is provided"),
        (pb::PutRequest { ignore_value: true, ..put("b", "") }, 3, "key not found"),
        (pb::PutRequest { lease: -1, ..put("a", "1") }, 5, "requested lease not found"),
        (put("a", vec![0; 1_572_864]), 3, "request is too large"),
    ];
    for (wanted, code, expected) in put_cases {
        let answer = call(&client, "Put", &wanted).await;
        assert_eq!((answer.code(), answer.text()), (code, text(expected)));
    }
    let answer = call(&client, "DeleteRange", &pb::DeleteRangeRequest::default()).await;
    assert_eq!((answer.code(), answer.text()), (3, text("key is not provided")));
    let duplicate = vec![op(Request::RequestPut(put("a", ""))), op(Request::RequestPut(put("a", "")))];
    let answer = call(&client, "Txn", &pb::TxnRequest { failure: duplicate, ..Default::default() }).await;
    assert_eq!((answer.code(), answer.text()), (3, text("duplicate key given in txn request")));
    let negative = op(Request::RequestRange(pb::RangeRequest { revision: -2, ..get("a") }));
    let answer =
        call(&client, "Txn", &pb::TxnRequest { success: vec![negative], ..Default::default() }).await;
    assert_eq!((answer.code(), answer.text()), (11, text("mvcc: required revision has been compacted")));

    *fixture.member.failure.lock() = Some(api::Error::LeaderChanged);
    for (method, answer) in [
        ("Range", call(&client, "Range", &get("a")).await),
        ("Put", call(&client, "Put", &put("a", "")).await),
    ] {
        assert_eq!((answer.code(), answer.text()), (14, text("leader changed")), "{method}");
    }
}

#[tokio::test]
async fn transactions_nest_and_fill_headers_as_upstream() {
    let fixture = start();
    let client = fixture.client().await;
    let nested =
        pb::TxnRequest { success: vec![op(Request::RequestPut(put("b", "1")))], ..Default::default() };
    let txn = pb::TxnRequest {
        success: vec![
            op(Request::RequestPut(put("a", "1"))),
            op(Request::RequestRange(get("a"))),
            op(Request::RequestTxn(nested)),
        ],
        ..Default::default()
    };
    let response: pb::TxnResponse = call(&client, "Txn", &txn).await.only();
    assert_eq!((response.header, response.succeeded), (header(2), true));
    let only_revision = Some(pb::ResponseHeader { revision: 2, ..Default::default() });
    match &response.responses[..] {
        [put, range, nested] => {
            let (
                Some(Response::ResponsePut(put)),
                Some(Response::ResponseRange(range)),
                Some(Response::ResponseTxn(nested)),
            ) = (&put.response, &range.response, &nested.response)
            else {
                panic!("{response:?}")
            };
            assert_eq!((put.header, range.header), (only_revision, only_revision));
            assert_eq!((range.count, range.kvs.len()), (1, 1));
            assert_eq!(nested.header, Some(pb::ResponseHeader::default()));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn compaction_waits_for_its_physical_part_if_asked() {
    let fixture = start();
    let client = fixture.client().await;
    fill(&fixture, 5, 1).await;
    let compact = |revision, physical| pb::CompactionRequest { revision, physical };
    let response: pb::CompactionResponse = call(&client, "Compact", &compact(3, false)).await.only();
    assert_eq!(response.header, header(6));
    let awaited = || fixture.member.compactions_awaited.load(Ordering::SeqCst);
    assert_eq!(awaited(), 0);
    let _: pb::CompactionResponse = call(&client, "Compact", &compact(4, true)).await.only();
    assert_eq!(awaited(), 1);
    let answer = call(&client, "Compact", &compact(4, true)).await;
    assert_eq!((answer.code(), answer.text()), (11, text("mvcc: required revision has been compacted")));
    assert_eq!(awaited(), 2, "also the refused one waits");
    let answer = call(&client, "Compact", &compact(40, true)).await;
    assert_eq!((answer.code(), answer.text()), (11, text("mvcc: required revision is a future revision")));
    assert_eq!(awaited(), 2);
    let old = pb::RangeRequest { revision: 3, ..all() };
    assert_eq!(call(&client, "Range", &old).await.code(), 11);
    assert_eq!(range(&client, &pb::RangeRequest { revision: 4, ..all() }).await.count, 3);
}

#[tokio::test]
async fn the_quota_is_looked_at_before_the_fields() {
    let fixture = support::member::start_with(support::member::quota(20_000), |_| {});
    let client = fixture.client().await;
    let full = |answer: Answer| {
        assert_eq!((answer.code(), answer.text()), (8, text("mvcc: database space exceeded")))
    };
    // Larger than what is left, and with an empty key at the same time.
    full(call(&client, "Put", &put("", vec![0; 30_000])).await);
    let alarms = fixture_alarms(&fixture);
    assert_eq!(alarms, [pb::AlarmMember { member_id: MEMBER.0, alarm: 1 }]);
    let txn = pb::TxnRequest { failure: vec![op(Request::RequestPut(put("a", "")))], ..Default::default() };
    full(call(&client, "Txn", &txn).await);
    let delete = pb::DeleteRangeRequest { key: "a".into(), ..Default::default() };
    assert_eq!(call(&client, "DeleteRange", &delete).await.code(), 0);
    assert_eq!(call(&client, "Range", &get("a")).await.code(), 0);
}

fn fixture_alarms(fixture: &Fixture) -> Vec<pb::AlarmMember> {
    use api::Member;
    fixture.member.shared().alarms().list(0)
}

#[tokio::test]
async fn callers_are_checked_before_requests() {
    let fixture = start();
    let client = fixture.client().await;
    let ask = async |name: &'static str, value: &[u8], path: &str| {
        let head = request(path).header(name, value);
        let answer = client.call(head, vec![support::frame(&get("a"))]).await;
        (answer.code(), answer.text())
    };
    const RANGE: &str = "/etcdserverpb.KV/Range";
    assert_eq!(ask("client-api-version", b"3.7", RANGE).await.0, 0);
    assert_eq!(*fixture.member.clients.lock(), [("Unary 3.7".to_owned(), 1)].into());
    assert_eq!(ask("client-api-version", b"\xff", RANGE).await, (3, text("invalid client api version")));
    assert_eq!(ask("hasleader", b"true", RANGE).await.0, 0);
    let counted = [("Unary 3.7".to_owned(), 1), ("Unary unknown".to_owned(), 1)];
    assert_eq!(*fixture.member.clients.lock(), counted.into(), "a call without a version counts, too");
    fixture.member.raft.lock().leader = None;
    assert_eq!(ask("hasleader", b"true", RANGE).await, (14, text("no leader")));
    assert_eq!(ask("hasleader", b"yes", RANGE).await.0, 0);

    fixture.member.raft.lock().is_learner = true;
    assert_eq!(ask("x", b"", RANGE).await, (9, text("rpc not supported for learner")));
    assert_eq!(
        ask("x", b"", "/etcdserverpb.KV/RangeStream").await,
        (9, text("rpc not supported for learner"))
    );
    let local = pb::RangeRequest { serializable: true, ..get("a") };
    assert_eq!(call(&client, "Range", &local).await.code(), 0);
    let answer = client.unary("/etcdserverpb.KV/Nothing", &local).await;
    assert_eq!(
        (answer.code(), answer.text()),
        (12, "unknown method Nothing for service etcdserverpb.KV".into())
    );
}

#[tokio::test]
async fn older_releases_keep_their_ways() {
    let fixture = start_as(CompatVersion::V3_5);
    let client = fixture.client().await;
    assert_eq!(call(&client, "Range", &pb::RangeRequest { sort_order: 9, ..get("a") }).await.code(), 0);
    fixture.member.raft.lock().is_learner = true;
    let answer = call(&client, "Range", &get("a")).await;
    assert_eq!((answer.code(), answer.text()), (14, text("rpc not supported for learner")));
}

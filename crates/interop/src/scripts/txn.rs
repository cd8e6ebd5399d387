//! Transactions.

use proto::etcdserverpb::compare::TargetUnion;
use proto::etcdserverpb::{Compare, PutRequest, RangeRequest, RequestOp, TxnRequest};

use super::{FROM_KEY, delete_op, get, put_op, range, range_op, txn_op};
use crate::script::{Script, bytes};

const EQUAL: i32 = 0;
const GREATER: i32 = 1;
const LESS: i32 = 2;
const NOT_EQUAL: i32 = 3;
const VERSION: i32 = 0;
const CREATE: i32 = 1;
const MOD: i32 = 2;
const VALUE: i32 = 3;
const LEASE: i32 = 4;

fn compare(key: &str, target: i32, result: i32, value: TargetUnion) -> Compare {
    Compare { result, target, key: bytes(key), target_union: Some(value), ..Default::default() }
}

fn when(compare: Compare) -> TxnRequest {
    TxnRequest {
        compare: vec![compare],
        success: vec![range_op(get("a"))],
        failure: vec![range_op(get("b"))],
    }
}

fn then(ops: Vec<RequestOp>) -> TxnRequest {
    TxnRequest { success: ops, ..Default::default() }
}

/// Compares of every kind.
pub async fn compares(s: &mut Script) -> anyhow::Result<()> {
    s.seed("a", "one").await?;
    s.seed("a", "two").await?;
    s.seed("b", "three").await?;
    let cases = [
        ("version", VERSION, TargetUnion::Version(2)),
        ("create", CREATE, TargetUnion::CreateRevision(2)),
        ("mod", MOD, TargetUnion::ModRevision(3)),
        ("value", VALUE, TargetUnion::Value(bytes("two"))),
        ("lease", LEASE, TargetUnion::Lease(0)),
    ];
    for (name, target, value) in cases {
        for (relation, result) in [("=", EQUAL), (">", GREATER), ("<", LESS), ("!=", NOT_EQUAL)] {
            let request = when(compare("a", target, result, value.clone()));
            s.txn(&format!("txn/compare {name} {relation}"), request).await;
            let request = when(compare("missing", target, result, value.clone()));
            s.txn(&format!("txn/compare {name} {relation} of a missing key"), request).await;
        }
    }
    let ranged = |end: &str, relation| Compare {
        range_end: bytes(end),
        ..compare("a", CREATE, relation, TargetUnion::CreateRevision(1))
    };
    s.txn("txn/compare over a range", when(ranged("c", GREATER))).await;
    s.txn(
        "txn/compare over a range fails for one",
        when(Compare {
            range_end: bytes("c"),
            ..compare("a", VALUE, EQUAL, TargetUnion::Value(bytes("two")))
        }),
    )
    .await;
    s.txn(
        "txn/compare over an empty range",
        when(Compare { range_end: bytes("y"), ..compare("x", MOD, EQUAL, TargetUnion::ModRevision(0)) }),
    )
    .await;
    s.txn("txn/compare from a key", when(ranged(FROM_KEY, GREATER))).await;
    s.txn("txn/mismatched union member", when(compare("a", MOD, EQUAL, TargetUnion::Version(3)))).await;
    s.txn("txn/no union member", when(Compare { key: bytes("a"), target: MOD, ..Default::default() })).await;
    s.txn("txn/unknown relation", when(compare("a", MOD, 9, TargetUnion::ModRevision(1)))).await;
    s.txn("txn/unknown target", when(compare("a", 9, EQUAL, TargetUnion::ModRevision(1)))).await;
    s.txn("txn/empty key in a compare", when(compare("", MOD, EQUAL, TargetUnion::ModRevision(1)))).await;
    Ok(())
}

/// Operations: order, sub-revisions, nesting, history.
pub async fn operations(s: &mut Script) -> anyhow::Result<()> {
    s.txn("txn/empty", TxnRequest::default()).await;
    s.txn(
        "txn/only a compare",
        TxnRequest {
            compare: vec![compare("a", VERSION, EQUAL, TargetUnion::Version(0))],
            ..Default::default()
        },
    )
    .await;
    s.txn("txn/several puts", then(vec![put_op("a", "1"), put_op("b", "2"), put_op("c", "3")])).await;
    s.txn(
        "txn/put, then read it",
        then(vec![put_op("a", "11"), range_op(get("a")), range_op(range("a", "z"))]),
    )
    .await;
    s.txn("txn/delete, then put another", then(vec![delete_op("b", ""), put_op("d", "4")])).await;
    s.txn("txn/delete nothing", then(vec![delete_op("nosuch", "")])).await;
    s.range("txn/revision after it", get("d")).await;
    s.txn("txn/two deletes overlap", then(vec![delete_op("a", "c"), delete_op("a", "")])).await;
    s.txn("txn/put after a from-key delete", then(vec![delete_op("c", FROM_KEY), put_op("d", "5")])).await;
    s.txn(
        "txn/failure branch",
        TxnRequest {
            compare: vec![compare("d", VERSION, EQUAL, TargetUnion::Version(99))],
            success: vec![put_op("e", "no")],
            failure: vec![put_op("e", "yes"), range_op(get("e"))],
        },
    )
    .await;
    let inner = TxnRequest {
        compare: vec![compare("e", VALUE, EQUAL, TargetUnion::Value(bytes("yes")))],
        success: vec![put_op("f", "inner"), range_op(get("f"))],
        failure: vec![put_op("f", "other")],
    };
    s.txn("txn/nested", then(vec![put_op("g", "outer"), txn_op(inner.clone()), range_op(range("e", "h"))]))
        .await;
    s.txn("txn/nested twice", then(vec![txn_op(then(vec![txn_op(inner.clone())]))])).await;
    s.txn("txn/nested and empty", then(vec![txn_op(TxnRequest::default())])).await;
    let old = RangeRequest { revision: 2, ..range("a", "z") };
    s.txn("txn/read at an old revision", then(vec![range_op(old)])).await;
    let serializable = RangeRequest { serializable: true, ..get("e") };
    s.txn("txn/serializable reads", then(vec![range_op(serializable)])).await;
    let previous = PutRequest { prev_kv: true, ..super::put("e", "again") };
    let previous =
        RequestOp { request: Some(proto::etcdserverpb::request_op::Request::RequestPut(previous)) };
    s.txn("txn/put with prev_kv", then(vec![previous])).await;
    Ok(())
}

/// What is refused, and that nothing of it is done.
pub async fn refusals(s: &mut Script) -> anyhow::Result<()> {
    s.seed("a", "1").await?;
    s.seed("b", "1").await?;
    s.txn("txn/duplicate put", then(vec![put_op("k", "1"), put_op("k", "2")])).await;
    s.txn("txn/put and delete of a key", then(vec![put_op("k", "1"), delete_op("k", "")])).await;
    s.txn("txn/delete range over a put", then(vec![delete_op("a", "z"), put_op("k", "1")])).await;
    s.txn(
        "txn/duplicate in the other branch only",
        TxnRequest { success: vec![put_op("k", "1")], failure: vec![put_op("k", "2")], ..Default::default() },
    )
    .await;
    let branches =
        TxnRequest { success: vec![put_op("n", "1")], failure: vec![put_op("n", "2")], ..Default::default() };
    s.txn("txn/nested branches may coincide", then(vec![txn_op(branches.clone())])).await;
    s.txn("txn/nested duplicate of an outer put", then(vec![put_op("n", "0"), txn_op(branches.clone())]))
        .await;
    s.txn("txn/two nested duplicates", then(vec![txn_op(branches.clone()), txn_op(branches)])).await;
    s.txn(
        "txn/nested put in an outer delete",
        then(vec![delete_op("m", "o"), txn_op(then(vec![put_op("n", "1")]))]),
    )
    .await;
    s.txn("txn/empty key in a put", then(vec![put_op("", "1")])).await;
    s.txn("txn/empty key in a range", then(vec![range_op(get(""))])).await;
    s.txn("txn/empty key in a delete", then(vec![delete_op("", "")])).await;
    s.txn("txn/operation without content", then(vec![RequestOp::default()])).await;
    let many = |count: usize| (0..count).map(|number| put_op(&format!("m{number}"), "x")).collect::<Vec<_>>();
    s.txn("txn/128 operations", then(many(128))).await;
    s.txn("txn/129 operations", then(many(129))).await;
    s.txn(
        "txn/129 operations in the branch not taken",
        TxnRequest { failure: many(129), ..Default::default() },
    )
    .await;
    let compares = vec![compare("a", VERSION, EQUAL, TargetUnion::Version(1)); 129];
    s.txn("txn/129 compares", TxnRequest { compare: compares, ..Default::default() }).await;
    let mut full = many(127);
    full.push(txn_op(then(vec![put_op("inner", "x")])));
    s.txn("txn/nesting budget used up", then(full)).await;
    let future = RangeRequest { revision: 1000, ..get("a") };
    s.txn("txn/future revision", then(vec![put_op("never", "1"), range_op(future)])).await;
    let negative = RangeRequest { revision: -1, ..get("a") };
    s.txn("txn/negative revision", then(vec![range_op(negative)])).await;
    s.compact("txn/compact", 3, true).await;
    let compacted = RangeRequest { revision: 2, ..get("a") };
    s.txn("txn/compacted revision", then(vec![put_op("never", "1"), range_op(compacted)])).await;
    let with = |request: PutRequest| RequestOp {
        request: Some(proto::etcdserverpb::request_op::Request::RequestPut(request)),
    };
    let leased = PutRequest { lease: 5, ..super::put("never", "1") };
    s.txn("txn/unknown lease", then(vec![put_op("never2", "1"), with(leased)])).await;
    let ignoring = PutRequest { ignore_value: true, ..super::put("nosuch", "") };
    s.txn("txn/ignore_value of a missing key", then(vec![put_op("never2", "1"), with(ignoring)])).await;
    let valued = PutRequest { ignore_value: true, ..super::put("a", "x") };
    s.txn("txn/ignore_value with a value", then(vec![with(valued)])).await;
    let sorted = RangeRequest { sort_order: 7, ..get("a") };
    s.txn("txn/unknown sort order", then(vec![range_op(sorted)])).await;
    s.range("txn/nothing of it was done", range("n", "o")).await;
    Ok(())
}

//! What lies under a claimed key, read and changed as the cluster would.

use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::response_op::Response;
use proto::mvccpb::KeyValue;

/// What lies under a key: something, or nothing.
pub(super) type Known = Option<KeyValue>;

/// What it takes to keep this.
pub(super) fn bytes(known: &Known) -> usize {
    known.as_ref().map_or(0, |kv| kv.key.len() + kv.value.len())
}

/// The same in memory of its own, if that is small: a slice keeps all of the message that it came with.
pub(super) fn apart(known: Known) -> Known {
    const SMALL_BYTES: usize = 16 << 10;
    let apart = |bytes: Bytes| if bytes.len() > SMALL_BYTES { bytes } else { Bytes::copy_from_slice(&bytes) };
    known.map(|kv| KeyValue { key: apart(kv.key), value: apart(kv.value), ..kv })
}

/// What a lease of its own may take away unnoticed is not kept.
pub(super) fn may_be_known(known: &Known) -> bool {
    known.as_ref().is_none_or(|kv| kv.lease == 0)
}

/// Whether a read asks for the newest state of one key, in a way that the cluster would accept.
pub(super) fn is_plain(request: &pb::RangeRequest) -> bool {
    !request.key.is_empty()
        && request.range_end.is_empty()
        && request.revision <= 0
        && SortOrder::try_from(request.sort_order).is_ok()
        && SortTarget::try_from(request.sort_target).is_ok()
}

/// The answer to a plain read.
pub(super) fn answer(
    known: &Known,
    request: &pb::RangeRequest,
    header: pb::ResponseHeader,
) -> pb::RangeResponse {
    let within = |revision: i64, min: i64, max: i64| revision >= min && (max == 0 || revision <= max);
    let asked_for = |kv: &&KeyValue| {
        !request.count_only
            && within(kv.mod_revision, request.min_mod_revision, request.max_mod_revision)
            && within(kv.create_revision, request.min_create_revision, request.max_create_revision)
    };
    let shown = |kv: &KeyValue| KeyValue {
        value: if request.keys_only { Bytes::new() } else { kv.value.clone() },
        ..kv.clone()
    };
    pb::RangeResponse {
        header: Some(header),
        kvs: known.as_ref().filter(asked_for).map(shown).into_iter().collect(),
        more: false,
        count: i64::from(known.is_some()),
    }
}

/// What lies there after a put; `None` if that is not to be kept.
pub(super) fn after_put(before: Known, put: &pb::PutRequest, revision: i64) -> Option<Known> {
    let lease = match (put.ignore_lease, &before) {
        (true, Some(before)) => before.lease,
        _ => put.lease,
    };
    let value = match (put.ignore_value, &before) {
        (true, Some(before)) => before.value.clone(),
        _ => put.value.clone(),
    };
    let after = Some(KeyValue {
        key: put.key.clone(),
        create_revision: before.as_ref().map_or(revision, |before| before.create_revision),
        mod_revision: revision,
        version: before.as_ref().map_or(0, |before| before.version) + 1,
        value,
        lease,
    });
    may_be_known(&after).then_some(after)
}

/// Whether a comparison with one key holds.
fn holds(compare: &pb::Compare, known: &Known) -> bool {
    let nothing = KeyValue::default();
    let kv = known.as_ref().unwrap_or(&nothing);
    let number = |found: i64, given: i64| found.cmp(&given);
    let order = match (compare.target(), &compare.target_union) {
        // Values of what is not there are neither equal nor different.
        (CompareTarget::Value, _) if known.is_none() => return false,
        (CompareTarget::Value, Some(TargetUnion::Value(value))) => kv.value.cmp(value),
        (CompareTarget::Value, _) => kv.value[..].cmp(b""),
        (CompareTarget::Create, Some(TargetUnion::CreateRevision(given))) => {
            number(kv.create_revision, *given)
        }
        (CompareTarget::Create, _) => number(kv.create_revision, 0),
        (CompareTarget::Mod, Some(TargetUnion::ModRevision(given))) => number(kv.mod_revision, *given),
        (CompareTarget::Mod, _) => number(kv.mod_revision, 0),
        (CompareTarget::Version, Some(TargetUnion::Version(given))) => number(kv.version, *given),
        (CompareTarget::Version, _) => number(kv.version, 0),
        (CompareTarget::Lease, Some(TargetUnion::Lease(given))) => number(kv.lease, *given),
        (CompareTarget::Lease, _) => number(kv.lease, 0),
    };
    match compare.result() {
        CompareResult::Equal => order.is_eq(),
        CompareResult::NotEqual => order.is_ne(),
        CompareResult::Greater => order.is_gt(),
        CompareResult::Less => order.is_lt(),
    }
}

/// Whether a comparison is of a kind that everybody knows.
fn is_known_kind(compare: &pb::Compare) -> bool {
    compare.range_end.is_empty()
        && CompareTarget::try_from(compare.target).is_ok()
        && CompareResult::try_from(compare.result).is_ok()
}

/// Answers a transaction from what is known. `None` if that is not enough, or if its path writes.
pub(super) fn evaluate<'a>(
    txn: &pb::TxnRequest,
    header: pb::ResponseHeader,
    known: impl Fn(&Bytes) -> Option<&'a Known>,
) -> Option<pb::TxnResponse> {
    let mut succeeded = true;
    for compare in &txn.compare {
        if !is_known_kind(compare) {
            return None;
        }
        succeeded &= holds(compare, known(&compare.key)?);
    }
    let operations = if succeeded { &txn.success } else { &txn.failure };
    let inner = pb::ResponseHeader { revision: header.revision, ..Default::default() };
    let responses = operations.iter().map(|operation| match &operation.request {
        Some(Request::RequestRange(range)) if is_plain(range) => {
            let answer = answer(known(&range.key)?, range, inner);
            Some(pb::ResponseOp { response: Some(Response::ResponseRange(answer)) })
        }
        _ => None,
    });
    let responses = responses.collect::<Option<Vec<_>>>()?;
    // A transaction that does nothing and asks nothing has nothing to do with claims.
    let is_empty = txn.compare.is_empty() && responses.is_empty();
    (!is_empty).then_some(pb::TxnResponse { header: Some(header), succeeded, responses })
}

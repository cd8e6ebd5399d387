//! What is wrong with a key-value request by itself, in upstream's order.
//!
//! **Source**: etcd `server/etcdserver/api/v3rpc/key.go`.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::request_op::Request;
use types::CompatVersion;

use crate::error::Error;

pub(crate) fn range(request: &pb::RangeRequest, compat: CompatVersion) -> Result<(), Error> {
    if request.key.is_empty() {
        return Err(Error::EmptyKey);
    }
    let known_sort =
        SortOrder::try_from(request.sort_order).is_ok() && SortTarget::try_from(request.sort_target).is_ok();
    if !known_sort && compat >= CompatVersion::V3_6 {
        return Err(Error::InvalidSortOption);
    }
    Ok(())
}

pub(crate) fn put(request: &pb::PutRequest) -> Result<(), Error> {
    if request.key.is_empty() {
        return Err(Error::EmptyKey);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(Error::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(Error::LeaseProvided);
    }
    Ok(())
}

pub(crate) fn delete_range(request: &pb::DeleteRangeRequest) -> Result<(), Error> {
    if request.key.is_empty() { Err(Error::EmptyKey) } else { Ok(()) }
}

/// Checks sizes and operations, then that no two writes of a branch overlap.
pub(crate) fn txn(request: &pb::TxnRequest, max_ops: usize, compat: CompatVersion) -> Result<(), Error> {
    txn_operations(request, max_ops, compat)?;
    for branch in [&request.success, &request.failure] {
        Writes::collect(branch)?;
    }
    Ok(())
}

/// Nested transactions get what their parent left of the budget.
fn txn_operations(request: &pb::TxnRequest, budget: usize, compat: CompatVersion) -> Result<(), Error> {
    let count = request.compare.len().max(request.success.len()).max(request.failure.len());
    if count > budget {
        return Err(Error::TooManyOps);
    }
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(Error::EmptyKey);
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(Request::RequestRange(request)) => range(request, compat)?,
            Some(Request::RequestPut(request)) => put(request)?,
            Some(Request::RequestDeleteRange(request)) => delete_range(request)?,
            Some(Request::RequestTxn(request)) => txn_operations(request, budget - count, compat)?,
            None => return Err(Error::KeyNotFound),
        }
    }
    Ok(())
}

/// The keys that a list of operations writes.
#[derive(Default)]
struct Writes {
    puts: BTreeSet<Bytes>,
    deletes: Intervals,
}

impl Writes {
    /// Walks a branch: its own deletions first, then each nested transaction against what was
    /// collected so far, then its own puts.
    fn collect(operations: &[pb::RequestOp]) -> Result<Self, Error> {
        let mut writes = Self::default();
        for op in operations {
            if let Some(Request::RequestDeleteRange(request)) = &op.request {
                writes.deletes.add_request(request);
            }
        }
        for op in operations {
            let Some(Request::RequestTxn(nested)) = &op.request else { continue };
            let then = Self::collect(&nested.success)?;
            let otherwise = Self::collect(&nested.failure)?;
            for key in &then.puts {
                writes.add_put(key)?;
            }
            for key in &otherwise.puts {
                // Only one of the two branches runs.
                if !then.puts.contains(key) {
                    writes.add_put(key)?;
                }
            }
            writes.deletes.add_all(then.deletes);
            writes.deletes.add_all(otherwise.deletes);
        }
        for op in operations {
            if let Some(Request::RequestPut(request)) = &op.request {
                writes.add_put(&request.key)?;
            }
        }
        Ok(writes)
    }

    fn add_put(&mut self, key: &Bytes) -> Result<(), Error> {
        if self.puts.contains(key) || self.deletes.contains(key) {
            return Err(Error::DuplicateKey);
        }
        self.puts.insert(key.clone());
        Ok(())
    }
}

/// A set of keys as disjoint intervals: start to end, the end excluded.
#[derive(Default)]
struct Intervals(BTreeMap<Bytes, Bytes>);

impl Intervals {
    /// Takes the end of the range literally: "from this key on" is empty here.
    fn add_request(&mut self, request: &pb::DeleteRangeRequest) {
        match request.range_end.is_empty() {
            true => self.add(request.key.clone(), [&request.key[..], b"\0"].concat().into()),
            false => self.add(request.key.clone(), request.range_end.clone()),
        }
    }

    fn add(&mut self, mut start: Bytes, mut end: Bytes) {
        if end <= start {
            return;
        }
        // Every interval that begins at or before the new end may touch it, from the last one back.
        while let Some((other, other_end)) = self.0.range(..=end.clone()).next_back() {
            if *other_end < start {
                break;
            }
            let (other, other_end) = (other.clone(), other_end.clone());
            self.0.remove(&other);
            start = start.min(other);
            end = end.max(other_end);
        }
        self.0.insert(start, end);
    }

    fn add_all(&mut self, other: Self) {
        other.0.into_iter().for_each(|(start, end)| self.add(start, end));
    }

    fn contains(&self, key: &Bytes) -> bool {
        self.0.range(..=key.clone()).next_back().is_some_and(|(_, end)| key < end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put_op(key: &'static str) -> pb::RequestOp {
        op(Request::RequestPut(pb::PutRequest { key: key.into(), ..Default::default() }))
    }

    fn delete_op(key: &'static str, end: &'static str) -> pb::RequestOp {
        op(Request::RequestDeleteRange(pb::DeleteRangeRequest {
            key: key.into(),
            range_end: end.into(),
            ..Default::default()
        }))
    }

    fn txn_op(success: Vec<pb::RequestOp>, failure: Vec<pb::RequestOp>) -> pb::RequestOp {
        op(Request::RequestTxn(pb::TxnRequest { compare: vec![], success, failure }))
    }

    fn op(request: Request) -> pb::RequestOp {
        pb::RequestOp { request: Some(request) }
    }

    fn check(success: Vec<pb::RequestOp>, expected: Result<(), Error>) {
        let request = pb::TxnRequest { success, ..Default::default() };
        assert_eq!(txn(&request, 128, CompatVersion::V3_7), expected, "{request:?}");
    }

    #[test]
    fn overlapping_writes_are_refused() {
        let duplicate = || Err(Error::DuplicateKey);
        check(vec![put_op("a"), put_op("b")], Ok(()));
        check(vec![put_op("a"), put_op("a")], duplicate());
        check(vec![put_op("b"), delete_op("a", "c")], duplicate());
        check(vec![delete_op("a", "b"), put_op("b")], Ok(()));
        check(vec![delete_op("a", "c"), delete_op("b", "d")], Ok(()));
        // The end is taken literally.
        check(vec![delete_op("a", "\0"), put_op("d")], Ok(()));
        // Both branches of one nested transaction may put the same key, two transactions may not.
        check(vec![txn_op(vec![put_op("a")], vec![put_op("a")])], Ok(()));
        check(vec![txn_op(vec![put_op("a")], vec![]), txn_op(vec![], vec![put_op("a")])], duplicate());
        check(vec![txn_op(vec![put_op("a")], vec![]), put_op("a")], duplicate());
        check(vec![delete_op("a", ""), txn_op(vec![put_op("a")], vec![])], duplicate());
        // A nested deletion meets later nested puts and the puts of its own level only.
        check(vec![txn_op(vec![delete_op("a", "")], vec![]), put_op("a")], duplicate());
        check(vec![txn_op(vec![delete_op("a", "")], vec![]), txn_op(vec![put_op("a")], vec![])], duplicate());
        check(vec![txn_op(vec![put_op("a")], vec![]), txn_op(vec![delete_op("a", "")], vec![])], Ok(()));
    }

    #[test]
    fn intervals_merge() {
        let mut set = Intervals::default();
        for (start, end) in
            [("c", "d"), ("g", "h"), ("a", "b"), ("x", "b"), ("b", "c"), ("f", "k"), ("e", "ea")]
        {
            set.add(start.into(), end.into());
        }
        let merged: Vec<_> = set.0.iter().map(|(start, end)| [&start[..], &end[..]].concat()).collect();
        assert_eq!(merged, [&b"ad"[..], b"eea", b"fk"]);
        for (key, expected) in
            [("a", true), ("cz", true), ("d", false), ("e", true), ("f", true), ("k", false)]
        {
            assert_eq!(set.contains(&key.into()), expected, "{key}");
        }
    }

    #[test]
    fn budgets_shrink_with_depth() {
        let many = |count: usize| {
            (0..count)
                .map(|_| {
                    op(Request::RequestRange(pb::RangeRequest { key: "a".into(), ..Default::default() }))
                })
                .collect::<Vec<_>>()
        };
        check(many(128), Ok(()));
        check(many(129), Err(Error::TooManyOps));
        let mut operations = many(126);
        operations.push(txn_op(many(1), vec![]));
        check(operations.clone(), Ok(()));
        operations.push(txn_op(many(1), vec![]));
        check(operations, Err(Error::TooManyOps));
        check(vec![txn_op(vec![], vec![]); 128], Ok(()));
    }

    #[test]
    fn first_mistake_wins() {
        check(vec![pb::RequestOp { request: None }], Err(Error::KeyNotFound));
        check(vec![put_op("")], Err(Error::EmptyKey));
        let request = pb::PutRequest { ignore_value: true, value: "v".into(), ..Default::default() };
        assert_eq!(put(&request), Err(Error::EmptyKey));
        let request = pb::PutRequest { key: "k".into(), ..request };
        assert_eq!(put(&request), Err(Error::ValueProvided));
        let request = pb::PutRequest { key: "k".into(), ignore_lease: true, lease: 1, ..Default::default() };
        assert_eq!(put(&request), Err(Error::LeaseProvided));
        let request = pb::RangeRequest { key: "k".into(), sort_order: 7, ..Default::default() };
        assert_eq!(range(&request, CompatVersion::V3_6), Err(Error::InvalidSortOption));
        assert_eq!(range(&request, CompatVersion::V3_5), Ok(()));
    }
}

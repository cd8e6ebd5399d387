//! The transactions of the protocol.
//!
//! A write goes into a transaction that looks at the keys of the claims: `create_revision < claim + 1`
//! holds for our own claim and where there is none, and fails for everybody else's, whose key was
//! created later. So does a write that arrives late, when the claim it was made under is long over and
//! another one, of ours too, has taken its place.

use std::collections::HashMap;

use bytes::Bytes;
use client::{Compare, Txn, delete, get, put};
use proto::etcdserverpb as pb;
use proto::etcdserverpb::compare::CompareResult;
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::response_op::Response;
use proto::mvccpb::KeyValue;

use super::values::{self, Known};
use crate::grpc::cache::Span;

/// What stands under the key of a claim that somebody wants to be given up.
pub(super) const REVOKE: &[u8] = b"REVOKE";

/// The key of the claim on a key.
pub(super) fn lease_key(prefix: &[u8], key: &[u8]) -> Bytes {
    [prefix, key].concat().into()
}

/// The keys of the claims on a range.
pub(super) fn lease_range(prefix: &Bytes, span: &Span) -> pb::RangeRequest {
    let range_end = match &span.range_end[..] {
        b"" => Bytes::new(),
        b"\0" => client::prefix_end(prefix),
        end => lease_key(prefix, end),
    };
    pb::RangeRequest { range_end, ..get(lease_key(prefix, &span.key)) }
}

fn created_before(key: Bytes, revision: i64) -> pb::Compare {
    Compare::create_revision(key, CompareResult::Less, revision)
}

/// Claims a key that nobody has and that no lease of its own may take away, and reads it in any case.
pub(super) fn acquire(prefix: &Bytes, key: &Bytes, lease: i64) -> pb::TxnRequest {
    let claim = lease_key(prefix, key);
    Txn::new()
        .when(Compare::create_revision(claim.clone(), CompareResult::Equal, 0))
        .when(Compare::lease(key.clone(), CompareResult::Equal, 0))
        .and_then(Request::RequestRange(get(key.clone())))
        .and_then(Request::RequestPut(pb::PutRequest { lease, ..put(claim.clone(), Bytes::new()) }))
        .or_else(Request::RequestRange(get(key.clone())))
        .or_else(Request::RequestRange(get(claim)))
        .build()
}

/// Asks the owner of a claim to give it up, if it is still that claim.
pub(super) fn revoke(key: &Bytes, created: i64) -> pb::TxnRequest {
    let ask = pb::PutRequest { ignore_lease: true, ..put(key.clone(), REVOKE) };
    Txn::new()
        .when(Compare::create_revision(key.clone(), CompareResult::Equal, created))
        .and_then(Request::RequestPut(ask))
        .build()
}

/// Gives up a claim that was made before this revision.
pub(super) fn rescind(key: Bytes, revision: i64) -> pb::TxnRequest {
    Txn::new()
        .when(created_before(key.clone(), revision))
        .and_then(Request::RequestDeleteRange(delete(key)))
        .build()
}

/// A write, if no claims are in the way but ours; else a look at those that may be.
pub(super) fn guarded<'a>(
    prefix: &Bytes,
    operation: Request,
    keys: impl Iterator<Item = (&'a Bytes, i64)>,
    ranges: &[(Span, i64)],
) -> pb::TxnRequest {
    let mut txn = Txn::new().and_then(operation);
    for (key, claim) in keys {
        let key = lease_key(prefix, key);
        txn = txn.when(created_before(key.clone(), claim + 1)).or_else(Request::RequestRange(get(key)));
    }
    for (span, newest) in ranges {
        let claims = lease_range(prefix, span);
        let guard = pb::Compare {
            range_end: claims.range_end.clone(),
            ..created_before(claims.key.clone(), newest + 1)
        };
        txn = txn.when(guard).or_else(Request::RequestRange(claims));
    }
    txn.build()
}

/// What an operation may write, whichever way its transactions go.
#[derive(Clone, Debug, Default)]
pub(super) struct Writes {
    /// Each once.
    pub(super) keys: Vec<Bytes>,
    pub(super) ranges: Vec<Span>,
}

impl Writes {
    pub(super) fn of(operation: &Request) -> Self {
        let mut writes = Self::default();
        writes.add(operation);
        writes.keys.sort_unstable();
        writes.keys.dedup();
        writes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.ranges.is_empty()
    }

    fn add(&mut self, operation: &Request) {
        match operation {
            Request::RequestRange(_) => {}
            Request::RequestPut(put) => self.keys.push(put.key.clone()),
            Request::RequestDeleteRange(delete) if delete.range_end.is_empty() => {
                self.keys.push(delete.key.clone());
            }
            Request::RequestDeleteRange(delete) => {
                self.ranges.push(Span::new(&delete.key, &delete.range_end));
            }
            Request::RequestTxn(txn) => {
                let operations = txn.success.iter().chain(&txn.failure);
                operations.filter_map(|operation| operation.request.as_ref()).for_each(|one| self.add(one));
            }
        }
    }
}

/// What was done to a key.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Effect {
    None,
    Put(pb::PutRequest),
    Deleted,
}

/// What was done to single keys.
pub(super) type Effects = HashMap<Bytes, Effect>;

impl Effect {
    /// What lies under the key now; `None` if that is not to be kept.
    pub(super) fn on(self, before: Known, revision: i64) -> Option<Known> {
        match self {
            Self::None => Some(before),
            Self::Put(put) => values::after_put(before, &put, revision),
            Self::Deleted => Some(None),
        }
    }
}

/// What an operation has done, by its answer.
pub(super) fn effects(operation: Request, response: Option<&Response>) -> Effects {
    let mut effects = Effects::new();
    gather(operation, response, &mut effects);
    effects
}

fn gather(operation: Request, response: Option<&Response>, effects: &mut Effects) {
    match (operation, response) {
        (Request::RequestPut(put), _) => drop(effects.insert(put.key.clone(), Effect::Put(put))),
        (Request::RequestDeleteRange(delete), _) if delete.range_end.is_empty() => {
            effects.insert(delete.key, Effect::Deleted);
        }
        (Request::RequestTxn(txn), Some(Response::ResponseTxn(answer))) => {
            let taken = if answer.succeeded { txn.success } else { txn.failure };
            for (operation, response) in taken.into_iter().zip(&answer.responses) {
                if let Some(operation) = operation.request {
                    gather(operation, response.response.as_ref(), effects);
                }
            }
        }
        _ => {}
    }
}

/// All that the ranges of a transaction have found.
pub(super) fn found(response: pb::TxnResponse) -> impl Iterator<Item = KeyValue> {
    let ranges = response.responses.into_iter().filter_map(|response| match response.response? {
        Response::ResponseRange(range) => Some(range.kvs),
        _ => None,
    });
    ranges.flatten()
}

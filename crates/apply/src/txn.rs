//! Transactions: compares, the check of the chosen path, execution.
//!
//! - All compares, nested ones too, see the state before the transaction.
//! - The chosen path is checked completely before anything is written; a failing check leaves
//!   the store untouched.
//! - Operations run in request order; later ones see the writes of earlier ones.
//!
//! **Source**: etcd `server/etcdserver/txn/txn.go`.

use lease::Lessor;
use mvcc::{KeyMeta, RangeQuery, RangeResult, ReadError, Store};
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::request_op::Request;
use pb::response_op::Response;
use proto::{etcdserverpb as pb, mvccpb};
use types::{CompatVersion, KeyRange, LeaseId};

use crate::outcome::ApplyError;
use crate::range;

/// What compares and checks need to see.
pub(crate) trait View {
    fn range(&self, query: &RangeQuery) -> Result<RangeResult, ReadError>;
    fn meta(&self, key: &[u8]) -> Option<KeyMeta>;
    fn revision(&self) -> i64;
    fn compacted_revision(&self) -> i64;
}

/// Why a transaction ends early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It is refused, without effect.
    Refused(ApplyError),
    /// The store failed.
    Store(ReadError),
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        Self::Store(error)
    }
}

impl From<ApplyError> for Failure {
    fn from(error: ApplyError) -> Self {
        Self::Refused(error)
    }
}

/// The branches that a transaction takes, in the order in which its nested transactions run.
pub(crate) struct Path(Vec<bool>);

/// Evaluates the compares of a transaction and of the nested ones on its path.
pub(crate) fn choose_path(view: &impl View, txn: &pb::TxnRequest) -> Result<Path, ReadError> {
    let mut path = Vec::with_capacity(1);
    extend_path(view, txn, &mut path)?;
    Ok(Path(path))
}

fn extend_path(view: &impl View, txn: &pb::TxnRequest, path: &mut Vec<bool>) -> Result<(), ReadError> {
    let mut succeeded = true;
    for compare in &txn.compare {
        if !holds(view, compare)? {
            succeeded = false;
            break;
        }
    }
    path.push(succeeded);
    for op in branch(txn, succeeded) {
        if let Some(Request::RequestTxn(nested)) = &op.request {
            extend_path(view, nested, path)?;
        }
    }
    Ok(())
}

fn branch(txn: &pb::TxnRequest, succeeded: bool) -> &[pb::RequestOp] {
    if succeeded { &txn.success } else { &txn.failure }
}

/// Whether every key of the compare's range satisfies it.
fn holds(view: &impl View, compare: &pb::Compare) -> Result<bool, ReadError> {
    let target = CompareTarget::try_from(compare.target);
    let needs_record = matches!(target, Ok(CompareTarget::Value | CompareTarget::Lease));
    if compare.range_end.is_empty() && !needs_record {
        // One key and only numbers that the index knows: no record has to be read.
        let meta = view.meta(&compare.key).unwrap_or_default();
        let kv = mvccpb::KeyValue {
            create_revision: meta.create_revision,
            mod_revision: meta.mod_revision,
            version: meta.version,
            ..Default::default()
        };
        return Ok(record_satisfies(compare, &kv));
    }
    let range = KeyRange::from_wire(compare.key.clone(), compare.range_end.clone());
    let found = view.range(&RangeQuery::new(range))?;
    if found.kvs.is_empty() {
        // There is no way to say "no value" in a request, so a compare of values fails.
        let default = mvccpb::KeyValue::default();
        return Ok(target != Ok(CompareTarget::Value) && record_satisfies(compare, &default));
    }
    Ok(found.kvs.decode()?.iter().all(|kv| record_satisfies(compare, kv)))
}

/// Compares one record. A union member that does not fit the target counts as 0 or empty, an
/// unknown target as equal, an unknown result as satisfied.
fn record_satisfies(compare: &pb::Compare, kv: &mvccpb::KeyValue) -> bool {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let union = compare.target_union.as_ref();
    let ordering = match CompareTarget::try_from(compare.target) {
        Ok(CompareTarget::Value) => match union {
            Some(TargetUnion::Value(value)) => kv.value.cmp(value),
            _ => kv.value[..].cmp(&[]),
        },
        Ok(CompareTarget::Create) => kv.create_revision.cmp(&match union {
            Some(TargetUnion::CreateRevision(number)) => *number,
            _ => 0,
        }),
        Ok(CompareTarget::Mod) => kv.mod_revision.cmp(&match union {
            Some(TargetUnion::ModRevision(number)) => *number,
            _ => 0,
        }),
        Ok(CompareTarget::Version) => kv.version.cmp(&match union {
            Some(TargetUnion::Version(number)) => *number,
            _ => 0,
        }),
        Ok(CompareTarget::Lease) => kv.lease.cmp(&match union {
            Some(TargetUnion::Lease(number)) => *number,
            _ => 0,
        }),
        Err(_) => Equal,
    };
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => ordering == Equal,
        Ok(CompareResult::NotEqual) => ordering != Equal,
        Ok(CompareResult::Greater) => ordering == Greater,
        Ok(CompareResult::Less) => ordering == Less,
        Err(_) => true,
    }
}

/// Checks every operation on the path against the state before the transaction.
///
/// Stricter than upstream in one case, on which upstream stops every member: `ignore_value` or
/// `ignore_lease` on a key that an earlier operation of the same transaction deletes.
pub(crate) fn check(
    view: &impl View,
    lessor: Option<&Lessor>,
    txn: &pb::TxnRequest,
    path: &Path,
) -> Result<(), ApplyError> {
    let mut walk = Check { view, lessor, deleted: Vec::new() };
    walk.branch(txn, &mut path.0.iter().copied())
}

struct Check<'a, V> {
    view: &'a V,
    lessor: Option<&'a Lessor>,
    /// Ranges that operations before the current one delete.
    deleted: Vec<KeyRange>,
}

impl<V: View> Check<'_, V> {
    fn branch(
        &mut self,
        txn: &pb::TxnRequest,
        path: &mut std::iter::Copied<std::slice::Iter<'_, bool>>,
    ) -> Result<(), ApplyError> {
        let succeeded = path.next().unwrap_or_default();
        for op in branch(txn, succeeded) {
            match &op.request {
                Some(Request::RequestRange(range)) => check_revision(self.view, range.revision)?,
                Some(Request::RequestPut(put)) => {
                    check_put(self.view, self.lessor, put)?;
                    let needs_previous = put.ignore_value || put.ignore_lease;
                    if needs_previous && self.deleted.iter().any(|range| range.contains(&put.key)) {
                        return Err(ApplyError::KeyNotFound);
                    }
                }
                Some(Request::RequestTxn(nested)) => self.branch(nested, path)?,
                Some(Request::RequestDeleteRange(delete)) => {
                    self.deleted.push(KeyRange::from_wire(delete.key.clone(), delete.range_end.clone()));
                }
                None => {}
            }
        }
        Ok(())
    }
}

/// Unlike a plain range, a range inside a transaction takes a negative revision for compacted.
fn check_revision(view: &impl View, revision: i64) -> Result<(), ApplyError> {
    if revision == 0 {
        Ok(())
    } else if revision > view.revision() {
        Err(ApplyError::FutureRevision)
    } else if revision < view.compacted_revision() {
        Err(ApplyError::Compacted)
    } else {
        Ok(())
    }
}

/// Checks a put against the state before it: the lease first, then the key.
pub(crate) fn check_put(
    view: &impl View,
    lessor: Option<&Lessor>,
    put: &pb::PutRequest,
) -> Result<(), ApplyError> {
    let lease = LeaseId(put.lease);
    if lease != LeaseId::default() && !lessor.is_some_and(|lessor| lessor.contains(lease)) {
        return Err(ApplyError::LeaseNotFound(lease));
    }
    if (put.ignore_value || put.ignore_lease) && view.meta(&put.key).is_none() {
        return Err(ApplyError::KeyNotFound);
    }
    Ok(())
}

/// Runs the operations of a transaction.
pub(crate) trait Execute {
    fn range(&mut self, request: &pb::RangeRequest) -> Result<pb::RangeResponse, Failure>;
    fn put(&mut self, request: &pb::PutRequest) -> Result<pb::PutResponse, Failure>;
    fn delete_range(&mut self, request: &pb::DeleteRangeRequest) -> Result<pb::DeleteRangeResponse, Failure>;
}

/// Executes a checked transaction. The header of the result is present and empty.
pub(crate) fn execute(
    target: &mut impl Execute,
    txn: &pb::TxnRequest,
    path: &Path,
) -> Result<pb::TxnResponse, Failure> {
    execute_from(target, txn, &mut path.0.iter().copied())
}

fn execute_from(
    target: &mut impl Execute,
    txn: &pb::TxnRequest,
    path: &mut std::iter::Copied<std::slice::Iter<'_, bool>>,
) -> Result<pb::TxnResponse, Failure> {
    let succeeded = path.next().unwrap_or_default();
    let ops = branch(txn, succeeded);
    let mut responses = Vec::with_capacity(ops.len());
    for op in ops {
        let response = match &op.request {
            Some(Request::RequestRange(request)) => Some(Response::ResponseRange(target.range(request)?)),
            Some(Request::RequestPut(request)) => Some(Response::ResponsePut(target.put(request)?)),
            Some(Request::RequestDeleteRange(request)) => {
                Some(Response::ResponseDeleteRange(target.delete_range(request)?))
            }
            Some(Request::RequestTxn(nested)) => {
                Some(Response::ResponseTxn(execute_from(target, nested, path)?))
            }
            None => None,
        };
        responses.push(pb::ResponseOp { response });
    }
    Ok(pb::TxnResponse { header: Some(pb::ResponseHeader::default()), succeeded, responses })
}

/// Whether both branches hold nothing but plain ranges. A nested transaction counts as a write.
pub fn is_read_only(txn: &pb::TxnRequest) -> bool {
    let is_range = |op: &pb::RequestOp| matches!(op.request, Some(Request::RequestRange(_)));
    txn.success.iter().chain(&txn.failure).all(is_range)
}

/// Whether every operation is a serializable range; true for a transaction of compares alone.
pub fn is_serializable(txn: &pb::TxnRequest) -> bool {
    let serializable =
        |op: &pb::RequestOp| matches!(&op.request, Some(Request::RequestRange(range)) if range.serializable);
    txn.success.iter().chain(&txn.failure).all(serializable)
}

/// Why a read-only transaction has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ReadTxnError {
    /// It is refused.
    #[error(transparent)]
    Refused(ApplyError),
    /// The store failed.
    #[error(transparent)]
    Store(ReadError),
}

/// Runs a read-only transaction at the store's current revision, on the caller's thread.
///
/// # Errors
/// A range at a revision that is compacted or in the future; a damaged store.
pub fn read(
    store: &Store,
    txn: &pb::TxnRequest,
    compat: CompatVersion,
) -> Result<pb::TxnResponse, ReadTxnError> {
    let mut view = Pinned { store, revision: store.current_revision(), compat };
    let mut run = || {
        let path = choose_path(&view, txn)?;
        check(&view, None, txn, &path)?;
        execute(&mut view, txn, &path)
    };
    match run() {
        Ok(mut response) => {
            response.header = Some(range::header(view.revision));
            Ok(response)
        }
        Err(Failure::Refused(error)) => Err(ReadTxnError::Refused(error)),
        Err(Failure::Store(error)) => Err(match ApplyError::from_read(&error) {
            Some(refused) => ReadTxnError::Refused(refused),
            None => ReadTxnError::Store(error),
        }),
    }
}

/// The store at one revision.
struct Pinned<'a> {
    store: &'a Store,
    revision: i64,
    compat: CompatVersion,
}

impl View for Pinned<'_> {
    fn range(&self, query: &RangeQuery) -> Result<RangeResult, ReadError> {
        let revision = if query.revision <= 0 { self.revision } else { query.revision };
        self.store.range(&RangeQuery { revision, ..query.clone() })
    }

    fn meta(&self, key: &[u8]) -> Option<KeyMeta> {
        self.store.meta(key, self.revision)
    }

    fn revision(&self) -> i64 {
        self.revision
    }

    fn compacted_revision(&self) -> i64 {
        self.store.compacted_revision()
    }
}

impl Execute for Pinned<'_> {
    fn range(&mut self, request: &pb::RangeRequest) -> Result<pb::RangeResponse, Failure> {
        let result = View::range(self, &range::query(request, self.compat))?;
        let mut response = range::response(&result)?;
        response.header = Some(range::header(self.revision));
        Ok(response)
    }

    fn put(&mut self, _: &pb::PutRequest) -> Result<pb::PutResponse, Failure> {
        unreachable!("only read-only transactions come here")
    }

    fn delete_range(&mut self, _: &pb::DeleteRangeRequest) -> Result<pb::DeleteRangeResponse, Failure> {
        unreachable!("only read-only transactions come here")
    }
}

//! Puts, deletions, transactions and compactions.

use std::sync::Arc;

use bytes::Bytes;
use lease::Lessor;
use mvcc::{KeyMeta, RangeQuery, RangeResult, ReadError, RevisionEvents, WriteTxn};
use parking_lot::MutexGuard;
use prost::Message;
use proto::{etcdserverpb as pb, mvccpb};
use types::{CompatVersion, KeyRange, LeaseId};

use crate::outcome::{Applied, ApplyError, FatalApplyError, FollowUp, Reply};
use crate::txn::{self, Execute, Failure, View};
use crate::{Applier, Context, range};

const NO_LEASE: LeaseId = LeaseId(0);

/// A write transaction of the store with the leases whose keys it moves.
struct Writer<'a> {
    txn: WriteTxn<'a>,
    lessor: MutexGuard<'a, Lessor>,
    compat: CompatVersion,
    /// Ranges are answered only where somebody waits for them.
    answers_ranges: bool,
}

impl View for Writer<'_> {
    fn range(&self, query: &RangeQuery) -> Result<RangeResult, ReadError> {
        self.txn.range(query)
    }

    fn meta(&self, key: &[u8]) -> Option<KeyMeta> {
        self.txn.meta(key)
    }

    fn revision(&self) -> i64 {
        self.txn.revision()
    }

    fn compacted_revision(&self) -> i64 {
        self.txn.compacted_revision()
    }
}

impl Writer<'_> {
    fn record(&self, key: &[u8]) -> Result<Option<mvccpb::KeyValue>, ReadError> {
        // The store has parsed the record once already, at its start or when it wrote it.
        Ok(self.txn.get(key)?.and_then(|raw: Bytes| mvccpb::KeyValue::decode(raw).ok()))
    }

    /// Moves a key from the lease of its previous write to that of the newest.
    fn move_lease(&mut self, key: &[u8], previous: LeaseId, lease: LeaseId) {
        if previous == lease {
            return;
        }
        if previous != NO_LEASE {
            self.lessor.detach(key);
        }
        if lease != NO_LEASE {
            // The lease was checked under this very lock.
            let attached = self.lessor.attach(key, lease);
            debug_assert!(attached.is_ok(), "a checked lease exists");
        }
    }

    fn commit(self, context: &Context) -> Option<Arc<RevisionEvents>> {
        self.txn.commit(context.write_set()).events
    }
}

impl Execute for Writer<'_> {
    fn range(&mut self, request: &pb::RangeRequest) -> Result<pb::RangeResponse, Failure> {
        let header = Some(range::header(self.txn.revision()));
        if !self.answers_ranges {
            return Ok(pb::RangeResponse { header, ..Default::default() });
        }
        let result = self.txn.range(&range::query(request, self.compat))?;
        Ok(pb::RangeResponse { header, ..range::response(&result)? })
    }

    fn put(&mut self, request: &pb::PutRequest) -> Result<pb::PutResponse, Failure> {
        let needs_previous = request.prev_kv || request.ignore_value || request.ignore_lease;
        let previous = if needs_previous { self.record(&request.key)? } else { None };
        let mut value = request.value.clone();
        let mut lease = LeaseId(request.lease);
        if request.ignore_value || request.ignore_lease {
            let previous = previous.as_ref().ok_or(ApplyError::KeyNotFound)?;
            if request.ignore_value {
                value = previous.value.clone();
            }
            if request.ignore_lease {
                lease = LeaseId(previous.lease);
            }
        }
        let put = self.txn.put(request.key.clone(), value, lease)?;
        self.move_lease(&request.key, put.previous_lease, lease);
        Ok(pb::PutResponse {
            header: Some(range::header(self.txn.revision())),
            prev_kv: previous.filter(|_| request.prev_kv),
        })
    }

    fn delete_range(&mut self, request: &pb::DeleteRangeRequest) -> Result<pb::DeleteRangeResponse, Failure> {
        let range = KeyRange::from_wire(request.key.clone(), request.range_end.clone());
        let prev_kvs = match request.prev_kv {
            true => self.txn.range(&RangeQuery::new(range.clone()))?.kvs.decode().map_err(ReadError::from)?,
            false => Vec::new(),
        };
        let deleted = self.txn.delete_range(&range)?;
        for key in &deleted {
            self.move_lease(&key.key, key.lease, NO_LEASE);
        }
        let header = Some(range::header(self.txn.revision()));
        Ok(pb::DeleteRangeResponse { header, deleted: deleted.len() as i64, prev_kvs })
    }
}

impl Applier {
    fn writer<'a>(&'a self, context: &Context) -> Writer<'a> {
        Writer {
            txn: self.store.write(),
            lessor: self.shared.lessor.lock(),
            compat: self.options.compat,
            answers_ranges: context.wanted,
        }
    }

    pub(crate) fn put(
        &self,
        request: &pb::PutRequest,
        context: &Context,
    ) -> Result<Applied, FatalApplyError> {
        self.write(context, |writer| {
            txn::check_put(writer, Some(&writer.lessor), request)?;
            writer.put(request).map(Reply::Put)
        })
    }

    pub(crate) fn delete_range(
        &self,
        request: &pb::DeleteRangeRequest,
        context: &Context,
    ) -> Result<Applied, FatalApplyError> {
        self.write(context, |writer| writer.delete_range(request).map(Reply::DeleteRange))
    }

    pub(crate) fn txn(
        &self,
        request: &pb::TxnRequest,
        context: &Context,
    ) -> Result<Applied, FatalApplyError> {
        self.write(context, |writer| {
            let path = txn::choose_path(writer, request)?;
            txn::check(writer, Some(&writer.lessor), request, &path)?;
            let mut response = txn::execute(writer, request, &path)?;
            response.header = Some(range::header(writer.txn.revision()));
            Ok(Reply::Txn(response))
        })
    }

    /// Runs `change` in one transaction: committed whole, or refused without effect.
    fn write(
        &self,
        context: &Context,
        change: impl FnOnce(&mut Writer<'_>) -> Result<Reply, Failure>,
    ) -> Result<Applied, FatalApplyError> {
        let mut writer = self.writer(context);
        match change(&mut writer) {
            Ok(reply) => Ok(Applied { events: writer.commit(context), ..Applied::reply(reply) }),
            Err(Failure::Refused(error)) => {
                drop(writer);
                Ok(self.refuse(error, context))
            }
            Err(Failure::Store(source)) => {
                drop(writer);
                match ApplyError::from_read(&source) {
                    Some(error) => Ok(self.refuse(error, context)),
                    None => Err(FatalApplyError::Store { index: context.position.index, source }),
                }
            }
        }
    }

    /// A range in the log: only old leaders wrote those; nothing changes.
    pub(crate) fn range(
        &self,
        request: &pb::RangeRequest,
        context: &Context,
    ) -> Result<Applied, FatalApplyError> {
        self.backend.append(context.write_set());
        if !context.wanted {
            return Ok(Applied::nothing());
        }
        let result = self.store.range(&range::query(request, self.options.compat));
        match result.and_then(|result| range::response(&result)) {
            Ok(response) => Ok(Applied::reply(Reply::Range(response))),
            Err(source) => match ApplyError::from_read(&source) {
                Some(error) => Ok(Applied::refuse(error)),
                None => Err(FatalApplyError::Store { index: context.position.index, source }),
            },
        }
    }

    pub(crate) fn compact(
        &self,
        request: &pb::CompactionRequest,
        context: &Context,
    ) -> Result<Applied, FatalApplyError> {
        match self.store.compact(request.revision) {
            Ok(ticket) => {
                let mut set = context.write_set();
                set.changes.push(ticket.change);
                self.backend.append(set);
                let response = pb::CompactionResponse { header: self.header() };
                Ok(Applied::reply(Reply::Compaction(response)).with(FollowUp::Compact(ticket.job)))
            }
            Err(source) => match ApplyError::from_read(&source) {
                Some(error) => Ok(self.refuse(error, context)),
                None => Err(FatalApplyError::Store { index: context.position.index, source }),
            },
        }
    }

    /// Refuses a request; the index still advances.
    pub(crate) fn refuse(&self, error: ApplyError, context: &Context) -> Applied {
        self.backend.append(context.write_set());
        Applied::refuse(error)
    }
}

impl ApplyError {
    /// The refusal that a failed read means to the client; `None` when the store itself failed.
    pub fn from_read(error: &ReadError) -> Option<Self> {
        match error {
            ReadError::Compacted => Some(Self::Compacted),
            ReadError::FutureRevision { .. } => Some(Self::FutureRevision),
            _ => None,
        }
    }
}

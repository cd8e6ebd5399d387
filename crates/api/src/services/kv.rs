//! Range, RangeStream, Put, DeleteRange, Txn, Compact.
//!
//! Reads run where they are asked for if they are small; a read that may visit many keys moves to
//! a blocking thread, so that it does not hold up the other connections of its worker.
//!
//! **Source**: etcd `server/etcdserver/api/v3rpc/{key,quota}.go`, `server/etcdserver/v3_server.go`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use apply::{Reply, quota};
use bytes::{BufMut, Bytes, BytesMut};
use mvcc::{EncodedKvs, RangeQuery, RangeResult, SortOrder, SortTarget, Store};
use prost::Message;
use prost::encoding::{encode_varint, encoded_len_varint};
use proto::etcdserverpb as pb;
use proto::mvccpb::KeyValue;
use types::{CompatVersion, KeyRange};

use super::{access, validate};
use crate::error::Error;
use crate::grpc::{
    self, CallContext, Code, Found, Pieces, Responses, Stages, Status, note_found, note_stages, wants_stages,
    write_prefix,
};
use crate::member::{Headers, Member, ReadKind, ReadOutcome, ReadRequest, ReadTimes, SlowRead};

/// Keys that a read may look at on the thread of its connection.
const INLINE_KEYS: usize = 128;
/// Encoded key-values from this length on are sent as they are instead of being copied.
const PIECE_BYTES: usize = 16 << 10;
/// Keys of the first part of a streamed range.
const FIRST_CHUNK_KEYS: i64 = 10;

/// A `RangeResponse` whose key-values are encoded already.
#[derive(Clone, Debug, Default)]
pub struct RangeReply {
    /// Header; absent in all but the last part of a stream.
    pub header: Option<pb::ResponseHeader>,
    /// The key-values.
    pub kvs: EncodedKvs,
    /// The limit cut results off.
    pub more: bool,
    /// Keys in the range.
    pub count: i64,
}

impl RangeReply {
    /// The same as a message. Fails if a stored record is damaged.
    pub fn into_message(self) -> Result<pb::RangeResponse, Error> {
        let kvs = self.decode_kvs()?;
        Ok(pb::RangeResponse { header: self.header, kvs, more: self.more, count: self.count })
    }

    /// The key-values, decoded.
    pub(super) fn decode_kvs(&self) -> Result<Vec<KeyValue>, Error> {
        let damaged = |error| Error::Other(format!("etcdserver: a stored record does not decode: {error}"));
        self.kvs.decode().map_err(damaged)
    }

    /// The fields beside the key-values: header in front, the others behind.
    fn edges(&self) -> (pb::RangeResponse, pb::RangeResponse) {
        let front = pb::RangeResponse { header: self.header, ..Default::default() };
        let back = pb::RangeResponse { more: self.more, count: self.count, ..Default::default() };
        (front, back)
    }

    fn encoded_len(&self) -> usize {
        let (front, back) = self.edges();
        front.encoded_len() + self.kvs.field_len(2) + back.encoded_len()
    }

    fn encode(&self, buffer: &mut BytesMut) {
        let (front, back) = self.edges();
        front.encode_raw(buffer);
        self.kvs.write_field(2, buffer);
        back.encode_raw(buffer);
    }
}

impl grpc::Reply for RangeReply {
    fn write_framed(&self, buffer: &mut BytesMut) {
        let len = self.encoded_len();
        buffer.reserve(grpc::PREFIX_LEN + len);
        write_prefix(buffer, len);
        self.encode(buffer);
    }

    fn into_pieces(self) -> Pieces {
        if self.kvs.range_response_len() < PIECE_BYTES {
            return Pieces::Whole(self.into_frame());
        }
        let (front, back) = self.edges();
        let mut first = BytesMut::new();
        write_prefix(&mut first, self.encoded_len());
        front.encode_raw(&mut first);
        let mut pieces = vec![first.freeze()];
        pieces.extend(self.kvs.range_response_field().cloned());
        pieces.push(back.encode_to_vec().into());
        Pieces::Several(pieces)
    }
}

/// A `RangeStreamResponse`: the range response as field 1.
struct StreamedRange(RangeReply);

impl grpc::Reply for StreamedRange {
    fn write_framed(&self, buffer: &mut BytesMut) {
        let inner = self.0.encoded_len();
        let len = 1 + encoded_len_varint(inner as u64) + inner;
        buffer.reserve(grpc::PREFIX_LEN + len);
        write_prefix(buffer, len);
        buffer.put_u8(0x0a);
        encode_varint(inner as u64, buffer);
        self.0.encode(buffer);
    }
}

/// `KV.Range`.
pub async fn range<M: Member>(
    member: &M,
    context: &CallContext,
    request: pb::RangeRequest,
) -> Result<RangeReply, Error> {
    let compat = member.config().compat;
    validate::range(&request, compat)?;
    let query = apply::range::query(&request, compat);
    let mut reading = Reading::begin(ReadKind::Range, request.serializable);
    let outcome = match reading.agree(member).await {
        Ok(()) => {
            let read = read(member.store(), query);
            access::read(member, context, |access| access.range(&request), read).await
        }
        Err(error) => Err(error),
    };
    let took = reading.end(member, outcome.is_ok());
    if took > member.config().slow_apply {
        let outcome = outcome.as_ref().map(|result| ReadOutcome::Range {
            count: result.kvs.len(),
            bytes: RangeReply {
                header: Some(pb::ResponseHeader { revision: result.revision, ..Default::default() }),
                kvs: result.kvs.clone(),
                more: result.more,
                count: result.count,
            }
            .encoded_len(),
        });
        member.slow_read(&SlowRead { request: ReadRequest::Range(&request), took, outcome });
    }
    let result = outcome?;
    note_found(Found { returned: result.kvs.len(), total: result.count, revision: result.revision });
    let header = Some(member.header_at(result.revision));
    Ok(RangeReply { header, kvs: result.kvs, more: result.more, count: result.count })
}

/// Counts a read, and says how long it took: two calls around the read instead of a function that takes it, as a future
/// that is passed on is held twice.
struct Reading {
    kind: ReadKind,
    serializable: bool,
    begun: Instant,
    /// From when on the store could be asked.
    agreed: Option<Instant>,
}

impl Reading {
    fn begin(kind: ReadKind, serializable: bool) -> Self {
        Self { kind, serializable, begun: Instant::now(), agreed: None }
    }

    /// Waits for the read index unless the read is serializable.
    async fn agree<M: Member>(&mut self, member: &M) -> Result<(), Error> {
        if self.serializable {
            self.agreed = Some(self.begun);
        } else {
            member.read_index().await?;
            self.agreed = Some(Instant::now());
        }
        Ok(())
    }

    fn end<M: Member>(self, member: &M, success: bool) -> Duration {
        let ended = Instant::now();
        let total = ended - self.begun;
        let in_store = self.agreed.map(|agreed| ended - agreed);
        member.count_read(&ReadTimes { kind: self.kind, success, total, in_store });
        if wants_stages(total) {
            let agreed = self.agreed.filter(|_| !self.serializable);
            note_stages(Stages { agreed, ..Stages::default() });
        }
        total
    }
}

/// Reads without holding up the worker.
async fn read(store: &Arc<Store>, query: RangeQuery) -> Result<RangeResult, Error> {
    if let Some(result) = store.range_within(&query, INLINE_KEYS)? {
        return Ok(result);
    }
    let store = store.clone();
    // In a box: short reads hold none of it.
    Box::pin(off_thread(move || store.range(&query))).await?.map_err(Error::from)
}

/// Runs work that takes long on a blocking thread. Dropping the future does not stop it.
pub(super) async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    // The task fails when the runtime ends, or when the work panicked, which the thread reported.
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Stopped)
}

/// `KV.RangeStream`.
pub async fn range_stream<M: Member>(
    member: &M,
    context: &CallContext,
    request: pb::RangeRequest,
    responses: &mut Responses,
) -> Result<(), Error> {
    let compat = member.config().compat;
    validate::range(&request, compat)?;
    let query = apply::range::query(&request, compat);
    if query.sort_order != SortOrder::None
        && !(query.sort_order == SortOrder::Ascend && query.sort_target == SortTarget::Key)
    {
        return Err(unimplemented("RangeStream does not support custom sort orders"));
    }
    let filters = [
        request.min_mod_revision,
        request.max_mod_revision,
        request.min_create_revision,
        request.max_create_revision,
    ];
    if filters.iter().any(|filter| *filter != 0) {
        return Err(unimplemented("RangeStream does not support revision filters"));
    }
    if !request.serializable {
        member.read_index().await?;
    }
    let streaming = async {
        // By another target than the key, ascending unless ordered: no part of it stands alone.
        let whole = request.count_only || query.sort_target != SortTarget::Key;
        if !whole {
            return stream_parts(member, query, responses).await;
        }
        let result = read(member.store(), query).await?;
        let header = Some(member.header_at(result.revision));
        let reply = RangeReply { header, kvs: result.kvs, more: result.more, count: result.count };
        Ok(responses.send(&StreamedRange(reply)).await?)
    };
    access::read(member, context, |access| access.range(&request), streaming).await
}

async fn stream_parts<M: Member>(
    member: &M,
    mut query: RangeQuery,
    responses: &mut Responses,
) -> Result<(), Error> {
    let mut left = if query.limit > 0 { query.limit } else { i64::MAX };
    let mut chunk_keys = FIRST_CHUNK_KEYS.min(left);
    let target_bytes = member.config().max_request_bytes;
    let mut pinned = None;
    let mut sent: i64 = 0;
    loop {
        let part = RangeQuery { limit: chunk_keys, without_total: true, ..query.clone() };
        let result = read(member.store(), part).await?;
        let header_revision = *pinned.get_or_insert(result.revision);
        if query.revision <= 0 {
            query.revision = header_revision;
        }
        let (keys, bytes) = (result.kvs.len() as i64, result.kvs.range_response_len());
        sent += keys;
        left -= keys;
        if let Some(last) = result.kvs.last_key().filter(|_| result.more) {
            query.range = behind(&query.range, last);
        }
        let mut reply = RangeReply { kvs: result.kvs, ..Default::default() };
        let done = !result.more || left == 0;
        if done {
            reply.header = Some(member.header_at(header_revision));
            reply.more = result.more;
            reply.count = sent;
            if result.more {
                let rest = RangeQuery { limit: 0, count_only: true, ..query.clone() };
                reply.count += read(member.store(), rest).await?.count;
            }
        }
        responses.send(&StreamedRange(reply)).await?;
        if done {
            return Ok(());
        }
        chunk_keys = next_chunk(chunk_keys, bytes, target_bytes).min(left);
        // Other connections of this worker come first.
        tokio::task::yield_now().await;
    }
}

/// Aims at parts between half and twice the largest request.
fn next_chunk(keys: i64, bytes: usize, target_bytes: usize) -> i64 {
    match bytes {
        bytes if bytes < target_bytes / 2 => keys.saturating_mul(2),
        bytes if bytes > target_bytes.saturating_mul(2) => (keys / 2).max(1),
        _ => keys,
    }
}

/// What of a range lies behind a key.
fn behind(range: &KeyRange, key: &[u8]) -> KeyRange {
    let next = Bytes::from([key, b"\0"].concat());
    match range {
        KeyRange::From(_) => KeyRange::From(next),
        KeyRange::Span(_, end) => KeyRange::Span(next, end.clone()),
        KeyRange::Single(_) => KeyRange::Span(next.clone(), next),
    }
}

fn unimplemented(text: &'static str) -> Error {
    Error::Status(Status::new(Code::Unimplemented, text))
}

/// `KV.Put`.
pub async fn put<M: Member>(
    member: &M,
    context: &CallContext,
    request: pb::PutRequest,
) -> Result<pb::PutResponse, Error> {
    check_quota(member, quota::put_cost(&request)).await?;
    validate::put(&request)?;
    let request = pb::InternalRaftRequest { put: Some(request), ..Default::default() };
    match access::propose(member, context, request).await? {
        Reply::Put(mut response) => {
            member.complete(&mut response.header);
            Ok(response)
        }
        other => Err(unexpected(&other)),
    }
}

/// `KV.DeleteRange`.
pub async fn delete_range<M: Member>(
    member: &M,
    context: &CallContext,
    request: pb::DeleteRangeRequest,
) -> Result<pb::DeleteRangeResponse, Error> {
    validate::delete_range(&request)?;
    let request = pb::InternalRaftRequest { delete_range: Some(request), ..Default::default() };
    match access::propose(member, context, request).await? {
        Reply::DeleteRange(mut response) => {
            member.complete(&mut response.header);
            Ok(response)
        }
        other => Err(unexpected(&other)),
    }
}

/// `KV.Txn`.
pub async fn txn<M: Member>(
    member: &M,
    context: &CallContext,
    request: pb::TxnRequest,
) -> Result<pb::TxnResponse, Error> {
    check_quota(member, quota::txn_cost(&request)).await?;
    let config = member.config();
    validate::txn(&request, config.max_txn_ops, config.compat)?;
    let mut response = if apply::is_read_only(&request) {
        Box::pin(read_txn(member, context, request)).await?
    } else {
        let request = pb::InternalRaftRequest { txn: Some(request), ..Default::default() };
        match access::propose(member, context, request).await? {
            Reply::Txn(response) => response,
            other => return Err(unexpected(&other)),
        }
    };
    member.complete(&mut response.header);
    Ok(response)
}

async fn read_txn<M: Member>(
    member: &M,
    context: &CallContext,
    request: pb::TxnRequest,
) -> Result<pb::TxnResponse, Error> {
    let compat = member.config().compat;
    let mut reading = Reading::begin(ReadKind::ReadonlyTxn, apply::is_serializable(&request));
    let outcome = match reading.agree(member).await {
        Ok(()) => {
            let running = run_read_txn(member, &request, compat);
            access::read(member, context, |access| access.txn(&request), running).await
        }
        Err(error) => Err(error),
    };
    let took = reading.end(member, outcome.is_ok());
    if took > member.config().slow_apply {
        let outcome = outcome.as_ref().map(ReadOutcome::Txn);
        member.slow_read(&SlowRead { request: ReadRequest::Txn(&request), took, outcome });
    }
    outcome
}

async fn run_read_txn<M: Member>(
    member: &M,
    request: &pb::TxnRequest,
    compat: CompatVersion,
) -> Result<pb::TxnResponse, Error> {
    if is_small(request) {
        return Ok(apply::read_txn(member.store(), request, compat)?);
    }
    let (store, request) = (member.store().clone(), request.clone());
    Ok(off_thread(move || apply::read_txn(&store, &request, compat)).await??)
}

/// Whether a transaction looks at single keys only.
fn is_small(request: &pb::TxnRequest) -> bool {
    use pb::request_op::Request;
    let single = |op: &pb::RequestOp| match &op.request {
        Some(Request::RequestRange(range)) => range.range_end.is_empty(),
        _ => false,
    };
    request.compare.iter().all(|compare| compare.range_end.is_empty())
        && request.success.iter().chain(&request.failure).all(single)
}

/// `KV.Compact`.
pub async fn compact<M: Member>(
    member: &M,
    context: &CallContext,
    request: pb::CompactionRequest,
) -> Result<pb::CompactionResponse, Error> {
    access::administrate(member, context).await?;
    let physical = request.physical;
    let request = pb::InternalRaftRequest { compaction: Some(Box::new(request)), ..Default::default() };
    let outcome = access::propose(member, context, request).await;
    if physical && matches!(outcome, Ok(_) | Err(Error::Compacted)) {
        member.compaction_finished().await?;
    }
    match outcome? {
        Reply::Compaction(mut response) => {
            member.complete(&mut response.header);
            Ok(response)
        }
        other => Err(unexpected(&other)),
    }
}

/// Refuses what would not fit, and raises this member's NOSPACE alarm.
pub(super) async fn check_quota<M: Member>(member: &M, cost: u64) -> Result<(), Error> {
    if member.config().quota.allows(member.backend().size_bytes(), cost) {
        return Ok(());
    }
    Box::pin(raise_alarm(member)).await;
    // Whether the alarm is raised or not, the request does not fit.
    Err(Error::NoSpace)
}

async fn raise_alarm<M: Member>(member: &M) {
    let alarm = pb::AlarmRequest {
        action: pb::alarm_request::AlarmAction::Activate as i32,
        member_id: member.config().member_id.0,
        alarm: pb::AlarmType::Nospace as i32,
    };
    let request = pb::InternalRaftRequest { alarm: Some(Box::new(alarm)), ..Default::default() };
    if let Err(error) = member.propose(request).await {
        tracing::warn!(%error, "failed to raise the NOSPACE alarm");
    }
}

/// A reply of another kind than the request: a mistake of ours, reported instead of hidden.
pub(super) fn unexpected(reply: &Reply) -> Error {
    let kind = format!("{reply:?}");
    let kind = kind.split('(').next().unwrap_or_default();
    Error::Other(format!("etcdserver: applying gave an unexpected reply: {kind}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::Reply as _;

    #[test]
    fn a_large_reply_in_pieces_is_the_same_message() {
        let mut kvs = Vec::new();
        for _ in 0..300 {
            kvs.push(KeyValue { key: "k".into(), value: vec![b'v'; 100].into(), ..Default::default() });
        }
        let message = pb::RangeResponse { header: None, kvs: kvs.clone(), more: true, count: 301 };
        let reply = RangeReply { header: None, kvs: kvs.iter().collect(), more: true, count: 301 };
        let Pieces::Several(pieces) = reply.into_pieces() else { panic!("in one piece") };
        assert!(pieces.len() > 1);
        assert_eq!(pieces.concat(), message.into_frame());
    }

    #[test]
    fn replies_without_decoding_equal_the_message() {
        let message = pb::RangeResponse {
            header: Some(pb::ResponseHeader { revision: 300, cluster_id: 1, member_id: 2, raft_term: 3 }),
            kvs: vec![],
            more: true,
            count: 7,
        };
        let reply = RangeReply { header: message.header, kvs: EncodedKvs::default(), more: true, count: 7 };
        assert_eq!(reply.clone().into_frame(), message.clone().into_frame());
        let streamed = pb::RangeStreamResponse { range_response: Some(message) };
        assert_eq!(StreamedRange(reply).into_frame(), streamed.into_frame());
    }

    #[test]
    fn parts_adapt_to_their_size() {
        assert_eq!(next_chunk(10, 100, 1000), 20);
        assert_eq!(next_chunk(10, 600, 1000), 10);
        assert_eq!(next_chunk(10, 2001, 1000), 5);
        assert_eq!(next_chunk(1, 2001, 1000), 1);
    }
}

//! The KV service: ranges by way of the cache, writes through it.
//!
//! Callers with a token are never answered from the cache: whether they may see a key is for the
//! cluster to say, each time.
//!
//! **Source**: etcd `server/proxy/grpcproxy/kv.go`.

use api::grpc::{CallContext, Code, Status};
use proto::etcdserverpb as pb;
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::response_op::Response;
use std::sync::atomic::Ordering;

use super::Proxy;
use super::cache::{Lookup, Span};
use super::counters::count;
use super::upstream::status_of;

/// `KV.Range`.
pub(crate) async fn range(
    proxy: &Proxy,
    context: &CallContext,
    request: pb::RangeRequest,
) -> Result<pb::RangeResponse, Status> {
    let is_anybody = context.token().is_none();
    if request.serializable && is_anybody {
        let found = proxy.cache.lock().get(&request);
        match found {
            Lookup::Hit(answer) => {
                count(&proxy.counters.cache_hits);
                return Ok(answer);
            }
            Lookup::Compacted => {
                count(&proxy.counters.cache_hits);
                let text = "etcdserver: mvcc: required revision has been compacted";
                return Err(Status::new(Code::OutOfRange, text));
            }
            Lookup::Miss => count(&proxy.counters.cache_misses),
        }
    }
    // What is not for anybody is not kept.
    let epoch = is_anybody.then(|| proxy.cache.lock().epoch());
    let client = proxy.upstream.client_for(context);
    let answer = match &proxy.leasing {
        Some(leasing) => leasing.range(&client, is_anybody, request.clone()).await,
        None => proxy.upstream.range(&client, request.clone()).await,
    };
    let answer = answer.map_err(|error| status_of(&error))?;
    if let Some(epoch) = epoch {
        let mut cache = proxy.cache.lock();
        cache.add(epoch, &request, &answer);
        proxy.counters.cache_keys.store(cache.len() as u64, Ordering::Relaxed);
    }
    Ok(answer)
}

/// `KV.Put`.
pub(crate) async fn put(
    proxy: &Proxy,
    context: &CallContext,
    request: pb::PutRequest,
) -> Result<pb::PutResponse, Status> {
    let writing = Writing::begin(proxy, vec![Span::new(&request.key, &bytes::Bytes::new())]);
    let client = proxy.upstream.client_for(context);
    let response = match &proxy.leasing {
        Some(leasing) => leasing.put(&client, request).await,
        None => proxy.upstream.put(&client, request).await,
    };
    let response = response.map_err(|error| status_of(&error))?;
    writing.done(response.header.as_ref());
    Ok(response)
}

/// `KV.DeleteRange`.
pub(crate) async fn delete_range(
    proxy: &Proxy,
    context: &CallContext,
    request: pb::DeleteRangeRequest,
) -> Result<pb::DeleteRangeResponse, Status> {
    let writing = Writing::begin(proxy, vec![Span::new(&request.key, &request.range_end)]);
    let client = proxy.upstream.client_for(context);
    let response = match &proxy.leasing {
        Some(leasing) => leasing.delete_range(&client, request).await,
        None => proxy.upstream.delete_range(&client, request).await,
    };
    let response = response.map_err(|error| status_of(&error))?;
    writing.done(response.header.as_ref());
    Ok(response)
}

/// `KV.Txn`.
pub(crate) async fn txn(
    proxy: &Proxy,
    context: &CallContext,
    request: pb::TxnRequest,
) -> Result<pb::TxnResponse, Status> {
    let is_anybody = context.token().is_none();
    let mut spans = Vec::new();
    written_by(&request, &mut spans);
    let writing = Writing::begin(proxy, spans);
    let original = request.clone();
    let epoch = proxy.cache.lock().epoch();
    let client = proxy.upstream.client_for(context);
    let response = match &proxy.leasing {
        Some(leasing) => leasing.txn(&client, is_anybody, request).await,
        None => proxy.upstream.txn(&client, request).await,
    };
    let response = response.map_err(|error| status_of(&error))?;
    writing.done(response.header.as_ref());
    if is_anybody {
        keep_ranges(proxy, epoch, &original, &response);
    }
    Ok(response)
}

/// What a transaction may change, on either side, and what it compares: who compares with something
/// outdated that came from here must not read it here again.
fn written_by(txn: &pb::TxnRequest, spans: &mut Vec<Span>) {
    spans.extend(txn.compare.iter().map(|compare| Span::new(&compare.key, &compare.range_end)));
    for operation in txn.success.iter().chain(&txn.failure) {
        match &operation.request {
            Some(Request::RequestPut(put)) => spans.push(Span::new(&put.key, &bytes::Bytes::new())),
            Some(Request::RequestDeleteRange(delete)) => {
                spans.push(Span::new(&delete.key, &delete.range_end));
            }
            Some(Request::RequestTxn(txn)) => written_by(txn, spans),
            Some(Request::RequestRange(_)) | None => {}
        }
    }
}

/// Ranges of a transaction without writes show the state at its revision, so they may be kept. Those of
/// one that writes show something in between.
fn keep_ranges(proxy: &Proxy, epoch: u64, request: &pb::TxnRequest, response: &pb::TxnResponse) {
    let operations = if response.succeeded { &request.success } else { &request.failure };
    let is_range = |operation: &pb::RequestOp| matches!(operation.request, Some(Request::RequestRange(_)));
    if !operations.iter().all(is_range) {
        return;
    }
    let mut cache = proxy.cache.lock();
    for pair in operations.iter().zip(&response.responses) {
        if let (Some(Request::RequestRange(range)), Some(Response::ResponseRange(answer))) =
            (&pair.0.request, &pair.1.response)
        {
            // The answers inside have the revision only in their header; the rest is the outer one's.
            let header = response.header.or(answer.header);
            cache.add(epoch, range, &pb::RangeResponse { header, ..answer.clone() });
        }
    }
    proxy.counters.cache_keys.store(cache.len() as u64, Ordering::Relaxed);
}

/// `KV.Compact`.
pub(crate) async fn compact(
    proxy: &Proxy,
    context: &CallContext,
    request: pb::CompactionRequest,
) -> Result<pb::CompactionResponse, Status> {
    let revision = request.revision;
    let response = proxy.upstream.call(context, request).await?;
    proxy.cache.lock().compact(revision);
    Ok(response)
}

/// A write under way. However it ends, also when nobody waits for it any more, what it may have changed
/// leaves the cache.
struct Writing<'a> {
    proxy: &'a Proxy,
    spans: Vec<Span>,
}

impl<'a> Writing<'a> {
    fn begin(proxy: &'a Proxy, spans: Vec<Span>) -> Self {
        Self { proxy, spans }
    }

    fn done(mut self, header: Option<&pb::ResponseHeader>) {
        let revision = header.map_or(0, |header| header.revision);
        let mut cache = self.proxy.cache.lock();
        for span in std::mem::take(&mut self.spans) {
            cache.written(span, revision);
        }
        self.proxy.counters.cache_keys.store(cache.len() as u64, Ordering::Relaxed);
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        if !self.spans.is_empty() {
            let mut cache = self.proxy.cache.lock();
            self.spans.iter().for_each(|span| cache.invalidate(span));
            self.proxy.counters.cache_keys.store(cache.len() as u64, Ordering::Relaxed);
        }
    }
}

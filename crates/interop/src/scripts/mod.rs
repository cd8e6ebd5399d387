//! The interactions that are run against two servers, by topic. Together well over 150.

pub mod ctl_auth;
pub mod ctl_cluster;
pub mod ctl_concurrency;
pub mod ctl_data;
pub mod ctl_formats;
pub mod gateway;
pub mod http;
pub mod kv;
pub mod lease;
pub mod locks;
pub mod maintenance;
pub mod txn;
pub mod watch;
pub mod wire;

use bytes::Bytes;
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse,
    RangeRequest, RangeResponse, RequestOp, TxnRequest, TxnResponse,
};

use crate::script::{Script, bytes};

pub(crate) const PUT: &str = "/etcdserverpb.KV/Put";
pub(crate) const RANGE: &str = "/etcdserverpb.KV/Range";
pub(crate) const DELETE: &str = "/etcdserverpb.KV/DeleteRange";
pub(crate) const TXN: &str = "/etcdserverpb.KV/Txn";
pub(crate) const COMPACT: &str = "/etcdserverpb.KV/Compact";

/// A put.
pub fn put(key: &str, value: &str) -> PutRequest {
    PutRequest { key: bytes(key), value: bytes(value), ..Default::default() }
}

/// A read of one key.
pub fn get(key: &str) -> RangeRequest {
    RangeRequest { key: bytes(key), ..Default::default() }
}

/// A read of `[key, end)`.
pub fn range(key: &str, end: &str) -> RangeRequest {
    RangeRequest { key: bytes(key), range_end: bytes(end), ..Default::default() }
}

/// A deletion of one key, or of `[key, end)`.
pub fn delete(key: &str, end: &str) -> DeleteRangeRequest {
    DeleteRangeRequest { key: bytes(key), range_end: bytes(end), ..Default::default() }
}

/// A put inside a transaction.
pub fn put_op(key: &str, value: &str) -> RequestOp {
    RequestOp { request: Some(Request::RequestPut(put(key, value))) }
}

/// A read inside a transaction.
pub fn range_op(request: RangeRequest) -> RequestOp {
    RequestOp { request: Some(Request::RequestRange(request)) }
}

/// A deletion inside a transaction.
pub fn delete_op(key: &str, end: &str) -> RequestOp {
    RequestOp { request: Some(Request::RequestDeleteRange(delete(key, end))) }
}

/// A transaction inside a transaction.
pub fn txn_op(request: TxnRequest) -> RequestOp {
    RequestOp { request: Some(Request::RequestTxn(request)) }
}

/// The one-byte range end that means "to the last key".
pub const FROM_KEY: &str = "\0";

impl Script {
    /// Puts and records.
    pub async fn put(&mut self, name: &str, request: PutRequest) -> Option<PutResponse> {
        self.call(name, PUT, &request).await.ok()
    }

    /// Reads and records.
    pub async fn range(&mut self, name: &str, request: RangeRequest) -> Option<RangeResponse> {
        self.call(name, RANGE, &request).await.ok()
    }

    /// Deletes and records.
    pub async fn delete(&mut self, name: &str, request: DeleteRangeRequest) -> Option<DeleteRangeResponse> {
        self.call(name, DELETE, &request).await.ok()
    }

    /// Runs a transaction and records.
    pub async fn txn(&mut self, name: &str, request: TxnRequest) -> Option<TxnResponse> {
        self.call(name, TXN, &request).await.ok()
    }

    /// Compacts and records.
    pub async fn compact(&mut self, name: &str, revision: i64, physical: bool) -> Option<CompactionResponse> {
        self.call(name, COMPACT, &CompactionRequest { revision, physical }).await.ok()
    }

    /// Puts without recording: preparation.
    pub async fn seed(&self, key: impl Into<Bytes>, value: &str) -> anyhow::Result<()> {
        let request = PutRequest { key: key.into(), value: bytes(value), ..Default::default() };
        let _: PutResponse = self.channel.call(&self.method(PUT), &request).await?;
        Ok(())
    }

    /// The current revision.
    pub async fn revision(&self) -> anyhow::Result<i64> {
        let answer: RangeResponse = self.channel.call(&self.method(RANGE), &get("nothing")).await?;
        Ok(answer.header.map_or(0, |header| header.revision))
    }
}

//! Builders for key-value requests: the messages of `proto` are the API, these save typing.

use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::request_op::Request as Op;

use crate::client::Client;
use crate::error::Error;

/// The first key behind all keys that begin with `prefix`: the `range_end` of a prefix.
///
/// A prefix of nothing but 0xff bytes has no such key; then this is `"\0"`, "to the end".
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    match prefix.iter().rposition(|&byte| byte != 0xff) {
        Some(last) => {
            let mut end = prefix[..=last].to_vec();
            end[last] += 1;
            end.into()
        }
        None => Bytes::from_static(b"\0"),
    }
}

/// `(key, range_end)` of all keys that begin with `prefix`; the empty prefix means every key.
pub fn with_prefix(prefix: impl Into<Bytes>) -> (Bytes, Bytes) {
    let prefix = prefix.into();
    match prefix.is_empty() {
        true => (Bytes::from_static(b"\0"), Bytes::from_static(b"\0")),
        false => {
            let end = prefix_end(&prefix);
            (prefix, end)
        }
    }
}

/// A read of one key.
pub fn get(key: impl Into<Bytes>) -> pb::RangeRequest {
    pb::RangeRequest { key: key.into(), ..Default::default() }
}

/// A write of one key.
pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> pb::PutRequest {
    pb::PutRequest { key: key.into(), value: value.into(), ..Default::default() }
}

/// A deletion of one key.
pub fn delete(key: impl Into<Bytes>) -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest { key: key.into(), ..Default::default() }
}

/// Makes comparisons of a transaction.
pub struct Compare;

impl Compare {
    /// Compares the revision that created the key; 0 means that the key does not exist.
    pub fn create_revision(key: impl Into<Bytes>, result: CompareResult, revision: i64) -> pb::Compare {
        Self::build(key, result, CompareTarget::Create, TargetUnion::CreateRevision(revision))
    }

    /// Compares the revision that changed the key last.
    pub fn mod_revision(key: impl Into<Bytes>, result: CompareResult, revision: i64) -> pb::Compare {
        Self::build(key, result, CompareTarget::Mod, TargetUnion::ModRevision(revision))
    }

    /// Compares the number of changes since the key was created.
    pub fn key_version(key: impl Into<Bytes>, result: CompareResult, key_version: i64) -> pb::Compare {
        Self::build(key, result, CompareTarget::Version, TargetUnion::Version(key_version))
    }

    /// Compares the value.
    pub fn value(key: impl Into<Bytes>, result: CompareResult, value: impl Into<Bytes>) -> pb::Compare {
        Self::build(key, result, CompareTarget::Value, TargetUnion::Value(value.into()))
    }

    /// Compares the lease that the key is attached to.
    pub fn lease(key: impl Into<Bytes>, result: CompareResult, lease: i64) -> pb::Compare {
        Self::build(key, result, CompareTarget::Lease, TargetUnion::Lease(lease))
    }

    fn build(
        key: impl Into<Bytes>,
        result: CompareResult,
        target: CompareTarget,
        union: TargetUnion,
    ) -> pb::Compare {
        pb::Compare {
            result: result.into(),
            target: target.into(),
            key: key.into(),
            target_union: Some(union),
            ..Default::default()
        }
    }
}

/// Builds a transaction: `Txn::new().when(…).and_then(…).or_else(…)`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Txn(pb::TxnRequest);

impl Txn {
    /// A transaction that does nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a comparison; all must hold.
    pub fn when(mut self, compare: pb::Compare) -> Self {
        self.0.compare.push(compare);
        self
    }

    /// Adds an operation for the case that all comparisons hold.
    pub fn and_then(mut self, operation: impl Into<Op>) -> Self {
        self.0.success.push(pb::RequestOp { request: Some(operation.into()) });
        self
    }

    /// Adds an operation for the case that a comparison fails.
    pub fn or_else(mut self, operation: impl Into<Op>) -> Self {
        self.0.failure.push(pb::RequestOp { request: Some(operation.into()) });
        self
    }

    /// The message.
    pub fn build(self) -> pb::TxnRequest {
        self.0
    }
}

impl From<Txn> for pb::TxnRequest {
    fn from(txn: Txn) -> Self {
        txn.0
    }
}

impl Client {
    /// Reads one key.
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<pb::RangeResponse, Error> {
        self.call(get(key)).await
    }

    /// Writes one key.
    pub async fn put(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
    ) -> Result<pb::PutResponse, Error> {
        self.call(put(key, value)).await
    }

    /// Deletes one key.
    pub async fn delete(&self, key: impl Into<Bytes>) -> Result<pb::DeleteRangeResponse, Error> {
        self.call(delete(key)).await
    }

    /// Runs a transaction.
    pub async fn txn(&self, txn: Txn) -> Result<pb::TxnResponse, Error> {
        self.call(txn.build()).await
    }

    /// Reads a range through the streaming call and puts the pieces together again.
    pub async fn range_stream(&self, request: pb::RangeRequest) -> Result<pb::RangeResponse, Error> {
        const PATH: &str = "/etcdserverpb.KV/RangeStream";
        let work = async {
            let mut stream = self.server_stream::<_, pb::RangeStreamResponse>(request, PATH).await?;
            let mut whole = pb::RangeResponse::default();
            while let Some(piece) = stream.message().await? {
                let Some(piece) = piece.range_response else { continue };
                whole.kvs.extend(piece.kvs);
                whole.more |= piece.more;
                whole.count += piece.count;
                whole.header = piece.header.or(whole.header);
            }
            Ok(whole)
        };
        self.within_deadline(PATH, work).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_ends() {
        assert_eq!(prefix_end(b"abc"), "abd");
        assert_eq!(prefix_end(b"a\xff\xff"), "b");
        assert_eq!(prefix_end(b"\xff"), "\0");
        assert_eq!(with_prefix(""), (Bytes::from("\0"), Bytes::from("\0")));
    }

    #[test]
    fn a_transaction_keeps_its_order() {
        let request = Txn::new()
            .when(Compare::create_revision("k", CompareResult::Equal, 0))
            .and_then(Op::RequestPut(put("k", "v")))
            .or_else(Op::RequestRange(get("k")))
            .or_else(Op::RequestDeleteRange(delete("l")))
            .build();
        assert_eq!(request.compare[0].target, CompareTarget::Create as i32);
        assert_eq!(request.success.len(), 1);
        assert!(matches!(request.failure[1].request, Some(Op::RequestDeleteRange(_))));
    }
}

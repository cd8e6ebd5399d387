//! The update as Kubernetes makes it: if the key was last written at this revision, put, else get.
//!
//! Written and read without the messages in between: their fields cost the load a sixth of its CPU, and what the
//! load uses of a core that it shares with the server is missing there.

use bytes::{BufMut, Bytes};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use proto::etcdserverpb::compare::CompareTarget;
use proto::etcdserverpb::response_op::Response;
use proto::etcdserverpb::{ResponseHeader, TxnResponse};

use crate::wire::{Status, undecodable};

/// A `TxnRequest`. Neither key nor value may be empty: an empty field is not written.
pub(super) struct Update<'a> {
    key: &'a [u8],
    mod_revision: u64,
    value: &'a [u8],
    compare_bytes: usize,
    put_bytes: usize,
    key_bytes: usize,
}

impl<'a> Update<'a> {
    pub(super) fn new(key: &'a [u8], mod_revision: i64, value: &'a [u8]) -> Self {
        let mod_revision = mod_revision as u64;
        let key_bytes = field_len(key.len());
        let compare_bytes = number_len(CompareTarget::Mod as u64) + key_bytes + number_len(mod_revision);
        let put_bytes = key_bytes + field_len(value.len());
        Self { key, mod_revision, value, compare_bytes, put_bytes, key_bytes }
    }

    /// Bytes of the message.
    pub(super) fn len(&self) -> usize {
        field_len(self.compare_bytes)
            + field_len(field_len(self.put_bytes))
            + field_len(field_len(self.key_bytes))
    }

    /// Appends the message.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        // TxnRequest.compare, of which the result EQUAL is not written.
        put_field_head(out, 1, self.compare_bytes);
        put_number(out, 2, CompareTarget::Mod as u64);
        put_field(out, 3, self.key);
        put_number(out, 6, self.mod_revision);
        // TxnRequest.success, RequestOp.request_put
        put_field_head(out, 2, field_len(self.put_bytes));
        put_field_head(out, 2, self.put_bytes);
        put_field(out, 1, self.key);
        put_field(out, 2, self.value);
        // TxnRequest.failure, RequestOp.request_range
        put_field_head(out, 3, field_len(self.key_bytes));
        put_field_head(out, 1, self.key_bytes);
        put_field(out, 1, self.key);
    }
}

/// The key's mod revision after the update that this `TxnResponse` answers.
pub(super) fn revision(answer: Bytes) -> Result<i64, Status> {
    let outcome = Outcome::decode(answer.clone()).map_err(undecodable)?;
    if outcome.succeeded {
        return Ok(outcome.header.map_or(0, |header| header.revision));
    }
    let answer = TxnResponse::decode(answer).map_err(undecodable)?;
    let response = answer.responses.first().and_then(|op| op.response.as_ref());
    let Some(Response::ResponseRange(range)) = response else { return Ok(0) };
    Ok(range.kvs.first().map_or(0, |kv| kv.mod_revision))
}

/// What has to be known of a `TxnResponse` that says yes; what else it has is skipped unread.
#[derive(Clone, PartialEq, Message)]
struct Outcome {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
    #[prost(bool, tag = "2")]
    succeeded: bool,
}

/// Bytes of a field of so many bytes. All tags here take one byte.
fn field_len(bytes: usize) -> usize {
    1 + encoded_len_varint(bytes as u64) + bytes
}

fn number_len(number: u64) -> usize {
    1 + encoded_len_varint(number)
}

fn put_field_head(out: &mut Vec<u8>, tag: u32, bytes: usize) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(bytes as u64, out);
}

fn put_field(out: &mut Vec<u8>, tag: u32, bytes: &[u8]) {
    put_field_head(out, tag, bytes.len());
    out.put_slice(bytes);
}

fn put_number(out: &mut Vec<u8>, tag: u32, number: u64) {
    encode_key(tag, WireType::Varint, out);
    encode_varint(number, out);
}

#[cfg(test)]
mod tests {
    use proto::etcdserverpb::compare::{CompareResult, TargetUnion};
    use proto::etcdserverpb::request_op::Request;
    use proto::etcdserverpb::{
        Compare, PutRequest, PutResponse, RangeRequest, RangeResponse, RequestOp, ResponseOp, TxnRequest,
    };
    use proto::mvccpb::KeyValue;

    use super::*;

    fn message(key: &Bytes, mod_revision: i64, value: &Bytes) -> TxnRequest {
        let put = PutRequest { key: key.clone(), value: value.clone(), ..Default::default() };
        let get = RangeRequest { key: key.clone(), ..Default::default() };
        let compare = Compare {
            result: CompareResult::Equal as i32,
            target: CompareTarget::Mod as i32,
            key: key.clone(),
            target_union: Some(TargetUnion::ModRevision(mod_revision)),
            ..Default::default()
        };
        TxnRequest {
            compare: vec![compare],
            success: vec![RequestOp { request: Some(Request::RequestPut(put)) }],
            failure: vec![RequestOp { request: Some(Request::RequestRange(get)) }],
        }
    }

    #[test]
    fn the_request_is_what_the_message_encodes_to() {
        for (key_bytes, value_bytes, revision) in
            [(1, 1, 0), (40, 1000, 128), (127, 16_384, i64::MAX), (128, 127, 1)]
        {
            let (key, value) = (Bytes::from(vec![b'k'; key_bytes]), Bytes::from(vec![b'v'; value_bytes]));
            let message = message(&key, revision, &value);
            let update = Update::new(&key, revision, &value);
            let mut written = Vec::new();
            update.write(&mut written);
            assert_eq!(written, message.encode_to_vec(), "{key_bytes} {value_bytes}");
            assert_eq!(written.len(), update.len());
        }
    }

    fn answer(succeeded: bool, response: Response) -> Bytes {
        let header = Some(ResponseHeader { revision: 7, ..Default::default() });
        let responses = vec![ResponseOp { response: Some(response) }];
        TxnResponse { header, succeeded, responses }.encode_to_vec().into()
    }

    #[test]
    fn the_revision_is_that_of_the_put_or_of_the_key_found() {
        let put = Response::ResponsePut(PutResponse::default());
        assert_eq!(revision(answer(true, put)).unwrap(), 7);
        let kvs = vec![KeyValue { mod_revision: 5, ..Default::default() }];
        let found = Response::ResponseRange(RangeResponse { kvs, ..Default::default() });
        assert_eq!(revision(answer(false, found)).unwrap(), 5);
        let nothing = Response::ResponseRange(RangeResponse::default());
        assert_eq!(revision(answer(false, nothing)).unwrap(), 0);
        assert_eq!(revision(Bytes::from_static(&[0xff])).unwrap_err().code, 13);
    }
}

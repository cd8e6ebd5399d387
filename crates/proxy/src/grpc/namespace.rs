//! `--namespace`: every key that goes up gets a prefix, every key that comes down loses it.
//!
//! An open end, `\0`, becomes the end of the prefix, so that no range leaves the namespace. Locks,
//! elections, members, users and roles have none.
//!
//! **Source**: etcd `client/v3/namespace`.

use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::response_op::Response;
use proto::mvccpb::{Event, KeyValue};

/// A prefix; the empty one changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Namespace(Bytes);

impl Namespace {
    pub(crate) fn new(prefix: &str) -> Self {
        Self(Bytes::copy_from_slice(prefix.as_bytes()))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Moves a range into the namespace.
    pub(crate) fn enter(&self, key: &mut Bytes, range_end: &mut Bytes) {
        if self.is_empty() {
            return;
        }
        self.enter_key(key);
        if &range_end[..] == b"\0" {
            *range_end = client::prefix_end(&self.0);
        } else if !range_end.is_empty() {
            self.enter_key(range_end);
        }
    }

    fn enter_key(&self, key: &mut Bytes) {
        *key = [&self.0[..], &key[..]].concat().into();
    }

    pub(crate) fn enter_range(&self, request: &mut pb::RangeRequest) {
        self.enter(&mut request.key, &mut request.range_end);
    }

    pub(crate) fn enter_put(&self, request: &mut pb::PutRequest) {
        self.enter(&mut request.key, &mut Bytes::new());
    }

    pub(crate) fn enter_delete(&self, request: &mut pb::DeleteRangeRequest) {
        self.enter(&mut request.key, &mut request.range_end);
    }

    pub(crate) fn enter_txn(&self, request: &mut pb::TxnRequest) {
        if self.is_empty() {
            return;
        }
        for compare in &mut request.compare {
            self.enter(&mut compare.key, &mut compare.range_end);
        }
        for operation in request.success.iter_mut().chain(&mut request.failure) {
            match &mut operation.request {
                Some(Request::RequestRange(range)) => self.enter_range(range),
                Some(Request::RequestPut(put)) => self.enter_put(put),
                Some(Request::RequestDeleteRange(delete)) => self.enter_delete(delete),
                Some(Request::RequestTxn(txn)) => self.enter_txn(txn),
                None => {}
            }
        }
    }

    /// Takes the prefix off a key. What does not have it stays as it is.
    fn leave(&self, key: &mut Bytes) {
        if key.starts_with(&self.0) {
            *key = key.slice(self.0.len()..);
        }
    }

    pub(crate) fn leave_kvs(&self, kvs: &mut [KeyValue]) {
        kvs.iter_mut().for_each(|kv| self.leave(&mut kv.key));
    }

    pub(crate) fn leave_txn(&self, response: &mut pb::TxnResponse) {
        for operation in &mut response.responses {
            match &mut operation.response {
                Some(Response::ResponseRange(range)) => self.leave_kvs(&mut range.kvs),
                Some(Response::ResponsePut(put)) => self.leave_kvs(put.prev_kv.as_mut_slice()),
                Some(Response::ResponseDeleteRange(delete)) => self.leave_kvs(&mut delete.prev_kvs),
                Some(Response::ResponseTxn(txn)) => self.leave_txn(txn),
                None => {}
            }
        }
    }

    pub(crate) fn leave_events(&self, events: &mut [Event]) {
        if self.is_empty() {
            return;
        }
        for event in events {
            self.leave_kvs(event.kv.as_mut_slice());
            self.leave_kvs(event.prev_kv.as_mut_slice());
        }
    }

    /// The keys of a lease that lie in the namespace, as seen from inside.
    pub(crate) fn leave_lease(&self, keys: &mut Vec<Bytes>) {
        keys.retain(|key| key.starts_with(&self.0));
        keys.iter_mut().for_each(|key| self.leave(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_stay_inside() {
        let check = |prefix: &'static [u8], range: (&'static str, &'static str), inside: (&[u8], &[u8])| {
            let (mut key, mut end) = (Bytes::from(range.0), Bytes::from(range.1));
            Namespace(Bytes::from_static(prefix)).enter(&mut key, &mut end);
            assert_eq!((&key[..], &end[..]), inside, "{range:?}");
        };
        check(b"pfx/", ("a", ""), (b"pfx/a", b""));
        check(b"pfx/", ("abc", "def"), (b"pfx/abc", b"pfx/def"));
        check(b"pfx/", ("abc", "\0"), (b"pfx/abc", b"pfx0"));
        check(b"pfx/", ("\0", "\0"), (b"pfx/\0", b"pfx0"));
        check(b"\xff\xff", ("abc", "\0"), (b"\xff\xffabc", b"\0"));
        check(b"a\xff", ("", "\0"), (b"a\xff", b"b"));
        check(b"", ("abc", "\0"), (b"abc", b"\0"));
    }

    #[test]
    fn every_part_of_a_transaction_is_moved() {
        let namespace = Namespace::new("n/");
        let operation = |request| pb::RequestOp { request: Some(request) };
        let put = pb::PutRequest { key: "p".into(), ..Default::default() };
        let delete = pb::DeleteRangeRequest { key: "d".into(), range_end: "\0".into(), ..Default::default() };
        let inner = pb::TxnRequest {
            compare: vec![pb::Compare { key: "c".into(), range_end: "e".into(), ..Default::default() }],
            failure: vec![operation(Request::RequestPut(put))],
            ..Default::default()
        };
        let mut txn = pb::TxnRequest {
            success: vec![
                operation(Request::RequestTxn(inner)),
                operation(Request::RequestDeleteRange(delete)),
            ],
            ..Default::default()
        };
        namespace.enter_txn(&mut txn);
        let text = format!("{txn:?}");
        for moved in [r#"b"n/p""#, r#"b"n/c""#, r#"b"n/e""#, r#"b"n/d""#, r#"b"n0""#] {
            assert!(text.contains(moved), "{moved} in {text}");
        }
    }

    #[test]
    fn answers_lose_the_prefix_and_leases_the_keys_of_others() {
        let namespace = Namespace::new("n/");
        let kv = |key: &'static str| KeyValue { key: key.into(), ..Default::default() };
        let put = pb::PutResponse { prev_kv: Some(kv("n/p")), ..Default::default() };
        let inner = pb::TxnResponse {
            responses: vec![pb::ResponseOp { response: Some(Response::ResponsePut(put)) }],
            ..Default::default()
        };
        let mut txn = pb::TxnResponse {
            responses: vec![pb::ResponseOp { response: Some(Response::ResponseTxn(inner)) }],
            ..Default::default()
        };
        namespace.leave_txn(&mut txn);
        assert!(format!("{txn:?}").contains(r#"key: b"p""#), "{txn:?}");
        let mut keys = vec![Bytes::from("n/a"), Bytes::from("x"), Bytes::from("other/a")];
        namespace.leave_lease(&mut keys);
        assert_eq!(keys, ["a"]);
    }
}

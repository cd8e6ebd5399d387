//! The payload of a normal log entry, in today's and in 3.5's form.
//!
//! etcd 3.5 proposes member attributes and the cluster version as a bare v2 `Request`. The two
//! forms are told apart as etcd does: what does not decode as `InternalRaftRequest` is a
//! `Request`. That always works, because field 3 of a `Request` is a path: its first byte, `/`,
//! is no valid start of the `RangeRequest` that `InternalRaftRequest` has there.
//!
//! Legacy entries come out as the request that later versions put into the log for the same
//! purpose, so nobody else has to know them.
//!
//! **Source**: etcd `server/etcdserver/{server,apply_v2}.go` of 3.5 and 3.6.

use bytes::{Buf, Bytes};
use prost::Message;
use proto::etcdserverpb::InternalRaftRequest;
use proto::etcdserverpb::legacy::Request;
use proto::membershippb::{
    Attributes as ProtoAttributes, ClusterMemberAttrSetRequest, ClusterVersionSetRequest,
};
use types::{MemberId, Version};

use crate::json::JsonError;
use crate::member::Attributes;

/// A log entry that means nothing to this release.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// Neither form decodes.
    #[error("entry of {len} bytes is no known request")]
    Undecodable {
        /// Length of the entry.
        len: usize,
        /// Why it is not an `InternalRaftRequest`.
        #[source]
        source: prost::DecodeError,
    },
    /// A v2 request other than those that 3.5 makes itself.
    #[error("entry holds a v2 request that is not supported: {method} {path}")]
    V2Request {
        /// Its method.
        method: String,
        /// Its path.
        path: String,
    },
    /// The value of a v2 request cannot be read.
    #[error("entry holds a v2 request whose value cannot be read: {path}")]
    V2Value {
        /// Its path.
        path: String,
        /// What is wrong, when the value is JSON.
        #[source]
        source: Option<JsonError>,
    },
}

/// Reads the data of a normal entry. `None` = the entry asks for nothing: it is empty (the first
/// one of each leader) or a v2 `SYNC`, which only concerns v2 keys.
pub fn decode_entry(data: Bytes) -> Result<Option<InternalRaftRequest>, EntryError> {
    if data.is_empty() {
        return Ok(None);
    }
    match InternalRaftRequest::decode(data.clone()) {
        Ok(request) if request.header.is_none() && asks_for_nothing(&request) => {
            match wrapped_v2_request(data) {
                Some(v2) => translate(v2),
                None => Ok(Some(request)),
            }
        }
        Ok(request) => Ok(Some(request)),
        Err(source) => match Request::decode(data.clone()) {
            Ok(v2) if v2.method.is_some() => translate(v2),
            _ => Err(EntryError::Undecodable { len: data.len(), source }),
        },
    }
}

fn asks_for_nothing(request: &InternalRaftRequest) -> bool {
    *request == InternalRaftRequest { id: request.id, ..Default::default() }
}

/// Releases up to 3.6 know field 2 of `InternalRaftRequest` as a v2 request.
fn wrapped_v2_request(mut data: Bytes) -> Option<Request> {
    use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
    while data.has_remaining() {
        let (tag, wire_type) = decode_key(&mut data).ok()?;
        if (tag, wire_type) == (2, WireType::LengthDelimited) {
            let len = usize::try_from(decode_varint(&mut data).ok()?).ok()?;
            return (len <= data.len()).then(|| Request::decode(data.split_to(len)).ok())?;
        }
        skip_field(wire_type, tag, &mut data, DecodeContext::default()).ok()?;
    }
    None
}

fn translate(v2: Request) -> Result<Option<InternalRaftRequest>, EntryError> {
    let method = v2.method.unwrap_or_default();
    let path = v2.path.unwrap_or_default();
    let value = v2.val.unwrap_or_default();
    let mut request = InternalRaftRequest { id: v2.id.unwrap_or_default(), ..Default::default() };
    match (method.as_str(), path.as_str()) {
        ("SYNC", _) => return Ok(None),
        ("PUT", "/0/version") => {
            let ver = match value.parse::<Version>() {
                Ok(version) => version.to_string(),
                Err(_) => return Err(EntryError::V2Value { path, source: None }),
            };
            request.cluster_version_set = Some(Box::new(ClusterVersionSetRequest { ver }));
        }
        ("PUT", _) => {
            let Some(member) = attributes_path(&path) else {
                return Err(EntryError::V2Request { method, path });
            };
            let attributes = match Attributes::from_json(value.as_bytes()) {
                Ok(attributes) => attributes,
                Err(source) => return Err(EntryError::V2Value { path, source: Some(source) }),
            };
            request.cluster_member_attr_set = Some(Box::new(ClusterMemberAttrSetRequest {
                member_id: member.0,
                member_attributes: Some(ProtoAttributes {
                    name: attributes.name,
                    client_urls: attributes.client_urls,
                }),
            }));
        }
        _ => return Err(EntryError::V2Request { method, path }),
    }
    Ok(Some(request))
}

/// The member in `/0/members/<hex id>/attributes`.
fn attributes_path(path: &str) -> Option<MemberId> {
    path.strip_prefix("/0/members/")?.strip_suffix("/attributes")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::etcdserverpb::{PutRequest, RequestHeader};

    /// Data of entries 3 and 4 of the fixture `clean-3.5.30`.
    const ATTRIBUTES: &[u8] = b"\x08\x81\xdc\xca\x92\xd1\xbf\xa8\x90@\x12\x03PUT\x1a&/0/members/f1805392ad554020/attributes\"6{\"name\":\"fx1\",\"clientURLs\":[\"http://127.0.0.1:22379\"]}(\x002\x008\x00H\x00P\x00X\x00`\x00h\x00p\x00x\x00\x80\x01\x00";
    const VERSION: &[u8] = b"\x08\x82\xdc\xca\x92\xd1\xbf\xa8\x90@\x12\x03PUT\x1a\n/0/version\"\x053.5.0(\x002\x008\x00H\x00P\x00X\x00`\x00h\x00p\x00x\x00\x80\x01\x00";

    fn decode(data: &[u8]) -> Result<Option<InternalRaftRequest>, EntryError> {
        decode_entry(Bytes::copy_from_slice(data))
    }

    fn v2(method: &str, path: &str, val: &str) -> Vec<u8> {
        let text = |text: &str| Some(text.to_owned());
        Request { id: Some(7), method: text(method), path: text(path), val: text(val), ..Default::default() }
            .encode_to_vec()
    }

    #[test]
    fn recorded_legacy_entries_become_todays_requests() {
        let request = decode(ATTRIBUTES).unwrap().unwrap();
        assert_eq!(request.id, 4_620_871_325_988_335_105); // top 16 bits: low ones of the member id
        let set = request.cluster_member_attr_set.unwrap();
        assert_eq!(MemberId(set.member_id).to_string(), "f1805392ad554020");
        let attributes = set.member_attributes.unwrap();
        assert_eq!(
            (attributes.name.as_str(), &attributes.client_urls[..]),
            ("fx1", &["http://127.0.0.1:22379".to_owned()][..])
        );

        let request = decode(VERSION).unwrap().unwrap();
        assert_eq!(request.cluster_version_set.unwrap().ver, "3.5.0");
    }

    #[test]
    fn todays_requests_pass_through() {
        let request = InternalRaftRequest {
            header: Some(RequestHeader { id: 9, ..Default::default() }),
            put: Some(PutRequest { key: "k".into(), ..Default::default() }),
            ..Default::default()
        };
        assert_eq!(decode(&request.encode_to_vec()).unwrap(), Some(request));
        assert_eq!(decode(b"").unwrap(), None);
    }

    #[test]
    fn a_wrapped_v2_request_is_understood() {
        let mut data = vec![0x08, 5, 0x12, VERSION.len() as u8];
        data.extend_from_slice(VERSION);
        assert_eq!(decode(&data).unwrap().unwrap().cluster_version_set.unwrap().ver, "3.5.0");
        data.truncate(20);
        assert!(decode(&data).is_err());
    }

    #[test]
    fn other_v2_requests_are_named() {
        assert_eq!(decode(&v2("SYNC", "/", "")).unwrap(), None);
        for (method, path, value, text) in [
            ("DELETE", "/1/x", "", "entry holds a v2 request that is not supported: DELETE /1/x"),
            ("PUT", "/1/x", "", "entry holds a v2 request that is not supported: PUT /1/x"),
            ("PUT", "/0/members/zz/attributes", "{}", "not supported: PUT /0/members/zz/attributes"),
            ("PUT", "/0/version", "x", "whose value cannot be read: /0/version"),
            ("PUT", "/0/members/1/attributes", "[", "whose value cannot be read: /0/members/1/attributes"),
        ] {
            let error = decode(&v2(method, path, value)).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
        assert!(matches!(decode(b"\xff\xff"), Err(EntryError::Undecodable { len: 2, .. })));
    }
}

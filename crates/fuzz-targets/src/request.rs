//! Requests of clients, and what stands in entries of the log.
//!
//! ```text
//! kind:u8, message     kind: which type of message
//! ```
//!
//! Promises: what decodes is encoded and decoded to itself, in as many bytes as announced; the
//! services check it, answer reads, and refuse or propose writes, without a panic.

use std::fmt::Debug;

use api::grpc::CallContext;
use api::services::{kv, lease, maintenance};
use bytes::Bytes;
use prost::Message;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::request_op::Request;
use proto::{health, v3electionpb, v3lockpb};
use types::CompatVersion;

use crate::Seed;
use crate::still_member::{StillMember, member};

/// Decodes, encodes and decodes again; gives the message if it is one.
fn round_trip<M: Message + Default + PartialEq>(bytes: &[u8]) -> Option<M> {
    let message = M::decode(Bytes::copy_from_slice(bytes)).ok()?;
    let encoded = message.encode_to_vec();
    assert_eq!(encoded.len(), message.encoded_len());
    let again = M::decode(&encoded[..]);
    assert!(again.as_ref() == Ok(&message), "a message that was encoded again");
    Some(message)
}

fn only_decoded<M: Message + Default + PartialEq>(bytes: &[u8]) {
    round_trip::<M>(bytes);
}

/// Hands a message to a service.
fn served<M, R: Debug, E: Debug>(
    bytes: &[u8],
    service: impl AsyncFnOnce(&StillMember, &CallContext, M) -> Result<R, E>,
) where
    M: Message + Default + PartialEq,
{
    let Some(message) = round_trip::<M>(bytes) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    // What the service says is its affair; that it says something is ours.
    let _ = runtime.block_on(service(member(), &CallContext::local(), message));
}

const KINDS: &[fn(&[u8])] = &[
    |bytes| served(bytes, async |member, by, request: pb::PutRequest| kv::put(member, by, request).await),
    |bytes| served(bytes, async |member, by, request: pb::RangeRequest| kv::range(member, by, request).await),
    |bytes| {
        served(bytes, async |member, by, request: pb::DeleteRangeRequest| {
            kv::delete_range(member, by, request).await
        })
    },
    |bytes| served(bytes, async |member, by, request: pb::TxnRequest| kv::txn(member, by, request).await),
    |bytes| {
        served(bytes, async |member, by, request: pb::CompactionRequest| {
            kv::compact(member, by, request).await
        })
    },
    |bytes| {
        served(bytes, async |member, by, request: pb::LeaseGrantRequest| {
            lease::grant(member, by, request).await
        })
    },
    |bytes| {
        served(bytes, async |member, by, request: pb::LeaseRevokeRequest| {
            lease::revoke(member, by, request).await
        })
    },
    |bytes| {
        served(bytes, async |member, by, request: pb::LeaseTimeToLiveRequest| {
            lease::time_to_live(member, by, request).await
        })
    },
    |bytes| {
        served(bytes, async |member, by, request: pb::AlarmRequest| {
            maintenance::alarm(member, by, request).await
        })
    },
    |bytes| {
        served(bytes, async |member, by, request: pb::HashKvRequest| {
            maintenance::hash_kv(member, by, request).await
        })
    },
    |bytes| {
        served(bytes, async |member, by, request: pb::DowngradeRequest| {
            maintenance::downgrade(member, by, request).await
        })
    },
    entry,
    only_decoded::<pb::WatchRequest>,
    only_decoded::<pb::LeaseKeepAliveRequest>,
    only_decoded::<pb::LeaseLeasesRequest>,
    only_decoded::<pb::LeaseCheckpointRequest>,
    only_decoded::<pb::MemberAddRequest>,
    only_decoded::<pb::MemberRemoveRequest>,
    only_decoded::<pb::MemberUpdateRequest>,
    only_decoded::<pb::MemberListRequest>,
    only_decoded::<pb::MemberPromoteRequest>,
    only_decoded::<pb::DefragmentRequest>,
    only_decoded::<pb::MoveLeaderRequest>,
    only_decoded::<pb::StatusRequest>,
    only_decoded::<pb::HashRequest>,
    only_decoded::<pb::SnapshotRequest>,
    only_decoded::<pb::AuthEnableRequest>,
    only_decoded::<pb::AuthDisableRequest>,
    only_decoded::<pb::AuthStatusRequest>,
    only_decoded::<pb::AuthenticateRequest>,
    only_decoded::<pb::AuthUserAddRequest>,
    only_decoded::<pb::AuthUserGetRequest>,
    only_decoded::<pb::AuthUserListRequest>,
    only_decoded::<pb::AuthUserDeleteRequest>,
    only_decoded::<pb::AuthUserChangePasswordRequest>,
    only_decoded::<pb::AuthUserGrantRoleRequest>,
    only_decoded::<pb::AuthUserRevokeRoleRequest>,
    only_decoded::<pb::AuthRoleAddRequest>,
    only_decoded::<pb::AuthRoleGetRequest>,
    only_decoded::<pb::AuthRoleListRequest>,
    only_decoded::<pb::AuthRoleDeleteRequest>,
    only_decoded::<pb::AuthRoleGrantPermissionRequest>,
    only_decoded::<pb::AuthRoleRevokePermissionRequest>,
    only_decoded::<v3lockpb::LockRequest>,
    only_decoded::<v3lockpb::UnlockRequest>,
    only_decoded::<v3electionpb::CampaignRequest>,
    only_decoded::<v3electionpb::ProclaimRequest>,
    only_decoded::<v3electionpb::LeaderRequest>,
    only_decoded::<v3electionpb::ResignRequest>,
    only_decoded::<health::HealthCheckRequest>,
    only_decoded::<pb::legacy::Request>,
    only_decoded::<pb::legacy::Metadata>,
];

/// Runs one input.
pub fn run(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    KINDS[usize::from(*kind) % KINDS.len()](bytes);
}

/// The payload of an entry: as a member of any release reads it, and what it says of itself.
fn entry(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    if let Some(request) = round_trip::<pb::InternalRaftRequest>(&bytes) {
        let _ = apply::RequestKind::of(&request);
        if let Some(txn) = &request.txn {
            let _ = (apply::is_read_only(txn), apply::is_serializable(txn));
        }
        if let Some(range) = &request.range {
            let _ = apply::range::query(range, CompatVersion::V3_7);
        }
    }
    if let Ok(Some(request)) = membership::decode_entry(bytes) {
        let encoded = request.encode_to_vec();
        // A request of which we know no field is empty once encoded, as the first entry of a term.
        let expected = (!encoded.is_empty()).then_some(request);
        assert_eq!(membership::decode_entry(encoded.into()).ok(), Some(expected), "encoded again");
    }
}

/// One request of each kind that is more than decoded, and a few others.
pub fn seeds() -> Vec<Seed> {
    fn seed(kind: u8, message: &impl Message) -> Vec<u8> {
        [&[kind], &message.encode_to_vec()[..]].concat()
    }
    let put =
        pb::PutRequest { key: "k1".into(), value: "v".into(), lease: 5, prev_kv: true, ..Default::default() };
    let range = pb::RangeRequest {
        key: "k".into(),
        range_end: "l".into(),
        limit: 3,
        revision: 4,
        sort_order: 2,
        sort_target: 4,
        min_mod_revision: 2,
        ..Default::default()
    };
    let delete = pb::DeleteRangeRequest { key: "k1".into(), range_end: "\0".into(), prev_kv: true };
    let op = |request| pb::RequestOp { request: Some(request) };
    let compare = pb::Compare {
        key: "k1".into(),
        target: 2,
        target_union: Some(pb::compare::TargetUnion::ModRevision(3)),
        ..Default::default()
    };
    let inner = pb::TxnRequest {
        compare: vec![compare.clone()],
        success: vec![op(Request::RequestRange(range.clone()))],
        failure: vec![],
    };
    let reads = pb::TxnRequest {
        compare: vec![compare],
        success: vec![op(Request::RequestTxn(inner)), op(Request::RequestRange(range.clone()))],
        failure: vec![op(Request::RequestRange(range.clone()))],
    };
    let writes = pb::TxnRequest {
        success: vec![op(Request::RequestPut(put.clone())), op(Request::RequestDeleteRange(delete.clone()))],
        ..reads.clone()
    };
    let raft = pb::InternalRaftRequest {
        header: Some(pb::RequestHeader { id: 77, ..Default::default() }),
        txn: Some(writes.clone()),
        ..Default::default()
    };
    let legacy = pb::legacy::Request {
        id: Some(9),
        method: Some("PUT".into()),
        path: Some("/0/members/8e9e05c52164694d/attributes".into()),
        val: Some(r#"{"name":"a","clientURLs":["http://127.0.0.1:2379"]}"#.into()),
        ..Default::default()
    };
    let create = pb::WatchCreateRequest { key: "k".into(), range_end: "l".into(), ..Default::default() };
    let watch =
        pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)) };
    vec![
        ("put", seed(0, &put)),
        ("range", seed(1, &range)),
        ("delete", seed(2, &delete)),
        ("txn-reads", seed(3, &reads)),
        ("txn-writes", seed(3, &writes)),
        ("compact", seed(4, &pb::CompactionRequest { revision: 5, physical: true })),
        ("grant", seed(5, &pb::LeaseGrantRequest { ttl: 60, id: 0 })),
        ("revoke", seed(6, &pb::LeaseRevokeRequest { id: 5 })),
        ("time-to-live", seed(7, &pb::LeaseTimeToLiveRequest { id: 5, keys: true })),
        ("alarm", seed(8, &pb::AlarmRequest { action: 1, member_id: 1, alarm: 1 })),
        ("hash", seed(9, &pb::HashKvRequest { revision: 8 })),
        ("downgrade", seed(10, &pb::DowngradeRequest { action: 0, version: "3.6.0".into() })),
        ("entry", seed(11, &raft)),
        ("legacy-entry", seed(11, &legacy)),
        ("watch", seed(12, &watch)),
    ]
}

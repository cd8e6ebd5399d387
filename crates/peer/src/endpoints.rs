//! The endpoints of the peer port that are not raft: members, promotion, hashes, leases, versions.
//!
//! | path | method | answer |
//! |---|---|---|
//! | `/members` | GET | JSON array of members |
//! | `/members/promote/<decimal id>` | POST | JSON array of members |
//! | `/members/hashkv` | GET with a body `{"revision":N}` | JSON |
//! | `/leases`, `/leases/internal` | POST | protobuf |
//! | `/version` | GET | JSON |
//! | `/downgrade/enabled` | GET | `true` or `false` |
//!
//! **Source**: etcd `server/etcdserver/api/etcdhttp/peer.go`, `server/etcdserver/corrupt.go`,
//! `server/lease/leasehttp/http.go`.

use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use membership::Member;
use prost::Message as _;
use proto::etcdserverpb::{
    LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseTimeToLiveResponse, ResponseHeader,
};
use proto::leasepb::{LeaseInternalRequest, LeaseInternalResponse};
use tokio::time::timeout;
use types::{CompatVersion, LeaseId, MemberId, Version};

use crate::context::Shared;
use crate::handler::{HashKv, LeaseError, PromoteError};
use crate::identity::{CLUSTER_ID, CLUSTER_MISMATCH, text as header};
use crate::reply::{JSON, PROTOBUF, Reply, not_found, text, typed, wrong_method};
use crate::server::{BodyError, read_whole};

const PROMOTE: &str = "/members/promote/";
/// Longest request that an endpoint here reads.
const MAX_REQUEST_BYTES: u64 = 64 << 10;
/// How long a lease request may wait for the member to catch up.
const LEASE_WAIT: Duration = Duration::from_secs(1);

pub(crate) async fn answer(shared: &Arc<Shared>, request: Request<Incoming>) -> Response<Reply> {
    let path = request.uri().path().to_owned();
    let allowed = match path.as_str() {
        "/members" | "/members/hashkv" | "/version" | "/downgrade/enabled" => Method::GET,
        "/leases" | "/leases/internal" => Method::POST,
        _ if path.starts_with(PROMOTE) => Method::POST,
        _ => return not_found(),
    };
    if *request.method() != allowed {
        return wrong_method(&allowed);
    }
    match path.as_str() {
        "/version" => typed(JSON, version(shared)),
        "/leases" => renew(shared, request).await,
        "/leases/internal" => time_to_live(shared, request).await,
        other => {
            let mut response = match other {
                "/members" => typed(JSON, members_json(&shared.handler().members().1)),
                "/members/hashkv" => hash_kv(shared, request).await,
                "/downgrade/enabled" => downgrade_enabled(shared).await,
                _ => promote(shared, &path[PROMOTE.len()..], &request).await,
            };
            let id = shared.config.identity.cluster_id.to_string();
            if let Ok(id) = HeaderValue::from_str(&id) {
                response.headers_mut().insert(CLUSTER_ID, id);
            }
            response
        }
    }
}

fn members_json(members: &[Member]) -> String {
    let members: Vec<_> = members.iter().map(Member::to_json).collect();
    format!("[{}]\n", members.join(","))
}

fn version(shared: &Shared) -> String {
    let (cluster, storage) = shared.handler().versions();
    let compat = shared.config.identity.compat;
    let shown = |version: Option<Version>, unknown: &str| {
        version.map_or(unknown.to_owned(), |version| version.to_string())
    };
    let server = compat.server_version();
    let cluster = shown(cluster, "not_decided");
    let storage = shown(storage, "unknown");
    // Nothing in a version has to be escaped.
    match compat {
        CompatVersion::V3_5 => format!(r#"{{"etcdserver":"{server}","etcdcluster":"{cluster}"}}"#),
        _ => format!(r#"{{"etcdserver":"{server}","etcdcluster":"{cluster}","storage":"{storage}"}}"#),
    }
}

async fn promote(shared: &Shared, id: &str, request: &Request<Incoming>) -> Response<Reply> {
    let Some(id) = decimal(id) else {
        return text(StatusCode::NOT_FOUND, &format!("member {id} not found in cluster"));
    };
    let token = header(request.headers(), &AUTHORIZATION);
    let token = Some(token.to_owned()).filter(|token| !token.is_empty());
    let error = match shared.handler().promote(id, token).await {
        Ok(members) => return typed(JSON, members_json(&members)),
        Err(error) => error,
    };
    shared
        .log()
        .warn("failed to promote a member", &[("member-id", id.into()), ("error", error.to_string().into())]);
    match error {
        PromoteError::NotFound => text(StatusCode::NOT_FOUND, &error.to_string()),
        PromoteError::NotLearner | PromoteError::NotReady => {
            text(StatusCode::PRECONDITION_FAILED, &error.to_string())
        }
        // Every other reason is kept from the caller by etcd, a timeout included: it retries.
        PromoteError::Timeout | PromoteError::Other(_) => {
            let mut response = typed(JSON, r#"{"message":"Internal Server Error"}"#);
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            response
        }
    }
}

fn decimal(text: &str) -> Option<MemberId> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then_some(())?;
    text.parse().ok().map(MemberId)
}

async fn hash_kv(shared: &Shared, request: Request<Incoming>) -> Response<Reply> {
    let asked = header(request.headers(), &CLUSTER_ID);
    if !asked.is_empty() && asked != shared.config.identity.cluster_id.to_string() {
        return text(StatusCode::PRECONDITION_FAILED, CLUSTER_MISMATCH);
    }
    let Ok(body) = read_small(shared, request).await else {
        return text(StatusCode::BAD_REQUEST, "error reading body");
    };
    let Some(revision) = asked_revision(&body) else {
        shared.log().warn("failed to unmarshal request", &[]);
        return text(StatusCode::BAD_REQUEST, "error unmarshalling request");
    };
    match shared.handler().hash_kv(revision).await {
        Ok(hash) => typed(JSON, hash_json(&hash, shared.config.identity.compat)),
        Err(error) => {
            let revision = u64::try_from(revision).unwrap_or_default();
            shared.log().warn(
                "failed to get hashKV",
                &[("requested-revision", revision.into()), ("error", error.to_string().into())],
            );
            text(StatusCode::BAD_REQUEST, &error.to_string())
        }
    }
}

/// `{"revision":N}`; without the field it is 0.
fn asked_revision(body: &[u8]) -> Option<i64> {
    let request: serde_json::Value = serde_json::from_slice(body).ok()?;
    let fields = request.as_object()?;
    let revision = fields.iter().rfind(|(name, _)| name.eq_ignore_ascii_case("revision"));
    match revision {
        None => Some(0),
        Some((_, value)) => value.as_i64(),
    }
}

/// Zero fields are left out, as Go does; the header never, since etcd relies on it.
fn hash_json(hash: &HashKv, compat: CompatVersion) -> String {
    let field = |name: &str, value: i64| match value {
        0 => String::new(),
        value => format!(",\"{name}\":{value}"),
    };
    let revision = field("revision", hash.current_revision);
    let hash_revision = match compat {
        CompatVersion::V3_5 => String::new(),
        _ => field("hash_revision", hash.hash_revision),
    };
    format!(
        "{{\"header\":{{{}}}{}{}{hash_revision}}}",
        revision.trim_start_matches(','),
        field("hash", hash.hash.into()),
        field("compact_revision", hash.compact_revision),
    )
}

async fn downgrade_enabled(shared: &Shared) -> Response<Reply> {
    match shared.handler().downgrade_enabled().await {
        Ok(enabled) => typed(HeaderValue::from_static("text/plain"), enabled.to_string()),
        Err(reason) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("failed linearized read: {reason}")),
    }
}

async fn renew(shared: &Shared, request: Request<Incoming>) -> Response<Reply> {
    let request = match lease_request::<LeaseKeepAliveRequest>(shared, request).await {
        Ok(request) => request,
        Err(refusal) => return *refusal,
    };
    match in_time(shared.handler().renew_lease(LeaseId(request.id))).await {
        Ok(ttl) => {
            let response = LeaseKeepAliveResponse { id: request.id, ttl, ..Default::default() };
            typed(PROTOBUF, response.encode_to_vec())
        }
        Err(error) => lease_refusal(&error, StatusCode::BAD_REQUEST),
    }
}

async fn time_to_live(shared: &Shared, request: Request<Incoming>) -> Response<Reply> {
    let request = match lease_request::<LeaseInternalRequest>(shared, request).await {
        Ok(request) => request.lease_time_to_live_request.unwrap_or_default(),
        Err(refusal) => return *refusal,
    };
    match in_time(shared.handler().lease_times(LeaseId(request.id), request.keys)).await {
        Ok(times) => {
            let response = LeaseTimeToLiveResponse {
                header: Some(ResponseHeader::default()),
                id: request.id,
                ttl: times.remaining_seconds,
                granted_ttl: times.granted_seconds,
                keys: times.keys,
            };
            let response = LeaseInternalResponse { lease_time_to_live_response: Some(response) };
            typed(PROTOBUF, response.encode_to_vec())
        }
        Err(error) => lease_refusal(&error, StatusCode::INTERNAL_SERVER_ERROR),
    }
}

async fn in_time<T>(answer: impl Future<Output = Result<T, LeaseError>>) -> Result<T, LeaseError> {
    timeout(LEASE_WAIT, answer).await.unwrap_or(Err(LeaseError::Timeout))
}

fn lease_refusal(error: &LeaseError, other: StatusCode) -> Response<Reply> {
    let status = match error {
        LeaseError::NotFound => StatusCode::NOT_FOUND,
        LeaseError::Timeout => StatusCode::REQUEST_TIMEOUT,
        LeaseError::NotPrimary | LeaseError::Other(_) => other,
    };
    text(status, &error.to_string())
}

async fn lease_request<M: prost::Message + Default>(
    shared: &Shared,
    request: Request<Incoming>,
) -> Result<M, Box<Response<Reply>>> {
    let refuse = |status, reason| Box::new(text(status, reason));
    let body = read_small(shared, request).await.map_err(|error| match error {
        BodyError::TooLong => refuse(StatusCode::PAYLOAD_TOO_LARGE, "request body too large"),
        _ => refuse(StatusCode::BAD_REQUEST, "error reading body"),
    })?;
    M::decode(body).map_err(|_| refuse(StatusCode::BAD_REQUEST, "error unmarshalling request"))
}

async fn read_small(shared: &Shared, request: Request<Incoming>) -> Result<bytes::Bytes, BodyError> {
    read_whole(request.into_body(), MAX_REQUEST_BYTES, shared.config.read_timeout).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_look_like_gos() {
        let hash = HashKv { hash: 7, compact_revision: 3, hash_revision: 9, current_revision: 12 };
        assert_eq!(
            hash_json(&hash, CompatVersion::V3_7),
            r#"{"header":{"revision":12},"hash":7,"compact_revision":3,"hash_revision":9}"#
        );
        assert_eq!(
            hash_json(&hash, CompatVersion::V3_5),
            r#"{"header":{"revision":12},"hash":7,"compact_revision":3}"#
        );
        assert_eq!(hash_json(&HashKv::default(), CompatVersion::V3_7), r#"{"header":{}}"#);
    }

    #[test]
    fn revisions_are_numbers() {
        assert_eq!(asked_revision(br#"{"revision":12}"#), Some(12));
        assert_eq!(asked_revision(br#"{}"#), Some(0));
        assert_eq!(asked_revision(br#"{"revision":"12"}"#), None);
        assert_eq!(asked_revision(b"junk"), None);
    }

    #[test]
    fn ids_to_promote_are_decimal() {
        assert_eq!(decimal("26"), Some(MemberId(26)));
        assert_eq!((decimal("2a"), decimal(""), decimal("+1"), decimal("-1")), (None, None, None, None));
    }
}

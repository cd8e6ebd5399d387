//! LeaseGrant, LeaseRevoke, LeaseKeepAlive, LeaseTimeToLive, LeaseLeases.
//!
//! **Source**: etcd `server/etcdserver/api/v3rpc/lease.go`, `server/etcdserver/v3_server.go`.

use apply::{Reply, quota};
use proto::etcdserverpb as pb;
use types::LeaseId;

use super::access::{self, LeaseKeys};
use super::kv::{check_quota, unexpected};
use crate::error::Error;
use crate::grpc::{CallContext, Requests, Responses};
use crate::member::{Headers, Member};

/// `Lease.LeaseGrant`.
pub async fn grant<M: Member>(
    member: &M,
    context: &CallContext,
    mut request: pb::LeaseGrantRequest,
) -> Result<pb::LeaseGrantResponse, Error> {
    check_quota(member, quota::lease_grant_cost()).await?;
    access::require(member, context).await?;
    if request.id == 0 {
        request.id = member.new_lease_id().0;
    }
    let request = pb::InternalRaftRequest { lease_grant: Some(request), ..Default::default() };
    match access::propose(member, context, request).await? {
        Reply::LeaseGrant(mut response) => {
            member.complete(&mut response.header);
            Ok(response)
        }
        other => Err(unexpected(&other)),
    }
}

/// `Lease.LeaseRevoke`.
pub async fn revoke<M: Member>(
    member: &M,
    context: &CallContext,
    request: pb::LeaseRevokeRequest,
) -> Result<pb::LeaseRevokeResponse, Error> {
    access::require(member, context).await?;
    let request = pb::InternalRaftRequest { lease_revoke: Some(request), ..Default::default() };
    match access::propose(member, context, request).await? {
        Reply::LeaseRevoke(mut response) => {
            member.complete(&mut response.header);
            Ok(response)
        }
        other => Err(unexpected(&other)),
    }
}

/// `Lease.LeaseKeepAlive`: one answer per request, in order, until the client has closed its side.
pub async fn keep_alive<M: Member>(
    member: &M,
    context: &CallContext,
    mut requests: Requests<pb::LeaseKeepAliveRequest>,
    responses: &mut Responses,
) -> Result<(), Error> {
    while let Some(request) = requests.next().await {
        let request = request.inspect_err(|status| {
            if status.code != crate::grpc::Code::Canceled {
                member.count_broken_stream("lease-keepalive");
            }
        })?;
        let response = renew(member, context, request).await?;
        responses.send(&response).await?;
    }
    Ok(())
}

/// One renewal. An unknown lease is answered with TTL 0.
pub async fn renew<M: Member>(
    member: &M,
    context: &CallContext,
    request: pb::LeaseKeepAliveRequest,
) -> Result<pb::LeaseKeepAliveResponse, Error> {
    // Taken before the renewal: a client must not see a renewal at a revision at which the lease
    // was already revoked.
    let header = Some(member.header());
    access::leases(member, context, &[LeaseId(request.id)], LeaseKeys::Write).await?;
    let ttl = match member.renew_lease(LeaseId(request.id)).await {
        Ok(ttl) => ttl,
        Err(Error::LeaseNotFound) => 0,
        Err(error) => return Err(error),
    };
    Ok(pb::LeaseKeepAliveResponse { header, id: request.id, ttl })
}

/// `Lease.LeaseTimeToLive`. An unknown lease is answered with TTL -1.
pub async fn time_to_live<M: Member>(
    member: &M,
    context: &CallContext,
    request: pb::LeaseTimeToLiveRequest,
) -> Result<pb::LeaseTimeToLiveResponse, Error> {
    access::require(member, context).await?;
    let auth_revision = member.shared().auth().revision();
    if request.keys {
        access::leases(member, context, &[LeaseId(request.id)], LeaseKeys::Read).await?;
    }
    let times = match member.lease_times(LeaseId(request.id), request.keys).await {
        Ok(times) => times,
        Err(Error::LeaseNotFound) => None,
        Err(error) => return Err(error),
    };
    let auth = member.shared().auth();
    if request.keys && auth.is_enabled() && auth.revision() != auth_revision {
        return Err(Error::AuthOldRevision);
    }
    let header = Some(member.header());
    let id = request.id;
    Ok(match times {
        None => pb::LeaseTimeToLiveResponse { header, id, ttl: -1, ..Default::default() },
        Some(times) => pb::LeaseTimeToLiveResponse {
            header,
            id,
            ttl: times.remaining_seconds,
            granted_ttl: times.granted_seconds,
            keys: times.keys,
        },
    })
}

/// `Lease.LeaseLeases`: what this member knows.
pub async fn leases<M: Member>(
    member: &M,
    context: &CallContext,
    _: pb::LeaseLeasesRequest,
) -> Result<pb::LeaseLeasesResponse, Error> {
    let leases = member.shared().lessor.lock().leases();
    let ids: Vec<LeaseId> = leases.iter().map(|lease| lease.id).collect();
    access::leases(member, context, &ids, LeaseKeys::Read).await?;
    let leases = leases.iter().map(|lease| pb::LeaseStatus { id: lease.id.0 }).collect();
    Ok(pb::LeaseLeasesResponse { header: Some(member.header()), leases })
}

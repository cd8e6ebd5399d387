//! MemberAdd, MemberRemove, MemberUpdate, MemberPromote, MemberList.
//!
//! **Source**: etcd `server/etcdserver/api/v3rpc/member.go`.

use membership::{ConfChange, parse_urls};
use proto::etcdserverpb as pb;
use types::MemberId;

use super::access;
use crate::error::Error;
use crate::grpc::CallContext;
use crate::member::{Headers, Member};

/// `Cluster.MemberAdd`. The id comes from the URLs and the second of the request.
pub async fn member_add<M: Member>(
    member: &M,
    context: &CallContext,
    request: pb::MemberAddRequest,
) -> Result<pb::MemberAddResponse, Error> {
    let urls = checked(&request.peer_ur_ls)?;
    let id = membership::member_id(&urls, "", Some(member.unix_seconds()));
    let added = membership::Member { is_learner: request.is_learner, ..membership::Member::new(id, urls) };
    change(member, context, ConfChange::Add(added.clone())).await?;
    Ok(pb::MemberAddResponse {
        header: Some(member.header_at(0)),
        member: Some(added.to_proto()),
        members: members(member),
    })
}

/// `Cluster.MemberRemove`.
pub async fn member_remove<M: Member>(
    member: &M,
    context: &CallContext,
    request: pb::MemberRemoveRequest,
) -> Result<pb::MemberRemoveResponse, Error> {
    change(member, context, ConfChange::Remove(MemberId(request.id))).await?;
    Ok(pb::MemberRemoveResponse { header: Some(member.header_at(0)), members: members(member) })
}

/// `Cluster.MemberUpdate`: new peer URLs.
pub async fn member_update<M: Member>(
    member: &M,
    context: &CallContext,
    request: pb::MemberUpdateRequest,
) -> Result<pb::MemberUpdateResponse, Error> {
    let updated = membership::Member::new(MemberId(request.id), checked(&request.peer_ur_ls)?);
    change(member, context, ConfChange::UpdatePeerUrls(updated)).await?;
    Ok(pb::MemberUpdateResponse { header: Some(member.header_at(0)), members: members(member) })
}

/// `Cluster.MemberPromote`: a learner gets a vote.
pub async fn member_promote<M: Member>(
    member: &M,
    context: &CallContext,
    request: pb::MemberPromoteRequest,
) -> Result<pb::MemberPromoteResponse, Error> {
    change(member, context, ConfChange::Promote(MemberId(request.id))).await?;
    Ok(pb::MemberPromoteResponse { header: Some(member.header_at(0)), members: members(member) })
}

/// `Cluster.MemberList`, by ascending id. The header has no revision.
pub async fn member_list<M: Member>(
    member: &M,
    context: &CallContext,
    request: pb::MemberListRequest,
) -> Result<pb::MemberListResponse, Error> {
    if request.linearizable {
        member.read_index().await?;
    }
    access::require(member, context).await?;
    Ok(pb::MemberListResponse { header: Some(member.header_at(0)), members: members(member) })
}

/// Root alone may change the membership.
async fn change<M: Member>(member: &M, context: &CallContext, change: ConfChange) -> Result<(), Error> {
    access::administrate(member, context).await?;
    member.change_members(change, context.token()).await
}

fn members<M: Member>(member: &M) -> Vec<pb::Member> {
    apply::members::list(&member.shared().cluster())
}

fn checked(urls: &[String]) -> Result<Vec<String>, Error> {
    parse_urls(urls).map_err(|_| Error::MemberBadUrls)
}

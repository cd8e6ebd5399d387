//! MemberList. Changes of the membership come with multi-member clusters.
//!
//! **Source**: etcd `server/etcdserver/api/v3rpc/member.go`.

use proto::etcdserverpb as pb;

use crate::error::Error;
use crate::member::{Headers, Member};

/// `Cluster.MemberList`, by ascending id. The header has no revision.
pub async fn member_list<M: Member>(
    member: &M,
    request: pb::MemberListRequest,
) -> Result<pb::MemberListResponse, Error> {
    if request.linearizable {
        member.read_index().await?;
    }
    let cluster = member.shared().cluster();
    let message = |member: &membership::Member| pb::Member {
        id: member.id.0,
        name: member.attributes.name.clone(),
        peer_ur_ls: member.peer_urls.clone(),
        client_ur_ls: member.attributes.client_urls.clone(),
        is_learner: member.is_learner,
    };
    let members = cluster.members().map(message).collect();
    Ok(pb::MemberListResponse { header: Some(member.header_at(0)), members })
}

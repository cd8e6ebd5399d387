//! The Auth service while auth is always off.
//!
//! **Source**: etcd `server/etcdserver/api/v3rpc/auth.go`.

use proto::etcdserverpb as pb;

use crate::error::Error;
use crate::member::{Headers, Member};

/// `Auth.AuthStatus`: off. The auth revision of a store that never had users is 1.
pub async fn status<M: Member>(
    member: &M,
    _: pb::AuthStatusRequest,
) -> Result<pb::AuthStatusResponse, Error> {
    Ok(pb::AuthStatusResponse { header: Some(member.header()), enabled: false, auth_revision: 1 })
}

/// `Auth.Authenticate`: there is nothing to authenticate against.
pub async fn authenticate<M: Member>(
    _: &M,
    _: pb::AuthenticateRequest,
) -> Result<pb::AuthenticateResponse, Error> {
    Err(Error::AuthNotEnabled)
}

//! The Auth service. Everything but a login is a request to the log; the rules are the `auth`
//! crate's, applied by the applier.
//!
//! Passwords are hashed here, before the log, and never travel through it.
//!
//! **Source**: etcd `server/etcdserver/api/v3rpc/auth.go`, `server/etcdserver/v3_server.go`.

use ::auth::{AuthError, Identity, password, tokens};
use apply::Reply;
use proto::etcdserverpb as pb;

use super::access;
use super::kv::unexpected;
use super::passwords::draw;
use crate::error::Error;
use crate::grpc::CallContext;
use crate::member::{Headers, Member};

macro_rules! logged {
    ($($(#[$doc:meta])* $name:ident: $request:ident as $field:ident => $reply:ident $response:ident;)*) => {$(
        $(#[$doc])*
        pub async fn $name<M: Member>(
            member: &M,
            context: &CallContext,
            request: pb::$request,
        ) -> Result<pb::$response, Error> {
            let request = pb::InternalRaftRequest { $field: Some(request.into()), ..Default::default() };
            match access::propose_users(member, context, request).await? {
                Reply::$reply(answer) => {
                    let mut response = pb::$response::from(Answer(answer));
                    member.complete(&mut response.header);
                    Ok(response)
                }
                other => Err(unexpected(&other)),
            }
        }
    )*};
}

/// What applying gave, on its way to the message of the method.
struct Answer<T>(T);

macro_rules! answers {
    (header only: $($response:ident,)*) => {$(
        impl From<Answer<Option<pb::ResponseHeader>>> for pb::$response {
            fn from(Answer(header): Answer<Option<pb::ResponseHeader>>) -> Self {
                Self { header }
            }
        }
    )*};
    (whole: $($response:ident,)*) => {$(
        impl From<Answer<pb::$response>> for pb::$response {
            fn from(Answer(response): Answer<pb::$response>) -> Self {
                response
            }
        }
    )*};
}

answers! { header only:
    AuthEnableResponse, AuthDisableResponse, AuthUserAddResponse, AuthUserDeleteResponse,
    AuthUserChangePasswordResponse, AuthUserGrantRoleResponse, AuthUserRevokeRoleResponse,
    AuthRoleAddResponse, AuthRoleDeleteResponse, AuthRoleGrantPermissionResponse,
    AuthRoleRevokePermissionResponse,
}

answers! { whole:
    AuthStatusResponse, AuthUserGetResponse, AuthUserListResponse, AuthRoleGetResponse,
    AuthRoleListResponse,
}

logged! {
    /// `Auth.AuthEnable`.
    enable: AuthEnableRequest as auth_enable => AuthChange AuthEnableResponse;
    /// `Auth.AuthDisable`.
    disable: AuthDisableRequest as auth_disable => AuthChange AuthDisableResponse;
    /// `Auth.AuthStatus`.
    status: AuthStatusRequest as auth_status => AuthStatus AuthStatusResponse;
    /// `Auth.UserAdd` with a password that is hashed.
    log_user_add: AuthUserAddRequest as auth_user_add => AuthChange AuthUserAddResponse;
    /// `Auth.UserGet`.
    user_get: AuthUserGetRequest as auth_user_get => AuthUser AuthUserGetResponse;
    /// `Auth.UserList`.
    user_list: AuthUserListRequest as auth_user_list => AuthUsers AuthUserListResponse;
    /// `Auth.UserDelete`.
    user_delete: AuthUserDeleteRequest as auth_user_delete => AuthChange AuthUserDeleteResponse;
    /// `Auth.UserChangePassword` with a password that is hashed.
    log_user_change_password: AuthUserChangePasswordRequest as auth_user_change_password
        => AuthChange AuthUserChangePasswordResponse;
    /// `Auth.UserGrantRole`.
    user_grant_role: AuthUserGrantRoleRequest as auth_user_grant_role => AuthChange AuthUserGrantRoleResponse;
    /// `Auth.UserRevokeRole`.
    user_revoke_role: AuthUserRevokeRoleRequest as auth_user_revoke_role
        => AuthChange AuthUserRevokeRoleResponse;
    /// `Auth.RoleAdd`.
    role_add: AuthRoleAddRequest as auth_role_add => AuthChange AuthRoleAddResponse;
    /// `Auth.RoleGet`.
    role_get: AuthRoleGetRequest as auth_role_get => AuthRole AuthRoleGetResponse;
    /// `Auth.RoleList`.
    role_list: AuthRoleListRequest as auth_role_list => AuthRoles AuthRoleListResponse;
    /// `Auth.RoleDelete`.
    role_delete: AuthRoleDeleteRequest as auth_role_delete => AuthChange AuthRoleDeleteResponse;
    /// `Auth.RoleGrantPermission`.
    role_grant_permission: AuthRoleGrantPermissionRequest as auth_role_grant_permission
        => AuthChange AuthRoleGrantPermissionResponse;
    /// `Auth.RoleRevokePermission`.
    role_revoke_permission: AuthRoleRevokePermissionRequest as auth_role_revoke_permission
        => AuthChange AuthRoleRevokePermissionResponse;
}

/// `Auth.UserAdd`. Who may not add users costs no hashing.
pub async fn user_add<M: Member>(
    member: &M,
    context: &CallContext,
    mut request: pb::AuthUserAddRequest,
) -> Result<pb::AuthUserAddResponse, Error> {
    access::administrate_users(member, context).await?;
    if !request.options.as_ref().is_some_and(|options| options.no_password) {
        let password = std::mem::take(&mut request.password);
        request.hashed_password = password::to_wire(&member.passwords().hash(&request.name, password).await?);
    }
    log_user_add(member, context, request).await
}

/// `Auth.UserChangePassword`. Without a password a hash may be given.
pub async fn user_change_password<M: Member>(
    member: &M,
    context: &CallContext,
    mut request: pb::AuthUserChangePasswordRequest,
) -> Result<pb::AuthUserChangePasswordResponse, Error> {
    access::administrate_users(member, context).await?;
    if !request.password.is_empty() {
        let password = std::mem::take(&mut request.password);
        request.hashed_password = password::to_wire(&member.passwords().hash(&request.name, password).await?);
    }
    log_user_change_password(member, context, request).await
}

/// `Auth.Authenticate`: a token for a password. If users change between the check of the password
/// and the entry, it starts again.
pub async fn authenticate<M: Member>(
    member: &M,
    _: &CallContext,
    request: pb::AuthenticateRequest,
) -> Result<pb::AuthenticateResponse, Error> {
    member.read_index().await?;
    let auth = member.shared().auth();
    loop {
        let revision = check_password(member, &request).await?;
        let login = pb::InternalAuthenticateRequest {
            name: request.name.clone(),
            password: String::new(),
            simple_token: match auth.tokens {
                ::auth::Tokens::Simple(_) => tokens::prefix(draw),
                _ => String::new(),
            },
        };
        let logged = pb::InternalRaftRequest { authenticate: Some(login.into()), ..Default::default() };
        let mut response = match member.propose(logged).await? {
            Reply::Authenticate(response) => response,
            other => return Err(unexpected(&other)),
        };
        if auth.revision() != revision {
            tracing::info!("revision when password checked became stale; retrying");
            continue;
        }
        let who = Identity { username: request.name, revision };
        let unix = std::time::Duration::from_secs(member.unix_seconds());
        response.token = auth.tokens.sign(response.token, &who, unix)?;
        member.complete(&mut response.header);
        return Ok(response);
    }
}

/// Checks the password; returns the auth revision at which it is right.
async fn check_password<M: Member>(member: &M, request: &pb::AuthenticateRequest) -> Result<u64, Error> {
    let auth = member.shared().auth().store();
    if !auth.is_enabled() {
        return Err(Error::AuthNotEnabled);
    }
    let revision = auth.revision();
    let refuse = |error: AuthError| {
        tracing::warn!(user = request.name, %error, "invalid authentication was requested");
        Err(error.into())
    };
    let Some(user) = auth.user(&request.name) else { return refuse(AuthError::AuthFailed) };
    if user.no_password == Some(true) {
        return refuse(AuthError::NoPasswordUser);
    }
    let stored = user.password_hash.clone();
    match member.passwords().check(&request.name, revision, stored, &request.password).await? {
        true => Ok(revision),
        false => refuse(AuthError::AuthFailed),
    }
}

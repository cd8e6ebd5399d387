//! Requests about users, roles and the auth switch, and the check of all others.
//!
//! A change writes its records and the entry's position together, and is seen by everybody before
//! the next entry is applied.
//!
//! **Source**: etcd `server/etcdserver/apply/{auth,backend}.go`.

use auth::{AuthError, AuthStore, Bucket, Done, Identity, LegacyHash, ROOT, Record};
use backend::{BucketId, Change};
use proto::{authpb, etcdserverpb as pb};
use types::{CompatVersion, LeaseId};

use crate::access::Access;
use crate::outcome::{Applied, Reply};
use crate::{Applier, Context};

/// The record as a change of the backend.
pub fn to_change(record: Record) -> Change {
    let bucket = match record.bucket {
        Bucket::Auth => BucketId::Auth,
        Bucket::Users => BucketId::AuthUsers,
        Bucket::Roles => BucketId::AuthRoles,
    };
    Change { bucket, key: record.key, value: record.value }
}

fn identity(request: &pb::InternalRaftRequest) -> Identity {
    let header = request.header.as_ref();
    Identity {
        username: header.map(|header| header.username.clone()).unwrap_or_default(),
        revision: header.map(|header| header.auth_revision).unwrap_or_default(),
    }
}

impl Applier {
    /// Whether the user in the request's header may make it. Called with auth on.
    pub(crate) fn check_access(&self, request: &pb::InternalRaftRequest) -> Result<(), AuthError> {
        let auth = self.shared.auth().store();
        let who = identity(request);
        if needs_root(request, self.options.compat) {
            return auth.may_administrate(Some(&who));
        }
        if let Some(get) = &request.auth_user_get {
            return or_own(auth.may_administrate(Some(&who)), || get.name == who.username);
        }
        if let Some(get) = &request.auth_role_get {
            return or_own(auth.may_administrate(Some(&who)), || auth.has_role(&who.username, &get.role));
        }
        let lessor = self.shared.lessor.lock();
        let access = Access { auth: &auth, lessor: &lessor, who: &who };
        if let Some(put) = &request.put {
            access.put(put)
        } else if let Some(txn) = &request.txn {
            access.txn(txn)
        } else if let Some(range) = &request.range {
            access.range(range)
        } else if let Some(delete) = &request.delete_range {
            access.delete_range(delete)
        } else if let Some(revoke) = &request.lease_revoke {
            access.writes_keys_of(LeaseId(revoke.id))
        } else {
            // Compactions, grants and alarms are checked by who takes them from a client.
            Ok(())
        }
    }

    /// Applies the auth request that is set; `None` if none is.
    pub(crate) fn auth_request(
        &self,
        request: pb::InternalRaftRequest,
        context: &Context,
    ) -> Option<Applied> {
        if let Some(login) = &request.authenticate {
            return Some(self.authenticate(login, context));
        }
        if let Some(reply) = self.auth_question(&request) {
            self.backend.append(context.write_set());
            return Some(match reply {
                Ok(reply) => Applied::reply(reply),
                Err(error) => Applied::refuse(error),
            });
        }
        self.auth_change(request, context)
    }

    fn authenticate(&self, login: &pb::InternalAuthenticateRequest, context: &Context) -> Applied {
        self.backend.append(context.write_set());
        let auth = self.shared.auth();
        if !auth.is_enabled() {
            return Applied::refuse(AuthError::NotEnabled);
        }
        // The password was checked by who proposed this.
        match auth.store().user(&login.name) {
            Some(user) if user.no_password != Some(true) => {}
            _ => return Applied::refuse(AuthError::AuthFailed),
        }
        let index = context.position.index.saturating_sub(1);
        let token = auth.tokens.assign(&login.name, &login.simple_token, index, context.now);
        Applied::reply(Reply::Authenticate(pb::AuthenticateResponse { header: self.header(), token }))
    }

    /// Requests that change nothing.
    fn auth_question(&self, request: &pb::InternalRaftRequest) -> Option<Result<Reply, AuthError>> {
        let header = self.header();
        let auth = self.shared.auth().store();
        if request.auth_status.is_some() {
            let (enabled, auth_revision) = (auth.is_enabled(), auth.revision());
            return Some(Ok(Reply::AuthStatus(pb::AuthStatusResponse { header, enabled, auth_revision })));
        }
        if request.auth_user_list.is_some() {
            let users = auth.users().map(|user| user.name.clone()).collect();
            return Some(Ok(Reply::AuthUsers(pb::AuthUserListResponse { header, users })));
        }
        if request.auth_role_list.is_some() {
            let roles = auth.roles().map(|role| role.name.clone()).collect();
            return Some(Ok(Reply::AuthRoles(pb::AuthRoleListResponse { header, roles })));
        }
        if let Some(get) = &request.auth_user_get {
            let Some(user) = auth.user(&get.name) else { return Some(Err(AuthError::UserNotFound)) };
            let roles = user.roles.clone();
            return Some(Ok(Reply::AuthUser(pb::AuthUserGetResponse { header, roles })));
        }
        if let Some(get) = &request.auth_role_get {
            let Some(role) = auth.role(&get.role) else { return Some(Err(AuthError::RoleNotFound)) };
            let perm = if role.name == ROOT && self.options.compat >= CompatVersion::V3_6 {
                vec![everything()]
            } else {
                role.permissions.iter().map(auth::Permission::to_proto).collect()
            };
            return Some(Ok(Reply::AuthRole(pb::AuthRoleGetResponse { header, perm })));
        }
        None
    }

    fn auth_change(&self, request: pb::InternalRaftRequest, context: &Context) -> Option<Applied> {
        let shared = self.shared.auth();
        let mut auth = AuthStore::clone(&shared.store());
        let legacy = LegacyHash { cost: self.options.bcrypt_cost, index: context.position.index };
        let mut forgotten = None;
        let outcome = if request.auth_enable.is_some() {
            auth.enable()
        } else if request.auth_disable.is_some() {
            match auth.disable() {
                Some(done) => Ok(done),
                None => {
                    self.backend.append(context.write_set());
                    return Some(Applied::reply(Reply::AuthChange(self.header())));
                }
            }
        } else if let Some(add) = &request.auth_user_add {
            auth.user_add(add, legacy)
        } else if let Some(delete) = &request.auth_user_delete {
            forgotten = Some(&delete.name);
            auth.user_delete(&delete.name)
        } else if let Some(change) = &request.auth_user_change_password {
            forgotten = Some(&change.name);
            auth.user_change_password(change, legacy)
        } else if let Some(grant) = &request.auth_user_grant_role {
            auth.user_grant_role(&grant.user, &grant.role)
        } else if let Some(revoke) = &request.auth_user_revoke_role {
            auth.user_revoke_role(&revoke.name, &revoke.role)
        } else if let Some(add) = &request.auth_role_add {
            auth.role_add(&add.name)
        } else if let Some(delete) = &request.auth_role_delete {
            auth.role_delete(&delete.role)
        } else if let Some(grant) = request.auth_role_grant_permission {
            auth.role_grant_permission(*grant)
        } else if let Some(revoke) = &request.auth_role_revoke_permission {
            auth.role_revoke_permission(revoke)
        } else {
            return None;
        };
        let Done { records, note } = match outcome {
            Ok(done) => done,
            Err(error) => return Some(self.refuse(error.into(), context)),
        };
        let mut set = context.write_set();
        set.changes.extend(records.into_iter().map(to_change));
        self.backend.append(set);
        shared.publish(auth);
        if let Some(user) = forgotten {
            shared.tokens.forget_user(user);
        }
        let reply = Applied::reply(Reply::AuthChange(self.header()));
        Some(Applied { note: Some(Box::new(note)), ..reply })
    }
}

fn or_own(verdict: Result<(), AuthError>, is_own: impl FnOnce() -> bool) -> Result<(), AuthError> {
    verdict.or_else(|error| if is_own() { Ok(()) } else { Err(error) })
}

/// What the role root may do, whatever its record says.
fn everything() -> authpb::Permission {
    authpb::Permission {
        perm_type: authpb::permission::Type::Readwrite.into(),
        key: bytes::Bytes::new(),
        range_end: bytes::Bytes::from_static(b"\0"),
    }
}

fn needs_root(request: &pb::InternalRaftRequest, compat: CompatVersion) -> bool {
    request.auth_enable.is_some()
        || request.auth_disable.is_some()
        || request.auth_user_add.is_some()
        || request.auth_user_delete.is_some()
        || request.auth_user_change_password.is_some()
        || request.auth_user_grant_role.is_some()
        || request.auth_user_revoke_role.is_some()
        || request.auth_user_list.is_some()
        || request.auth_role_add.is_some()
        || request.auth_role_delete.is_some()
        || request.auth_role_grant_permission.is_some()
        || request.auth_role_revoke_permission.is_some()
        || request.auth_role_list.is_some()
        || (request.auth_status.is_some() && compat < CompatVersion::V3_7)
}

//! The kind of a request, for those who count by it.

use proto::etcdserverpb::InternalRaftRequest;

/// What a request asks for: the field of `InternalRaftRequest` that is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of the fields")]
pub enum RequestKind {
    Put,
    Txn,
    Range,
    DeleteRange,
    Compaction,
    LeaseGrant,
    LeaseRevoke,
    LeaseCheckpoint,
    Alarm,
    ClusterVersionSet,
    ClusterMemberAttrSet,
    DowngradeInfoSet,
    DowngradeVersionTest,
    Authenticate,
    AuthEnable,
    AuthDisable,
    AuthUserAdd,
    AuthUserDelete,
    AuthUserChangePassword,
    AuthUserGrantRole,
    AuthUserGet,
    AuthUserRevokeRole,
    AuthUserList,
    AuthRoleAdd,
    AuthRoleGrantPermission,
    AuthRoleGet,
    AuthRoleRevokePermission,
    AuthRoleDelete,
    AuthRoleList,
    Unknown,
}

impl RequestKind {
    /// The kind of this request; puts, which are frequent, are recognised first.
    pub fn of(request: &InternalRaftRequest) -> Self {
        if request.put.is_some() {
            return Self::Put;
        }
        let kinds = [
            (Self::Txn, request.txn.is_some()),
            (Self::Range, request.range.is_some()),
            (Self::DeleteRange, request.delete_range.is_some()),
            (Self::Compaction, request.compaction.is_some()),
            (Self::LeaseGrant, request.lease_grant.is_some()),
            (Self::LeaseRevoke, request.lease_revoke.is_some()),
            (Self::LeaseCheckpoint, request.lease_checkpoint.is_some()),
            (Self::Alarm, request.alarm.is_some()),
            (Self::ClusterVersionSet, request.cluster_version_set.is_some()),
            (Self::ClusterMemberAttrSet, request.cluster_member_attr_set.is_some()),
            (Self::DowngradeInfoSet, request.downgrade_info_set.is_some()),
            (Self::DowngradeVersionTest, request.downgrade_version_test.is_some()),
            (Self::Authenticate, request.authenticate.is_some()),
            (Self::AuthEnable, request.auth_enable.is_some()),
            (Self::AuthDisable, request.auth_disable.is_some()),
            (Self::AuthUserAdd, request.auth_user_add.is_some()),
            (Self::AuthUserDelete, request.auth_user_delete.is_some()),
            (Self::AuthUserChangePassword, request.auth_user_change_password.is_some()),
            (Self::AuthUserGrantRole, request.auth_user_grant_role.is_some()),
            (Self::AuthUserGet, request.auth_user_get.is_some()),
            (Self::AuthUserRevokeRole, request.auth_user_revoke_role.is_some()),
            (Self::AuthUserList, request.auth_user_list.is_some()),
            (Self::AuthRoleAdd, request.auth_role_add.is_some()),
            (Self::AuthRoleGrantPermission, request.auth_role_grant_permission.is_some()),
            (Self::AuthRoleGet, request.auth_role_get.is_some()),
            (Self::AuthRoleRevokePermission, request.auth_role_revoke_permission.is_some()),
            (Self::AuthRoleDelete, request.auth_role_delete.is_some()),
            (Self::AuthRoleList, request.auth_role_list.is_some()),
        ];
        kinds.into_iter().find_map(|(kind, set)| set.then_some(kind)).unwrap_or(Self::Unknown)
    }
}

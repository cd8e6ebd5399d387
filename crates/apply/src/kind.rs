//! The kind of a request, for those who count by it.

use proto::etcdserverpb::InternalRaftRequest;

macro_rules! kinds {
    ($($kind:ident $field:ident,)*) => {
        /// What a request asks for: the field of `InternalRaftRequest` that is set.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        #[allow(missing_docs, reason = "the names are those of the fields")]
        pub enum RequestKind {
            $($kind,)*
            Unknown,
        }

        impl RequestKind {
            /// Every kind, in the order of its number.
            pub const ALL: &[Self] = &[$(Self::$kind,)* Self::Unknown];

            /// The kind of this request.
            pub fn of(request: &InternalRaftRequest) -> Self {
                $(if request.$field.is_some() {
                    return Self::$kind;
                })*
                Self::Unknown
            }

            /// Its name, as metrics have it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => stringify!($kind),)*
                    Self::Unknown => "Unknown",
                }
            }
        }
    };
}

// The frequent ones first: they are looked for in this order.
kinds! {
    Put put,
    Txn txn,
    Range range,
    DeleteRange delete_range,
    Compaction compaction,
    LeaseGrant lease_grant,
    LeaseRevoke lease_revoke,
    LeaseCheckpoint lease_checkpoint,
    Alarm alarm,
    ClusterVersionSet cluster_version_set,
    ClusterMemberAttrSet cluster_member_attr_set,
    DowngradeInfoSet downgrade_info_set,
    DowngradeVersionTest downgrade_version_test,
    Authenticate authenticate,
    AuthEnable auth_enable,
    AuthDisable auth_disable,
    AuthStatus auth_status,
    AuthUserAdd auth_user_add,
    AuthUserDelete auth_user_delete,
    AuthUserChangePassword auth_user_change_password,
    AuthUserGrantRole auth_user_grant_role,
    AuthUserGet auth_user_get,
    AuthUserRevokeRole auth_user_revoke_role,
    AuthUserList auth_user_list,
    AuthRoleAdd auth_role_add,
    AuthRoleGrantPermission auth_role_grant_permission,
    AuthRoleGet auth_role_get,
    AuthRoleRevokePermission auth_role_revoke_permission,
    AuthRoleDelete auth_role_delete,
    AuthRoleList auth_role_list,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_listed_in_the_order_of_their_numbers() {
        for (position, kind) in RequestKind::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, position, "{}", kind.name());
        }
    }
}

//! The table of methods: a path and a number for each, for whoever serves them.
//!
//! **Source**: the service definitions of etcd 3.7.1 and of gRPC's health and reflection.

use crate::grpc::{MethodId, MethodInfo, Shape};

/// A row: service, method, shape.
macro_rules! methods {
    ($($name:ident = $service:literal $method:literal $shape:ident;)*) => {
        #[allow(clippy::upper_case_acronyms, non_camel_case_types)]
        #[repr(u8)]
        enum Number { $($name,)* }
        /// The path of each method.
        pub mod path {
            $(#[doc = concat!("`", $service, ".", $method, "`")]
            pub const $name: &str = concat!("/", $service, "/", $method);)*
        }
        /// The place of each method in the table.
        pub mod id {
            use super::{MethodId, Number};
            $(#[doc = concat!("`", $service, ".", $method, "`")]
            pub const $name: MethodId = MethodId(Number::$name as u8);)*
        }
        /// All methods of a member.
        pub const METHODS: &[MethodInfo] =
            &[$(MethodInfo { service: $service, method: $method, shape: Shape::$shape },)*];
    };
}

// etcd's own services, and behind them those that only a member has.
methods! {
    PUT = "etcdserverpb.KV" "Put" Unary;
    RANGE = "etcdserverpb.KV" "Range" Unary;
    TXN = "etcdserverpb.KV" "Txn" Unary;
    DELETE_RANGE = "etcdserverpb.KV" "DeleteRange" Unary;
    RANGE_STREAM = "etcdserverpb.KV" "RangeStream" ServerStream;
    COMPACT = "etcdserverpb.KV" "Compact" Unary;
    WATCH = "etcdserverpb.Watch" "Watch" Bidi;
    LEASE_GRANT = "etcdserverpb.Lease" "LeaseGrant" Unary;
    LEASE_REVOKE = "etcdserverpb.Lease" "LeaseRevoke" Unary;
    LEASE_KEEP_ALIVE = "etcdserverpb.Lease" "LeaseKeepAlive" Bidi;
    LEASE_TIME_TO_LIVE = "etcdserverpb.Lease" "LeaseTimeToLive" Unary;
    LEASE_LEASES = "etcdserverpb.Lease" "LeaseLeases" Unary;
    MEMBER_ADD = "etcdserverpb.Cluster" "MemberAdd" Unary;
    MEMBER_REMOVE = "etcdserverpb.Cluster" "MemberRemove" Unary;
    MEMBER_UPDATE = "etcdserverpb.Cluster" "MemberUpdate" Unary;
    MEMBER_LIST = "etcdserverpb.Cluster" "MemberList" Unary;
    MEMBER_PROMOTE = "etcdserverpb.Cluster" "MemberPromote" Unary;
    ALARM = "etcdserverpb.Maintenance" "Alarm" Unary;
    STATUS = "etcdserverpb.Maintenance" "Status" Unary;
    DEFRAGMENT = "etcdserverpb.Maintenance" "Defragment" Unary;
    HASH = "etcdserverpb.Maintenance" "Hash" Unary;
    HASH_KV = "etcdserverpb.Maintenance" "HashKV" Unary;
    SNAPSHOT = "etcdserverpb.Maintenance" "Snapshot" ServerStream;
    MOVE_LEADER = "etcdserverpb.Maintenance" "MoveLeader" Unary;
    DOWNGRADE = "etcdserverpb.Maintenance" "Downgrade" Unary;
    AUTH_ENABLE = "etcdserverpb.Auth" "AuthEnable" Unary;
    AUTH_DISABLE = "etcdserverpb.Auth" "AuthDisable" Unary;
    AUTH_STATUS = "etcdserverpb.Auth" "AuthStatus" Unary;
    AUTHENTICATE = "etcdserverpb.Auth" "Authenticate" Unary;
    USER_ADD = "etcdserverpb.Auth" "UserAdd" Unary;
    USER_GET = "etcdserverpb.Auth" "UserGet" Unary;
    USER_LIST = "etcdserverpb.Auth" "UserList" Unary;
    USER_DELETE = "etcdserverpb.Auth" "UserDelete" Unary;
    USER_CHANGE_PASSWORD = "etcdserverpb.Auth" "UserChangePassword" Unary;
    USER_GRANT_ROLE = "etcdserverpb.Auth" "UserGrantRole" Unary;
    USER_REVOKE_ROLE = "etcdserverpb.Auth" "UserRevokeRole" Unary;
    ROLE_ADD = "etcdserverpb.Auth" "RoleAdd" Unary;
    ROLE_GET = "etcdserverpb.Auth" "RoleGet" Unary;
    ROLE_LIST = "etcdserverpb.Auth" "RoleList" Unary;
    ROLE_DELETE = "etcdserverpb.Auth" "RoleDelete" Unary;
    ROLE_GRANT_PERMISSION = "etcdserverpb.Auth" "RoleGrantPermission" Unary;
    ROLE_REVOKE_PERMISSION = "etcdserverpb.Auth" "RoleRevokePermission" Unary;
    LOCK = "v3lockpb.Lock" "Lock" Unary;
    UNLOCK = "v3lockpb.Lock" "Unlock" Unary;
    CAMPAIGN = "v3electionpb.Election" "Campaign" Unary;
    PROCLAIM = "v3electionpb.Election" "Proclaim" Unary;
    LEADER = "v3electionpb.Election" "Leader" Unary;
    OBSERVE = "v3electionpb.Election" "Observe" ServerStream;
    RESIGN = "v3electionpb.Election" "Resign" Unary;
    HEALTH_CHECK = "grpc.health.v1.Health" "Check" Unary;
    HEALTH_LIST = "grpc.health.v1.Health" "List" Unary;
    HEALTH_WATCH = "grpc.health.v1.Health" "Watch" ServerStream;
    REFLECTION = "grpc.reflection.v1.ServerReflection" "ServerReflectionInfo" Bidi;
    REFLECTION_V1ALPHA = "grpc.reflection.v1alpha.ServerReflection" "ServerReflectionInfo" Bidi;
}

/// The methods of etcd's own services: what a proxy passes on.
pub const CLIENT_METHODS: &[MethodInfo] = METHODS.split_at(id::HEALTH_CHECK.0 as usize).0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_members_have_the_services_of_grpc() {
        let of_grpc = |info: &MethodInfo| info.service.starts_with("grpc.");
        assert!(!CLIENT_METHODS.iter().any(of_grpc));
        assert!(METHODS[CLIENT_METHODS.len()..].iter().all(of_grpc));
    }
}

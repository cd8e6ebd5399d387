//! Which path stands for which method.
//!
//! **Source**: the annotations of etcd 3.7.1's `rpc.proto`, `v3lock.proto` and `v3election.proto`;
//! those of 3.5 are the same.

use std::collections::HashMap;
use std::sync::LazyLock;

use prost::Message as _;

use crate::schema::{MessageId, SCHEMA};

/// Where all routes begin.
pub const PREFIX: &str = "/v3/";

/// A prefix that older clients use for the same.
pub const OLDER_PREFIX: &str = "/v3beta/";

/// A method behind a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The path of gRPC.
    pub method: String,
    /// What goes in.
    pub request: MessageId,
    /// What comes out.
    pub response: MessageId,
    /// Whether any number of requests go in.
    pub requests_stream: bool,
    /// Whether any number of responses come out.
    pub responses_stream: bool,
}

/// Paths below [`PREFIX`], services and methods.
const ROUTES: &[(&str, &str, &str)] = &[
    ("kv/range", "etcdserverpb.KV", "Range"),
    ("kv/put", "etcdserverpb.KV", "Put"),
    ("kv/deleterange", "etcdserverpb.KV", "DeleteRange"),
    ("kv/txn", "etcdserverpb.KV", "Txn"),
    ("kv/compaction", "etcdserverpb.KV", "Compact"),
    ("watch", "etcdserverpb.Watch", "Watch"),
    ("lease/grant", "etcdserverpb.Lease", "LeaseGrant"),
    ("lease/revoke", "etcdserverpb.Lease", "LeaseRevoke"),
    ("kv/lease/revoke", "etcdserverpb.Lease", "LeaseRevoke"),
    ("lease/keepalive", "etcdserverpb.Lease", "LeaseKeepAlive"),
    ("lease/timetolive", "etcdserverpb.Lease", "LeaseTimeToLive"),
    ("kv/lease/timetolive", "etcdserverpb.Lease", "LeaseTimeToLive"),
    ("lease/leases", "etcdserverpb.Lease", "LeaseLeases"),
    ("kv/lease/leases", "etcdserverpb.Lease", "LeaseLeases"),
    ("cluster/member/add", "etcdserverpb.Cluster", "MemberAdd"),
    ("cluster/member/remove", "etcdserverpb.Cluster", "MemberRemove"),
    ("cluster/member/update", "etcdserverpb.Cluster", "MemberUpdate"),
    ("cluster/member/list", "etcdserverpb.Cluster", "MemberList"),
    ("cluster/member/promote", "etcdserverpb.Cluster", "MemberPromote"),
    ("maintenance/alarm", "etcdserverpb.Maintenance", "Alarm"),
    ("maintenance/status", "etcdserverpb.Maintenance", "Status"),
    ("maintenance/defragment", "etcdserverpb.Maintenance", "Defragment"),
    ("maintenance/hash", "etcdserverpb.Maintenance", "Hash"),
    ("maintenance/hashkv", "etcdserverpb.Maintenance", "HashKV"),
    ("maintenance/snapshot", "etcdserverpb.Maintenance", "Snapshot"),
    ("maintenance/transfer-leadership", "etcdserverpb.Maintenance", "MoveLeader"),
    ("maintenance/downgrade", "etcdserverpb.Maintenance", "Downgrade"),
    ("auth/enable", "etcdserverpb.Auth", "AuthEnable"),
    ("auth/disable", "etcdserverpb.Auth", "AuthDisable"),
    ("auth/status", "etcdserverpb.Auth", "AuthStatus"),
    ("auth/authenticate", "etcdserverpb.Auth", "Authenticate"),
    ("auth/user/add", "etcdserverpb.Auth", "UserAdd"),
    ("auth/user/get", "etcdserverpb.Auth", "UserGet"),
    ("auth/user/list", "etcdserverpb.Auth", "UserList"),
    ("auth/user/delete", "etcdserverpb.Auth", "UserDelete"),
    ("auth/user/changepw", "etcdserverpb.Auth", "UserChangePassword"),
    ("auth/user/grant", "etcdserverpb.Auth", "UserGrantRole"),
    ("auth/user/revoke", "etcdserverpb.Auth", "UserRevokeRole"),
    ("auth/role/add", "etcdserverpb.Auth", "RoleAdd"),
    ("auth/role/get", "etcdserverpb.Auth", "RoleGet"),
    ("auth/role/list", "etcdserverpb.Auth", "RoleList"),
    ("auth/role/delete", "etcdserverpb.Auth", "RoleDelete"),
    ("auth/role/grant", "etcdserverpb.Auth", "RoleGrantPermission"),
    ("auth/role/revoke", "etcdserverpb.Auth", "RoleRevokePermission"),
    ("lock/lock", "v3lockpb.Lock", "Lock"),
    ("lock/unlock", "v3lockpb.Lock", "Unlock"),
    ("election/campaign", "v3electionpb.Election", "Campaign"),
    ("election/proclaim", "v3electionpb.Election", "Proclaim"),
    ("election/leader", "v3electionpb.Election", "Leader"),
    ("election/observe", "v3electionpb.Election", "Observe"),
    ("election/resign", "v3electionpb.Election", "Resign"),
];

/// A method, by its path of gRPC.
struct Method {
    request: MessageId,
    response: MessageId,
    requests_stream: bool,
    responses_stream: bool,
}

static METHODS: LazyLock<HashMap<String, Method>> = LazyLock::new(|| {
    let set = prost_types::FileDescriptorSet::decode(proto::DESCRIPTORS).expect("made by our own build");
    let mut methods = HashMap::new();
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                let (Some(request), Some(response)) = (
                    SCHEMA.message(method.input_type().trim_start_matches('.')),
                    SCHEMA.message(method.output_type().trim_start_matches('.')),
                ) else {
                    continue;
                };
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                let (requests_stream, responses_stream) =
                    (method.client_streaming(), method.server_streaming());
                methods.insert(path, Method { request, response, requests_stream, responses_stream });
            }
        }
    }
    methods
});

static TABLE: LazyLock<HashMap<&'static str, Route>> = LazyLock::new(|| {
    let routes = ROUTES.iter().map(|(path, service, method)| {
        let name = format!("/{service}/{method}");
        let described = METHODS.get(&name).expect("a test looks for every route");
        let route = Route {
            request: described.request,
            response: described.response,
            requests_stream: described.requests_stream,
            responses_stream: described.responses_stream,
            method: name,
        };
        (*path, route)
    });
    routes.collect()
});

/// What goes into a method and what comes out, by its path of gRPC; also of those without a route.
pub fn messages(method: &str) -> Option<(MessageId, MessageId)> {
    METHODS.get(method).map(|method| (method.request, method.response))
}

/// The route of a path.
pub fn find(path: &str) -> Option<&'static Route> {
    TABLE.get(path.strip_prefix(PREFIX)?)
}

/// All paths.
pub fn paths() -> impl Iterator<Item = String> {
    ROUTES.iter().map(|(path, ..)| format!("{PREFIX}{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_has_its_method() {
        assert_eq!(paths().filter(|path| find(path).is_some()).count(), ROUTES.len());
        let watch = find("/v3/watch").unwrap();
        assert!(watch.requests_stream && watch.responses_stream);
        let snapshot = find("/v3/maintenance/snapshot").unwrap();
        assert!(!snapshot.requests_stream && snapshot.responses_stream);
        let put = find("/v3/kv/put").unwrap();
        assert_eq!((put.requests_stream, put.responses_stream), (false, false));
        assert_eq!(put.method, "/etcdserverpb.KV/Put");
        assert_eq!(find("/v3/kv/rangestream"), None);
        assert_eq!(find("/kv/put"), None);
        assert_eq!(messages(&put.method), Some((put.request, put.response)));
        assert!(messages("/etcdserverpb.KV/RangeStream").is_some());
        assert_eq!(messages("/v3/kv/put"), None);
    }
}

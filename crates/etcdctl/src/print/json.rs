//! JSON as Go's encoder writes it: keys in declaration order, zero values left out, bytes in
//! base64, `<`, `>` and `&` escaped.

use std::fmt::{Display, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cli::print::json_string as string;
use client::proto::authpb::Permission;
use client::proto::etcdserverpb as pb;
use client::proto::etcdserverpb::response_op::Response;
use client::proto::mvccpb::{Event, KeyValue};

use super::{Answer, Health};

pub(super) fn render(hex: bool, answer: Answer<'_>) -> String {
    match answer {
        Answer::Get(response) => range(response),
        Answer::Put(response) => put(response),
        Answer::Del(response) => delete_range(response),
        Answer::Txn(response) => txn(response),
        Answer::Watch(response) => watch(response),
        Answer::Grant(response) => Object::embedding(&response.header)
            .number("ID", response.id)
            .number("TTL", response.ttl)
            .raw("Error", string(&response.error))
            .end(),
        Answer::Revoke(_, response) => header_only(&response.header),
        Answer::KeepAlive(response) => {
            Object::embedding(&response.header).raw("ID", response.id).raw("TTL", response.ttl).end()
        }
        Answer::TimeToLive(response, _) => time_to_live(response),
        Answer::Leases(response) => {
            let lease = |lease: &pb::LeaseStatus| Object::new().raw("id", lease.id).end();
            Object::embedding(&response.header).raw("leases", array(response.leases.iter().map(lease))).end()
        }
        Answer::Alarm(response) => {
            let alarm = |alarm: &pb::AlarmMember| {
                Object::new().number("memberID", alarm.member_id).number("alarm", alarm.alarm).end()
            };
            Object::with(&response.header).list("alarms", response.alarms.iter().map(alarm)).end()
        }
        Answer::MemberAdd(response) => match hex {
            true => Object::new()
                .raw("header", hex_header(&response.header))
                .raw("member", response.member.as_ref().map_or("null".to_owned(), hex_member))
                .raw("members", array(response.members.iter().map(hex_member)))
                .end(),
            false => Object::with(&response.header)
                .option("member", response.member.as_ref().map(member))
                .list("members", response.members.iter().map(member))
                .end(),
        },
        Answer::MemberRemove(_, response) => members(hex, &response.header, &response.members),
        Answer::MemberUpdate(_, response) => members(hex, &response.header, &response.members),
        Answer::MemberPromote(_, response) => members(hex, &response.header, &response.members),
        Answer::MemberList(response) => members(hex, &response.header, &response.members),
        Answer::EndpointHealth(list) => array_or_null(list.iter().map(health)),
        Answer::EndpointStatus(list) => array_or_null(list.iter().map(|(endpoint, response)| {
            Object::new().raw("Endpoint", string(endpoint)).raw("Status", status(response)).end()
        })),
        Answer::EndpointHashKv(list) => array_or_null(list.iter().map(|(endpoint, response)| {
            let hash = Object::with(&response.header)
                .number("hash", response.hash)
                .number("compact_revision", response.compact_revision)
                .number("hash_revision", response.hash_revision)
                .end();
            Object::new().raw("Endpoint", string(endpoint)).raw("HashKV", hash).end()
        })),
        Answer::MoveLeader(_, _, response) => header_only(&response.header),
        Answer::Downgrade(_, response) => {
            Object::with(&response.header).text("version", &response.version).end()
        }
        Answer::RoleGet(_, response) => {
            Object::with(&response.header).list("perm", response.perm.iter().map(permission)).end()
        }
        Answer::RoleList(response) => {
            Object::with(&response.header).list("roles", response.roles.iter().map(string)).end()
        }
        Answer::UserGet(_, response) => {
            Object::with(&response.header).list("roles", response.roles.iter().map(string)).end()
        }
        Answer::UserList(response) => {
            Object::with(&response.header).list("users", response.users.iter().map(string)).end()
        }
        Answer::AuthStatus(response) => Object::with(&response.header)
            .flag("enabled", response.enabled)
            .number("authRevision", response.auth_revision)
            .end(),
        Answer::RoleAdd(_, response) => header_only(&response.header),
        Answer::RoleDelete(_, response) => header_only(&response.header),
        Answer::RoleGrant(_, response) => header_only(&response.header),
        Answer::RoleRevoke(_, _, _, response) => header_only(&response.header),
        Answer::UserAdd(_, response) => header_only(&response.header),
        Answer::UserPasswd(response) => header_only(&response.header),
        Answer::UserGrant(_, _, response) => header_only(&response.header),
        Answer::UserRevoke(_, _, response) => header_only(&response.header),
        Answer::UserDelete(_, response) => header_only(&response.header),
    }
}

type Header = Option<pb::ResponseHeader>;

/// An object under construction.
struct Object(String);

impl Object {
    fn new() -> Self {
        Self("{".to_owned())
    }

    /// An object that begins with the header as a member.
    fn with(header: &Header) -> Self {
        Self::new().option("header", header.as_ref().map(response_header))
    }

    /// An object that begins with the header's own members.
    fn embedding(header: &Header) -> Self {
        Self::new().header_members(&header.unwrap_or_default())
    }

    fn header_members(self, header: &pb::ResponseHeader) -> Self {
        self.number("cluster_id", header.cluster_id)
            .number("member_id", header.member_id)
            .number("revision", header.revision)
            .number("raft_term", header.raft_term)
    }

    /// Always there.
    fn raw(mut self, name: &str, value: impl Display) -> Self {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        let _ = write!(self.0, "\"{name}\":{value}");
        self
    }

    fn option(self, name: &str, value: Option<String>) -> Self {
        match value {
            Some(value) => self.raw(name, value),
            None => self,
        }
    }

    fn number(self, name: &str, value: impl Into<i128>) -> Self {
        let value = value.into();
        self.option(name, (value != 0).then(|| value.to_string()))
    }

    fn flag(self, name: &str, value: bool) -> Self {
        self.option(name, value.then(|| "true".to_owned()))
    }

    fn text(self, name: &str, value: &str) -> Self {
        self.option(name, (!value.is_empty()).then(|| string(value)))
    }

    fn bytes(self, name: &str, value: &[u8]) -> Self {
        self.option(name, (!value.is_empty()).then(|| base64(value)))
    }

    fn list(self, name: &str, items: impl ExactSizeIterator<Item = String>) -> Self {
        let value = (items.len() > 0).then(|| array(items));
        self.option(name, value)
    }

    fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

fn array(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(","))
}

fn array_or_null(items: impl ExactSizeIterator<Item = String>) -> String {
    if items.len() == 0 { "null".to_owned() } else { array(items) }
}

fn base64(bytes: &[u8]) -> String {
    format!("\"{}\"", STANDARD.encode(bytes))
}

fn response_header(header: &pb::ResponseHeader) -> String {
    Object::new().header_members(header).end()
}

fn header_only(header: &Header) -> String {
    Object::with(header).end()
}

fn key_value(kv: &KeyValue) -> String {
    Object::new()
        .bytes("key", &kv.key)
        .number("create_revision", kv.create_revision)
        .number("mod_revision", kv.mod_revision)
        .number("version", kv.version)
        .bytes("value", &kv.value)
        .number("lease", kv.lease)
        .end()
}

fn range(response: &pb::RangeResponse) -> String {
    Object::with(&response.header)
        .list("kvs", response.kvs.iter().map(key_value))
        .flag("more", response.more)
        .number("count", response.count)
        .end()
}

fn put(response: &pb::PutResponse) -> String {
    Object::with(&response.header).option("prev_kv", response.prev_kv.as_ref().map(key_value)).end()
}

fn delete_range(response: &pb::DeleteRangeResponse) -> String {
    Object::with(&response.header)
        .number("deleted", response.deleted)
        .list("prev_kvs", response.prev_kvs.iter().map(key_value))
        .end()
}

fn txn(response: &pb::TxnResponse) -> String {
    Object::with(&response.header)
        .flag("succeeded", response.succeeded)
        .list("responses", response.responses.iter().map(operation))
        .end()
}

fn operation(operation: &pb::ResponseOp) -> String {
    let object = Object::new();
    let inner = match &operation.response {
        Some(Response::ResponseRange(response)) => object.raw("response_range", range(response)),
        Some(Response::ResponsePut(response)) => object.raw("response_put", put(response)),
        Some(Response::ResponseDeleteRange(response)) => {
            object.raw("response_delete_range", delete_range(response))
        }
        Some(Response::ResponseTxn(response)) => object.raw("response_txn", txn(response)),
        None => object,
    };
    Object::new().raw("Response", inner.end()).end()
}

fn watch(response: &pb::WatchResponse) -> String {
    let event = |event: &Event| {
        Object::new()
            .number("type", event.r#type)
            .option("kv", event.kv.as_ref().map(key_value))
            .option("prev_kv", event.prev_kv.as_ref().map(key_value))
            .end()
    };
    Object::new()
        .raw("Header", response.header.as_ref().map_or("null".to_owned(), response_header))
        .raw("Events", array_or_null(response.events.iter().map(event)))
        .raw("CompactRevision", response.compact_revision)
        .raw("Canceled", response.canceled)
        .raw("Created", response.created)
        .raw("CancelReason", string(&response.cancel_reason))
        .end()
}

fn time_to_live(response: &pb::LeaseTimeToLiveResponse) -> String {
    Object::embedding(&response.header)
        .raw("id", response.id)
        .raw("ttl", response.ttl)
        .raw("granted-ttl", response.granted_ttl)
        .raw("keys", array_or_null(response.keys.iter().map(|key| base64(key))))
        .end()
}

fn member(member: &pb::Member) -> String {
    member_with(Object::new().number("ID", member.id), member)
}

fn hex_member(member: &pb::Member) -> String {
    member_with(Object::new().raw("ID", format_args!("\"{:x}\"", member.id)), member)
}

fn member_with(object: Object, member: &pb::Member) -> String {
    object
        .text("name", &member.name)
        .list("peerURLs", member.peer_ur_ls.iter().map(string))
        .list("clientURLs", member.client_ur_ls.iter().map(string))
        .flag("isLearner", member.is_learner)
        .end()
}

fn hex_header(header: &Header) -> String {
    let header = header.unwrap_or_default();
    Object::new()
        .raw("cluster_id", format_args!("\"{:x}\"", header.cluster_id))
        .raw("member_id", format_args!("\"{:x}\"", header.member_id))
        .number("revision", header.revision)
        .number("raft_term", header.raft_term)
        .end()
}

fn members(hex: bool, header: &Header, list: &[pb::Member]) -> String {
    match hex {
        true => Object::new()
            .raw("header", hex_header(header))
            .raw("members", array(list.iter().map(hex_member)))
            .end(),
        false => Object::with(header).list("members", list.iter().map(member)).end(),
    }
}

fn health(health: &Health) -> String {
    Object::new()
        .raw("endpoint", string(&health.endpoint))
        .raw("health", health.health)
        .raw("took", string(&health.took))
        .text("error", &health.error)
        .end()
}

fn status(response: &pb::StatusResponse) -> String {
    let downgrade = |info: &pb::DowngradeInfo| {
        Object::new().flag("enabled", info.enabled).text("targetVersion", &info.target_version).end()
    };
    Object::with(&response.header)
        .text("version", &response.version)
        .number("dbSize", response.db_size)
        .number("leader", response.leader)
        .number("raftIndex", response.raft_index)
        .number("raftTerm", response.raft_term)
        .number("raftAppliedIndex", response.raft_applied_index)
        .list("errors", response.errors.iter().map(string))
        .number("dbSizeInUse", response.db_size_in_use)
        .flag("isLearner", response.is_learner)
        .text("storageVersion", &response.storage_version)
        .number("dbSizeQuota", response.db_size_quota)
        .option("downgradeInfo", response.downgrade_info.as_ref().map(downgrade))
        .end()
}

fn permission(permission: &Permission) -> String {
    Object::new()
        .number("permType", permission.perm_type)
        .bytes("key", &permission.key)
        .bytes("range_end", &permission.range_end)
        .end()
}
